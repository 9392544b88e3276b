//! Ping sockets: echo requests and replies without privilege (icmp(7), ping_group_range).
//!
//! The kernel writes identifier and checksum; what is sent and received is the ICMP message without IP header.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto};

use super::batch::{Batch, Message};
use super::outbound::Outbound;
use super::udp;

/// Why no ping socket can be had.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    #[error(
        "this group may not ping; set the sysctl net.ipv4.ping_group_range of the pod to include it (\"{gid} {gid}\")"
    )]
    Group { gid: u32 },
    #[error("cannot open a ping socket")]
    Socket(#[source] io::Error),
}

/// A ping socket connected to one peer.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    is_v4: bool,
}

/// Whether ping sockets can be opened; asked once at start. IPv6 follows the same sysctl.
pub fn available() -> Result<(), EchoError> {
    match open(true) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(EchoError::Group { gid: rustix::process::getegid().as_raw() })
        }
        Err(error) => Err(EchoError::Socket(error)),
    }
}

/// A flow's socket towards `to`; `ident` is used on the wire too unless another program's ping has it.
pub fn connect(outbound: &Outbound, ident: u16, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket { fd: open(to.is_ipv4())?, is_v4: to.is_ipv4() };
    let fd = socket.as_fd();
    udp::receive_errors(fd, socket.is_v4)?;
    if socket.is_v4 {
        udp::receive_markings_v4(fd)?;
    } else {
        udp::receive_markings_v6(fd)?;
    }
    if outbound.apply_with_port(fd, to, ident).is_err() {
        outbound.apply_with_port(fd, to, 0)?;
    }
    rustix::net::connect(&socket.fd, &to)?;
    Ok(socket)
}

impl Socket {
    /// Sends echo requests, each a whole ICMP message; see [`udp::Socket::send`].
    pub fn send(&self, messages: &[Message<'_>]) -> Result<usize, Errno> {
        udp::send(self.as_fd(), messages)
    }

    /// Receives echo replies, each a whole ICMP message with the identifier that was on the wire.
    pub fn receive(&self, batch: &mut Batch, limit: usize) -> Result<usize, Errno> {
        batch.receive(self.as_fd(), limit)
    }

    pub fn set_hop_limit(&self, hop_limit: u8) -> io::Result<()> {
        udp::set_hop_limit(self.as_fd(), self.is_v4, hop_limit)
    }

    pub fn set_traffic_class(&self, traffic_class: u8) -> io::Result<()> {
        udp::set_traffic_class(self.as_fd(), self.is_v4, traffic_class)
    }

    pub fn set_dont_fragment(&self, dont_fragment: bool) -> io::Result<()> {
        udp::set_dont_fragment(self.as_fd(), self.is_v4, dont_fragment)
    }

    /// The address replies come to.
    pub fn local(&self) -> io::Result<IpAddr> {
        Ok(SocketAddr::try_from(rustix::net::getsockname(&self.fd)?)?.ip())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open(is_v4: bool) -> io::Result<OwnedFd> {
    let (family, protocol): (_, Protocol) =
        if is_v4 { (AddressFamily::INET, ipproto::ICMP) } else { (AddressFamily::INET6, ipproto::ICMPV6) };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(protocol))?)
}
