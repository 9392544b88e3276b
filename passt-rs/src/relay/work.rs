//! What datagram flows have to do at the end of a turn, and how much of it at once.

use rustix::io::Errno;

use crate::drop_reason::DropReason;
use crate::flow::FlowId;
use crate::guest::{Full, Guest, HEADERS_MAX};
use crate::host::batch::RECEIVE_MAX;
use crate::host::epoll::Ready;

use super::core::Core;
use super::datagrams::SentToGuest;

/// Batches received for one flow before others get their turn.
pub(super) const RECEIVES_PER_TURN: usize = 2;

/// What a socket has for us. Readiness is edge triggered, so it is remembered here.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// The socket may have datagrams.
    pub(super) readable: bool,
    /// The error queue may have entries.
    pub(super) errors: bool,
    /// In the list of flows to settle.
    pub(super) listed: bool,
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

impl<G: Guest> Core<G> {
    /// Whether the guest's end takes another frame; if not, `id` is settled when it does.
    pub(super) fn has_room(&mut self, id: FlowId) -> bool {
        let room = self.cable.reserve(HEADERS_MAX, usize::from(self.settings.mtu)).is_some();
        if !room {
            self.block(id);
        }
        room
    }
}

/// Whether a receive that gave this may be followed by another: the batch was full, or an earlier datagram's error
/// was in the way.
pub(super) fn reads_on(received: Result<usize, Errno>) -> bool {
    match received {
        Ok(count) => count == RECEIVE_MAX,
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
