//! Target: a conversation with one TCP connection, between a guest that may say anything and a host that may be slow,
//! short of memory, or done.
//!
//! A bookkeeper beside the machine knows which bytes were really kept and what was really promised. The machine is driven
//! as the relay drives it: bytes are offered to the socket only where [`Take::offset`] allows, plans are committed as far as
//! bytes were there, an event that ends a connection ends it.
//!
//! | promise | |
//! |---|---|
//! | nothing is acknowledged or reported that was not given | RFC 9293 3.8, RFC 2018 4 |
//! | the window's edge does not move back, but by what scaling rounds off, and but for a host that took nothing of the same bytes four times while there is no memory | RFC 9293 3.8.6 |
//! | bytes towards the guest are neither skipped nor sent beyond its window | RFC 9293 3.4 |
//! | what is acknowledged to the host's queue was sent, each byte once | |
//! | a timer that fired lies ahead again; plans and acknowledgments end | |
//! | closing goes one way | RFC 9293 3.6 |
//! | every header reads back as it was meant | |

use std::time::Duration;

use passt_rs::time::Instant;
use passt_rs::transport::tcp::{
    self, Connection, Event, Inbound, Input as Heard, Outbound, Parameters, Phase, Plan, Take, TimerEvent,
};
use passt_rs::wire::tcp::{Flags, HEADER_LEN, HEADER_MAX, SackBlocks, Segment, Seq};

use crate::input::Input;

/// A longer conversation only repeats itself.
const STEPS_MAX: usize = 300;
/// Bytes in the host socket's queue, and the segments they and what is sent again may be: none is smaller than 64.
const READABLE_MAX: u32 = 100_000;
const PLANS_MAX: u32 = 2 * READABLE_MAX / 64;
/// Times that the next byte is refused before the window may be announced as closed.
const REFUSALS: u32 = 4;
/// Shift of our window field when both ends scale.
const WINDOW_SCALE: u8 = 7;
/// What scaling rounds off.
const ROUNDING: i64 = (1 << WINDOW_SCALE) - 1;

/// An input is who opens, both initial sequence numbers and the first capacity, then steps.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut books = Books::open(&mut input);
    for _ in 0..STEPS_MAX {
        if input.is_empty() || !books.step(&mut input) {
            break;
        }
        books.check();
    }
    // The relay may end a flow in any state, and says so to the guest.
    check_header(&books.connection.reset());
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let from_guest = [0x07, 0, 0x10, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0, 0x20, 3, 0xb4, 5];
    let from_host = [0x06, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0, 0x20, 3, 0xb4, 5];
    // flags, places, then what the places ask for: window; see `Books::segment`.
    let ack = [SEGMENT, 0x10, 0, 0, 0x80];
    let syn_ack = [SEGMENT, 0x12, 0, 0, 0x80];
    let fin = [SEGMENT, 0x11, 0, 0, 0x80];
    let data = [SEGMENT, 0x10, PAYLOAD, 0, 0x80, 0xe8, 3, 0xff];
    let slow = [SEGMENT, 0x10, PAYLOAD, 0, 0x80, 0xe8, 3, 0xf3];
    let refused = [SEGMENT, 0x10, PAYLOAD, 0, 0x80, 0xe8, 3, 0];
    let ahead = [SEGMENT, 0x10, PAYLOAD | 1, 0xe8, 3, 0, 0x80, 0xe8, 3, 0xff];
    let sacked = [SEGMENT, 0x10, 1 << 4, 0, 0x80, 0xe8, 3, 0xe8, 3];
    let host = [HOST_SENDS, 0x10, 0x27];
    let open: [&[u8]; 2] = [&[CONNECTED], &ack];
    let conversations: [&[&[u8]]; 7] = [
        &[&data, &[ACKNOWLEDGE], &host, &ack, &[HOST_ENDS], &fin, &[ACKNOWLEDGE], &ack],
        &[&ahead, &[ACKNOWLEDGE], &slow, &[DRAIN, 0xff, 0xff], &[ACKNOWLEDGE], &data, &fin],
        &[&[CAPACITY, 0, 0], &slow, &refused, &refused, &refused, &refused, &[ACKNOWLEDGE], &data],
        &[&host, &sacked, &sacked, &sacked, &sacked, &ack],
        &[&host, &[TIMER], &[TIMER], &ack, &[PASS, 0xff, 0xff], &[TIMER]],
        &[&[SEGMENT, 0x10, 0, 0, 0], &host, &[TIMER], &[TIMER], &ack],
        &[&fin, &host, &[SEGMENT, 0x14, 0, 0, 0]],
    ];
    let mut seeds = Vec::new();
    for conversation in conversations {
        seeds.push([&from_guest[..], &open.concat(), &conversation.concat()].concat());
        seeds.push([&from_host[..], &syn_ack, &conversation.concat()].concat());
    }
    seeds
}

