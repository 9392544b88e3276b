//! Address mapping between what the guest sees and what the host side uses.
//!
//! Pure functions of addresses; opens nothing and remembers nothing. Addresses pass through unchanged except
//! where one side cannot use the other's: the pod's loopback, the address guest and pod share, and a resolver.
//!
//! | guest's destination | host side connects to |
//! |---|---|
//! | a forwarded resolver address, port 53 or 853 | the resolver |
//! | `map_host_loopback` (the gateway unless told otherwise) | 127.0.0.1 or ::1 |
//! | `map_guest_addr` | the pod's own address |
//! | any address of the pod, without `map_host_loopback` | nothing: it is refused |
//! | anything else | itself |
//!
//! | source of a connection to the guest | the guest sees |
//! |---|---|
//! | loopback | `map_host_loopback`, else our address on the cable |
//! | the guest's own address (the pod's) | `map_guest_addr`, else our address on the cable |
//! | anything else | itself |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The mapping, resolved once at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    pub guest4: Option<Ipv4Addr>,
    pub guest6: Option<Ipv6Addr>,
    /// Learned from the guest's frames; `None` until then.
    pub guest_link_local6: Option<Ipv6Addr>,
    /// The pod's own addresses: the same as the guest's unless the command line gave the guest others.
    pub host4: Option<Ipv4Addr>,
    pub host6: Option<Ipv6Addr>,
    /// Our IPv4 address on the cable: the gateway as the guest sees it.
    pub gateway4: Option<Ipv4Addr>,
    /// Our IPv6 address on the cable.
    pub our_link_local6: Option<Ipv6Addr>,
    /// Addresses that stand for the pod's loopback; `None` keeps it out of the guest's reach.
    pub map_host_loopback4: Option<Ipv4Addr>,
    pub map_host_loopback6: Option<Ipv6Addr>,
    /// Addresses that stand for the pod's own address, which the guest cannot reach as its own is the same.
    pub map_guest_addr4: Option<Ipv4Addr>,
    pub map_guest_addr6: Option<Ipv6Addr>,
    pub dns4: Option<DnsForward<Ipv4Addr>>,
    pub dns6: Option<DnsForward<Ipv6Addr>>,
    /// Every address of the pod, of all its interfaces.
    pub own: Vec<IpAddr>,
    /// Index of the interface on which link-local destinations live; 0 when there is none.
    pub link_local_scope6: u32,
}

/// A resolver's address as the guest uses it, and the resolver that answers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsForward<A> {
    pub seen_by_guest: A,
    pub resolver: A,
}

impl Nat {
    /// Where the host side connects for a TCP or UDP destination of the guest.
    ///
    /// Ask [`Self::is_unreachable`] first: this maps addresses, it does not judge them.
    pub fn to_host(&self, destination: SocketAddr) -> SocketAddr {
        let resolver = self.resolver(destination);
        let address = resolver.unwrap_or_else(|| self.echo_to_host(destination.ip()));
        self.scoped(address, destination.port())
    }

    /// Whether no socket of ours may be connected to a destination the guest named.
    ///
    /// Loopback would reach the pod's own services past `map_host_loopback`. So would any address of the pod, such as
    /// that of an interface which is not this guest's: without that map they are closed too, unless the command line
    /// maps them to something.
    pub fn is_unreachable(&self, destination: SocketAddr) -> bool {
        let to = destination.ip();
        let (host, loopback) = match to {
            IpAddr::V4(_) => (self.host4.map(IpAddr::V4), self.map_host_loopback4.map(IpAddr::V4)),
            IpAddr::V6(_) => (self.host6.map(IpAddr::V6), self.map_host_loopback6.map(IpAddr::V6)),
        };
        let is_mapped = self.is_map_guest_addr(to) || self.resolver(destination).is_some();
        let is_own = host == Some(to) || self.own.contains(&to);
        is_no_peer(to) || (loopback.is_none() && is_own && !is_mapped)
    }

