//! One TCP connection between the guest and us, spliced onto a socket between us and the peer.
//!
//! The connection is split: the guest is acknowledged when the host's kernel has taken the bytes (or our
//! bounded spill has), and the guest's acknowledgments free bytes in the host socket's receive queue, where
//! they stay until then. So nothing acknowledged is ever lost, and no TCP_INFO is read per segment.
//!
//! Opening, in both directions the guest's handshake mirrors the host's:
//!
//! | phase | may happen | leads to | sends to the guest |
//! |---|---|---|---|
//! | [`Phase::Connecting`] | host connected | `SynAckSent` | SYN-ACK |
//! | | host refused | gone | RST or an ICMP error |
//! | [`Phase::SynAckSent`] | guest's ACK | `Open` | |
//! | [`Phase::SynSent`] (the host accepted) | guest's SYN-ACK | `Open` | ACK |
//! | | guest's RST | gone, RST to the peer | |
//! | [`Phase::Open`] | RST, error | gone | RST |
//!
//! Closing, each direction for itself, hours apart if the ends like (RFC 9293 3.6):
//!
//! | from the guest ([`Inbound`]) | leads to | | to the guest ([`Outbound`]) | leads to |
//! |---|---|---|---|---|
//! | `Open`: FIN in order | `Finished` | | `Open`: end of the host's stream | `Ending` |
//! | `Finished`: all bytes in the socket | `Shut` (socket shut for writing) | | `Ending`: FIN sent | `FinSent` |
//! | | | | `FinSent`: FIN acknowledged | `FinAcked` |
//!
//! `Shut` and `FinAcked` together: the connection is finished and forgotten.
//!
//! Deviations from RFC 9293: no TIME-WAIT (the guest's or the peer's kernel holds its own; an old segment
//! finds no flow and is answered with RST), no delayed ACK (one ACK per burst in order instead), no congestion control
//! towards the guest (the link is one machine's memory; recovery after a loss starts with one segment and
//! doubles), no timestamps (never offered).

mod from_guest;
mod ranges;
mod timer;
mod to_guest;
mod emit;

#[cfg(test)]
mod tests;

use crate::drop_reason::DropReason;
use crate::time::Instant;
use crate::wire::tcp::{Flags, Segment, Seq};

pub use emit::refuse;
pub use from_guest::{Inbound, Take};
use from_guest::{Receive, Taken};
use timer::Timer;
pub use timer::TimerEvent;
use to_guest::Send;
pub use to_guest::{Outbound, Plan};

/// Shift of the windows we announce: 128-byte steps, 8 MiB at most (RFC 7323 2).
const WINDOW_SCALE: u8 = 7;
/// What we assume of a guest that sends no MSS option (RFC 9293 3.7.1, MUST-15), and the least we accept.
const MSS_DEFAULT_V4: u16 = 536;
const MSS_DEFAULT_V6: u16 = 1220;
const MSS_MIN: u16 = 64;
/// Duplicate acknowledgments that mean a loss (RFC 5681 3.2).
const DUPLICATE_ACKS: u8 = 3;
/// Acknowledgments that have the guest resend at once what we refused: one with the window, and the duplicates that
/// mean a loss. Linux with SACK ignores bare duplicates; it resends when its timer fires, which doubles only with
/// time, so it waits for about as long again as memory was short.
const RESUME_ACKS: u8 = 1 + DUPLICATE_ACKS;

/// How far the handshake with the guest got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The guest's SYN waits for the host side to connect.
    Connecting,
    SynAckSent,
    SynSent,
    Open,
}

/// What a connection is created with.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// Our initial sequence number towards the guest (RFC 6528).
    pub isn: Seq,
    /// Largest segment payload that fits the guest's link, from its MTU.
    pub link_mss: u16,
    pub ipv6: bool,
    /// Bytes from the guest that we can surely keep while the host's socket takes none: the largest window.
    pub capacity: u32,
}

/// A connection's whole state; plain data.
#[derive(Clone, Debug)]
pub struct Connection {
    phase: Phase,
    receive: Receive,
    send: Send,
    timer: Timer,
    /// The guest is owed an acknowledgment.
    ack_due: bool,
    /// One small segment waits for an acknowledgment that the host's answer may carry.
    answer_due: bool,
    /// Segments that came ahead of their turn since the last acknowledgment. Each is worth one of its own, up
    /// to what makes the guest see a loss (RFC 5681 3.2, 4.2). So are bytes that we refused and that it is to resend.
    ahead_due: u8,
    /// `ack_due`, `answer_due` and `ahead_due` before the segment that is being taken: if it is refused, nothing more
    /// is owed than if it had been lost.
    owed_before: (bool, bool, u8),
    link_mss: u16,
    last_heard: Instant,
}

