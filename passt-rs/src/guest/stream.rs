//! The stream transport: QEMU's `-netdev stream`, frames behind a 4-byte big-endian length.
//!
//! We listen, QEMU connects, and may disconnect and come back: a guest that reboots keeps its connection, a
//! QEMU that restarts opens a new one. One guest at a time; while one is connected others are turned away.
//! Frames carry no virtio-net header, so nothing is offloaded.

use std::io;
use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::epoll;
use rustix::net::{RecvFlags, SendFlags};

use super::door::{Door, is_closed};
use super::{
    FRAME_MAX, Full, Guest, HEADERS_MAX, Link, Offloads, Payload, Place, Received, Room, SLICES_MAX,
};
use crate::iovec::{Piece, PieceMut};
use crate::wire::Offload;

/// Bytes received at once; several of the largest frames.
const INCOMING_LEN: usize = 512 * 1024;
/// Frames towards the guest that wait for the socket; beyond this the relay is told that we are full.
const OUTGOING_LEN: usize = 1024 * 1024;
const PREFIX_LEN: usize = 4;

/// The QEMU end of the cable.
#[derive(Debug)]
pub struct Stream {
    door: Door,
    connection: Option<UnixStream>,
    registration: Option<(OwnedFd, u64)>,
    incoming: Vec<u8>,
    /// Bytes of `incoming` that hold data, and the first of them not yet given out.
    filled: usize,
    parsed: usize,
    /// Frames given out are to stay where they are.
    held: bool,
    outgoing: Vec<u8>,
    /// Bytes of `outgoing` that hold frames, and the first of them not yet sent.
    queued: usize,
    sent: usize,
    /// Lengths of headers and payload reserved last.
    reserved: (usize, usize),
    /// EPOLLOUT is asked for.
    waiting: bool,
    link: Link,
}

impl Stream {
    /// Serves whoever connects to `listener`.
    pub fn listen(listener: UnixListener) -> io::Result<Self> {
        Ok(Self::new(Door::new(Some(listener))?, None))
    }

    /// Serves one connection that is there already.
    pub fn connected(connection: UnixStream) -> io::Result<Self> {
        connection.set_nonblocking(true)?;
        Ok(Self::new(Door::new(None)?, Some(connection)))
    }

    fn new(door: Door, connection: Option<UnixStream>) -> Self {
        Self {
            door,
            connection,
            registration: None,
            incoming: vec![0; INCOMING_LEN],
            filled: 0,
            parsed: 0,
            held: false,
            outgoing: vec![0; OUTGOING_LEN],
            queued: 0,
            sent: 0,
            reserved: (0, 0),
            waiting: false,
            link: Link::Unchanged,
        }
    }

    /// Takes a waiting connection if none is served; turns others away.
    fn accept(&mut self) {
        while let Some(stream) = self.door.next(self.connection.as_ref()) {
            if self.connection.as_ref().is_some_and(is_closed) {
                self.disconnect();
            }
            if self.connection.is_some() {
                tracing::warn!("a second guest tried to connect; only one is served at a time");
                continue;
            }
            if stream.set_nonblocking(true).is_err() || self.register(stream.as_fd()).is_err() {
                tracing::warn!("cannot serve the guest that connected");
                continue;
            }
            self.connection = Some(stream);
            self.link = self.link.attached();
        }
        self.door.close();
    }

    fn register(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        if let Some((epoll, token)) = &self.registration {
            epoll::add(epoll, fd, epoll::EventData::new_u64(*token), epoll::EventFlags::IN)?;
        }
        Ok(())
    }

    /// Forgets the connection and every byte in flight.
    fn disconnect(&mut self) {
        self.connection = None;
        self.link = Link::Down;
        self.door.open();
        (self.filled, self.parsed, self.queued, self.sent) = (0, 0, 0, 0);
        self.waiting = false;
    }

    /// Next complete frame in `incoming`.
    fn next_frame(&mut self) -> Option<Place> {
        loop {
            let bytes = self.incoming.get(self.parsed..self.filled)?;
            let (prefix, rest) = bytes.split_first_chunk::<PREFIX_LEN>()?;
            let len = usize::try_from(u32::from_be_bytes(*prefix)).ok()?;
            if len > FRAME_MAX {
                tracing::warn!(
                    "the guest sent a frame of {len} bytes, the limit is {FRAME_MAX}; disconnecting"
                );
                self.disconnect();
                return None;
            }
            if rest.len() < len {
                return None;
            }
            let offset = self.parsed + PREFIX_LEN;
            self.parsed = offset + len;
            if len == 0 {
                continue;
            }
            return Some(Place {
                buffer: 0,
                offset: u32::try_from(offset).ok()?,
                len: u32::try_from(len).ok()?,
            });
        }
    }

    /// Moves an unfinished frame to the front and receives behind it. `false`: nothing came.
    fn refill(&mut self) -> bool {
        self.incoming.copy_within(self.parsed..self.filled, 0);
        self.filled -= self.parsed;
        self.parsed = 0;
        let Some(connection) = &self.connection else { return false };
        let Some(space) = self.incoming.get_mut(self.filled..) else { return false };
        match rustix::net::recv(connection, space, RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.disconnect(),
            Ok((received, _)) => {
                self.filled += received;
                return true;
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::debug!("guest connection: {error}");
                self.disconnect();
            }
        }
        false
    }

