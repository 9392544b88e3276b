//! The vhost-user transport: the guest's virtqueues in memory we share with it, set up by QEMU over a unix socket.
//!
//! | module | has |
//! |---|---|
//! | [`session`] | the connection: whole messages, one at a time |
//! | [`device`] | what messages set up |
//! | [`memory`] | the guest's addresses and ours, and the log of what we write |
//! | [`vanished`] | what happens when that memory goes away under us |
//! | [`queue`] | a ring with its kick and signals: what runs when |
//! | [`ring`] | the split virtqueue |
//! | [`chain`] | the descriptors of one frame in it |
//! | [`inflight`] | what we took and did not give back, for who comes after us |
//! | [`from_guest`], [`to_guest`] | frames |
//!
//! Headers are copied once, as the guest may change its memory at any time; payload is given to system calls where
//! it lies. Chains go back in the order they were taken: after a crash all that was not given back is taken again.
//!
//! Everything is watched by an epoll of its own, so that rings nobody uses cost nothing, and one kick costs no look
//! at the sockets.

mod chain;
mod device;
mod features;
mod from_guest;
mod inflight;
mod memory;
mod queue;
mod ring;
mod session;
mod supply;
mod to_guest;
mod vanished;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use rustix::event::epoll;
use rustix::time::Timespec;
use vhost::vhost_user::message::MAX_ATTACHED_FD_ENTRIES;

use super::door::{Door, is_closed};
use super::{Full, Guest, Link, Offloads, Place, Received, Room, SLICES_MAX};
use crate::drop_reason::Drops;
use crate::iovec::Piece;
use crate::reserve::Reserve;
use crate::wire::Offload;

use device::Device;
use from_guest::Frames;
use queue::FIRST_KICK;
use session::{Heard, Session};
use to_guest::Outgoing;

const DOOR: u64 = 0;
const SESSION: u64 = 1;
/// Events taken at once.
const EVENTS: usize = 64;
/// Descriptors held back for messages: what one may bring, and as many for kicks and calls that messages before it
/// brought in the same turn, which stay. Connections may have taken all others, and a message that cannot be received
/// ends the guest's network.
const SPARE: usize = 2 * MAX_ATTACHED_FD_ENTRIES;
/// Messages handled before the rings get their turn.
const MESSAGES_PER_TURN: usize = 64;

/// A guest whose memory we share.
#[derive(Debug)]
pub struct VhostUser {
    door: Door,
    session: Option<Session>,
    device: Device,
    /// Door, session and kicks.
    epoll: Arc<OwnedFd>,
    spare: Vec<Reserve>,
    /// Rings from the guest that may hold frames.
    ready: VecDeque<u16>,
    frames: Frames,
    outgoing: Outgoing,
    /// Rings with something to publish or to signal.
    touched: Vec<u16>,
    /// The first pair of rings is set up and enabled.
    up: bool,
    link: Link,
    /// Faults in shared memory that were looked at; see [`vanished`].
    faults: usize,
    drops: Drops,
}

impl VhostUser {
    /// Serves whoever connects to `listener`, one front end at a time.
    pub fn listen(listener: UnixListener) -> io::Result<Self> {
        Self::new(Door::new(Some(listener))?, None)
    }

    /// Serves one connection that is there already.
    pub fn connected(connection: UnixStream) -> io::Result<Self> {
        Self::new(Door::new(None)?, Some(connection))
    }