// A flow's state can be copied, kept and thrown away without effect on anything else.
const _: () = assert!(!std::mem::needs_drop::<Connection>());

/// What a segment from the guest asks of the relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// Payload to move; commit with [`Connection::took`].
    pub take: Option<Take>,
    /// Stream bytes the guest acknowledged: they may leave the host socket's queue.
    pub acked: u32,
    pub event: Option<Event>,
    /// The segment, or a part of its meaning, was refused.
    pub drop: Option<DropReason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The handshake with the guest is complete.
    Opened,
    /// The guest reset the connection; forget it and reset the peer.
    Reset,
    /// The guest answered our SYN out of a connection that we forgot: [`refuse`] the segment and wait on.
    Stale,
}

impl Connection {
    /// The guest asks for a connection; the host side is to be connected first.
    pub fn from_guest_syn(now: Instant, syn: &Segment, parameters: &Parameters) -> Self {
        let mut connection = Self::new(now, Phase::Connecting, parameters);
        connection.learn_syn(syn, parameters);
        connection
    }

    /// The host accepted a connection; the guest is to be asked. Send [`Self::syn`].
    pub fn from_host_accept(now: Instant, parameters: &Parameters) -> Self {
        let mut connection = Self::new(now, Phase::SynSent, parameters);
        connection.receive.offer(parameters.capacity);
        connection.timer = Timer::handshake(now, 0);
        connection
    }

    fn new(now: Instant, phase: Phase, parameters: &Parameters) -> Self {
        let mss = if parameters.ipv6 { MSS_DEFAULT_V6 } else { MSS_DEFAULT_V4 };
        Self {
            phase,
            receive: Receive::new(parameters.capacity),
            send: Send::new(parameters.isn, mss.min(parameters.link_mss)),
            timer: Timer::Off,
            ack_due: false,
            answer_due: false,
            ahead_due: 0,
            owed_before: (false, false, 0),
            link_mss: parameters.link_mss,
            last_heard: now,
        }
    }