    fn wait_for_room(&mut self, wait: bool) {
        let (Some((epoll, token)), Some(connection)) = (&self.registration, &self.connection) else { return };
        if self.waiting != wait {
            let out = if wait { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let flags = epoll::EventFlags::IN | out;
            self.waiting =
                wait && epoll::modify(epoll, connection, epoll::EventData::new_u64(*token), flags).is_ok();
            if !wait {
                let _ = epoll::modify(epoll, connection, epoll::EventData::new_u64(*token), flags);
            }
        }
    }
}

impl Guest for Stream {
    fn attach(&mut self, epoll: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.registration = Some((epoll.try_clone_to_owned()?, token));
        self.door.attach(epoll, token)?;
        if let Some(connection) = &self.connection {
            self.register(connection.as_fd())?;
            self.link = Link::Up;
        }
        Ok(())
    }

    fn on_event(&mut self) -> bool {
        self.flush();
        self.accept();
        true
    }

    fn take_link(&mut self) -> Link {
        std::mem::replace(&mut self.link, Link::Unchanged)
    }

    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn receive(&mut self) -> Option<Received> {
        let place = match self.next_frame() {
            Some(place) => place,
            None => {
                // Receiving would move what is held; released, there is more.
                if self.held || !self.refill() {
                    return None;
                }
                self.next_frame()?
            }
        };
        Some(Received { place, offload: Ok(Offload::default()), queue: 0 })
    }

    fn head(&self, place: Place) -> &[u8] {
        let start = place.offset as usize;
        self.incoming.get(start..start + place.len()).unwrap_or_default()
    }

    fn whole(&mut self, place: Place) -> &[u8] {
        self.head(place)
    }

    fn gather<'a>(
        &'a self,
        place: Place,
        range: Range<usize>,
        pieces: &mut [Piece<'a>; SLICES_MAX],
    ) -> usize {
        pieces[0] = Piece::new(self.head(place).get(range).unwrap_or_default());
        1
    }

    /// Frames stay where they are until the next `recv`, which happens when all received ones are given out.
    fn hold(&mut self, _place: Place) -> bool {
        self.held = true;
        let rest = self.incoming.get(self.parsed..self.filled).unwrap_or_default();
        rest.split_first_chunk::<PREFIX_LEN>()
            .is_some_and(|(prefix, rest)| rest.len() >= u32::from_be_bytes(*prefix) as usize)
    }

    fn release(&mut self) {
        self.held = false;
    }

    fn reserve(&mut self, headers: usize, payload: usize) -> Option<Room<'_>> {
        let fits = self.queued + PREFIX_LEN + headers + payload <= self.outgoing.len();
        self.reserved = (headers, payload);
        fits.then(|| self.room())
    }

    fn room(&mut self) -> Room<'_> {
        let start = self.queued + PREFIX_LEN;
        let (headers, payload) = self.reserved;
        let room = self.outgoing.get_mut(start..start + headers + payload);
        let parts = room.and_then(|room| room.split_at_mut_checked(headers));
        let Some((headers, payload)) = parts else { return Room::default() };
        Room { headers, payload: Payload::One(PieceMut::new(payload)) }
    }

    fn frames_that_fit(&mut self, len: usize, most: usize) -> usize {
        let room = self.outgoing.len() - self.queued;
        // One frame of any length always fits, so that nobody waits for what never comes.
        if room < PREFIX_LEN + HEADERS_MAX + FRAME_MAX { 0 } else { (room / (PREFIX_LEN + len)).min(most) }
    }

    fn publish(&mut self, _offload: Offload, headers: usize, payload: usize) -> Result<(), Full> {
        let len = headers + payload;
        if self.connection.is_none() {
            return Ok(()); // No cable: the frame goes nowhere.
        }
        let prefix = u32::try_from(len).unwrap_or(0).to_be_bytes();
        if let Some(place) = self.outgoing.get_mut(self.queued..self.queued + PREFIX_LEN) {
            place.copy_from_slice(&prefix);
            self.queued += PREFIX_LEN + len;
        }
        Ok(())
    }

    fn send(&mut self, offload: Offload, headers: &[u8], payload: &[IoSlice<'_>]) -> Result<(), Full> {
        let len = payload.iter().map(|slice| slice.len()).sum();
        self.reserve(headers.len(), len).ok_or(Full)?;
        let mut at = self.queued + PREFIX_LEN;
        for part in std::iter::once(headers).chain(payload.iter().map(|slice| &**slice)) {
            self.outgoing.get_mut(at..at + part.len()).ok_or(Full)?.copy_from_slice(part);
            at += part.len();
        }
        self.publish(offload, headers.len(), len)
    }

    fn flush(&mut self) {
        while self.sent < self.queued {
            let Some(connection) = &self.connection else { return };
            let bytes = self.outgoing.get(self.sent..self.queued).unwrap_or_default();
            match rustix::net::send(connection, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => self.sent += sent,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    // Make room for more behind what waits.
                    self.outgoing.copy_within(self.sent..self.queued, 0);
                    self.queued -= self.sent;
                    self.sent = 0;
                    self.wait_for_room(true);
                    return;
                }
                Err(error) => {
                    tracing::debug!("guest connection: {error}");
                    self.disconnect();
                    return;
                }
            }
        }
        (self.queued, self.sent) = (0, 0);
        self.wait_for_room(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_leaves_and_comes_back_at_once_was_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cable");
        let mut stream = Stream::listen(UnixListener::bind(&path).unwrap()).unwrap();
        let first = UnixStream::connect(&path).unwrap();
        stream.on_event();
        assert_eq!(stream.take_link(), Link::Up);
        drop(first);
        let second = UnixStream::connect(&path).unwrap();
        stream.on_event();
        assert_eq!(stream.take_link(), Link::Replaced);
        assert_eq!(stream.take_link(), Link::Unchanged);
        drop(second);
        assert!(stream.receive().is_none());
        assert_eq!(stream.take_link(), Link::Down);
    }
}