    fn new(mut door: Door, connection: Option<UnixStream>) -> io::Result<Self> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        door.attach(epoll.as_fd(), DOOR)?;
        let mut new = Self {
            door,
            session: None,
            device: Device::default(),
            epoll,
            spare: std::iter::repeat_with(Reserve::new).take(SPARE).collect(),
            ready: VecDeque::new(),
            frames: Frames::new(),
            outgoing: Outgoing::new(),
            touched: Vec::new(),
            up: false,
            link: Link::Unchanged,
            faults: vanished::faults(),
            drops: Drops::default(),
        };
        if let Some(connection) = connection {
            new.serve(connection)?;
        }
        Ok(new)
    }

    fn serve(&mut self, connection: UnixStream) -> io::Result<()> {
        let session = Session::new(connection)?;
        epoll::add(
            &self.epoll,
            &session,
            epoll::EventData::new_u64(SESSION),
            epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET,
        )?;
        self.device = Device::new(Arc::clone(&self.epoll));
        self.session = Some(session);
        Ok(())
    }

    /// Takes a waiting front end if none is served; turns others away.
    fn accept(&mut self) {
        while let Some(stream) = self.door.next(self.session.as_ref()) {
            if self.session.as_ref().is_some_and(is_closed) {
                self.disconnect();
            }
            if self.session.is_some() {
                tracing::warn!("a second front end tried to connect; only one is served at a time");
                continue;
            }
            match self.serve(stream) {
                Ok(()) => tracing::debug!("a front end connected"),
                Err(error) => tracing::warn!("cannot serve the front end that connected: {error}"),
            }
        }
        self.door.close();
    }

    /// Forgets the front end with everything it set up.
    fn disconnect(&mut self) {
        if let Some(session) = self.session.take() {
            let _ = epoll::delete(&self.epoll, &session);
        }
        self.release();
        self.device = Device::default();
        self.outgoing.forget();
        self.ready.clear();
        self.touched.clear();
        self.up = false;
        self.link = Link::Down;
        self.door.open();
    }

    /// Handles messages, up to a turn's worth.
    fn hear(&mut self) {
        // Messages may take rings and memory away.
        self.release();
        self.flush();
        self.outgoing.forget();
        for reserve in &mut self.spare {
            reserve.lend();
        }
        self.hear_messages();
        for reserve in &mut self.spare {
            reserve.refill();
        }
    }

    fn hear_messages(&mut self) {
        for _ in 0..MESSAGES_PER_TURN {
            let Some(session) = &mut self.session else { return };
            match session.hear(&mut self.device) {
                Heard::Message => {}
                Heard::Nothing => {
                    self.look_at_rings();
                    return;
                }
                Heard::End => return self.disconnect(),
            }
        }
        self.look_at_rings();
        if let Some(session) = &self.session {
            // Raises an edge again for what is left.
            let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
            let _ = epoll::modify(&self.epoll, session, epoll::EventData::new_u64(SESSION), flags);
        }
    }

    /// Ends the connection if memory that it gave us went away.
    fn look_for_faults(&mut self) {
        let faults = vanished::faults();
        if std::mem::replace(&mut self.faults, faults) != faults && self.device.has_vanished() {
            tracing::warn!(
                "memory of the guest is gone: its file was cut, or has no pages left; the front end's connection ends"
            );
            self.disconnect();
        }
    }

    /// After messages: rings that began may hold frames, and the guest may have come.
    fn look_at_rings(&mut self) {
        for index in (1..self.device.queues.len()).step_by(2) {
            self.list(index);
        }
        let pair = self.device.queues.get(..2).unwrap_or_default();
        let up = pair.len() == 2 && pair.iter().all(|queue| queue.is_active() && queue.enabled);
        if up && !self.up {
            self.link = self.link.attached();
        }
        self.up = up;
    }

    /// The ring `index`, one from the guest, may hold frames.
    fn list(&mut self, index: usize) {
        let Device { queues, memory, .. } = &mut self.device;
        let Some(queue) = queues.get_mut(index).filter(|queue| queue.is_active()) else { return };
        queue.ring.do_without_kicks(memory);
        if !queue.listed {
            queue.listed = true;
            self.ready.extend(u16::try_from(index));
        }
    }

    fn on_kick(&mut self, index: usize) {
        if index % 2 == 1 {
            return self.list(index);
        }
        // Room for whoever waits; the relay asks them all after an event.
        let Device { queues, memory, .. } = &mut self.device;
        if let Some(queue) = queues.get(index) {
            queue.ring.do_without_kicks(memory);
        }
    }
}

impl Guest for VhostUser {
    fn attach(&mut self, epoll: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        epoll::add(epoll, &self.epoll, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        Ok(())
    }

    fn on_event(&mut self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); EVENTS];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let epoll = Arc::clone(&self.epoll);
        let Ok((events, _)) = epoll::wait(&epoll, &mut buffer, Some(&none)) else { return true };
        let mut room = false;
        for event in events {
            match event.data.u64() {
                DOOR => self.accept(),
                SESSION => self.hear(),
                kick => self.on_kick(usize::try_from(kick - FIRST_KICK).unwrap_or(usize::MAX)),
            }
            // A kick of a ring from the guest, an odd one, gives no room.
            room |= event.data.u64() < FIRST_KICK || (event.data.u64() - FIRST_KICK).is_multiple_of(2);
        }
        room
    }

    fn tells_of_room(&self) -> bool {
        true
    }

    fn take_link(&mut self) -> Link {
        self.look_for_faults();
        std::mem::replace(&mut self.link, Link::Unchanged)
    }

    fn offloads(&self) -> Offloads {
        features::offloads(self.device.features)
    }

    fn receive(&mut self) -> Option<Received> {
        self.next_frame()
    }

    fn head(&self, place: Place) -> &[u8] {
        self.frames.head(place)
    }

    fn whole(&mut self, place: Place) -> &[u8] {
        self.frames.whole(place)
    }

    fn gather<'a>(
        &'a self,
        place: Place,
        range: Range<usize>,
        pieces: &mut [Piece<'a>; SLICES_MAX],
    ) -> usize {
        self.frames.gather(place, range, pieces)
    }

    fn hold(&mut self, _place: Place) -> bool {
        self.frames.hold()
    }

    fn release(&mut self) {
        self.give_frames_back();
    }

    fn steer(&mut self, queue: u16) {
        self.outgoing.steer(queue);
    }

    fn reserve(&mut self, headers: usize, payload: usize) -> Option<Room<'_>> {
        self.reserve_room(headers, payload)
    }

    fn room(&mut self) -> Room<'_> {
        self.outgoing.room()
    }

    fn frames_that_fit(&mut self, len: usize, most: usize) -> usize {
        self.count_room(len, most)
    }

    fn publish(&mut self, offload: Offload, headers: usize, payload: usize) -> Result<(), Full> {
        self.publish_frame(offload, headers, payload);
        Ok(())
    }

    fn send(&mut self, offload: Offload, headers: &[u8], payload: &[IoSlice<'_>]) -> Result<(), Full> {
        self.send_frame(offload, headers, payload)
    }

    fn flush(&mut self) {
        let Device { queues, memory, inflight, .. } = &mut self.device;
        for index in self.touched.drain(..) {
            let Some(queue) = queues.get_mut(usize::from(index)) else { continue };
            queue.touched = false;
            queue.publish(memory, inflight.as_ref());
            queue.interrupt();
        }
    }

    fn report(&mut self, drops: &mut Drops) {
        drops.add(&std::mem::take(&mut self.drops));
    }
}
