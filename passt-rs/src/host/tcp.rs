//! TCP sockets: connect, accept, send from iovecs, and a receive queue that is read without being emptied.
//!
//! Bytes towards the guest are peeked and stay in the kernel's queue until the guest acknowledged them, so
//! they need no memory of ours and can be sent again. SO_PEEK_OFF (TCP since Linux 6.9) lets a peek start
//! behind what was peeked before; older kernels copy the bytes in between into a scratch area instead.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags,
    SocketType, sockopt,
};

use super::sys;

/// Bytes between head and peek position that a kernel without SO_PEEK_OFF may have to skip: the most we
/// keep in flight there.
pub const SKIP_MAX: usize = 256 * 1024;

/// A connection with the peer.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// Where the kernel's next peek starts, counted from the head of the receive queue. `None`: always at the
    /// head, since SO_PEEK_OFF was not needed yet.
    peek_at: Option<u32>,
    /// Something was sent.
    used: bool,
    /// Options that only matter to a connection that lives on are set.
    settled: bool,
}

/// What a send did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Bytes taken; fewer than offered means that the socket is full.
    Bytes(usize),
    Full,
    Failed(Errno),
}

/// What a peek found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peeked {
    Bytes(usize),
    /// Nothing more at the moment.
    Empty,
    /// The peer closed its direction and everything before was peeked.
    End,
    Failed(Errno),
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connecting {
    Done,
    Pending,
    Failed(Errno),
}

/// Whether peeks can start behind the queue's head; asked once at start. TCP over IPv6 learned it later than over
/// IPv4, so both are asked; a pod without IPv6 does not need it there.
pub fn has_peek_offset() -> bool {
    [AddressFamily::INET, AddressFamily::INET6].into_iter().all(|family| {
        match rustix::net::socket(family, SocketType::STREAM, None) {
            Ok(socket) => sys::set_int(socket.as_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0).is_ok(),
            Err(_) => family == AddressFamily::INET6,
        }
    })
}

/// An unconnected socket of the family of `to`.
pub fn open(to: &SocketAddr) -> Result<Socket, Errno> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    urgent_is_ordinary(&fd)?;
    Ok(Socket::new(fd))
}

/// Keeps urgent bytes in the stream: they are bytes like others to the guest (RFC 6093 6).
fn urgent_is_ordinary(fd: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_socket_oobinline(fd, true)
}

/// What a listening socket gave.
#[derive(Debug)]
pub enum Accepted {
    Connection {
        socket: Socket,
        peer: SocketAddr,
    },
    Nothing,
    /// Descriptors or memory are exhausted; the connection still waits.
    Exhausted,
    Failed(Errno),
}

/// A listening socket on `address`, dual-stack when that is `[::]` and `v6_only` is not asked for.
pub fn listen(address: &SocketAddr, v6_only: bool, device: Option<&str>) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    urgent_is_ordinary(&fd)?; // Accepted sockets inherit it.
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, v6_only)?;
    }
    if let Some(device) = device {
        sys::bind_to_device(fd.as_fd(), device).map_err(|error| errno(&error))?;
    }
    rustix::net::bind(&fd, address)?;
    rustix::net::listen(&fd, LISTEN_BACKLOG)?;
    Ok(fd)
}

/// Takes one waiting connection.
pub fn accept(listener: BorrowedFd<'_>) -> Accepted {
    match rustix::net::acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok((fd, peer)) => {
            let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
            peer.map_or(Accepted::Nothing, |peer| Accepted::Connection { socket: Socket::new(fd), peer })
        }
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Accepted::Nothing,
        Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Accepted::Exhausted,
        Err(error) => Accepted::Failed(error),
    }
}

impl Socket {
    fn new(fd: OwnedFd) -> Self {
        Self { fd, peek_at: None, used: false, settled: false }
    }

    /// Sets what a connection needs that is more than one request: no delay of small segments, about which the
    /// guest's own TCP decides, and probes of a silent peer. Two system calls that short connections spare.
    pub fn settle(&mut self) {
        if !self.settled {
            self.settled = true;
            // Refused only for sockets that are closed; then nothing is sent either.
            let _ = sockopt::set_tcp_nodelay(&self.fd, true);
            let _ = sockopt::set_socket_keepalive(&self.fd, true);
        }
    }

