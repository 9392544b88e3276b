//! TCP sockets: connect, accept, send from iovecs, and a receive queue that is read without being emptied.
//!
//! Bytes towards the guest are peeked and stay in the kernel's queue until the guest acknowledged them, so
//! they need no memory of ours and can be sent again. SO_PEEK_OFF (TCP since Linux 6.9) lets a peek start
//! behind what was peeked before; older kernels copy the bytes in between into a scratch area instead. There a
//! peek stops at the urgent mark, and only at the head of the queue it goes on behind it.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};

use super::{buffers, sys};
use crate::iovec::{Piece, PieceMut};

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
    /// Peeks from the head stop at the urgent mark, with more behind it: they go on when the guest acknowledged
    /// what is before.
    behind_mark: bool,
    /// Something was sent.
    used: bool,
    /// Options that only matter to a connection that lives on are set.
    settled: bool,
    /// Bytes of one segment in the send queue, where a larger one would not fit.
    segment_max: Option<usize>,
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
    reset_unless_finished(&fd)?;
    Ok(Socket::new(fd))
}

/// Whatever ends us ends the connection by a RST, not by a FIN, after which the peer would take a stream for complete
/// whose last bytes were still ours. Undone by [`Socket::finish`].
fn reset_unless_finished(fd: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_socket_linger(fd, Some(Duration::ZERO))
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
    // Accepted sockets inherit both.
    urgent_is_ordinary(&fd)?;
    reset_unless_finished(&fd)?;
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
        Self { fd, peek_at: None, behind_mark: false, used: false, settled: false, segment_max: None }
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

    /// Limits what the kernel holds for this socket each way, as [`buffers::limit_both`] does.
    pub fn limit_buffers(&mut self, bytes: u32) {
        buffers::limit_both(self.fd.as_fd(), bytes);
        self.segment_max = (bytes < SEGMENT_BYTES).then_some(bytes as usize);
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
    pub fn send(&mut self, pieces: &[Piece<'_>]) -> Sent {
        if self.used {
            self.settle();
        }
        self.used = true;
        loop {
            let sent = match self.segment_max {
                None => sys::send(self.fd.as_fd(), pieces, false),
                Some(max) => self.send_short(pieces, max),
            };
            match sent {
                Ok(bytes) => return Sent::Bytes(bytes),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Sent::Full,
                Err(error) => return Sent::Failed(error),
            }
        }
    }

    /// Sends segments of at most `max` bytes. The kernel asks how full the queue is only before it begins a segment,
    /// which otherwise takes 64 KiB.
    fn send_short(&self, pieces: &[Piece<'_>], max: usize) -> Result<usize, Errno> {
        let (mut sent, mut skip, mut rest) = (0, 0, pieces);
        while let Some((first, behind)) = rest.split_first() {
            let part = first.skip(skip);
            let (asked, result) = if skip > 0 || part.len() > max {
                let part = part.first(max);
                skip += part.len();
                if skip == first.len() {
                    (skip, rest) = (0, behind);
                }
                (part.len(), sys::send(self.fd.as_fd(), &[part], true))
            } else {
                let mut asked = 0;
                let fit = rest.iter().take_while(|piece| {
                    let fits = asked + piece.len() <= max;
                    asked += if fits { piece.len() } else { 0 };
                    fits
                });
                let (run, behind) = rest.split_at(fit.count());
                rest = behind;
                (asked, sys::send(self.fd.as_fd(), run, true))
            };
            match result {
                Ok(bytes) if bytes == asked => sent += bytes,
                Ok(bytes) => return Ok(sent + bytes),
                // What is wrong shows again: as an edge when there is room, or as an error.
                Err(_) if sent > 0 => return Ok(sent),
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Copies bytes from `offset` of the receive queue on, which leaves them there. `scratch` receives what
    /// lies before on kernels without SO_PEEK_OFF and is `None` on others.
    pub fn peek(&mut self, offset: u32, buffer: &[PieceMut<'_>], scratch: Option<&mut [u8]>) -> Peeked {
        let skip = offset as usize;
        if let Some(before) = scratch.and_then(|scratch| scratch.get_mut(..skip)) {
            return self.peek_behind(before, buffer);
        }
        if self.peek_at.unwrap_or(0) != offset && self.seek(offset).is_err() {
            return Peeked::Failed(Errno::INVAL);
        }
        match sys::peek(self.fd.as_fd(), None, buffer) {
            Ok(0) => Peeked::End,
            Ok(bytes) => {
                if let Some(peek_at) = &mut self.peek_at {
                    *peek_at = offset + u32::try_from(bytes).unwrap_or(0);
                }
                Peeked::Bytes(bytes)
            }
            Err(error) => peek_failed(error),
        }
    }

    /// Peeks from the head: `before` takes the bytes that are to be skipped.
    fn peek_behind(&mut self, before: &mut [u8], buffer: &[PieceMut<'_>]) -> Peeked {
        let skip = before.len();
        self.behind_mark = false;
        for _ in 0..2 {
            match sys::peek(self.fd.as_fd(), Some(&mut *before), buffer) {
                Ok(0) if skip == 0 => return Peeked::End,
                Ok(bytes) if bytes > skip => return Peeked::Bytes(bytes - skip),
                // The end shows as no more bytes than those skipped, as does an empty queue.
                Ok(_) => match self.behind_skipped(skip) {
                    Behind::More => {}
                    Behind::Nothing(peeked) => return peeked,
                },
                Err(error) => return peek_failed(error),
            }
        }
        // What came in between would have been found by the second peek: the first mark hides it.
        self.behind_mark = true;
        Peeked::Empty
    }

    /// A peek found no more than the `skip` bytes before: has the stream ended, or is more to come, or did more
    /// come meanwhile?
    fn behind_skipped(&self, skip: usize) -> Behind {
        let mut polled = [rustix::event::PollFd::new(&self.fd, rustix::event::PollFlags::RDHUP)];
        let none = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let ended = rustix::event::poll(&mut polled, Some(&none)).is_ok_and(|ready| ready > 0);
        // In this order: nothing follows the end, so what is unread now is all there will be.
        let unread = rustix::io::ioctl_fionread(&self.fd).unwrap_or(0);
        if unread > skip as u64 {
            return Behind::More;
        }
        Behind::Nothing(match self.take_error() {
            _ if !ended => Peeked::Empty,
            Ok(()) => Peeked::End,
            Err(error) => Peeked::Failed(error),
        })
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
        if self.behind_mark && gone > 0 {
            self.behind_mark = false;
            // Raises an edge for bytes that are queued already (Linux 4.18): they may be peeked now.
            let _ = sys::set_int(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1);
        }
        gone
    }

    /// Ends our direction; the peer sees a FIN.
    pub fn shutdown_write(&self) {
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
    }

    /// Closes with a RST instead of a FIN, as whatever drops the socket does.
    pub fn reset(self) {}

    /// Closes in order: the kernel sends what is left, and a FIN if there was none. Dropped otherwise, the peer sees a
    /// RST.
    pub fn finish(self) {
        let _ = sockopt::set_socket_linger(&self.fd, None);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What lies behind the bytes that a peek skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Nothing(Peeked),
    /// More than the peek showed.
    More,
}

fn peek_failed(error: Errno) -> Peeked {
    match error {
        Errno::AGAIN | Errno::INTR => Peeked::Empty,
        error => Peeked::Failed(error),
    }
}

/// What the kernel lets a segment in its send queue grow to.
const SEGMENT_BYTES: u32 = 64 * 1024;

/// Connections that wait to be accepted; the kernel caps it at net.core.somaxconn.
const LISTEN_BACKLOG: i32 = 4096;

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A socket of ours, and a peer that sent `bytes` and its FIN, all of which arrived.
    fn ended(bytes: &[u8]) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let Accepted::Connection { socket, .. } = accept(listener.as_fd()) else { panic!("nobody came") };
        peer.write_all(bytes).unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        let mut polled = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::RDHUP)];
        rustix::event::poll(&mut polled, None).unwrap();
        (socket, peer)
    }

    #[test]
    fn a_socket_of_little_memory_sends_pieces_of_any_size_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let mut socket = open(&to).unwrap();
        socket.limit_buffers(16 << 10);
        assert_ne!(socket.connect(&to), Connecting::Failed(Errno::CONNREFUSED));
        let (mut peer, _) = listener.accept().unwrap();
        let bytes: Vec<u8> = (0..40_000_u32).map(|at| at.to_le_bytes()[usize::from(at % 2 == 0)]).collect();
        let (head, rest) = bytes.split_at(100);
        let (middle, tail) = rest.split_at(20_000);
        for pieces in [&[head, middle, tail][..], &[head, &[], head, tail], &[tail, middle, head], &[middle]]
        {
            let wanted = pieces.concat();
            let mut offered: Vec<_> = pieces.iter().map(|piece| Piece::new(piece)).collect();
            let (mut left, mut received) = (offered.as_mut_slice(), Vec::new());
            while received.len() < wanted.len() {
                if let Sent::Bytes(sent) = socket.send(left) {
                    crate::iovec::advance(&mut left, sent);
                }
                let mut buffer = [0; 4096];
                let read = peer.read(&mut buffer).unwrap();
                received.extend_from_slice(&buffer[..read]);
            }
            assert!(received == wanted, "{}", wanted.len());
        }
    }

    #[test]
    fn bytes_that_came_with_the_end_after_a_peek_are_not_the_end() {
        let (mut socket, _peer) = ended(b"seen and unseen");
        // As if the peek before had found four bytes only.
        assert_eq!(socket.behind_skipped(4), Behind::More);
        assert_eq!(socket.behind_skipped(15), Behind::Nothing(Peeked::End));
        let (mut buffer, mut scratch) = ([0; 64], [0; 64]);
        assert_eq!(socket.peek(4, &[PieceMut::new(&mut buffer)], Some(&mut scratch)), Peeked::Bytes(11));
        assert_eq!(&buffer[..11], b" and unseen");
        assert_eq!(socket.peek(15, &[PieceMut::new(&mut buffer)], Some(&mut scratch)), Peeked::End);
    }
}
