//! Where sockets towards the outside leave from: addresses and interfaces the command line chose.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use rustix::net::sockopt;

use super::sys;

/// Source addresses and interfaces of outbound sockets. The default leaves both to the routing table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbound {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    pub if4: Option<String>,
    pub if6: Option<String>,
    /// Addresses that no interface has may be bound (ip(7), IP_FREEBIND).
    pub freebind: bool,
}

impl Outbound {
    /// Binds a socket that is about to connect to `to`; the kernel picks the port when it connects.
    ///
    /// What goes to loopback stays as it is: no other interface or address reaches it.
    pub fn apply(&self, socket: BorrowedFd<'_>, to: SocketAddr) -> io::Result<()> {
        if to.ip().is_loopback() {
            return Ok(());
        }
        self.bind_device(socket, to)?;
        if let Some(address) = self.address(to) {
            // Without this the port would be taken at bind, from all destinations' one range (ip(7)).
            sys::set_int(socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
            self.bind_to(socket, SocketAddr::new(address, 0))?;
        }
        Ok(())
    }

    /// Binds a socket that is about to connect to `to` with the source port `port`.
    pub fn apply_with_port(&self, socket: BorrowedFd<'_>, to: SocketAddr, port: u16) -> io::Result<()> {
        let unspecified = match to {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        if to.ip().is_loopback() {
            return self.bind_to(socket, SocketAddr::new(unspecified, port));
        }
        self.bind_device(socket, to)?;
        self.bind_to(socket, SocketAddr::new(self.address(to).unwrap_or(unspecified), port))
    }

    fn address(&self, to: SocketAddr) -> Option<IpAddr> {
        match to {
            SocketAddr::V4(_) => self.v4.map(IpAddr::V4),
            SocketAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }

    fn bind_device(&self, socket: BorrowedFd<'_>, to: SocketAddr) -> io::Result<()> {
        let interface = if to.is_ipv4() { &self.if4 } else { &self.if6 };
        interface.as_ref().map_or(Ok(()), |name| sys::bind_to_device(socket, name))
    }

    fn bind_to(&self, socket: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
        if self.freebind {
            match address {
                SocketAddr::V4(_) => sockopt::set_ip_freebind(socket, true)?,
                SocketAddr::V6(_) => sockopt::set_ipv6_freebind(socket, true)?,
            }
        }
        Ok(rustix::net::bind(socket, &address)?)
    }
}
