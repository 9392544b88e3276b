//! Many datagrams per system call, with what travels beside them.
//!
//! Owns the buffers that datagrams are received into. They are large, since with UDP_GRO one receive may
//! give 64 KiB, but pages that no datagram ever reached cost nothing.
#![expect(unsafe_code, reason = "recvmmsg and sendmmsg have no safe wrapper with all control messages")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::control::{self, Messages};
use super::sys::last_error;
use crate::iovec::Piece;

/// Datagrams received by one call.
pub const RECEIVE_MAX: usize = 32;
/// Messages sent by one call.
pub const SEND_MAX: usize = 64;
/// Datagrams that one message with a segment size may hold: UDP_MAX_SEGMENTS of every kernel that has UDP_SEGMENT.
pub const SEGMENTS_MAX: usize = 64;
/// The longest datagram, or super-datagram.
const BUFFER_LEN: usize = 65_536;
/// IP_PKTINFO, IP_RECVTTL, IP_RECVTOS and UDP_GRO need 88 bytes together; IPv6's 96; an error queue's entry 72.
const CONTROL_LEN: usize = 256;
/// `struct sockaddr_in6`, the longer one.
const NAME_LEN: libc::socklen_t = 28;

/// Buffers for [`RECEIVE_MAX`] datagrams and what was received into them last. The default has no buffers and
/// receives nothing.
#[derive(Debug, Default)]
pub struct Batch {
    buffers: Vec<u8>,
    meta: Vec<Meta>,
}

#[derive(Clone, Debug)]
struct Meta {
    len: usize,
    flags: libc::c_int,
    name_len: usize,
    control_len: usize,
    name: Name,
    control: Control,
}

/// Aligned as the kernel's `struct sockaddr_storage`.
#[derive(Clone, Debug)]
#[repr(C, align(8))]
struct Name([u8; 32]);

/// Aligned as `struct cmsghdr`.
#[derive(Clone, Debug)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

/// One datagram, or several of one peer and equal length that the kernel joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received<'a> {
    pub payload: &'a [u8],
    /// Longer than the buffer, so cut; never the case for what fits an IP packet.
    pub truncated: bool,
    /// Who sent it; of an error queue's entry, whom it was sent to.
    pub from: Option<SocketAddr>,
    /// Our address that it was sent to, when the socket asks for that.
    pub to: Option<IpAddr>,
    pub hop_limit: Option<u8>,
    /// DSCP and ECN as one byte.
    pub traffic_class: Option<u8>,
    /// Length of each joined datagram but the last, which may be shorter.
    pub segment: Option<u16>,
    /// What this was decoded from, as the kernel wrote it.
    pub control: &'a [u8],
}

/// One message to a connected peer.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub slices: &'a [Piece<'a>],
    /// Cut the bytes to datagrams of this length, the last may be shorter (udp(7), UDP_SEGMENT).
    pub segment: Option<u16>,
}

impl Batch {
    pub fn new() -> Self {
        let meta = Meta {
            len: 0,
            flags: 0,
            name_len: 0,
            control_len: 0,
            name: Name([0; 32]),
            control: Control([0; CONTROL_LEN]),
        };
        Self { buffers: vec![0; RECEIVE_MAX * BUFFER_LEN], meta: vec![meta; RECEIVE_MAX] }
    }

    /// Receives what is there, at most `limit` and [`RECEIVE_MAX`]; gives how many. `Errno::AGAIN` when there is nothing;
    /// an error of the socket itself, such as a port unreachable that came back, is given once.
    pub fn receive(&mut self, fd: BorrowedFd<'_>, limit: usize) -> Result<usize, Errno> {
        self.receive_from(fd, limit, 0)
    }

    /// Takes one entry off the socket's error queue.
    pub(super) fn receive_error(&mut self, fd: BorrowedFd<'_>) -> Result<usize, Errno> {
        self.receive_from(fd, 1, libc::MSG_ERRQUEUE)
    }

    fn receive_from(&mut self, fd: BorrowedFd<'_>, limit: usize, flags: libc::c_int) -> Result<usize, Errno> {
        let mut slices = [EMPTY_SLICE; RECEIVE_MAX];
        let mut headers = [EMPTY_HEADER; RECEIVE_MAX];
        let places = headers.iter_mut().zip(&mut slices).zip(self.buffers.chunks_exact_mut(BUFFER_LEN));
        for (((header, slice), buffer), meta) in places.zip(&mut self.meta) {
            *slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = meta.name.0.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = NAME_LEN;
            header.msg_hdr.msg_control = meta.control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_LEN as _;
        }
        let count = libc::c_uint::try_from(limit.min(self.meta.len())).unwrap_or(0);
        let flags = flags | libc::MSG_DONTWAIT;
        let none = std::ptr::null_mut();
        // SAFETY: recvmmsg writes to what the first `count` headers point to; each points to one iovec of
        // `slices` over its own buffer, and to name and control of its own meta, with their lengths; all of
        // them are borrowed mutably here and outlive the call. No timeout is passed.
        let result = unsafe { libc::recvmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, flags as _, none) };
        let received = usize::try_from(result).map_err(|_| last_error())?;
        for (meta, header) in self.meta.iter_mut().zip(&headers).take(received) {
            meta.len = header.msg_len as usize;
            meta.flags = header.msg_hdr.msg_flags;
            meta.name_len = header.msg_hdr.msg_namelen as usize;
            meta.control_len = header.msg_hdr.msg_controllen as _; // u32 in some C libraries
        }
        Ok(received)
    }

    /// The datagram at `index` of those received last.
    pub fn datagram(&self, index: usize) -> Option<Received<'_>> {
        let meta = self.meta.get(index)?;
        let start = index * BUFFER_LEN;
        let payload = self.buffers.get(start..start + meta.len.min(BUFFER_LEN))?;
        let control = meta.control.0.get(..meta.control_len)?;
        let truncated = meta.flags & libc::MSG_TRUNC != 0;
        let from = meta.name.0.get(..meta.name_len).and_then(socket_address);
        let mut received = Received { payload, truncated, from, control, ..Received::default() };
        for message in Messages(control) {
            received.note(&message);
        }
        Some(received)
    }
}

