//! Putting the guest's fragments together again (RFC 791 3.2, RFC 8200 4.5, RFC 5722).
//!
//! Holds bytes, unlike its siblings, since a fragment's frame is gone before the next one arrives; never
//! more than [`DATAGRAMS_MAX`] datagrams and [`BYTES_MAX`] bytes, whatever the guest sends. At a limit what
//! is new is refused and what is old goes on: a flood of first fragments must not push out datagrams that
//! are about to be complete, and the timeout makes room soon enough.
//!
//! | state | may happen | leads to |
//! |---|---|---|
//! | absent | a fragment, room left | gathering |
//! | gathering | a new part | gathering; all parts there: complete, and absent again |
//! | gathering | the same part with the same bytes | gathering (RFC 8200 4.5 allows to ignore it) |
//! | gathering | a part that overlaps or contradicts the end | poisoned, its bytes are let go (RFC 5722 4) |
//! | poisoned | any part | poisoned |
//! | gathering, poisoned | the timeout since the first part | absent |
//!
//! Deviations: no Time Exceeded is sent for what times out; the guest is next door and lost the part itself.

use std::net::IpAddr;
use std::time::Duration;

use crate::time::Instant;
use crate::wire::{Fragment, protocol};

/// Datagrams being put together at a time; what Linux would hold of a guest that pings with large packets is far less.
pub const DATAGRAMS_MAX: usize = 64;
/// Bytes of all datagrams being put together, holes included: 16 of the largest.
pub const BYTES_MAX: usize = 1 << 20;
/// Parts of one datagram; 119 are needed at an IPv4 MTU of 576.
pub const PARTS_MAX: usize = 128;
/// How long parts wait for the others (RFC 791 3.2 "timer": 15 s is a suggestion; Linux waits 30 s).
const TIMEOUT_V4: Duration = Duration::from_secs(30);
/// RFC 8200 4.5.
const TIMEOUT_V6: Duration = Duration::from_secs(60);
/// The longest payload behind an IPv4 header, whose length field counts the header.
const PAYLOAD_MAX_V4: usize = 65_535 - 20;
const PAYLOAD_MAX_V6: usize = 65_535;

/// What fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    pub ident: u32,
}

/// What became of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// It was the last one missing: the payload behind the IP headers, valid until the next call.
    Complete(&'a [u8]),
    /// It is kept.
    Waiting,
    /// It went no further, and its datagram may be lost with it.
    Refused,
}

/// Datagrams in parts.
#[derive(Debug, Default)]
pub struct Reassembly {
    /// Bytes to hold at most.
    limit: usize,
    partials: Vec<Partial>,
    /// Bytes of all partials' buffers.
    held: usize,
    /// The payload completed last.
    complete: Vec<u8>,
}

#[derive(Debug)]
struct Partial {
    key: Key,
    deadline: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    Gathering(Gathering),
    Poisoned,
}

#[derive(Debug, Default)]
struct Gathering {
    /// From the payload's first byte to the last known one; holes are zero.
    bytes: Vec<u8>,
    /// Start and end of what has arrived, in order, never overlapping.
    parts: Vec<(usize, usize)>,
    /// Length of the payload, known once the last fragment is here.
    total: Option<usize>,
    /// Bytes that have arrived.
    received: usize,
}

/// Why a part cannot be added.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// The parts contradict each other.
    Conflict,
    /// It is here already.
    Duplicate,
    /// It does not fit the bounds; others may.
    Bounds,
}

impl Reassembly {
    /// Holds at most `limit` bytes; [`BYTES_MAX`] unless told otherwise.
    pub fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Bytes held for datagrams that are not complete.
    pub fn used_bytes(&self) -> usize {
        self.held
    }

