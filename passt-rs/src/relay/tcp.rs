//! TCP flows: a connection's machine, its socket, and the bytes between them.

use std::ops::Range;

use rustix::io::Errno;

use crate::drop_reason::DropReason;
use crate::flow::{FlowId, Key};
use crate::guest::{Guest, HEADERS_MAX, Place, SLICES_MAX};
use crate::host::epoll::Ready;
use crate::host::tcp::{Sent, Socket};
use crate::iovec::{self, Piece};
use crate::stats::FlowReport;
use crate::time::Instant;
use crate::transport::tcp::{Connection, Event, Inbound, Outbound, Phase, Take, TimerEvent};
use crate::wire::tcp::{Segment, Seq};

use super::core::{Core, Fate};
use super::refusal::{Refusal, reset_stray};
use super::spill::QueueId;

/// One connection.
#[derive(Debug)]
pub(super) struct TcpFlow {
    pub(super) connection: Connection,
    pub(super) socket: Socket,
    initiator: Initiator,
    /// Sequence number, as the guest counts, of the first byte in the socket's receive queue.
    pub(super) head: Seq,
    /// Bytes from `head` that the guest acknowledged and that are still in the queue.
    acked: u32,
    /// Bytes sent to the guest that it did not acknowledge.
    pub(super) retained: u32,
    /// Bytes from the guest that the socket did not take yet.
    queue: Option<QueueId>,
    /// The socket may have bytes or an end that were not seen yet.
    pub(super) readable: bool,
    /// The end of the peer's stream is in the queue and raises no further edge; or urgent data came, at whose
    /// mark a read stops short.
    pub(super) ended: bool,
    /// The socket takes no more until it says so.
    full: bool,
    /// The socket broke; both ends are to be reset.
    failed: bool,
    /// In the list of flows whose acknowledgment waits for an answer.
    delayed: bool,
    /// In the list of flows to settle.
    listed: bool,
    /// Queue of the transport that the guest's last segment came through; its answers take the same.
    pub(super) lane: u16,
    started: Instant,
    pub(super) active: Instant,
    pub(super) to_guest_bytes: u64,
    from_guest_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Initiator {
    Guest,
    Host,
}

impl TcpFlow {
    pub(super) fn new(
        connection: Connection,
        socket: Socket,
        initiator: Initiator,
        isn: Seq,
        now: Instant,
    ) -> Self {
        Self {
            connection,
            socket,
            initiator,
            head: isn + 1,
            acked: 0,
            retained: 0,
            queue: None,
            readable: false,
            ended: false,
            full: false,
            failed: false,
            delayed: false,
            listed: false,
            lane: 0,
            started: now,
            active: now,
            to_guest_bytes: 0,
            from_guest_bytes: 0,
        }
    }