/// Steps, by a byte's value modulo their number. Most are segments.
const STEPS: u8 = 16;
const CONNECTED: u8 = 0;
const HOST_SENDS: u8 = 1;
const HOST_ENDS: u8 = 2;
const DRAIN: u8 = 3;
const CAPACITY: u8 = 4;
const TIMER: u8 = 5;
const PASS: u8 = 6;
const ACKNOWLEDGE: u8 = 7;
const SEGMENT: u8 = 8;

/// A segment's places: two bits each for sequence number and acknowledgment, two for the number of SACK blocks.
const PAYLOAD: u8 = 1 << 6;

/// What was really kept, promised and sent. Numbers are bytes since the start of each stream.
#[derive(Debug)]
struct Books {
    connection: Connection,
    now: Instant,
    isn: Seq,
    /// The guest's first byte; known once its SYN came.
    first: Option<Seq>,
    /// Both ends scale windows.
    scaled: bool,
    capacity: u32,
    /// What the guest gave us that the socket or the spill has; the first bytes, up to `whole`, without a hole.
    kept: Vec<bool>,
    whole: usize,
    /// Times in a row that nothing was kept of a segment with the very next byte.
    refusals: u32,
    /// Right edge of the window as promised, and the window of a SYN that went out before the guest's came.
    edge: i64,
    offered: u32,
    /// Bytes of the host's that can be read and were not yet.
    readable: u32,
    /// Bytes that went to the guest, whether a FIN did, and what the guest acknowledged of the bytes.
    sent: u32,
    fin_sent: bool,
    acked: u32,
    closing: (u8, u8),
}

impl Books {
    fn open(input: &mut Input<'_>) -> Self {
        let choice = input.byte();
        let guest = Seq(input.word());
        let isn = Seq(input.word());
        let capacity = u32::from(input.half()) * 32;
        let now = Instant::from_micros(1_000_000);
        let parameters = Parameters {
            isn,
            link_mss: if choice & 8 != 0 { 64 } else { 1460 },
            ipv6: choice & 16 != 0,
            capacity,
        };
        let mut books = Self {
            connection: Connection::from_host_accept(now, &parameters),
            now,
            isn,
            first: None,
            scaled: false,
            capacity,
            kept: Vec::new(),
            whole: 0,
            refusals: 0,
            edge: 0,
            offered: 0,
            readable: 0,
            sent: 0,
            fin_sent: false,
            acked: 0,
            closing: (0, 0),
        };
        if choice & 1 != 0 {
            let syn = Segment { seq: guest, window: 60_000, ..syn_options(Flags::SYN, choice, input) };
            books.connection = Connection::from_guest_syn(now, &syn, &parameters);
            books.learn(&syn);
        } else {
            books.syn();
        }
        books
    }

    /// The guest's SYN came.
    fn learn(&mut self, syn: &Segment) {
        self.first = Some(syn.seq + 1);
        self.scaled = syn.window_scale.is_some();
        // The machine promises itself what there is when it hears the SYN, even if it says less later.
        self.edge = i64::from(self.capacity.min(u32::from(u16::MAX)).max(self.offered));
    }

