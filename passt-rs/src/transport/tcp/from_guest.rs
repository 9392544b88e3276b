//! The guest's stream towards the host: sequence space, window, out-of-order bytes.
//!
//! Every byte up to the promised edge has a place: the host's socket or the spill. Positions in the spill
//! count from [`Receive::taken`], the first byte that the socket did not take.

use crate::wire::tcp::{SackBlocks, Seq};

use super::WINDOW_SCALE;
use super::ranges::Ranges;

/// Out-of-order ranges we keep; the guest retransmits what lies beyond.
const AHEAD_MAX: usize = 16;

/// Times the next byte is refused before the window is announced as closed: some seconds. Not at the first, as not
/// every TCP takes well to a window that shrinks (RFC 9293 3.8.6), and long before a guest gives up.
pub(super) const REFUSALS_MAX: u8 = 4;

/// How far the guest's direction is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound {
    Open,
    /// The guest's FIN is in order; the host's socket may still owe us room for what precedes it.
    Finished,
    /// The host's socket was shut for writing.
    Shut,
}

/// Payload bytes of a segment to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Take {
    /// Leading payload bytes that we have already.
    pub skip: u32,
    pub len: u32,
    /// Place of the first kept byte, counted from the first byte that the host's socket did not take. 0: it
    /// may go to the socket at once.
    pub offset: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Receive {
    state: Inbound,
    /// Next byte expected from the guest; all before it are ours to keep. Counts the FIN once it is in order.
    next: Seq,
    /// First byte that the host's socket did not take.
    taken: Seq,
    /// End of the window last promised to the guest; never moves back (RFC 9293 3.8.6).
    edge: Seq,
    /// Where the guest's FIN stands, once seen.
    fin: Option<Seq>,
    ahead: Ranges<AHEAD_MAX>,
    /// A byte of the range of `ahead` that changed last.
    newest: Seq,
    /// Both ends scale windows.
    scaled: bool,
    /// Bytes between `taken` and a new edge. 0: the edge stays where it is.
    capacity: u32,
    /// The window announced last holds less than a segment.
    closed: bool,
    /// Times in a row that the very next byte found no memory: the guest has sent it so often.
    refusals: u8,
    /// End of the furthest byte that found no memory, until the guest sent all before it again.
    refused_until: Option<Seq>,
}

/// What became of a segment's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Some of them are kept, or it is another byte that is missing.
    Kept,
    /// No memory: as if the segment had been lost.
    Refused,
    /// The same, at a window that was announced as closed: this is how the guest asks whether it still is.
    Probed,
}