    /// Takes the fragment `data` of the datagram `key`.
    pub fn insert(&mut self, now: Instant, key: Key, fragment: Fragment, data: &[u8]) -> Outcome<'_> {
        self.expire(now);
        if !is_plausible(&key, fragment, data.len()) {
            return Outcome::Refused;
        }
        let known = self.partials.iter().position(|partial| partial.key == key);
        let at = match known {
            Some(at) => at,
            None if self.partials.len() < DATAGRAMS_MAX => {
                let timeout = if key.src.is_ipv4() { TIMEOUT_V4 } else { TIMEOUT_V6 };
                let state = State::Gathering(Gathering::default());
                self.partials.push(Partial { key, deadline: now + timeout, state });
                self.partials.len() - 1
            }
            None => return Outcome::Refused,
        };
        let room = self.limit.saturating_sub(self.held);
        let Some(partial) = self.partials.get_mut(at) else { return Outcome::Refused };
        let State::Gathering(gathering) = &mut partial.state else { return Outcome::Refused };
        let before = gathering.bytes.len();
        let added = gathering.add(fragment, data, room);
        self.held += gathering.bytes.len() - before;
        match added {
            Ok(()) if gathering.is_complete() => {
                self.complete = std::mem::take(&mut gathering.bytes);
                self.held -= self.complete.len();
                self.partials.swap_remove(at);
                Outcome::Complete(&self.complete)
            }
            Ok(()) | Err(Refusal::Duplicate) => Outcome::Waiting,
            Err(Refusal::Conflict) => {
                self.held -= gathering.bytes.len();
                partial.state = State::Poisoned;
                Outcome::Refused
            }
            Err(Refusal::Bounds) => {
                if known.is_none() {
                    self.partials.swap_remove(at);
                }
                Outcome::Refused
            }
        }
    }

    /// Datagrams being put together or poisoned.
    pub fn len(&self) -> usize {
        self.partials.len()
    }

    pub fn is_empty(&self) -> bool {
        self.partials.is_empty()
    }

    /// Bytes held for them.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Lets go of what has waited too long. Called with every fragment: what nobody adds to is bounded.
    fn expire(&mut self, now: Instant) {
        let held = &mut self.held;
        self.partials.retain(|partial| {
            let alive = now < partial.deadline;
            if !alive && let State::Gathering(gathering) = &partial.state {
                *held -= gathering.bytes.len();
            }
            alive
        });
    }
}

impl Gathering {
    /// Adds `data`, letting the buffer grow by at most `room`.
    fn add(&mut self, fragment: Fragment, data: &[u8], room: usize) -> Result<(), Refusal> {
        let start = usize::from(fragment.offset);
        let end = start + data.len();
        let at = self.parts.partition_point(|part| part.0 < start);
        if self.parts.get(at) == Some(&(start, end)) && self.bytes.get(start..end) == Some(data) {
            return Err(Refusal::Duplicate);
        }
        let overlaps_previous =
            at.checked_sub(1).and_then(|at| self.parts.get(at)).is_some_and(|part| part.1 > start);
        let overlaps_next = self.parts.get(at).is_some_and(|part| part.0 < end);
        let contradicts_end = match self.total {
            Some(total) => end > total || (!fragment.more && end != total),
            None => !fragment.more && end < self.bytes.len(),
        };
        if overlaps_previous || overlaps_next || contradicts_end {
            return Err(Refusal::Conflict);
        }
        if self.parts.len() >= PARTS_MAX || end.saturating_sub(self.bytes.len()) > room {
            return Err(Refusal::Bounds);
        }
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        if let Some(place) = self.bytes.get_mut(start..end) {
            place.copy_from_slice(data);
        }
        self.parts.insert(at, (start, end));
        self.received += data.len();
        if !fragment.more {
            self.total = Some(end);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.total == Some(self.received)
    }
}

/// Whether a fragment of `len` bytes can be part of any datagram we would translate.
fn is_plausible(key: &Key, fragment: Fragment, len: usize) -> bool {
    // What the transport's header needs, so that nobody on the way is shown half of it (RFC 1858 3.2.1, RFC 8200 4.5).
    let first_min = match key.protocol {
        protocol::TCP => 20,
        _ => 8,
    };
    let payload_max = if key.src.is_ipv4() { PAYLOAD_MAX_V4 } else { PAYLOAD_MAX_V6 };
    let is_first = fragment.offset == 0;
    len > 0
        && usize::from(fragment.offset) + len <= payload_max
        && (!fragment.more || len.is_multiple_of(8))
        && (!is_first || len >= first_min)
}

#[cfg(test)]
mod tests;
