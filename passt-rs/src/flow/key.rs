//! The identity of a flow.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

/// What kind of flow a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    /// ICMP or ICMPv6 echo; the guest's "port" is the identifier, the peer's is 0.
    Echo,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Echo => "echo",
        }
    }
}

/// An address and a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
}

impl Endpoint {
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self { address, port }
    }
}

impl From<SocketAddr> for Endpoint {
    /// An IPv4 address that a dual-stack socket shows as mapped becomes IPv4 again.
    fn from(address: SocketAddr) -> Self {
        Self { address: address.ip().to_canonical(), port: address.port() }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.address, endpoint.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A flow's ends as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub protocol: Protocol,
    pub guest: Endpoint,
    pub peer: Endpoint,
}

impl Hash for Key {
    /// Feeds the hasher one flat block: deriving would call it a dozen times per packet.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut block = [0; 38];
        let fields = [(0, self.guest), (18, self.peer)];
        for (at, end) in fields {
            let octets = match end.address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            if let Some(place) = block.get_mut(at..at + 16) {
                place.copy_from_slice(&octets);
            }
            if let Some(place) = block.get_mut(at + 16..at + 18) {
                place.copy_from_slice(&end.port.to_be_bytes());
            }
        }
        if let Some(last) = block.last_mut() {
            *last = self.protocol as u8;
        }
        state.write(&block);
    }
}