    /// Starts connecting.
    pub fn connect(&self, to: &SocketAddr) -> Connecting {
        match rustix::net::connect(&self.fd, to) {
            Ok(()) => Connecting::Done,
            Err(Errno::INPROGRESS | Errno::INTR) => Connecting::Pending,
            Err(error) => Connecting::Failed(error),
        }
    }

    /// The error a pending connect or a broken connection ended with, if it did.
    pub fn take_error(&self) -> Result<(), Errno> {
        sockopt::socket_error(&self.fd)?
    }

    /// Sends from iovecs, as many bytes as the socket takes.
    pub fn send(&mut self, slices: &[IoSlice<'_>]) -> Sent {
        if self.used {
            self.settle();
        }
        self.used = true;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match rustix::net::sendmsg(&self.fd, slices, &mut SendAncillaryBuffer::default(), flags) {
                Ok(bytes) => return Sent::Bytes(bytes),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Sent::Full,
                Err(error) => return Sent::Failed(error),
            }
        }
    }

    /// Copies bytes from `offset` of the receive queue on, which leaves them there. `scratch` receives what
    /// lies before on kernels without SO_PEEK_OFF and is `None` on others.
    pub fn peek(&mut self, offset: u32, buffer: &mut [u8], scratch: Option<&mut [u8]>) -> Peeked {
        let skip = match &scratch {
            None => {
                if self.peek_at.unwrap_or(0) != offset && self.seek(offset).is_err() {
                    return Peeked::Failed(Errno::INVAL);
                }
                0
            }
            Some(_) => offset as usize,
        };
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let result = match scratch.and_then(|scratch| scratch.get_mut(..skip)) {
            Some(before) if skip > 0 => {
                let mut slices = [IoSliceMut::new(before), IoSliceMut::new(buffer)];
                rustix::net::recvmsg(&self.fd, &mut slices, &mut RecvAncillaryBuffer::default(), flags)
                    .map(|message| message.bytes)
            }
            Some(_) | None => rustix::net::recv(&self.fd, buffer, flags).map(|(bytes, _)| bytes),
        };
        match result {
            // Without SO_PEEK_OFF the end shows as no more bytes than those skipped, as does an empty queue.
            Ok(bytes) if skip > 0 && bytes <= skip => self.after_skipped(bytes),
            Ok(0) => Peeked::End,
            Ok(bytes) => {
                let fresh = bytes - skip;
                if let Some(peek_at) = &mut self.peek_at {
                    *peek_at = offset + u32::try_from(fresh).unwrap_or(0);
                }
                Peeked::Bytes(fresh)
            }
            Err(Errno::AGAIN | Errno::INTR) => Peeked::Empty,
            Err(error) => Peeked::Failed(error),
        }
    }

    /// Nothing lies behind the skipped bytes: has the stream ended, or is more to come?
    fn after_skipped(&self, _skipped: usize) -> Peeked {
        let mut polled = [rustix::event::PollFd::new(&self.fd, rustix::event::PollFlags::RDHUP)];
        let none = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut polled, Some(&none)) {
            Ok(ready) if ready > 0 => match self.take_error() {
                Ok(()) => Peeked::End,
                Err(error) => Peeked::Failed(error),
            },
            Ok(_) | Err(_) => Peeked::Empty,
        }
    }

    fn seek(&mut self, offset: u32) -> Result<(), Errno> {
        let value = i32::try_from(offset).map_err(|_| Errno::INVAL)?;
        sys::set_int(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, value)
            .map_err(|error| errno(&error))?;
        self.peek_at = Some(offset);
        Ok(())
    }

    /// Removes up to `bytes` from the head of the receive queue; gives how many were there.
    pub fn discard(&mut self, bytes: u32) -> u32 {
        let mut left = bytes;
        while left > 0 {
            match sys::discard(self.fd.as_fd(), left as usize) {
                Ok(0) => break,
                Ok(gone) => left -= u32::try_from(gone).unwrap_or(left).min(left),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let gone = bytes - left;
        if let Some(peek_at) = &mut self.peek_at {
            *peek_at = peek_at.saturating_sub(gone);
        }
        gone
    }

    /// Ends our direction; the peer sees a FIN.
    pub fn shutdown_write(&self) {
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
    }

    /// Closes with a RST instead of a FIN.
    pub fn reset(self) {
        let _ = sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO));
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Connections that wait to be accepted; the kernel caps it at net.core.somaxconn.
const LISTEN_BACKLOG: i32 = 4096;

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::INVAL)
}
