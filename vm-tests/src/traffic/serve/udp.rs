//! The server's UDP roles: sending back, and counting per stream.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Instant;

use anyhow::Context as _;
use rustix::net::sockopt;

use crate::traffic::role::Role;

/// Datagrams taken from the socket at a time.
const BATCH: usize = 32;

/// Kept of each datagram: its stream's id (u64) and its number in the stream (u64), both little endian, are in it.
const KEPT_BYTES: usize = 2048;

/// For bursts while the server is not running.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Datagrams received, by stream.
#[derive(Debug, Default)]
pub(super) struct Counters {
    streams: HashMap<u64, Counter>,
}

#[derive(Debug, Clone, Copy)]
struct Counter {
    datagrams: u64,
    bytes: u64,
    first: Instant,
    last: Instant,
}

impl Counters {
    fn count(&mut self, stream: u64, bytes: u64, now: Instant) {
        let counter =
            self.streams.entry(stream).or_insert(Counter { datagrams: 0, bytes: 0, first: now, last: now });
        counter.datagrams += 1;
        counter.bytes += bytes;
        counter.last = now;
    }

    /// Datagrams, bytes, microseconds from the first to the last.
    pub(super) fn answer(&self, stream: u64) -> [u8; 24] {
        let mut answer = [0; 24];
        if let Some(counter) = self.streams.get(&stream) {
            let us = u64::try_from((counter.last - counter.first).as_micros()).unwrap_or(u64::MAX);
            let numbers = [counter.datagrams, counter.bytes, us];
            answer
                .chunks_exact_mut(8)
                .zip(numbers)
                .for_each(|(to, from)| to.copy_from_slice(&from.to_le_bytes()));
        }
        answer
    }
}

#[derive(Debug)]
pub(super) struct UdpService {
    socket: UdpSocket,
    role: Role,
}

impl UdpService {
    pub(super) fn bind(at: SocketAddr, role: Role) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind(at).with_context(|| format!("bind UDP {at}"))?;
        socket.set_nonblocking(true).context("make a socket non-blocking")?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES);
        }
        Ok(Self { socket, role })
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    pub(super) fn serve(&self, counters: &mut Counters, scratch: &mut [u8]) {
        if self.role == Role::UdpSink {
            self.count(counters, scratch);
            return;
        }
        while let Ok((length, from)) = self.socket.recv_from(scratch) {
            // A client that is gone is no reason to stop.
            let _ = self.socket.send_to(scratch.get(..length).unwrap_or_default(), from);
        }
    }

    fn count(&self, counters: &mut Counters, scratch: &mut [u8]) {
        let mut lengths = [0; BATCH];
        let received = receive_batch(&self.socket, scratch, &mut lengths);
        let now = Instant::now();
        for (length, datagram) in lengths.iter().zip(scratch.chunks_exact(KEPT_BYTES)).take(received) {
            let stream = datagram.first_chunk::<8>().map_or(0, |id| u64::from_le_bytes(*id));
            counters.count(stream, u64::from(*length), now);
        }
    }
}

/// Receives up to [`BATCH`] datagrams, each into its own [`KEPT_BYTES`] of `into`; returns how many there were.
#[expect(unsafe_code, reason = "rustix has no recvmmsg")]
fn receive_batch(socket: &UdpSocket, into: &mut [u8], lengths: &mut [u32; BATCH]) -> usize {
    // SAFETY: mmsghdr is a C struct of integers and pointers, for all of which zero is a value.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
    let pieces = into.chunks_exact_mut(KEPT_BYTES);
    let mut room = 0;
    for ((header, vector), piece) in headers.iter_mut().zip(&mut vectors).zip(pieces) {
        vector.iov_base = piece.as_mut_ptr().cast();
        vector.iov_len = piece.len();
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        room += 1;
    }
    // MSG_TRUNC: lengths are those of the datagrams, also where less was kept.
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: recvmmsg needs `room` headers whose vectors point to writable memory that nobody else uses meanwhile;
    // each of the first `room` points to a piece of its own of `into`, which is borrowed mutably until we return.
    let received = unsafe {
        libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), room, flags, std::ptr::null_mut())
    };
    let received = usize::try_from(received).unwrap_or(0);
    lengths.iter_mut().zip(&headers).take(received).for_each(|(length, header)| *length = header.msg_len);
    received
}