    fn guest_next(&self) -> Seq {
        self.connection.guest_initial() + 1
    }

    fn ours_next(&self) -> Seq {
        self.connection.unacknowledged() + self.connection.in_flight()
    }

    fn first(&self) -> Seq {
        self.first.expect("a connection that is open has heard a SYN")
    }

    fn is_open(&self) -> bool {
        self.connection.phase() == Phase::Open
    }

    /// One step; false when the connection is gone.
    fn step(&mut self, input: &mut Input<'_>) -> bool {
        match input.byte() % STEPS {
            CONNECTED if self.connection.phase() == Phase::Connecting => {
                self.connection.host_connected(self.now);
                self.syn();
            }
            HOST_SENDS if self.connection.closing().1 == Outbound::Open => {
                self.readable = READABLE_MAX.min(self.readable + u32::from(input.half()))
            }
            HOST_ENDS if self.readable == 0 && self.is_open() => self.connection.host_ended(),
            DRAIN => {
                let moved = self.connection.spilled().min(u32::from(input.half()));
                if moved > 0 {
                    self.connection.drained(moved);
                }
            }
            CAPACITY => {
                self.capacity = u32::from(input.half()) * 32;
                self.connection.set_capacity(self.capacity);
                if self.capacity > 0 {
                    // Memory comes back because the socket takes bytes again.
                    self.refusals = 0;
                    self.connection.resume();
                }
            }
            TIMER => return self.fire(),
            PASS => self.now = self.now + Duration::from_millis(input.half().into()),
            ACKNOWLEDGE => {
                self.connection.stop_waiting();
                self.acknowledge();
            }
            SEGMENT.. => return self.hear(input),
            _ => {}
        }
        self.settle();
        !self.connection.is_finished()
    }

    /// What the relay does once per turn.
    fn settle(&mut self) {
        if self.connection.wants_shutdown() {
            self.connection.shut();
        }
        self.plans();
        for _ in 0..10 {
            if !self.connection.owes_ack() {
                return;
            }
            self.acknowledge();
        }
        panic!("acknowledging does not end");
    }

    fn hear(&mut self, input: &mut Input<'_>) -> bool {
        let (segment, payload) = self.segment(input);
        let room = if payload > 0 { input.byte() } else { 0 };
        let before = self.connection.phase();
        let heard = self.connection.on_segment(self.now, &segment, payload);
        if before == Phase::SynSent && heard.event == Some(Event::Opened) {
            self.learn(&segment);
        }
        self.acked += heard.acked;
        match heard.event {
            Some(Event::Reset) => return false,
            Some(Event::Stale) => {
                let refusal = tcp::refuse(&segment, payload).expect("a reset is no stale answer");
                check_header(&refusal);
            }
            Some(Event::Opened) | None => {}
        }
        if let Heard { take: Some(take), .. } = heard {
            self.take(&take, payload, room);
        }
        self.settle();
        !self.connection.is_finished()
    }

    /// A segment near to where an honest guest would be, or far from it.
    fn segment(&self, input: &mut Input<'_>) -> (Segment, u32) {
        let flags = flags(input.byte());
        let places = input.byte();
        let seq = self.guest_next() + offset(places, input);
        let ack = self.ours_next() + offset(places >> 2, input);
        let window = input.half();
        let payload = if places & PAYLOAD != 0 { u32::from(input.half()) } else { 0 };
        let mut sack = SackBlocks::default();
        for _ in 0..places >> 4 & 3 {
            let left = self.connection.unacknowledged() + u32::from(input.half());
            sack.push(left, left + u32::from(input.half()));
        }
        let options = if flags.has(Flags::SYN) {
            syn_options(flags, places >> 7 | 6, input)
        } else {
            Segment::default()
        };
        (Segment { seq, ack, flags, window, sack, ..options }, payload)
    }

