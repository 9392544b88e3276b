//! What we reply ourselves: ARP, NDP and router advertisements, DHCPv4, DHCPv6, echo to our address.
//!
//! Pure functions of a request and the [`Network`] the guest lives in; no sockets, no clock. Each writes one
//! complete Ethernet frame into a buffer that it clears first and that keeps its memory.
//!
//! | request                                       | reply                                | RFC |
//! |-----------------------------------------------|--------------------------------------|-----|
//! | ARP request, not for the guest's own address  | ARP reply with our MAC               | 826, 5227 |
//! | neighbor solicitation, likewise               | neighbor advertisement               | 4861 7.2.4 |
//! | ... from `::`, for our address                | the same to all nodes                | 4862 5.4.4 |
//! | router solicitation                           | router advertisement                 | 4861 6.2.6, 8106 |
//! | DHCPDISCOVER                                  | DHCPOFFER, or DHCPACK if rapid       | 2131 4.3.1, 4039 |
//! | DHCPREQUEST                                   | DHCPACK, DHCPNAK for a wrong address | 2131 4.3.2 |
//! | DHCPINFORM                                    | DHCPACK without lease                | 2131 4.3.5 |
//! | DHCPDECLINE, DHCPRELEASE                      | nothing                              | 2131 4.3.3, 4.3.4 |
//! | BOOTREQUEST                                   | BOOTREPLY                            | 951, 1534 |
//! | DHCPv6 Solicit                                | Advertise, or Reply if rapid         | 8415 18.3.1 |
//! | Request, Renew, Rebind, Confirm, Release, Decline, Information-request | Reply       | 8415 18.3 |
//! | echo request to our address                   | echo reply                           | 792, 4443 4.2 |
//! | the guest's link comes up ([`announce`])      | our addresses, unasked               | 5227 3, 4861 7.2.6 |
//! | the same                                      | where is the guest's address?        | 826, 4861 7.2.2 |
//! | ARP reply, neighbor advertisement, to us      | nothing                              | |
//!
//! `Ok` with an empty buffer: heard, understood, and nothing is to be said. `Err`: a frame to count.
//! Transport checksums of requests are not verified: whether one is complete stands in the frame's offload
//! header, which the caller has. Frames are not padded to Ethernet's 60 bytes: the guest's end of the
//! cable does that where a device asks for it.

mod request;
pub mod arp;
pub mod ndp;
pub mod dhcpv4;
pub mod dhcpv6;
pub mod echo;
pub mod announce;
#[cfg(test)]
mod fixture;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::drop_reason::DropReason;
use crate::wire::{EtherType, Headers, Mac, protocol};

/// What a frame of the guest asks of us rather than of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Arp,
    Ndp,
    Dhcpv4,
    Dhcpv6,
    Echo,
}

impl Question {
    /// Decides from a frame's headers and the first bytes behind them (8 are enough). A question to a
    /// service that is switched off is still one: nobody else would answer it.
    pub fn of(network: &Network, headers: &Headers, transport: &[u8]) -> Option<Self> {
        if headers.ether_type == EtherType::Arp {
            return Some(Self::Arp);
        }
        let ip = headers.ip.as_ref().filter(|ip| ip.fragment.is_none())?;
        let port = transport.get(2..4).and_then(|bytes| bytes.first_chunk());
        let port = port.map(|bytes| u16::from_be_bytes(*bytes));
        match (ip.protocol, ip.dst) {
            (protocol::UDP, IpAddr::V4(dst)) => {
                dhcpv4::is_for_us(network, dst, port?).then_some(Self::Dhcpv4)
            }
            (protocol::UDP, IpAddr::V6(dst)) => {
                dhcpv6::is_for_us(network, dst, port?).then_some(Self::Dhcpv6)
            }
            (protocol::ICMPV6, IpAddr::V6(_)) if ndp::is_ndp(*transport.first()?) => Some(Self::Ndp),
            (protocol::ICMP | protocol::ICMPV6, _) => {
                echo::is_for_us(network, ip.dst, *transport.first()?).then_some(Self::Echo)
            }
            _ => None,
        }
    }

