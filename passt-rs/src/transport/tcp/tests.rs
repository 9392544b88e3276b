//! Conversations with one [`Connection`] under a simulated clock.
//!
//! Numbers in tests are relative: 0 is each side's first payload byte. Every conversation is held at several
//! starts of both sequence spaces ([`everywhere`]), so that wrap-around is part of all of them.

mod closing;
mod from_guest;
mod memory;
mod opening;
mod properties;
mod strangers;
mod timers;
mod to_guest;

use std::time::Duration;

use super::*;
use crate::wire::tcp::SackBlocks;

const MSS: u32 = 1000;
const LINK_MSS: u16 = 1460;
const CAPACITY: u32 = 256 * 1024;

/// Where both sequence spaces begin: the initial numbers of the guest and of us.
#[derive(Clone, Copy, Debug)]
struct Start {
    guest: Seq,
    ours: Seq,
}

/// Holds a conversation far from and across the wrap of both sequence spaces.
fn everywhere(conversation: impl Fn(Start)) {
    let starts = [(7_000_000, 3_000), (u32::MAX, u32::MAX), (u32::MAX - 1500, 1 << 31), (5, u32::MAX - 2500)];
    for (guest, ours) in starts {
        conversation(Start { guest: Seq(guest), ours: Seq(ours) });
    }
}

/// A segment as the guest's side of a test states it, in relative numbers.
#[derive(Clone, Copy, Debug)]
struct Says {
    at: i64,
    payload: u32,
    ack: i64,
    /// Bytes; the fixture divides by the guest's scale.
    window: u32,
    flags: Flags,
    sack: &'static [(u32, u32)],
}

fn says() -> Says {
    Says { at: 0, payload: 0, ack: 0, window: 60_000, flags: Flags::ACK, sack: &[] }
}

/// A bare acknowledgment of our bytes before `ack`.
fn ack(ack: i64) -> Says {
    Says { ack, ..says() }
}

/// `payload` bytes from `at`.
fn bytes(at: i64, payload: u32) -> Says {
    Says { at, payload, ..says() }
}

fn fin(at: i64) -> Says {
    Says { at, flags: Flags::ACK.and(Flags::FIN), ..says() }
}

fn rst(at: i64) -> Says {
    Says { at, flags: Flags::RST, ..says() }
}

impl Says {
    fn from(self, at: i64) -> Self {
        Self { at, ..self }
    }

    fn acks(self, ack: i64) -> Self {
        Self { ack, ..self }
    }

    fn window(self, window: u32) -> Self {
        Self { window, ..self }
    }

    fn sacks(self, sack: &'static [(u32, u32)]) -> Self {
        Self { sack, ..self }
    }

    fn and(self, flag: Flags) -> Self {
        Self { flags: self.flags.and(flag), ..self }
    }
}

/// Our acknowledgment: up to where, the window in bytes behind it, and the ranges reported.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Heard {
    ack: i64,
    window: u32,
    sack: Vec<(i64, i64)>,
}

fn heard(ack: i64, window: u32) -> Heard {
    Heard { ack, window, sack: Vec::new() }
}

/// A connection, the clock, and a host's socket with as much room as the test gives it.
struct Talk {
    connection: Connection,
    now: Instant,
    start: Start,
    /// Shift of the guest's window field, and of ours.
    guest_shift: u8,
    our_shift: u8,
    /// Bytes the host's socket and the spill still take.
    socket_room: u32,
    spill_room: u32,
    /// Bytes the host sent that were not planned yet.
    readable: u32,
}

impl Talk {
    fn new(start: Start, connection: Connection, now: Instant) -> Self {
        Self {
            connection,
            now,
            start,
            guest_shift: 3,
            our_shift: WINDOW_SCALE,
            socket_room: u32::MAX,
            spill_room: u32::MAX,
            readable: 0,
        }
    }

    /// A connection whose handshake is complete.
    fn open(start: Start) -> Self {
        let mut talk = Self::asked(start, syn(start));
        talk.connection.host_connected(talk.now);
        talk.connection.syn();
        let input = talk.hear(ack(0));
        assert_eq!(input, Input { event: Some(Event::Opened), ..Input::default() });
        talk
    }

    /// The guest sent `syn`; the host side is not connected yet.
    fn asked(start: Start, syn: Segment) -> Self {
        let now = Instant::from_micros(1_000_000);
        let connection = Connection::from_guest_syn(now, &syn, &parameters(start));
        let mut talk = Self::new(start, connection, now);
        talk.guest_shift = syn.window_scale.unwrap_or(0);
        talk.our_shift = if syn.window_scale.is_some() { WINDOW_SCALE } else { 0 };
        talk
    }

