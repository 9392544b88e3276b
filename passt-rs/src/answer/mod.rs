//! What we reply ourselves: ARP, NDP and router advertisements, DHCPv4, DHCPv6, echo to our address.
//!
//! Pure functions of a request and the [`Network`] the guest lives in; no sockets, no clock.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::Mac;

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

/// The guest's IPv6 side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6 {
    pub guest: Ipv6Addr,
    /// 0 to 128.
    pub prefix_len: u8,
    /// Our link-local address: the router of our advertisements and the DHCPv6 server.
    pub our_link_local: Ipv6Addr,
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
