//! UDP sockets: one connected socket per flow, and listening ones for forwarded ports.
//!
//! A connected socket keeps the guest's source port, so that peers see what they would see without us; many
//! sockets share a port (SO_REUSEADDR) and the kernel tells them apart by their peers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::batch::{self, Batch, Message};
use super::outbound::Outbound;
use super::sys;

/// A socket connected to one peer.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    is_v4: bool,
}

/// What a new socket came to be.
#[derive(Debug)]
pub struct Connected {
    pub socket: Socket,
    /// The port that was asked for could be had; otherwise the kernel chose one.
    pub port_kept: bool,
}

/// A flow's socket towards `to` with the source port `port`, or another one when that cannot be had: somebody
/// holds it alone, or it is a privileged one.
pub fn connect(outbound: &Outbound, port: u16, to: SocketAddr, gro: bool) -> io::Result<Connected> {
    let socket = Socket::open(to, gro)?;
    let port_kept = match outbound.apply_with_port(socket.as_fd(), to, port) {
        Ok(()) => true,
        Err(error) if is_about_port(&error) => {
            outbound.apply_with_port(socket.as_fd(), to, 0)?;
            false
        }
        Err(error) => return Err(error),
    };
    socket.connect(to)?;
    Ok(Connected { socket, port_kept })
}

/// A flow's socket for datagrams that reached `local` on a forwarded port, from `peer`; and on interface `device`, if
/// only that is listened on: an accepted TCP socket stays on its listener's interface as well, and answers leave by it.
pub fn connect_from(
    local: SocketAddr,
    peer: SocketAddr,
    device: Option<&str>,
    gro: bool,
) -> io::Result<Socket> {
    let socket = Socket::open(peer, gro)?;
    if let Some(device) = device {
        sys::bind_to_device(socket.as_fd(), device)?;
    }
    rustix::net::bind(&socket.fd, &local)?;
    socket.connect(peer)?;
    Ok(socket)
}

/// A listening socket on `address`: dual-stack when that is `[::]` and `v6_only` is not asked for.
///
/// Datagrams tell who sent them and to which of our addresses. No UDP_GRO: what comes here opens a flow, and what
/// follows comes to the flow's own socket.
pub fn listen(address: SocketAddr, v6_only: bool, device: Option<&str>) -> io::Result<OwnedFd> {
    let fd = open(address)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if let Some(device) = device {
        sys::bind_to_device(fd.as_fd(), device)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, v6_only)?;
        sys::set_int(fd.as_fd(), libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        receive_markings_v6(fd.as_fd())?;
    }
    if address.is_ipv4() {
        sys::set_int(fd.as_fd(), libc::SOL_IP, libc::IP_PKTINFO, 1)?;
    }
    // Also on dual-stack sockets, for datagrams that come over IPv4.
    receive_markings_v4(fd.as_fd())?;
    rustix::net::bind(&fd, &address)?;
    Ok(fd)
}

