//! A queue: one ring with its kick, its signals, and the chains taken from it.
//!
//! It knows what runs when. What messages ask for, and whether they may, is the device's business.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;

use super::inflight::Inflight;
use super::memory::Memory;
use super::ring::{Addresses, Broken, Ring};
use super::supply::Supply;

/// Tokens of kicks begin here, with the first ring's.
pub(super) const FIRST_KICK: u64 = 2;

/// An eventfd of the front end's, watched for as long as it is ours.
#[derive(Debug)]
struct Kick {
    fd: OwnedFd,
    epoll: Arc<OwnedFd>,
    token: u64,
}

/// Edge triggered: the counter is never read, each kick is an edge.
const KICK_FLAGS: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ET);

impl Kick {
    fn watch(fd: OwnedFd, epoll: &Arc<OwnedFd>, ring: u16) -> io::Result<Self> {
        let token = FIRST_KICK + u64::from(ring);
        epoll::add(epoll, &fd, epoll::EventData::new_u64(token), KICK_FLAGS)?;
        Ok(Self { fd, epoll: Arc::clone(epoll), token })
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        // Closing is not enough: the front end has the same eventfd open.
        let _ = epoll::delete(&self.epoll, &self.fd);
    }
}

/// One ring and what belongs to it. Even ones lead to the guest, odd ones from it.
#[derive(Debug, Default)]
pub(super) struct Queue {
    number: u16,
    pub(super) ring: Ring,
    addresses: Option<Addresses>,
    kick: Option<Kick>,
    /// Begun since it has a kick: where the used ring stands is known.
    running: bool,
    call: Option<OwnedFd>,
    error: Option<OwnedFd>,
    pub(super) enabled: bool,
    broken: bool,
    /// Chains given back that are not published.
    given: u16,
    /// Chains taken that wait to be filled; of rings to the guest.
    pub(super) supply: Supply,
    /// The most chains that waited at a time; of rings to the guest.
    pub(super) most_chains: usize,
    /// In the list of those that may hold frames.
    pub(super) listed: bool,
    /// In the list of those with something to publish or to signal.
    pub(super) touched: bool,
}

impl Queue {
    /// The ring `number`, with the features that were negotiated for rings.
    pub(super) fn new(number: u16, (event_idx, indirect): (bool, bool)) -> Self {
        let mut new = Self { number, ..Self::default() };
        new.ring.set_features(event_idx, indirect);
        new
    }

    /// Chains may be taken.
    pub(super) fn is_active(&self) -> bool {
        self.running && self.ring.is_placed() && !self.broken
    }

    /// Takes the next chain.
    pub(super) fn take(&mut self, inflight: &mut Option<Inflight>) -> Result<Option<u16>, Broken> {
        let taken = self.ring.take()?;
        if let (Some(head), Some(inflight)) = (taken, inflight) {
            inflight.taken(self.number, head);
        }
        Ok(taken)
    }

    /// Gives a chain back with `written` bytes in it.
    pub(super) fn give_back(
        &mut self,
        memory: &Memory,
        inflight: Option<&Inflight>,
        head: u16,
        written: u32,
    ) {
        self.ring.give_back(memory, head, written);
        self.given = self.given.saturating_add(1);
        if let Some(inflight) = inflight {
            inflight.given_back(self.number, head);
        }
    }

    /// Makes what was given back visible.
    pub(super) fn publish(&mut self, memory: &Memory, inflight: Option<&Inflight>) {
        self.ring.publish(memory);
        if let Some(inflight) = inflight.filter(|_| self.given > 0) {
            inflight.published(self.number, self.ring.published(), self.given);
        }
        self.given = 0;
    }

    /// Interrupts the driver if it wants to be.
    pub(super) fn interrupt(&mut self) {
        if self.ring.wants_interrupt()
            && let Some(call) = &self.call
        {
            signal(call.as_fd());
        }
    }

    /// Has something to publish or to signal: joins the list of those that do, once.
    pub(super) fn touch(&mut self, touched: &mut Vec<u16>) {
        if !std::mem::replace(&mut self.touched, true) {
            touched.push(self.number);
        }
    }

