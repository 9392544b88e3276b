//! What datagram flows have to do at the end of a turn, and how much of it at once; what UDP and echo do alike.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::drop_reason::DropReason;
use crate::flow::{FlowId, Key};
use crate::guest::{Full, Guest};
use crate::host::batch::{Batch, RECEIVE_MAX};
use crate::host::epoll::Ready;
use crate::host::error_queue;

use super::core::{Core, Fate};
use super::datagrams::SentToGuest;
use super::icmp::{self, Quote};

/// Batches received for one flow before others get their turn.
const RECEIVES_PER_TURN: usize = 2;

/// What a socket has for us. Readiness is edge triggered, so it is remembered here.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// The socket may have datagrams.
    pub(super) readable: bool,
    /// The error queue may have entries.
    pub(super) errors: bool,
    /// In the list of flows to settle.
    pub(super) listed: bool,
    /// Queue of the transport that the guest's last frame came through; its answers take the same.
    pub(super) lane: u16,
}

impl Work {
    pub(super) fn on_ready<G>(&mut self, core: &mut Core<G>, id: FlowId, ready: Ready) {
        self.readable |= ready.readable;
        self.errors |= ready.error;
        if self.readable || self.errors {
            self.schedule(core, id);
        }
    }

    pub(super) fn schedule<G>(&mut self, core: &mut Core<G>, id: FlowId) {
        if !self.listed {
            self.listed = true;
            core.later.push(id);
        }
    }
}

/// A flow of datagrams: what is its own, and what follows from that.
pub(super) trait DatagramFlow {
    fn work(&mut self) -> &mut Work;

    /// The peer as the host side knows it.
    fn target(&self) -> IpAddr;

    fn socket(&self) -> BorrowedFd<'_>;

    /// Receives at most `limit` datagrams.
    fn receive(&self, batch: &mut Batch, limit: usize) -> Result<usize, Errno>;

    /// Gives the guest the first `count` datagrams of `batch`.
    fn deliver_batch<G: Guest>(&mut self, core: &mut Core<G>, key: &Key, batch: &Batch, count: usize);

    /// A packet of the guest's, rebuilt around what an error brought back of it.
    fn quote(&self, key: &Key, payload: &[u8]) -> Quote;

    /// Gives the guest what the socket has, up to a turn's worth.
    fn take_from_host<G: Guest>(&mut self, core: &mut Core<G>, id: FlowId, key: &Key) -> Fate {
        self.work().listed = false;
        core.cable.guest.steer(self.work().lane);
        if std::mem::take(&mut self.work().errors) {
            self.take_errors(core, key, None);
        }
        let mut batch = std::mem::take(&mut core.batch);
        let mut turns = RECEIVES_PER_TURN;
        while self.work().readable {
            if turns == 0 {
                self.work().schedule(core, id);
                break;
            }
            let fit = core.frames_that_fit(RECEIVE_MAX);
            if fit == 0 {
                // The datagrams wait in the socket.
                core.block(id);
                break;
            }
            turns -= 1;
            let received = self.receive(&mut batch, fit);
            self.deliver_batch(core, key, &batch, received.unwrap_or(0));
            self.work().readable = reads_on(received, fit);
        }
        core.batch = batch;
        Fate::Keep
    }

    /// A send of `quote` failed with `errno`.
    fn on_send_error<G: Guest>(&mut self, core: &mut Core<G>, key: &Key, errno: Errno, quote: &Quote) {
        core.drops.count(DropReason::HostSend);
        let mtu = self.take_errors(core, key, Some(errno));
        if let Some(error) = icmp::of_errno(errno, mtu) {
            icmp::tell(core, key, (self.target(), None), error, quote);
        }
    }

    /// Tells the guest of every error in the queue. One that our own kernel noted about the send that failed with
    /// `sending` is left to who sent; gives the MTU that it names.
    fn take_errors<G: Guest>(
        &mut self,
        core: &mut Core<G>,
        key: &Key,
        sending: Option<Errno>,
    ) -> Option<u32> {
        let mut batch = std::mem::take(&mut core.batch);
        let mut mtu = None;
        while let Some(entry) = error_queue::take(self.socket(), &mut batch) {
            if entry.origin == error_queue::Origin::Local && Some(entry.errno) == sending {
                mtu = Some(entry.info);
                continue;
            }
            let Some(error) = icmp::of_entry(&entry) else { continue };
            let quote = self.quote(key, entry.payload);
            icmp::tell(core, key, (self.target(), entry.offender), error, &quote);
        }
        core.batch = batch;
        mtu
    }
}

/// Whether a receive of at most `limit` that gave this may be followed by another: the batch was full, or an earlier
/// datagram's error was in the way.
fn reads_on(received: Result<usize, Errno>, limit: usize) -> bool {
    match received {
        Ok(count) => count >= limit,
        Err(Errno::INTR | Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::MSGSIZE) => {
            true
        }
        Err(_) => false,
    }
}

/// Counts what became of a datagram to the guest; gives how many were sent.
pub(super) fn note_sent<G>(core: &mut Core<G>, sent: Result<SentToGuest, Full>) -> u64 {
    match sent {
        Ok(sent) => {
            core.datagram.fragmented_total += sent.fragmented;
            sent.datagrams
        }
        Err(Full) => {
            core.drops.count(DropReason::GuestFull);
            0
        }
    }
}