    fn learn_syn(&mut self, syn: &Segment, parameters: &Parameters) {
        self.receive.start(syn.seq + 1, syn.window_scale.is_some(), parameters.capacity);
        self.send.learn_syn(syn, parameters.link_mss);
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    fn set_phase(&mut self, phase: Phase) {
        tracing::trace!("{:?} => {phase:?}", self.phase);
        self.phase = phase;
    }

    /// Which direction is how far in closing.
    pub fn closing(&self) -> (Inbound, Outbound) {
        (self.receive.state(), self.send.state())
    }

    /// Both directions are closed and acknowledged.
    pub fn is_finished(&self) -> bool {
        self.receive.state() == Inbound::Shut && self.send.state() == Outbound::FinAcked
    }

    /// Bytes towards the guest that it did not acknowledge yet.
    pub fn in_flight(&self) -> u32 {
        self.send.in_flight()
    }

    /// The guest's receive window in bytes.
    pub fn guest_window(&self) -> u32 {
        self.send.window()
    }

    /// Payload bytes of one segment towards the guest.
    pub fn mss(&self) -> u16 {
        self.send.mss()
    }

    /// First byte of the host's stream that the guest did not acknowledge.
    pub fn unacknowledged(&self) -> Seq {
        self.send.unacknowledged()
    }

    /// Sequence number of the guest's SYN, while nothing else came from it.
    pub fn guest_initial(&self) -> Seq {
        self.receive.next() - 1
    }

    /// The host side connected: the SYN-ACK may go out. Send [`Self::syn`].
    pub fn host_connected(&mut self, now: Instant) {
        debug_assert_eq!(self.phase, Phase::Connecting);
        self.set_phase(Phase::SynAckSent);
        self.timer = Timer::handshake(now, 0);
    }

    /// Handles one segment of this connection with `payload` bytes behind its header.
    pub fn on_segment(&mut self, now: Instant, segment: &Segment, payload: u32) -> Input {
        self.last_heard = now;
        match self.phase {
            // A retransmitted SYN; the answer comes when the host side connected. A RST takes it back.
            Phase::Connecting => {
                let reset = segment.flags.has(Flags::RST) && segment.seq == self.receive.next();
                Input { event: reset.then_some(Event::Reset), ..Input::default() }
            }
            Phase::SynSent => self.on_segment_syn_sent(now, segment),
            Phase::SynAckSent if segment.flags.has(Flags::SYN) && segment.seq + 1 == self.receive.next() => {
                // RFC 9293 3.10.7.4 (SYN-RECEIVED): our SYN-ACK was lost; say it again.
                self.timer.repeat_handshake(now);
                Input::default()
            }
            Phase::SynAckSent | Phase::Open => self.on_segment_synchronised(now, segment, payload),
        }
    }

    /// RFC 9293 3.10.7.3.
    fn on_segment_syn_sent(&mut self, now: Instant, segment: &Segment) -> Input {
        let reset = segment.flags.has(Flags::RST);
        let acceptable = segment.flags.has(Flags::ACK) && segment.ack == self.send.next();
        if !acceptable {
            let stale = segment.flags.has(Flags::ACK) && !reset;
            let event = stale.then_some(Event::Stale);
            return Input { event, drop: Some(DropReason::Window), ..Input::default() };
        }
        if reset {
            return Input { event: Some(Event::Reset), ..Input::default() };
        }
        if !segment.flags.has(Flags::SYN) {
            return Input { drop: Some(DropReason::Window), ..Input::default() };
        }
        let capacity = self.receive.capacity();
        self.receive.start(segment.seq + 1, segment.window_scale.is_some(), capacity);
        self.send.learn_syn(segment, self.link_mss);
        self.send.syn_acknowledged(segment);
        self.ack_due = true;
        self.open(now)
    }

    fn open(&mut self, now: Instant) -> Input {
        self.set_phase(Phase::Open);
        self.timer = Timer::idle(now);
        Input { event: Some(Event::Opened), ..Input::default() }
    }

    /// RFC 9293 3.10.7.4, in its order: sequence, RST, SYN, ACK, payload, FIN.
    fn on_segment_synchronised(&mut self, now: Instant, segment: &Segment, payload: u32) -> Input {
        let fin = segment.flags.has(Flags::FIN);
        let acceptable = self.receive.is_acceptable(segment.seq, payload + u32::from(fin));
        if segment.flags.has(Flags::RST) {
            return self.on_reset(segment.seq, acceptable);
        }
        if !acceptable {
            self.ack_due = true;
            let mut input = Input { drop: Some(DropReason::Window), ..Input::default() };
            if self.phase == Phase::Open && self.is_from_the_past(segment) {
                // An old duplicate or a probe; its acknowledgment still counts, as a zero window on our side
                // must not stop the other direction.
                input.acked = self.on_acknowledgment(now, segment, payload).acked;
            }
            return input;
        }
        if segment.flags.has(Flags::SYN) {
            self.ack_due = true; // A challenge ACK (RFC 5961 4.2).
            return Input { drop: Some(DropReason::Window), ..Input::default() };
        }
        if !segment.flags.has(Flags::ACK) {
            return Input { drop: Some(DropReason::Window), ..Input::default() };
        }
        let mut input = self.on_acknowledgment(now, segment, payload);
        if input.drop.is_some() {
            return input;
        }
        if self.phase == Phase::Open {
            self.owed_before = (self.ack_due, self.answer_due, self.ahead_due);
            self.owe_ack(segment, payload, fin);
            if payload > 0 && segment.seq.is_after(self.receive.next()) {
                self.ahead_due = self.ahead_due.max((self.ahead_due + 1).min(DUPLICATE_ACKS));
            }
            input.take = self.receive.plan(segment.seq, payload, fin);
        }
        input
    }

    /// An acknowledgment for every burst, except that of one small segment, the usual request: the answer is on
    /// its way. The next segment is acknowledged at once (RFC 9293 3.8.6.3: at least every second one).
    fn owe_ack(&mut self, segment: &Segment, payload: u32, fin: bool) {
        let request = payload > 0
            && payload < u32::from(self.send.mss())
            && segment.seq == self.receive.next()
            && !(fin || self.answer_due || self.receive.holds_ahead());
        if request {
            self.answer_due = true;
        } else if payload > 0 || fin {
            self.ack_due = true;
        }
    }

    /// The guest may have sent this: an acknowledgment at a number that was or is about to be its turn.
    fn is_from_the_past(&self, segment: &Segment) -> bool {
        segment.flags.has(Flags::ACK)
            && !segment.flags.has(Flags::SYN)
            && self.receive.is_at_or_before_edge(segment.seq)
    }

    /// RFC 5961 3.2: only the exact next byte resets; elsewhere in the window asks for confirmation. A guest that has
    /// said all and heard all may forget the connection; what it sent last is still the peer's.
    fn on_reset(&mut self, seq: Seq, acceptable: bool) -> Input {
        if self.receive.state() != Inbound::Open && self.send.state() == Outbound::FinAcked {
            return Input { drop: Some(DropReason::Window), ..Input::default() };
        }
        if seq == self.receive.next() {
            return Input { event: Some(Event::Reset), ..Input::default() };
        }
        self.ack_due |= acceptable;
        Input { drop: Some(DropReason::Window), ..Input::default() }
    }

    fn on_acknowledgment(&mut self, now: Instant, segment: &Segment, payload: u32) -> Input {
        let mut input = Input::default();
        if self.phase == Phase::SynAckSent {
            if segment.ack != self.send.next() {
                return Input { drop: Some(DropReason::Window), ..input };
            }
            self.send.syn_acknowledged(segment);
            input = self.open(now);
        }
        match self.send.on_ack(now, segment, payload) {
            Ok(acked) => {
                input.acked = acked;
                self.arm(now, acked > 0);
                input
            }
            Err(()) => {
                self.ack_due = true; // RFC 5961 5.2: an acknowledgment of what was never sent.
                Input { drop: Some(DropReason::Window), ..input }
            }
        }
    }

    /// Commits [`Input::take`]: `to_socket` bytes went to the host, `stored` more into the spill. For the rest there
    /// was no memory, and nothing is said about it until there is: a duplicate acknowledgment would have the guest
    /// resend it at once (RFC 5681 3.2), in vain.
    pub fn took(&mut self, take: &Take, to_socket: u32, stored: u32) {
        let next = self.receive.next();
        match self.receive.took(take, to_socket, stored) {
            Taken::Kept => {}
            Taken::Refused => (self.ack_due, self.answer_due, self.ahead_due) = self.owed_before,
            Taken::Probed => {
                (self.ack_due, self.answer_due, self.ahead_due) = self.owed_before;
                self.ack_due = true; // RFC 9293 3.8.6.1.
            }
        }
        if self.receive.next() == next {
            return;
        }
        if !self.receive.holds_ahead() {
            self.ahead_due = 0;
        }
        if self.receive.lacks_refused() && !self.receive.is_refused() {
            // The next of them. Without SACK a guest knows of one loss at a time, and not every TCP takes this
            // acknowledgment for a report of another (RFC 6582 3.2).
            self.ahead_due = RESUME_ACKS;
        }
    }

    /// The host's socket took `bytes` from the spill.
    pub fn drained(&mut self, bytes: u32) {
        if self.receive.drained(bytes, u32::from(self.send.mss())) {
            self.ack_due = true;
        }
    }

    /// In-order bytes in the spill that wait for the host's socket.
    pub fn spilled(&self) -> u32 {
        self.receive.spilled()
    }

    /// The window we may still grow to, lowered while memory is short; what was promised stays promised. 0: there
    /// is no memory, and the socket takes nothing. Then the window is announced as closed when the same bytes were
    /// refused again and again (RFC 9293 3.8.6 advises against that; the alternative is a guest that gives up).
    pub fn set_capacity(&mut self, capacity: u32) {
        self.ack_due |= self.receive.set_capacity(capacity, u32::from(self.send.mss()));
    }

    /// The host's socket takes bytes, and all that waited is in it: a guest whose next byte was refused is told to send
    /// it again. Not before, as memory that others leave may be gone when it does, and it heeds this but once.
    pub fn resume(&mut self) {
        if self.receive.resume() {
            self.ahead_due = RESUME_ACKS;
        }
    }

    /// The guest's FIN arrived, all before it is in the host's socket, and the socket is to be shut.
    pub fn wants_shutdown(&self) -> bool {
        self.receive.state() == Inbound::Finished && self.receive.spilled() == 0
    }

    /// The socket was shut for writing.
    pub fn shut(&mut self) {
        self.receive.shut();
    }

    /// What to send the guest next: data, a FIN, or nothing. `readable`: the host's socket may have bytes
    /// that were not sent yet. `max`: payload bytes of one frame, for guests that take large segments.
    pub fn plan(&mut self, now: Instant, readable: bool, max: u32) -> Option<Plan> {
        if self.phase != Phase::Open {
            return None;
        }
        let plan = self.send.plan(readable, max);
        if plan.is_none() && readable && self.send.is_window_closed() {
            self.timer.persist(now);
        }
        plan
    }

    /// Commits a plan of which `bytes` were sent; 0 for a FIN.
    pub fn sent(&mut self, now: Instant, plan: &Plan, bytes: u32) {
        self.send.sent(now, plan, bytes);
        self.timer.start_retransmit(now, self.send.timeout());
    }

    /// The host's stream ended; a FIN follows what was sent.
    pub fn host_ended(&mut self) {
        self.send.end();
    }

    /// Whether the guest is owed an acknowledgment that no data carried yet.
    pub fn owes_ack(&self) -> bool {
        (self.ack_due || self.ahead_due > 0) && self.phase == Phase::Open
    }

    /// Whether the guest is owed an acknowledgment that may wait a moment for data to carry it.
    pub fn awaits_answer(&self) -> bool {
        self.answer_due && !self.owes_ack()
    }

    /// No data came to carry the acknowledgment.
    pub fn stop_waiting(&mut self) {
        self.ack_due |= self.answer_due;
    }

    /// Bytes from the guest lie in the spill that arrived ahead of their turn.
    pub fn holds_ahead(&self) -> bool {
        self.receive.holds_ahead()
    }
}