    /// Accepted, and not answered by the guest.
    pub(super) fn is_half_open(&self) -> bool {
        self.initiator == Initiator::Host && self.connection.phase() == Phase::SynSent
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Lists the flow to be settled at the end of this turn.
    pub(super) fn schedule<G: Guest>(&mut self, core: &mut Core<G>, id: FlowId) {
        if !self.listed {
            self.listed = true;
            core.later.push(id);
        }
    }

    /// Handles one segment whose payload lies in `payload` of the frame at `place`.
    pub(super) fn on_segment<G: Guest>(
        &mut self,
        core: &mut Core<G>,
        (id, key): (FlowId, &Key),
        place: Place,
        segment: &Segment,
        payload: Range<usize>,
    ) -> Fate {
        let len = u32::try_from(payload.len()).unwrap_or(0);
        self.active = core.now;
        self.lane = core.lane;
        let input = self.connection.on_segment(core.now, segment, len);
        if let Some(reason) = input.drop {
            core.drops.count(reason);
        }
        match input.event {
            Some(Event::Reset) => {
                core.tcp.resets_from_guest_total += 1;
                return Fate::ResetHost;
            }
            Some(Event::Opened) => self.on_opened(core),
            Some(Event::Stale) => reset_stray(core, key, segment, payload.len()),
            None => {}
        }
        self.acked += input.acked;
        self.retained -= input.acked;
        core.retained_bytes -= u64::from(input.acked);
        if let Some(take) = input.take
            && self.take(core, place, payload.start, &take).is_err()
        {
            self.failed = true;
        }
        self.schedule(core, id);
        Fate::Keep
    }

    fn on_opened<G>(&mut self, core: &mut Core<G>) {
        if self.initiator == Initiator::Host {
            core.half_open = core.half_open.saturating_sub(1);
        }
        // What arrived during the handshake raised its edge then.
        self.readable = true;
    }

    /// Moves payload to the socket, and what that does not take to the spill.
    fn take<G: Guest>(
        &mut self,
        core: &mut Core<G>,
        place: Place,
        start: usize,
        take: &Take,
    ) -> Result<(), Errno> {
        let (skip, len) = (take.skip as usize, take.len as usize);
        let mut pieces = [Piece::EMPTY; SLICES_MAX];
        let range = start + skip..start + skip + len;
        let count = core.cable.guest.gather(place, range, &mut pieces);
        let mut rest = pieces.get_mut(..count).unwrap_or_default();
        let mut to_socket = 0;
        if take.offset == 0 && !self.full {
            match self.socket.send(rest) {
                Sent::Bytes(bytes) => to_socket = bytes,
                Sent::Full => {}
                Sent::Failed(error) => return Err(error),
            }
            self.full = to_socket < len;
            if let Some(queue) = self.queue {
                core.spill.advance(queue, to_socket);
            }
        }
        let mut stored = 0;
        if to_socket < len {
            // What is left of the pool is for bytes whose turn it is: only they bring a flow on.
            let is_ahead = take.offset > self.connection.spilled();
            if !(is_ahead && core.spill.is_short()) {
                iovec::advance(&mut rest, to_socket);
                let queue = *self.queue.get_or_insert_with(|| core.spill.open());
                stored = core.spill.store(queue, take.offset as usize, rest);
                core.tcp.spilled_bytes_total += stored as u64;
            }
            if to_socket + stored < len {
                core.drops.count(DropReason::SpillLimit);
            }
        }
        self.from_guest_bytes += (to_socket + stored) as u64;
        self.connection.took(take, clamp(to_socket), clamp(stored));
        Ok(())
    }

    /// Gives the socket what waits in the spill.
    fn drain<G: Guest>(&mut self, core: &mut Core<G>) -> Result<(), Errno> {
        let Some(queue) = self.queue else { return Ok(()) };
        while !self.full && self.connection.spilled() > 0 {
            let front = core.spill.front(queue, self.connection.spilled() as usize);
            let (offered, sent) = (front.len(), self.socket.send(&[Piece::new(front)]));
            match sent {
                Sent::Bytes(bytes) => {
                    core.spill.advance(queue, bytes);
                    self.connection.drained(clamp(bytes));
                    self.full = bytes < offered;
                }
                Sent::Full => self.full = true,
                Sent::Failed(error) => return Err(error),
            }
        }
        if self.connection.spilled() == 0 && !self.connection.holds_ahead() {
            core.spill.close(queue);
            self.queue = None;
        }
        Ok(())
    }

    /// The socket's readiness changed.
    pub(super) fn on_ready<G: Guest>(
        &mut self,
        core: &mut Core<G>,
        id: FlowId,
        key: &Key,
        ready: Ready,
    ) -> Fate {
        // A peer may have answered and closed before we see that it accepted.
        self.ended |= ready.ended || ready.urgent || ready.error || ready.hangup;
        if self.connection.phase() == Phase::Connecting {
            return self.on_connect(core, id, key, ready);
        }
        // Errors show when the queue is read to its end, or when bytes are sent. Behind an end nothing is read.
        self.failed |= ready.error && self.connection.closing().1 != Outbound::Open;
        self.readable |= ready.readable || self.ended;
        if ready.writable {
            self.full = false;
        }
        self.schedule(core, id);
        Fate::Keep
    }

    fn on_connect<G: Guest>(&mut self, core: &mut Core<G>, id: FlowId, key: &Key, ready: Ready) -> Fate {
        if !(ready.writable || ready.error || ready.hangup) {
            return Fate::Keep;
        }
        match self.socket.take_error() {
            Ok(()) if ready.error || !ready.writable => Fate::Keep,
            Ok(()) => {
                self.on_connected(core, id, key);
                Fate::Keep
            }
            Err(error) => {
                Refusal::Connect(error).tell(core, key, self.connection.guest_initial());
                Fate::Finished
            }
        }
    }

    /// The host side connected: the guest gets its SYN-ACK.
    pub(super) fn on_connected<G: Guest>(&mut self, core: &mut Core<G>, id: FlowId, key: &Key) {
        self.connection.host_connected(core.now);
        self.send_syn(core, key);
        self.set_timer(core, id);
    }

    pub(super) fn send_syn<G: Guest>(&mut self, core: &mut Core<G>, key: &Key) {
        core.cable.guest.steer(self.lane);
        let syn = from_peer(key, self.connection.syn());
        // Lost when the guest's end is full; the handshake timer sends it again.
        if core.cable.send_tcp(key, &syn).is_err() {
            core.drops.count(DropReason::GuestFull);
        }
    }

    fn send_reset<G: Guest>(&mut self, core: &mut Core<G>, key: &Key) {
        core.tcp.resets_to_guest_total += 1;
        let reset = from_peer(key, self.connection.reset());
        if core.cable.send_tcp(key, &reset).is_err() {
            core.drops.count(DropReason::GuestFull);
        }
    }

    /// Everything that is due for this flow, once per turn.
    pub(super) fn settle<G: Guest>(&mut self, core: &mut Core<G>, id: FlowId, key: &Key) -> Fate {
        self.listed = false;
        core.cable.guest.steer(self.lane);
        if self.failed || self.drain(core).is_err() {
            self.send_reset(core, key);
            return Fate::ResetHost;
        }
        if self.connection.wants_shutdown() {
            // When the other direction is done too, closing the socket says the same.
            if self.connection.closing().1 != Outbound::FinAcked {
                self.socket.shutdown_write();
            }
            self.connection.shut();
        }
        if self.acked > 0 {
            let gone = self.socket.discard(self.acked);
            self.acked -= gone;
            self.head += gone;
        }
        self.connection.set_capacity(core.capacity(self.full));
        if !self.full {
            self.connection.resume();
        }
        if self.pump(core, id, key).is_err() {
            self.send_reset(core, key);
            return Fate::ResetHost;
        }
        self.acknowledge(core, id, key);
        if self.connection.awaits_answer() && !self.delayed {
            self.delayed = true;
            core.delay_ack(id);
        }
        if self.connection.is_finished() {
            return Fate::Finished;
        }
        self.set_timer(core, id);
        Fate::Keep
    }

    fn acknowledge<G: Guest>(&mut self, core: &mut Core<G>, id: FlowId, key: &Key) {
        while self.connection.owes_ack() {
            if core.cable.reserve(HEADERS_MAX, 0).is_none() {
                core.block(id);
                return;
            }
            let ack = from_peer(key, self.connection.ack());
            let _ = core.cable.send_tcp(key, &ack);
        }
    }

    /// The acknowledgment has waited long enough.
    pub(super) fn stop_waiting<G: Guest>(&mut self, core: &mut Core<G>, id: FlowId) {
        self.delayed = false;
        if self.connection.awaits_answer() {
            self.connection.stop_waiting();
            self.schedule(core, id);
        }
    }

    /// The flow's deadline passed, or an earlier one that was moved since.
    pub(super) fn on_timer<G: Guest>(&mut self, core: &mut Core<G>, id: FlowId, key: &Key) -> Fate {
        self.socket.settle();
        core.cable.guest.steer(self.lane);
        match self.connection.on_timer(core.now) {
            TimerEvent::Nothing => {}
            TimerEvent::Syn => self.send_syn(core, key),
            TimerEvent::Plan => self.schedule(core, id),
            TimerEvent::Probe => self.ask(core, key),
            TimerEvent::GiveUp => {
                tracing::debug!("{} <-> {}: the guest does not answer", key.guest, key.peer);
                self.send_reset(core, key);
                return Fate::ResetHost;
            }
        }
        self.set_timer(core, id);
        Fate::Keep
    }

    /// Asks the guest whether it has the connection still.
    pub(super) fn ask<G: Guest>(&mut self, core: &mut Core<G>, key: &Key) {
        if self.connection.phase() == Phase::Open {
            let probe = from_peer(key, self.connection.probe());
            let _ = core.cable.send_tcp(key, &probe);
        }
    }

    /// Arms the wheel if the deadline is earlier than what is armed; a later one is found when that fires.
    pub(super) fn set_timer<G: Guest>(&self, core: &mut Core<G>, id: FlowId) {
        let Some(deadline) = self.connection.deadline() else { return };
        if core.wheel.deadline(id.index()).is_none_or(|armed| deadline < armed) {
            core.wheel.set(id.index(), deadline);
        }
    }

    /// We end before the connection does. The guest is told if its end has room. The peer is unless all it is to
    /// hear is the kernel's already: a reset would take that back.
    pub(super) fn abandon<G: Guest>(mut self, core: &mut Core<G>, key: &Key) {
        core.cable.guest.steer(self.lane);
        self.send_reset(core, key);
        let is_delivered = self.connection.closing().0 == Inbound::Shut && self.connection.in_flight() == 0;
        let fate = if is_delivered { Fate::Finished } else { Fate::ResetHost };
        self.end(core, key, fate);
    }

    /// Lets go of everything the flow holds.
    pub(super) fn end<G: Guest>(self, core: &mut Core<G>, key: &Key, fate: Fate) {
        core.retained_bytes -= u64::from(self.retained);
        if let Some(queue) = self.queue {
            core.spill.close(queue);
        }
        if self.is_half_open() {
            core.half_open = core.half_open.saturating_sub(1);
        }
        if fate == Fate::Finished {
            self.socket.finish();
        }
        tracing::debug!("tcp {} <-> {} ended: {fate:?}", key.guest, key.peer);
    }

    pub(super) fn report(&self, key: &Key, now: Instant) -> FlowReport {
        let (inbound, outbound) = self.connection.closing();
        FlowReport {
            protocol: key.protocol.name(),
            guest: key.guest.to_string(),
            peer: key.peer.to_string(),
            initiator: if self.initiator == Initiator::Guest { "guest" } else { "host" },
            state: format!("{:?} from_guest={inbound:?} to_guest={outbound:?}", self.connection.phase()),
            to_guest_bytes: self.to_guest_bytes,
            from_guest_bytes: self.from_guest_bytes,
            age_ms: millis(now, self.started),
            idle_ms: millis(now, self.active),
            window: Some(self.connection.guest_window()),
            queued_to_host_bytes: Some(self.connection.spilled()),
            in_flight_to_guest_bytes: Some(self.connection.in_flight()),
        }
    }
}

/// A segment with the ports of a frame from the peer to the guest.
pub(super) fn from_peer(key: &Key, segment: Segment) -> Segment {
    Segment { src_port: key.peer.port, dst_port: key.guest.port, ..segment }
}

pub(super) fn clamp(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

pub(super) fn millis(now: Instant, then: Instant) -> u64 {
    u64::try_from(now.since(then).as_millis()).unwrap_or(u64::MAX)
}