    fn is_map_guest_addr(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.map_guest_addr4 == Some(address),
            IpAddr::V6(address) => self.map_guest_addr6 == Some(address),
        }
    }

    /// The resolver behind a destination.
    fn resolver(&self, destination: SocketAddr) -> Option<IpAddr> {
        match destination {
            _ if !DNS_PORTS.contains(&destination.port()) => None,
            SocketAddr::V4(to) => {
                self.dns4.filter(|dns| dns.seen_by_guest == *to.ip()).map(|dns| IpAddr::V4(dns.resolver))
            }
            SocketAddr::V6(to) => {
                self.dns6.filter(|dns| dns.seen_by_guest == *to.ip()).map(|dns| IpAddr::V6(dns.resolver))
            }
        }
    }

    /// Where an echo request of the guest goes: like [`Self::to_host`], without resolvers.
    pub fn echo_to_host(&self, destination: IpAddr) -> IpAddr {
        match destination {
            IpAddr::V4(to) if self.map_host_loopback4 == Some(to) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V4(to) if self.map_guest_addr4 == Some(to) => self.host4.unwrap_or(to).into(),
            IpAddr::V6(to) if self.map_host_loopback6 == Some(to) => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V6(to) if self.map_guest_addr6 == Some(to) => self.host6.unwrap_or(to).into(),
            IpAddr::V4(_) | IpAddr::V6(_) => destination,
        }
    }

    /// The source the guest sees for a connection or datagram that reached a forwarded port.
    ///
    /// `None`: the source cannot be shown and nothing of ours can stand for it, so the guest could never
    /// answer. Refuse it.
    pub fn source_seen_by_guest(&self, source: SocketAddr) -> Option<SocketAddr> {
        let address = match source.ip().to_canonical() {
            IpAddr::V4(from) if from.is_loopback() || from.is_unspecified() => {
                self.map_host_loopback4.or(self.gateway4)?.into()
            }
            IpAddr::V4(from) if Some(from) == self.guest4 => self.map_guest_addr4.or(self.gateway4)?.into(),
            IpAddr::V4(from) if Some(from) == self.host4 => self.map_guest_addr4.unwrap_or(from).into(),
            IpAddr::V6(from) if from.is_loopback() || from.is_unspecified() => {
                self.map_host_loopback6.or(self.our_link_local6)?.into()
            }
            IpAddr::V6(from) if Some(from) == self.guest6 || Some(from) == self.guest_link_local6 => {
                self.map_guest_addr6.or(self.our_link_local6)?.into()
            }
            IpAddr::V6(from) if Some(from) == self.host6 => self.map_guest_addr6.unwrap_or(from).into(),
            other @ (IpAddr::V4(_) | IpAddr::V6(_)) => other,
        };
        // A scope is the host's notion: on the cable there is one link.
        Some(SocketAddr::new(address, source.port()))
    }

    /// The guest's address to use for a source it is shown: link-local talks to link-local when we know it.
    pub fn guest_address_for(&self, source: IpAddr) -> Option<IpAddr> {
        match source {
            IpAddr::V4(_) => self.guest4.map(IpAddr::V4),
            IpAddr::V6(from) if from.is_unicast_link_local() => {
                self.guest_link_local6.or(self.guest6).map(IpAddr::V6)
            }
            IpAddr::V6(_) => self.guest6.map(IpAddr::V6),
        }
    }

    fn scoped(&self, address: IpAddr, port: u16) -> SocketAddr {
        match address {
            IpAddr::V6(to) if to.is_unicast_link_local() => {
                SocketAddrV6::new(to, port, 0, self.link_local_scope6).into()
            }
            IpAddr::V4(_) | IpAddr::V6(_) => SocketAddr::new(address, port),
        }
    }
}

/// Whether an address is nobody's whom a socket of ours may talk to.
///
/// Loopback would reach the pod's own services past `map_host_loopback`. To Linux unspecified addresses are loopback
/// too, and an IPv4 address inside an IPv6 one (RFC 4291 2.5.5.2) is the IPv4 address, loopback or not. Multicast and limited broadcast have no single peer to relay for.
fn is_no_peer(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(to) => {
            let [first, ..] = to.octets();
            // All of 0/8 is "this host" (RFC 1122 3.2.1.3).
            first == 0 || to.is_loopback() || to.is_multicast() || to.is_broadcast()
        }
        IpAddr::V6(to) => {
            to.is_loopback() || to.is_unspecified() || to.is_multicast() || to.to_ipv4_mapped().is_some()
        }
    }
}