    /// Stands still until it is set up again: what is in it cannot be trusted.
    pub(super) fn give_up(&mut self, reason: Broken) {
        tracing::warn!("ring {} stands still: {reason}", self.number);
        self.broken = true;
        self.untake();
        if let Some(error) = &self.error {
            signal(error.as_fd());
        }
    }

    /// Puts back what was taken and not filled.
    fn untake(&mut self) {
        self.ring.untake(self.supply.chains());
        self.supply.clear();
    }

    /// Begins, as soon as there is a kick and the ring is found: behind what the used ring says.
    pub(super) fn begin(&mut self, memory: &Memory, inflight: &mut Option<Inflight>) {
        if self.running || self.kick.is_none() {
            return;
        }
        if let Some(addresses) = self.addresses.filter(|_| !self.ring.is_placed()) {
            self.ring.place(memory, &addresses);
        }
        if !self.ring.is_placed() {
            return;
        }
        (self.running, self.broken) = (true, false);
        self.ring.start();
        if let Some(inflight) = inflight
            && inflight.start(self.number, self.ring.size(), self.ring.published())
        {
            // Chains go back in order: all behind the used index is still to be done.
            self.ring.set_base(self.ring.published());
        }
        self.signal();
    }

    /// Has the ring at `addresses`. `false`: it is not in `memory`, or has no length yet.
    pub(super) fn set_addresses(&mut self, addresses: Addresses, memory: &Memory) -> bool {
        if self.addresses.replace(addresses) != Some(addresses) {
            self.untake();
        }
        self.ring.place(memory, &addresses)
    }

    /// Finds the ring again: `memory` is another.
    pub(super) fn find_again(&mut self, memory: &Memory, inflight: &mut Option<Inflight>) {
        self.untake();
        self.ring.stop();
        if let Some(addresses) = self.addresses
            && !self.ring.place(memory, &addresses)
            && self.running
        {
            tracing::warn!("ring {} is outside the guest's memory now", self.number);
        }
        self.begin(memory, inflight);
    }

    /// The front end has set the ring to work: its length and base stay.
    pub(super) fn has_kick(&self) -> bool {
        self.kick.is_some()
    }

    /// Watches `kick` instead of what was watched before. Stopped on an error.
    pub(super) fn set_kick(&mut self, kick: OwnedFd, epoll: &Arc<OwnedFd>) -> io::Result<()> {
        self.kick = None;
        let watched = Kick::watch(kick, epoll, self.number);
        self.kick = Some(watched.inspect_err(|_| self.stop())?);
        Ok(())
    }

    pub(super) fn set_call(&mut self, call: Option<OwnedFd>) {
        self.call = call;
        self.signal();
    }

    pub(super) fn set_error(&mut self, error: Option<OwnedFd>) {
        self.error = error;
    }

    /// Interrupts the driver whether it wants to be or not: whoever served the ring before may have died between
    /// giving buffers back and saying so, and a driver that waits for that adds no others.
    fn signal(&self) {
        if let Some(call) = &self.call {
            signal(call.as_fd());
        }
    }

    /// Has a kick come for what the driver adds from here on, and for what is there already.
    pub(super) fn wait(&mut self, memory: &Memory) {
        if self.ring.ask_for_kicks(memory) == Ok(true) {
            self.look_again();
        }
    }

    /// Has the kick tell again of what it told before.
    fn look_again(&self) {
        if let Some(Kick { fd, epoll, token }) = &self.kick {
            let _ = epoll::modify(epoll, fd, epoll::EventData::new_u64(*token), KICK_FLAGS);
        }
    }

    /// Takes no more until there is another kick.
    pub(super) fn stop(&mut self) {
        self.untake();
        self.kick = None;
        self.running = false;
        self.broken = false;
        self.ring.stop();
    }
}

/// Adds 1 to an eventfd; a full one wakes its reader anyway.
fn signal(fd: BorrowedFd<'_>) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}