impl Socket {
    fn open(to: SocketAddr, gro: bool) -> io::Result<Self> {
        let socket = Self { fd: open(to)?, is_v4: to.is_ipv4() };
        let fd = socket.as_fd();
        sockopt::set_socket_reuseaddr(fd, true)?;
        receive_errors(fd, socket.is_v4)?;
        if socket.is_v4 {
            receive_markings_v4(fd)?;
        } else {
            sockopt::set_ipv6_v6only(fd, true)?;
            receive_markings_v6(fd)?;
        }
        if gro {
            // Since Linux 5.0; without it datagrams come one by one.
            let _ = sys::set_int(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
        }
        Ok(socket)
    }

    fn connect(&self, to: SocketAddr) -> io::Result<()> {
        rustix::net::connect(&self.fd, &to)?;
        // Between bind and connect the socket took datagrams from anybody.
        let mut none = [0; 1];
        while rustix::net::recv(&self.fd, &mut none, RecvFlags::DONTWAIT | RecvFlags::TRUNC).is_ok() {}
        Ok(())
    }

    /// Sends up to [`batch::SEND_MAX`] messages; gives how many were taken. An error concerns the first of them.
    ///
    /// An error that came back for an earlier datagram ends a send once, without anything being sent: such a send
    /// is repeated. The error itself is in the error queue.
    pub fn send(&self, messages: &[Message<'_>]) -> Result<usize, Errno> {
        send(self.as_fd(), messages)
    }

    pub fn set_hop_limit(&self, hop_limit: u8) -> io::Result<()> {
        set_hop_limit(self.as_fd(), self.is_v4, hop_limit)
    }

    pub fn set_traffic_class(&self, traffic_class: u8) -> io::Result<()> {
        set_traffic_class(self.as_fd(), self.is_v4, traffic_class)
    }

    pub fn set_dont_fragment(&self, dont_fragment: bool) -> io::Result<()> {
        set_dont_fragment(self.as_fd(), self.is_v4, dont_fragment)
    }

    pub fn local(&self) -> io::Result<SocketAddr> {
        local(self.as_fd())
    }

    pub fn receive(&self, batch: &mut Batch, limit: usize) -> Result<usize, Errno> {
        batch.receive(self.as_fd(), limit)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a socket is bound to.
pub fn local(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(rustix::net::getsockname(fd)?)?)
}

/// Sends to a connected peer, past errors of earlier datagrams.
pub(super) fn send(fd: BorrowedFd<'_>, messages: &[Message<'_>]) -> Result<usize, Errno> {
    for _ in 0..PENDING_ERRORS_MAX {
        match batch::send(fd, messages) {
            Err(
                Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::ACCESS | Errno::PROTO,
            ) => {}
            result => return result,
        }
    }
    batch::send(fd, messages)
}

/// Asks for the error queue, which also makes errors of unconnected moments and locals known.
pub(super) fn receive_errors(fd: BorrowedFd<'_>, is_v4: bool) -> io::Result<()> {
    if is_v4 {
        sys::set_int(fd, libc::SOL_IP, libc::IP_RECVERR, 1)
    } else {
        sys::set_int(fd, libc::SOL_IPV6, libc::IPV6_RECVERR, 1)
    }
}

pub(super) fn receive_markings_v4(fd: BorrowedFd<'_>) -> io::Result<()> {
    sys::set_int(fd, libc::SOL_IP, libc::IP_RECVTTL, 1)?;
    sys::set_int(fd, libc::SOL_IP, libc::IP_RECVTOS, 1)
}

pub(super) fn receive_markings_v6(fd: BorrowedFd<'_>) -> io::Result<()> {
    sys::set_int(fd, libc::SOL_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
    sys::set_int(fd, libc::SOL_IPV6, libc::IPV6_RECVTCLASS, 1)
}

pub(super) fn set_hop_limit(fd: BorrowedFd<'_>, is_v4: bool, hop_limit: u8) -> io::Result<()> {
    // 0 is not for sending (ip(7)); the guest's packet has arrived, which is its last hop.
    let value = libc::c_int::from(hop_limit.max(1));
    if is_v4 {
        sys::set_int(fd, libc::SOL_IP, libc::IP_TTL, value)
    } else {
        sys::set_int(fd, libc::SOL_IPV6, libc::IPV6_UNICAST_HOPS, value)
    }
}

pub(super) fn set_traffic_class(fd: BorrowedFd<'_>, is_v4: bool, traffic_class: u8) -> io::Result<()> {
    let value = libc::c_int::from(traffic_class);
    if is_v4 {
        sys::set_int(fd, libc::SOL_IP, libc::IP_TOS, value)
    } else {
        sys::set_int(fd, libc::SOL_IPV6, libc::IPV6_TCLASS, value)
    }
}

/// With DF a datagram too large for the path is refused and the path's MTU is in the error queue; without, our
/// kernel cuts it, and routers may cut it further.
pub(super) fn set_dont_fragment(fd: BorrowedFd<'_>, is_v4: bool, dont_fragment: bool) -> io::Result<()> {
    if is_v4 {
        let mode = if dont_fragment { Ipv4PathMtuDiscovery::DO } else { Ipv4PathMtuDiscovery::DONT };
        sockopt::set_ip_mtu_discover(fd, mode)?;
    } else {
        let mode = if dont_fragment { Ipv6PathMtuDiscovery::DO } else { Ipv6PathMtuDiscovery::WANT };
        sockopt::set_ipv6_mtu_discover(fd, mode)?;
    }
    Ok(())
}

/// A socket of the family of `address`.
fn open(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    // The kernel grants at most net.core.rmem_max; what it grants is used only while datagrams wait.
    let _ = sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER_BYTES);
    Ok(fd)
}

/// Room for some milliseconds of a fast stream: the default holds 92 datagrams of 1400 bytes, half a millisecond at
/// 2 Gbit/s, which one other process on our CPU already takes.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

fn is_about_port(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

/// Sends that earlier datagrams' errors may spoil before we believe that the error is about this one.
const PENDING_ERRORS_MAX: usize = 3;