/// DNS (RFC 1035) and DNS over TLS (RFC 7858) or DTLS.
const DNS_PORTS: [u16; 2] = [53, 853];

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod as the command line's defaults leave it, with resolvers forwarded.
    fn pod() -> Nat {
        Nat {
            guest4: Some("10.0.0.5".parse().unwrap()),
            guest6: Some("fd00::5".parse().unwrap()),
            guest_link_local6: Some("fe80::5".parse().unwrap()),
            host4: Some("10.0.0.5".parse().unwrap()),
            host6: Some("fd00::5".parse().unwrap()),
            gateway4: Some("10.0.0.1".parse().unwrap()),
            our_link_local6: Some("fe80::1".parse().unwrap()),
            map_host_loopback4: Some("10.0.0.1".parse().unwrap()),
            map_host_loopback6: Some("fd00::1".parse().unwrap()),
            map_guest_addr4: None,
            map_guest_addr6: None,
            dns4: Some(DnsForward {
                seen_by_guest: "10.0.0.53".parse().unwrap(),
                resolver: "127.0.0.53".parse().unwrap(),
            }),
            dns6: Some(DnsForward {
                seen_by_guest: "fd00::53".parse().unwrap(),
                resolver: "2001:db8::53".parse().unwrap(),
            }),
            own: ["127.0.0.1", "10.0.0.5", "10.0.1.5", "fd00::5", "fd00:1::5", "fe80::99"]
                .map(|own| own.parse().unwrap())
                .into(),
            link_local_scope6: 7,
        }
    }

    fn mapped() -> Nat {
        Nat {
            map_guest_addr4: Some("192.0.2.1".parse().unwrap()),
            map_guest_addr6: Some("2001:db8::1".parse().unwrap()),
            ..pod()
        }
    }

    fn closed() -> Nat {
        Nat { map_host_loopback4: None, map_host_loopback6: None, ..pod() }
    }

    #[test]
    fn destinations_map() {
        let table = [
            ("elsewhere stays", pod(), "1.1.1.1:80", "1.1.1.1:80"),
            ("elsewhere stays, v6", pod(), "[2001:db8::9]:80", "[2001:db8::9]:80"),
            ("gateway is loopback", pod(), "10.0.0.1:80", "127.0.0.1:80"),
            ("gateway is loopback, v6", pod(), "[fd00::1]:80", "[::1]:80"),
            ("gateway stays when the map is off", closed(), "10.0.0.1:80", "10.0.0.1:80"),
            ("gateway stays when the map is off, v6", closed(), "[fd00::1]:80", "[fd00::1]:80"),
            ("resolver at 53", pod(), "10.0.0.53:53", "127.0.0.53:53"),
            ("resolver at 853", pod(), "10.0.0.53:853", "127.0.0.53:853"),
            ("resolver at 53, v6", pod(), "[fd00::53]:53", "[2001:db8::53]:53"),
            ("resolver address at another port", pod(), "10.0.0.53:80", "10.0.0.53:80"),
            ("another address at 53", pod(), "10.0.0.54:53", "10.0.0.54:53"),
            ("gateway at 53 without a resolver there", pod(), "10.0.0.1:53", "127.0.0.1:53"),
            ("the pod's address by its map", mapped(), "192.0.2.1:80", "10.0.0.5:80"),
            ("the pod's address by its map, v6", mapped(), "[2001:db8::1]:80", "[fd00::5]:80"),
            ("link-local is on the pod's link", pod(), "[fe80::9]:80", "[fe80::9%7]:80"),
        ];
        for (name, nat, from, to) in table {
            assert_eq!(nat.to_host(from.parse().unwrap()), to.parse().unwrap(), "{name}");
        }
    }

    #[test]
    fn a_resolver_at_the_gateway_wins_over_loopback() {
        let resolver = DnsForward {
            seen_by_guest: "10.0.0.1".parse().unwrap(),
            resolver: "127.0.0.53".parse().unwrap(),
        };
        let nat = Nat { dns4: Some(resolver), ..pod() };
        assert_eq!(nat.to_host("10.0.0.1:53".parse().unwrap()), "127.0.0.53:53".parse().unwrap());
        assert_eq!(nat.to_host("10.0.0.1:54".parse().unwrap()), "127.0.0.1:54".parse().unwrap());
    }

    #[test]
    fn echo_maps_addresses_but_no_resolvers() {
        let table = [
            ("10.0.0.1", "127.0.0.1"),
            ("fd00::1", "::1"),
            ("10.0.0.53", "10.0.0.53"),
            ("192.0.2.1", "10.0.0.5"),
            ("2001:db8::1", "fd00::5"),
        ];
        for (from, to) in table {
            assert_eq!(mapped().echo_to_host(from.parse().unwrap()), to.parse::<IpAddr>().unwrap(), "{from}");
        }
    }

    #[test]
    fn sources_are_kept_unless_the_guest_could_not_answer() {
        let elsewhere = Nat {
            guest4: Some("10.0.9.9".parse().unwrap()),
            guest6: Some("fd00::9".parse().unwrap()),
            ..mapped()
        };
        let table = [
            ("a peer stays", pod(), "10.1.2.3:999", Some("10.1.2.3:999")),
            ("a peer stays, v6", pod(), "[2001:db8::9]:999", Some("[2001:db8::9]:999")),
            ("a mapped peer becomes IPv4", pod(), "[::ffff:10.1.2.3]:999", Some("10.1.2.3:999")),
            ("a link-local peer loses its scope", pod(), "[fe80::9%3]:999", Some("[fe80::9]:999")),
            ("loopback", pod(), "127.0.0.1:999", Some("10.0.0.1:999")),
            ("all of 127/8", pod(), "127.1.2.3:999", Some("10.0.0.1:999")),
            ("loopback, v6", pod(), "[::1]:999", Some("[fd00::1]:999")),
            ("loopback inside IPv6", pod(), "[::ffff:127.0.0.1]:999", Some("10.0.0.1:999")),
            ("loopback, map off", closed(), "127.0.0.1:999", Some("10.0.0.1:999")),
            ("loopback, map off, v6", closed(), "[::1]:999", Some("[fe80::1]:999")),
            ("the shared address", pod(), "10.0.0.5:999", Some("10.0.0.1:999")),
            ("the shared address, v6", pod(), "[fd00::5]:999", Some("[fe80::1]:999")),
            ("the shared address, mapped", mapped(), "10.0.0.5:999", Some("192.0.2.1:999")),
            ("the shared address, mapped, v6", mapped(), "[fd00::5]:999", Some("[2001:db8::1]:999")),
            ("the pod's other address, mapped", elsewhere, "10.0.0.5:999", Some("192.0.2.1:999")),
            ("nothing of ours to show", Nat { gateway4: None, ..closed() }, "127.0.0.1:999", None),
            ("the same, v6", Nat { our_link_local6: None, ..closed() }, "[::1]:999", None),
        ];
        for (name, nat, from, seen) in table {
            let seen = seen.map(|seen| seen.parse().unwrap());
            assert_eq!(nat.source_seen_by_guest(from.parse().unwrap()), seen, "{name}");
        }
    }

    #[test]
    fn guest_is_addressed_on_the_same_scope_as_the_source() {
        let table = [("1.1.1.1", "10.0.0.5"), ("fd00::9", "fd00::5"), ("fe80::9", "fe80::5")];
        for (source, guest) in table {
            assert_eq!(
                pod().guest_address_for(source.parse().unwrap()),
                Some(guest.parse().unwrap()),
                "{source}"
            );
        }
    }

    #[test]
    fn unreachable_destinations() {
        let table = [
            ("127.0.0.1", true),
            ("127.255.0.1", true),
            ("0.0.0.0", true),
            ("0.1.2.3", true),
            ("224.0.0.251", true),
            ("255.255.255.255", true),
            ("::1", true),
            ("::", true),
            ("ff02::fb", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:1.1.1.1", true),
            ("1.1.1.1", false),
            ("10.0.0.255", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("2001:db8::1", false),
        ];
        for (address, unreachable) in table {
            let to = SocketAddr::new(address.parse().unwrap(), 80);
            assert_eq!(pod().is_unreachable(to), unreachable, "{address}");
        }
    }

    #[test]
    fn the_pods_own_addresses_are_closed_with_its_loopback() {
        let own = Some(DnsForward {
            seen_by_guest: "10.0.0.5".parse().unwrap(),
            resolver: "127.0.0.53".parse().unwrap(),
        });
        let mapped = Nat {
            map_guest_addr4: Some("10.0.0.5".parse().unwrap()),
            map_guest_addr6: Some("fd00::5".parse().unwrap()),
            ..closed()
        };
        let table = [
            ("open", pod(), "10.0.0.5:53", false),
            ("open, v6", pod(), "[fd00::5]:53", false),
            ("closed", closed(), "10.0.0.5:53", true),
            ("closed, v6", closed(), "[fd00::5]:53", true),
            ("another interface's", closed(), "10.0.1.5:80", true),
            ("another interface's, v6", closed(), "[fd00:1::5]:80", true),
            ("a link-local one", closed(), "[fe80::99]:80", true),
            ("another interface's, open", pod(), "10.0.1.5:80", false),
            ("one family is closed", Nat { map_host_loopback4: None, ..pod() }, "10.0.0.5:53", true),
            ("the other is not", Nat { map_host_loopback4: None, ..pod() }, "[fd00::5]:53", false),
            ("mapped", mapped.clone(), "10.0.0.5:80", false),
            ("mapped, v6", mapped, "[fd00::5]:80", false),
            ("a resolver's there", Nat { dns4: own, ..closed() }, "10.0.0.5:53", false),
            ("beside the resolver", Nat { dns4: own, ..closed() }, "10.0.0.5:80", true),
            ("elsewhere", closed(), "10.0.0.6:80", false),
        ];
        for (name, nat, to, unreachable) in table {
            assert_eq!(nat.is_unreachable(to.parse().unwrap()), unreachable, "{name}");
        }
    }
}