impl Received<'_> {
    fn note(&mut self, message: &control::Message<'_>) {
        let byte = message.int().and_then(|value| u8::try_from(value).ok());
        match (message.level, message.kind) {
            (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) => self.hop_limit = byte,
            (libc::SOL_IP, libc::IP_TOS) | (libc::SOL_IPV6, libc::IPV6_TCLASS) => self.traffic_class = byte,
            // An int since Linux 5.0, although setting UDP_SEGMENT takes 16 bits.
            (libc::SOL_UDP, libc::UDP_GRO) => {
                self.segment = message.int().and_then(|value| u16::try_from(value).ok());
            }
            // Interface, the local address of the route, then the packet's destination.
            (libc::SOL_IP, libc::IP_PKTINFO) => {
                let address = message.data.get(8..).and_then(<[u8]>::first_chunk::<4>);
                self.to = address.map(|octets| Ipv4Addr::from(*octets).into());
            }
            (libc::SOL_IPV6, libc::IPV6_PKTINFO) => {
                let address = message.data.first_chunk::<16>();
                self.to = address.map(|octets| IpAddr::from(Ipv6Addr::from(*octets)).to_canonical());
            }
            _ => {}
        }
    }
}

/// Sends to the peer a socket is connected to, at most [`SEND_MAX`] messages; gives how many were taken. An error
/// concerns the first one only.
pub(super) fn send(fd: BorrowedFd<'_>, messages: &[Message<'_>]) -> Result<usize, Errno> {
    let mut headers = [EMPTY_HEADER; SEND_MAX];
    let mut controls = [const { Segment([0; control::U16_LEN]) }; SEND_MAX];
    for ((header, control), message) in headers.iter_mut().zip(&mut controls).zip(messages) {
        // `Piece` has the layout of an iovec.
        header.msg_hdr.msg_iov = message.slices.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_iovlen = message.slices.len() as _;
        if let Some(segment) = message.segment {
            control.0 = control::u16_message(libc::SOL_UDP, libc::UDP_SEGMENT, segment);
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = control.0.len() as _;
        }
    }
    let count = libc::c_uint::try_from(messages.len().min(SEND_MAX)).unwrap_or(0);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    loop {
        // SAFETY: sendmmsg reads what the first `count` headers point to: iovecs, whose layout
        // `Piece` has, over memory that `messages` borrows, and control messages in
        // `controls`, with their lengths; all outlive the call. It writes only `msg_len` of `headers`.
        let result = unsafe { libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, flags as _) };
        match usize::try_from(result).map_err(|_| last_error()) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Aligned as `struct cmsghdr`.
#[repr(C, align(8))]
struct Segment([u8; control::U16_LEN]);

/// Reads a `struct sockaddr_in` or `sockaddr_in6`.
pub(super) fn socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = bytes.split_first_chunk()?;
    let (port, rest) = rest.split_first_chunk()?;
    let port = u16::from_be_bytes(*port);
    match libc::c_int::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => {
            let octets = rest.first_chunk::<4>()?;
            Some(SocketAddr::new(Ipv4Addr::from(*octets).into(), port))
        }
        libc::AF_INET6 => {
            let (_flow, rest) = rest.split_first_chunk::<4>()?;
            let (octets, rest) = rest.split_first_chunk::<16>()?;
            let scope = rest.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
            Some(SocketAddrV6::new(Ipv6Addr::from(*octets), port, 0, scope).into())
        }
        _ => None,
    }
}

const EMPTY_SLICE: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
const EMPTY_HEADER: libc::mmsghdr = {
    // SAFETY: a `struct mmsghdr` is integers and pointers, for which all zero bits are valid; some C libraries
    // give it private padding, so that it cannot be written as an expression.
    unsafe { std::mem::zeroed() }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_addresses_read_back() {
        let mut v4 = vec![];
        v4.extend(2u16.to_ne_bytes());
        v4.extend([0, 53, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(socket_address(&v4), Some("10.0.0.1:53".parse().unwrap()));
        let mut v6 = vec![];
        v6.extend(10u16.to_ne_bytes());
        v6.extend([0, 53, 0, 0, 0, 0, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        v6.extend(3u32.to_ne_bytes());
        assert_eq!(socket_address(&v6), Some("[fe80::9%3]:53".parse().unwrap()));
        assert_eq!(socket_address(&[0; 28]), None);
        for len in 0..8 {
            assert_eq!(socket_address(&v4[..len]), None);
        }
    }
}