    /// The host accepted a connection and the guest was sent a SYN.
    fn asking(start: Start) -> Self {
        let now = Instant::from_micros(1_000_000);
        let mut connection = Connection::from_host_accept(now, &parameters(start));
        connection.syn();
        Self::new(start, connection, now)
    }

    fn segment(&self, says: Says) -> Segment {
        let relative = |initial: Seq, at: i64| initial + 1 + u32::try_from(at & 0xffff_ffff).unwrap();
        let mut sack = SackBlocks::default();
        for (left, right) in says.sack {
            sack.push(self.start.ours + 1 + *left, self.start.ours + 1 + *right);
        }
        Segment {
            seq: relative(self.start.guest, says.at),
            ack: relative(self.start.ours, says.ack),
            flags: says.flags,
            window: u16::try_from(says.window >> self.guest_shift).unwrap(),
            sack,
            ..Segment::default()
        }
    }

    /// The guest's segment arrives, and its payload goes where there is room.
    fn hear(&mut self, says: Says) -> Input {
        let input = self.connection.on_segment(self.now, &self.segment(says), says.payload);
        if let Some(take) = input.take {
            let to_socket = if take.offset == 0 { take.len.min(self.socket_room) } else { 0 };
            let stored = (take.len - to_socket).min(self.spill_room);
            self.socket_room -= to_socket;
            self.spill_room -= stored;
            self.connection.took(&take, to_socket, stored);
            self.drain(); // A gap may have been filled.
        }
        input
    }

    /// The host's socket takes what its room allows.
    fn drain(&mut self) {
        let moved = self.connection.spilled().min(self.socket_room);
        if moved > 0 {
            self.socket_room -= moved;
            self.spill_room = self.spill_room.saturating_add(moved);
            self.connection.drained(moved);
        }
    }

    /// The acknowledgment owed, if one is, when no answer came in time.
    fn acknowledgment(&mut self) -> Option<Heard> {
        self.connection.stop_waiting();
        self.connection.owes_ack().then(|| {
            let segment = self.connection.ack();
            self.read(&segment)
        })
    }

    fn read(&self, segment: &Segment) -> Heard {
        let relative = |seq: Seq| i64::from(seq.since(self.start.guest + 1));
        Heard {
            ack: relative(segment.ack),
            window: u32::from(segment.window) << self.our_shift,
            sack: segment.sack.as_slice().iter().map(|(l, r)| (relative(*l), relative(*r))).collect(),
        }
    }

    /// The next plan, committed: what goes to the guest.
    fn plan(&mut self) -> Option<Sent> {
        self.plan_up_to(MSS)
    }

    fn plan_up_to(&mut self, max: u32) -> Option<Sent> {
        let plan = self.connection.plan(self.now, self.readable > 0, max)?;
        let at = |seq: Seq| seq.since(self.start.ours + 1);
        let (bytes, sent) = match plan {
            Plan::Fin { seq } => (0, Sent::Fin(at(seq))),
            Plan::Data { seq, len, again } => {
                let bytes = if again { len } else { len.min(self.readable) };
                self.readable -= if again { 0 } else { bytes };
                let range = (at(seq), at(seq) + bytes);
                (bytes, if again { Sent::Again(range.0, range.1) } else { Sent::New(range.0, range.1) })
            }
        };
        self.connection.sent(self.now, &plan, bytes);
        Some(sent)
    }

    fn plans(&mut self) -> Vec<Sent> {
        std::iter::from_fn(|| self.plan()).collect()
    }

    /// The host sends `bytes`, and everything that may go to the guest goes.
    fn host_sends(&mut self, bytes: u32) -> Vec<Sent> {
        self.readable += bytes;
        self.plans()
    }

    /// Time passes up to the deadline: how long, and what the timer asks for.
    fn fire(&mut self) -> (Duration, TimerEvent) {
        let deadline = self.connection.deadline().expect("something is waited for");
        let passed = deadline.since(self.now);
        self.now = self.now.max(deadline);
        (passed, self.connection.on_timer(self.now))
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }
}

/// What went to the guest, in relative numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    New(u32, u32),
    Again(u32, u32),
    Fin(u32),
}

/// A guest's SYN with all options we understand.
fn syn(start: Start) -> Segment {
    Segment {
        seq: start.guest,
        flags: Flags::SYN,
        window: 60_000,
        mss: Some(u16::try_from(MSS).unwrap()),
        window_scale: Some(3),
        sack_permitted: true,
        ..Segment::default()
    }
}

fn parameters(start: Start) -> Parameters {
    Parameters { isn: start.ours, link_mss: LINK_MSS, ipv6: false, capacity: CAPACITY }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}