    /// Puts payload where there is room: sixteenths of it into the socket, and of the rest into the spill.
    fn take(&mut self, take: &Take, payload: u32, room: u8) {
        assert!(take.len > 0 && take.skip + take.len <= payload, "{take:?} of {payload} bytes");
        let part =
            |len: u32, sixteenths: u8| if sixteenths == 15 { len } else { len / 16 * u32::from(sixteenths) };
        let to_socket = if take.offset == 0 { part(take.len, room & 15) } else { 0 };
        let stored = part(take.len - to_socket, room >> 4);

        let taken = self.guest_next() - self.connection.spilled();
        let at = taken.since(self.first()) + take.offset;
        assert!(i64::from(at + take.len) <= self.edge, "took bytes that were never allowed: {take:?}");
        let is_next = taken + take.offset == self.guest_next();
        let (start, end) = (index(at), index(at + to_socket + stored));
        if self.kept.len() < end {
            self.kept.resize(end, false);
        }
        self.kept[start..end].fill(true);
        while self.kept.get(self.whole) == Some(&true) {
            self.whole += 1;
        }
        if is_next {
            self.refusals = match to_socket + stored {
                0 => self.refusals + 1,
                some if some < take.len => 1, // The byte behind what was taken is the next one now.
                _ => 0,
            };
        }
        self.connection.took(take, to_socket, stored);
    }

    /// Sends the SYN or SYN-ACK, and takes its window for a promise.
    fn syn(&mut self) {
        let syn = self.connection.syn();
        check_header(&syn);
        assert_eq!(syn.seq, self.isn);
        self.offered = self.offered.max(u32::from(syn.window));
        self.edge = self.edge.max(i64::from(syn.window));
    }

    fn acknowledge(&mut self) {
        if self.is_open() {
            let segment = self.connection.ack();
            self.heard_by_guest(&segment);
        }
    }

    /// Holds what a header acknowledges and promises against the books.
    fn heard_by_guest(&mut self, segment: &Segment) {
        check_header(segment);
        let fin = i64::from(self.connection.closing().0 != Inbound::Open);
        let ack = i64::from(segment.ack.since(self.first()));
        assert!(ack - fin <= i64::try_from(self.whole).expect("a length"), "acknowledged a hole");
        for (left, right) in segment.sack.as_slice() {
            let (left, right) = (index(left.since(self.first())), index(right.since(self.first())));
            assert!(left < right && self.kept[left..right].iter().all(|kept| *kept), "reported a hole");
        }
        let shift = if self.scaled { WINDOW_SCALE } else { 0 };
        let edge = ack + (i64::from(segment.window) << shift);
        let is_closed = segment.window == 0 && self.capacity == 0 && self.refusals >= REFUSALS;
        assert!(
            is_closed || edge + ROUNDING + fin >= self.edge,
            "the window shrank: {edge} after {}",
            self.edge
        );
        self.edge = self.edge.max(edge);
    }

    /// Sends all that may go to the guest.
    fn plans(&mut self) {
        let max = if self.capacity & 64 == 0 { u32::from(self.connection.mss()) } else { 65_000 };
        for _ in 0..PLANS_MAX {
            let unacknowledged = self.connection.unacknowledged();
            let window_end = unacknowledged + self.connection.guest_window();
            let Some(plan) = self.connection.plan(self.now, self.readable > 0, max) else { return };
            let sent_end = self.isn + 1 + self.sent;
            let (bytes, flags, seq) = match plan {
                Plan::Fin { seq } => {
                    assert_eq!((seq, self.readable), (sent_end, 0), "a FIN before the end");
                    self.fin_sent = true;
                    (0, Flags::FIN, seq)
                }
                Plan::Data { seq, len, again: true } => {
                    let end = seq + len;
                    let is_known = seq.is_at_or_after(unacknowledged) && sent_end.is_at_or_after(end);
                    assert!(
                        len > 0 && len <= max && is_known,
                        "{plan:?}, {unacknowledged:?} to {sent_end:?} sent"
                    );
                    (len, Flags::default(), seq)
                }
                Plan::Data { seq, len, again: false } => {
                    assert!(len > 0 && len <= max && !self.fin_sent, "{plan:?}");
                    assert_eq!(seq, sent_end, "a byte was skipped or repeated");
                    assert!(window_end.is_at_or_after(seq + len), "{plan:?} beyond {window_end:?}");
                    let bytes = len.min(self.readable);
                    self.readable -= bytes;
                    self.sent += bytes;
                    (bytes, Flags::PSH, seq)
                }
            };
            let header = self.connection.data_header(seq, flags);
            self.heard_by_guest(&header);
            self.connection.sent(self.now, &plan, bytes);
        }
        panic!("planning does not end");
    }