impl Receive {
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            state: Inbound::Open,
            next: Seq(0),
            taken: Seq(0),
            edge: Seq(0),
            fin: None,
            ahead: Ranges::default(),
            newest: Seq(0),
            scaled: false,
            capacity,
            closed: false,
            refusals: 0,
            refused_until: None,
        }
    }

    /// The guest's first byte is `first`.
    pub(super) fn start(&mut self, first: Seq, scaled: bool, capacity: u32) {
        self.capacity = if scaled { capacity } else { capacity.min(u32::from(u16::MAX)) };
        self.scaled = scaled;
        // What a SYN of ours has offered already, not knowing the guest's numbers, stays promised.
        let offered = self.edge.since(self.next);
        (self.next, self.taken) = (first, first);
        self.edge = first + self.capacity.min(u32::from(u16::MAX)).max(offered);
    }

    /// What a SYN will offer before the guest's own is known.
    pub(super) fn offer(&mut self, capacity: u32) {
        self.capacity = capacity;
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// `true`: a window that was closed is open enough to tell the guest, which may not ask for long.
    pub(super) fn set_capacity(&mut self, capacity: u32, mss: u32) -> bool {
        self.capacity = if self.scaled { capacity } else { capacity.min(u32::from(u16::MAX)) };
        self.closed && self.state == Inbound::Open && self.may_grow(2 * mss)
    }

    /// There is room for the next byte. `true`: it was refused before.
    pub(super) fn resume(&mut self) -> bool {
        std::mem::take(&mut self.refusals) > 0 && self.state == Inbound::Open
    }

    /// The next byte was refused, and nothing is known of room for it.
    pub(super) fn is_refused(&self) -> bool {
        self.refusals > 0
    }

    /// Bytes at or behind the next one were refused, and did not come again.
    pub(super) fn lacks_refused(&self) -> bool {
        self.refused_until.is_some()
    }

    pub(super) fn state(&self) -> Inbound {
        self.state
    }

    fn set_state(&mut self, state: Inbound) {
        tracing::trace!("from guest: {:?} => {state:?}", self.state);
        self.state = state;
    }

    pub(super) fn next(&self) -> Seq {
        self.next
    }

    pub(super) fn is_scaled(&self) -> bool {
        self.scaled
    }

    /// Window field of a SYN or SYN-ACK to send now; promises the window. Never scaled (RFC 7323 2.2).
    pub(super) fn syn_window(&mut self) -> u16 {
        let window = u16::try_from(self.capacity).unwrap_or(u16::MAX);
        self.edge = self.edge.max(self.next + u32::from(window));
        window
    }

    /// RFC 9293 3.10.7.4, table of acceptable segments.
    pub(super) fn is_acceptable(&self, seq: Seq, len: u32) -> bool {
        let in_window = |seq: Seq| seq.is_at_or_after(self.next) && self.edge.is_after(seq);
        if len == 0 {
            return seq == self.next || in_window(seq);
        }
        in_window(seq) || in_window(seq + (len - 1)) || self.covers_window(seq, len)
    }

    /// Begins before the window and ends beyond it. The RFC's table misses this case, in which the whole window
    /// is filled. By lengths: half the sequence space away, before and after are the same.
    fn covers_window(&self, seq: Seq, len: u32) -> bool {
        let before = self.next.since(seq);
        let window = self.edge.since(self.next);
        self.edge.is_after(self.next) && (1..len).contains(&before) && len - before > window
    }

    /// Whether a segment at `seq` can be the guest's at all: nothing beyond the window ever is.
    pub(super) fn is_at_or_before_edge(&self, seq: Seq) -> bool {
        self.edge.max(self.next).is_at_or_after(seq)
    }

    /// What to keep of an acceptable segment; remembers where its FIN stands.
    pub(super) fn plan(&mut self, seq: Seq, payload: u32, fin: bool) -> Option<Take> {
        if self.state != Inbound::Open {
            return None;
        }
        let end = seq + payload;
        if fin && self.edge.is_at_or_after(end) {
            self.fin.get_or_insert(end);
            // Bytes that we have already, or none: nothing is to be taken first.
            self.finish();
        }
        let start = seq.max(self.next);
        let end = end.min(self.edge).min(self.fin.unwrap_or(end));
        if !end.is_after(start) {
            return None;
        }
        Some(Take { skip: start.since(seq), len: end.since(start), offset: start.since(self.taken) })
    }

    pub(super) fn took(&mut self, take: &Take, to_socket: u32, stored: u32) -> Taken {
        let start = self.taken + take.offset;
        let end = start + to_socket + stored;
        let in_turn = start == self.next;
        let refused = end != start + take.len;
        if refused {
            let until = start + take.len;
            self.refused_until = Some(self.refused_until.map_or(until, |other| other.max(until)));
        }
        if in_turn {
            self.refusals = match (refused, end == start) {
                (true, true) => self.refusals.saturating_add(1),
                (true, false) => 1,
                (false, _) => 0,
            };
            self.taken += to_socket;
            self.next = end;
            while let Some((left, right)) = self.ahead.as_slice().first().copied() {
                if left.is_after(self.next) {
                    break;
                }
                self.next = self.next.max(right);
                self.ahead.remove_below(self.next);
            }
        } else {
            // No room for another range: the bytes stay in the spill unnamed and come again.
            self.ahead.insert(start, end);
            self.newest = start;
        }
        if self.refused_until.is_some_and(|until| self.next.is_at_or_after(until)) {
            self.refused_until = None;
        }
        self.finish();
        match (in_turn, end == start) {
            (true, true) if self.refusals >= REFUSALS_MAX => Taken::Probed,
            (true, true) => Taken::Refused,
            (true, false) => Taken::Kept,
            // A duplicate acknowledgment would have the next byte sent, for which there is no memory.
            (false, _) if self.is_refused() => Taken::Refused,
            (false, _) => Taken::Kept,
        }
    }

    fn finish(&mut self) {
        if self.fin == Some(self.next) && self.state == Inbound::Open {
            self.next += 1;
            self.ahead.clear();
            self.set_state(Inbound::Finished);
        }
    }

    /// `true`: the window opened enough to tell the guest (RFC 9293 3.8.6.2.2). Behind its FIN there is nothing that
    /// needs a window, and the guest may have forgotten the connection.
    pub(super) fn drained(&mut self, bytes: u32, mss: u32) -> bool {
        self.taken += bytes;
        if self.state != Inbound::Open {
            return false;
        }
        self.may_grow(2 * mss) || (self.edge == self.next && self.spilled() == 0)
    }

    /// A step of the window is worth `segments` bytes, or half of what there is (RFC 9293 3.8.6.2.2). Refused bytes
    /// come first: what is sent beyond them meanwhile would be refused too.
    fn may_grow(&self, segments: u32) -> bool {
        let edge = self.taken + self.capacity;
        !self.lacks_refused()
            && edge.is_after(self.edge)
            && edge.since(self.edge) >= (self.capacity / 2).min(segments)
    }

    pub(super) fn spilled(&self) -> u32 {
        let fin = u32::from(self.state != Inbound::Open);
        self.next.since(self.taken) - fin.min(self.next.since(self.taken))
    }

    pub(super) fn shut(&mut self) {
        self.taken = self.next;
        self.set_state(Inbound::Shut);
    }

    /// Acknowledgment number and window field to send now; promises the window.
    pub(super) fn acknowledge(&mut self, mss: u32) -> (Seq, u16) {
        // A FIN may stand at the edge itself.
        let promised = self.edge.max(self.next).since(self.next);
        // A window that is almost closed opens by a segment or not at all.
        let grows = promised >= mss && !self.lacks_refused() || self.may_grow(mss);
        let edge = if grows { self.edge.max(self.taken + self.capacity) } else { self.edge };
        let window = if self.refusals >= REFUSALS_MAX && self.capacity == 0 {
            // The guest sends these bytes again until it gives up, but a closed window it probes for as long as
            // it is answered. What was promised is still taken if it comes.
            0
        } else {
            edge.max(self.next).since(self.next)
        };
        let (field, promised) = if self.scaled {
            let field = u16::try_from(window >> WINDOW_SCALE).unwrap_or(u16::MAX);
            (field, u32::from(field) << WINDOW_SCALE)
        } else {
            let field = u16::try_from(window).unwrap_or(u16::MAX);
            (field, u32::from(field))
        };
        // Rounding down must not take back what was promised before.
        self.edge = self.edge.max(self.next + promised);
        self.closed = promised < mss;
        (self.next, field)
    }

    pub(super) fn holds_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// The newest range first, then the lowest (RFC 2018 4); as many as a header holds.
    pub(super) fn sack_blocks(&self) -> SackBlocks {
        let is_newest =
            |(left, right): &&(Seq, Seq)| self.newest.is_at_or_after(*left) && right.is_after(self.newest);
        let mut blocks = SackBlocks::default();
        let ranges = self.ahead.as_slice().iter();
        for (left, right) in ranges.clone().filter(is_newest).chain(ranges.filter(|range| !is_newest(range)))
        {
            blocks.push(*left, *right);
        }
        blocks
    }
}