    /// Answers `frame`, a whole frame of the guest of which [`Self::of`] said this.
    pub fn answer(self, network: &Network, frame: &[u8], out: &mut Vec<u8>) -> Result<(), DropReason> {
        match self {
            Self::Arp => arp::answer(network, frame, out),
            Self::Ndp => ndp::answer(network, frame, out),
            Self::Dhcpv4 => dhcpv4::answer(network, frame, out),
            Self::Dhcpv6 => dhcpv6::answer(network, frame, out),
            Self::Echo => echo::answer(network, frame, out),
        }
    }
}

/// The network as the guest sees it. Resolved once at start.
#[derive(Clone, Debug)]
pub struct Network {
    /// The address of our end of the cable, and of everything behind it.
    pub our_mac: Mac,
    /// MTU in bytes to announce (DHCP option 26, RA); `None` announces nothing.
    pub mtu: Option<u16>,
    pub v4: Option<V4>,
    pub v6: Option<V6>,
    /// Resolvers as the guest is to use them, both families in order.
    pub dns: Vec<IpAddr>,
    /// Search list, without trailing dots.
    pub search: Vec<String>,
    /// Host name to hand out (DHCP option 12).
    pub hostname: Option<String>,
    /// Fully qualified name to hand out (DHCP option 81, DHCPv6 option 39).
    pub fqdn: Option<String>,
    /// What DHCPv4 hands out besides.
    pub extras: dhcpv4::Extras,
    pub services: Services,
}

/// The guest's IPv4 side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4 {
    pub guest: Ipv4Addr,
    /// 0 to 32; 32 with a gateway outside it is an ordinary pod (Calico).
    pub prefix_len: u8,
    /// Default gateway as the guest sees it.
    pub gateway: Option<Ipv4Addr>,
}

/// Our address towards a guest without a gateway: link-local (RFC 3927), so it hides nothing of the pod's
/// network. It identifies the DHCP server and answers ARP and echo; nothing is routed through it.
pub const ADDRESS_WITHOUT_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

impl V4 {
    /// The address that is ours, as the guest sees it.
    pub fn ours(&self) -> Ipv4Addr {
        self.gateway.unwrap_or(ADDRESS_WITHOUT_GATEWAY)
    }

    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix_len.min(32))).unwrap_or(0))
    }

    /// The gateway when the guest cannot reach it through its own prefix.
    pub fn gateway_off_subnet(&self) -> Option<Ipv4Addr> {
        let mask = self.mask();
        self.gateway.filter(|gateway| *gateway & mask != self.guest & mask)
    }
}

/// The guest's IPv6 side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6 {
    pub guest: Ipv6Addr,
    /// 0 to 128.
    pub prefix_len: u8,
    /// Our link-local address: the router of our advertisements and the DHCPv6 server.
    pub our_link_local: Ipv6Addr,
    /// There is a way from the pod to more than its own subnet, so we are a default router.
    pub has_default_route: bool,
}

/// Which of our services answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Services {
    pub dhcp: bool,
    pub dhcpv6: bool,
    pub ndp: bool,
    pub ra: bool,
    /// Resolvers in DHCP, DHCPv6 and RA.
    pub announce_dns: bool,
    /// Search list in DHCP, DHCPv6 and RA.
    pub announce_search: bool,
}

impl Network {
    fn resolvers_v4(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.resolvers()
            .filter_map(|address| if let IpAddr::V4(address) = address { Some(*address) } else { None })
    }

    fn resolvers_v6(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.resolvers()
            .filter_map(|address| if let IpAddr::V6(address) = address { Some(*address) } else { None })
    }

    fn resolvers(&self) -> impl Iterator<Item = &IpAddr> {
        self.dns.iter().filter(|_| self.services.announce_dns)
    }

    fn search_list(&self) -> &[String] {
        if self.services.announce_search { &self.search } else { &[] }
    }
}

#[cfg(test)]
mod tests;