    /// Time passes up to the deadline; false when the connection gives up.
    fn fire(&mut self) -> bool {
        let Some(deadline) = self.connection.deadline() else { return true };
        self.now = self.now.max(deadline);
        match self.connection.on_timer(self.now) {
            TimerEvent::Nothing => {}
            TimerEvent::Syn => self.syn(),
            TimerEvent::Plan => self.plans(),
            TimerEvent::Probe => {
                let probe = self.connection.probe();
                self.heard_by_guest(&probe);
            }
            TimerEvent::GiveUp => return false,
        }
        assert!(self.connection.deadline().is_some_and(|deadline| deadline > self.now), "the timer spins");
        true
    }

    fn check(&mut self) {
        let (inbound, outbound) = self.connection.closing();
        let closing = (inbound as u8, outbound as u8);
        assert!(
            closing.0 >= self.closing.0 && closing.1 >= self.closing.1,
            "{:?} went back",
            self.connection
        );
        self.closing = closing;
        if !self.is_open() {
            return;
        }
        let fin_acked = u32::from(self.connection.closing().1 == Outbound::FinAcked);
        let unacknowledged = self.connection.unacknowledged().since(self.isn + 1);
        assert_eq!(self.acked + fin_acked, unacknowledged, "bytes acknowledged to the host's queue");
        assert!(self.acked <= self.sent, "{} of {} bytes", self.acked, self.sent);
        assert_eq!(
            unacknowledged + self.connection.in_flight(),
            self.sent + u32::from(self.fin_sent),
            "bytes in flight"
        );
        let next = i64::from(self.guest_next().since(self.first()));
        assert!(next <= self.edge + 1, "{next} beyond {}", self.edge);
    }
}

/// From where an honest guest would be: there, a little off, or anywhere, by the two lowest bits of `places`.
fn offset(places: u8, input: &mut Input<'_>) -> u32 {
    match places & 3 {
        0 => 0,
        1 => u32::from(input.half()),
        2 => u32::from(input.half()).wrapping_neg(),
        _ => input.word(),
    }
}

/// Control bits as a header has them.
fn flags(bits: u8) -> Flags {
    let mut header = [0; HEADER_LEN];
    header[12] = 5 << 4;
    header[13] = bits;
    Segment::parse(&header).expect("a header").0.flags
}

/// A SYN's options, by bits 1 and 2 of `choice`: scaling and SACK; an MSS of 0 is none.
fn syn_options(flags: Flags, choice: u8, input: &mut Input<'_>) -> Segment {
    let shift = input.byte() % 15;
    let mss = input.half();
    Segment {
        flags,
        mss: (mss > 0).then_some(mss),
        window_scale: (choice & 2 != 0).then_some(shift),
        sack_permitted: choice & 4 != 0,
        ..Segment::default()
    }
}

fn index(bytes: u32) -> usize {
    usize::try_from(bytes).expect("at least 32 bits")
}

fn check_header(segment: &Segment) {
    let mut bytes = [0xa5; HEADER_MAX];
    segment.emit(&mut bytes, 0xbeef);
    let (parsed, len) = Segment::parse(&bytes).expect("a header of ours");
    assert_eq!((&parsed, len), (segment, segment.header_len()));
}
