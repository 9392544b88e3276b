//! The driver's half of a split virtqueue (virtio 1.2 section 2.7): descriptors out, used elements in, and who is to
//! be told of what. It must never know what a buffer holds.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};

use anyhow::Context as _;
use rustix::event::EventfdFlags;

use super::memory::{Memory, Window};

/// Bytes of a descriptor, in the table or in an indirect one.
pub(super) const DESCRIPTOR: usize = 16;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// In `avail.flags`: do not interrupt.
const NO_INTERRUPT: u16 = 1;
/// In `used.flags`: do not notify.
const NO_NOTIFY: u16 = 1;

/// The end of a list of descriptors.
const NONE: u16 = u16::MAX;

/// What the back end did that no device may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// More elements became used than were available.
    UsedIndex { seen: u16, index: u16, outstanding: u16 },
    /// An element that is not the head of an available chain.
    UsedHead { head: u32 },
    /// More bytes written than the chain has.
    UsedLength { len: u32, capacity: u32 },
    /// A received frame shorter than its header.
    NoHeader { len: u32 },
    /// A frame of so many buffers of which only some were used at once (virtio 1.2 section 5.1.6.4.1), or a count
    /// that cannot be.
    BufferCount { count: u16, visible: u16 },
    /// A virtio-net header asks for something that was not negotiated.
    Offload { flags: u8, kind: u8 },
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the back end broke a rule of the ring: {self:?}")
    }
}

impl std::error::Error for Violation {}

/// How often the two sides told each other.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Chains made available.
    pub available: u64,
    /// Chains that came back.
    pub used: u64,
    /// Times the back end was told.
    pub kicks: u64,
    /// Times it had asked not to be.
    pub kicks_spared: u64,
}

/// One buffer of a chain.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Piece {
    pub(super) guest: u64,
    pub(super) len: u32,
    /// The device writes it.
    pub(super) write: bool,
}

/// A used element: whose chain it was, and the bytes the device wrote.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    pub(super) token: u16,
    pub(super) len: u32,
}

/// A split virtqueue. Chains carry a token of the caller's.
#[derive(Debug)]
pub(super) struct Ring {
    size: u16,
    event_idx: bool,
    table: Window,
    avail: Window,
    used: Window,
    /// For each descriptor, the one after it in its chain or in the list of free ones.
    next: Vec<u16>,
    free: u16,
    free_count: u16,
    heads: Vec<Head>,
    outstanding: u16,
    /// The next available index, and the one that the device was last shown.
    added: u16,
    published: u16,
    /// The next used index.
    seen: u16,
    kick: OwnedFd,
    call: OwnedFd,
    counters: Counters,
}

/// What is known of a descriptor that heads a chain.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    token: u16,
    /// Descriptors of the chain; 0 when none is available.
    count: u16,
}

impl Ring {
    /// `size` is a power of two up to 32768, which is not checked: back ends are to refuse others.
    pub(super) fn new(memory: &mut Memory, size: u16, event_idx: bool) -> anyhow::Result<Self> {
        let entries = usize::from(size);
        let mut ring = Self {
            size,
            event_idx,
            // Alignments of virtio 1.2 section 2.7; the two event fields are there always.
            table: memory.allocate(entries * DESCRIPTOR, 16)?,
            avail: memory.allocate(4 + entries * 2 + 2, 2)?,
            used: memory.allocate(4 + entries * 8 + 2, 4)?,
            next: vec![NONE; entries],
            free: NONE,
            free_count: 0,
            heads: vec![Head::default(); entries],
            outstanding: 0,
            added: 0,
            published: 0,
            seen: 0,
            kick: event()?,
            call: event()?,
            counters: Counters::default(),
        };
        ring.reset();
        Ok(ring)
    }

    /// Bytes of guest memory a ring of this size takes, with its alignments.
    pub(super) fn footprint(size: u16) -> u64 {
        let entries = u64::from(size);
        entries * 26 + 3 * 64
    }

    /// As a driver that starts anew: nothing available, nothing used.
    pub(super) fn reset(&mut self) {
        self.table.clear();
        self.avail.clear();
        self.used.clear();
        for (at, next) in (0..self.size).zip(&mut self.next) {
            *next = at + 1;
        }
        if let Some(last) = self.next.last_mut() {
            *last = NONE;
        }
        self.free = if self.size == 0 { NONE } else { 0 };
        self.free_count = self.size;
        self.heads.fill(Head::default());
        self.outstanding = 0;
        (self.added, self.published, self.seen) = (0, 0, 0);
        self.drain_calls();
        let _ = rustix::io::read(&self.kick, &mut [0; 8]);
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    pub(super) fn table(&self) -> &Window {
        &self.table
    }

    pub(super) fn avail(&self) -> &Window {
        &self.avail
    }

    pub(super) fn used(&self) -> &Window {
        &self.used
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    pub(super) fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// Where the device tells us.
    pub(super) fn call(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }

    /// Where we tell the device.
    pub(super) fn kick_fd(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }

    /// The index from which a new back end takes available chains: what the last one had finished.
    pub(super) fn resume_at(&self) -> u16 {
        self.used.load_u16(2, Ordering::Acquire)
    }

    /// Descriptors a chain may still use.
    pub(super) fn room(&self) -> u16 {
        self.free_count
    }

    /// Adds a chain, which the device sees after [`Ring::publish`]. False when it does not fit.
    pub(super) fn add(&mut self, pieces: &[Piece], token: u16) -> bool {
        let Ok(count) = u16::try_from(pieces.len()) else { return false };
        if count == 0 || count > self.free_count {
            return false;
        }
        let head = self.free;
        let mut at = head;
        for (left, piece) in (0..count).rev().zip(pieces) {
            let next = self.next.get(usize::from(at)).copied().unwrap_or(NONE);
            let after = (left > 0).then_some(next);
            emit(&self.table, usize::from(at), *piece, after);
            if left == 0 {
                self.free = next;
            } else {
                at = next;
            }
        }
        self.finish_add(head, count, token);
        true
    }

    /// Adds a chain of one descriptor that stands for `pieces` written to `table`.
    pub(super) fn add_indirect(&mut self, pieces: &[Piece], table: &Window, token: u16) -> bool {
        let bytes = pieces.len() * DESCRIPTOR;
        let (Ok(len), true) = (u32::try_from(bytes), bytes <= table.len()) else { return false };
        if self.free_count == 0 || pieces.is_empty() {
            return false;
        }
        let last = pieces.len() - 1;
        for (at, piece) in pieces.iter().enumerate() {
            let after = u16::try_from(at + 1).ok().filter(|_| at < last);
            emit(table, at, *piece, after);
        }
        let head = self.free;
        let offset = usize::from(head) * DESCRIPTOR;
        self.table.store_u64(offset, table.guest());
        self.table.store_u32(offset + 8, len);
        self.table.store_u32(offset + 12, INDIRECT.into());
        self.free = self.next.get(usize::from(head)).copied().unwrap_or(NONE);
        self.finish_add(head, 1, token);
        true
    }

    fn finish_add(&mut self, head: u16, count: u16, token: u16) {
        self.free_count -= count;
        self.outstanding += 1;
        if let Some(place) = self.heads.get_mut(usize::from(head)) {
            *place = Head { token, count };
        }
        let slot = usize::from(self.added & self.size.wrapping_sub(1));
        self.avail.store_u16(4 + slot * 2, head, Ordering::Relaxed);
        self.added = self.added.wrapping_add(1);
    }

    /// Shows the device what was added, and tells it unless it asked not to be told. One call for a batch.
    pub(super) fn publish(&mut self) {
        let (old, new) = (self.published, self.added);
        if old == new {
            return;
        }
        self.avail.store_u16(2, new, Ordering::Release);
        self.published = new;
        let count = new.wrapping_sub(old);
        self.counters.available += u64::from(count);
        // The index must be out before the device's wish is read, or both sides could sleep: section 2.7.13.4.1.
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = self.used.load_u16(4 + usize::from(self.size) * 8, Ordering::Relaxed);
            // Whether the device's index of interest is among the new ones: section 2.7.10.
            new.wrapping_sub(event).wrapping_sub(1) < count
        } else {
            self.used.load_u16(0, Ordering::Relaxed) & NO_NOTIFY == 0
        };
        if wanted {
            self.kick();
        } else {
            self.counters.kicks_spared += 1;
        }
    }

    /// Tells the device, whatever it asked for.
    pub(super) fn kick(&mut self) {
        self.counters.kicks += 1;
        let _ = rustix::io::write(&self.kick, &1_u64.to_ne_bytes()); // full means it is told already
    }

    /// Used elements that were not taken yet.
    pub(super) fn visible(&self) -> Result<u16, Violation> {
        let index = self.used.load_u16(2, Ordering::Acquire);
        let visible = index.wrapping_sub(self.seen);
        if visible > self.outstanding {
            return Err(Violation::UsedIndex { seen: self.seen, index, outstanding: self.outstanding });
        }
        Ok(visible)
    }

    /// Takes the next used element, which the caller knows to be visible.
    pub(super) fn take(&mut self) -> Result<Used, Violation> {
        let slot = usize::from(self.seen & self.size.wrapping_sub(1));
        let head = self.used.load_u32(4 + slot * 8);
        let len = self.used.load_u32(4 + slot * 8 + 4);
        let known = u16::try_from(head).ok().and_then(|at| Some((at, self.heads.get_mut(usize::from(at))?)));
        let Some((at, place)) = known.filter(|(_, place)| place.count > 0) else {
            return Err(Violation::UsedHead { head });
        };
        let Head { token, count } = std::mem::take(place);
        self.seen = self.seen.wrapping_add(1);
        self.outstanding -= 1;
        self.counters.used += 1;
        let mut last = at;
        for _ in 1..count {
            last = self.next.get(usize::from(last)).copied().unwrap_or(NONE);
        }
        if let Some(next) = self.next.get_mut(usize::from(last)) {
            *next = self.free;
        }
        self.free = at;
        self.free_count += count;
        Ok(Used { token, len })
    }

    /// Asks to be told once `more` elements beyond those taken are used. True when they are already, so that the
    /// caller must look instead of sleep.
    pub(super) fn arm(&self, more: u16) -> bool {
        if self.event_idx {
            let event = self.seen.wrapping_add(more.max(1)).wrapping_sub(1);
            self.avail.store_u16(4 + usize::from(self.size) * 2, event, Ordering::Relaxed);
        } else {
            self.avail.store_u16(0, 0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.used.load_u16(2, Ordering::Acquire).wrapping_sub(self.seen) >= more.max(1)
    }

    /// Asks not to be told.
    pub(super) fn disarm(&self) {
        if self.event_idx {
            // As far ahead as an index can be; one just passed would still count for a device that tells in batches.
            let event = self.seen.wrapping_add(1 << 15);
            self.avail.store_u16(4 + usize::from(self.size) * 2, event, Ordering::Relaxed);
        } else {
            self.avail.store_u16(0, NO_INTERRUPT, Ordering::Relaxed);
        }
    }

    /// Empties the call descriptor, and returns how often it was signalled since.
    pub(super) fn drain_calls(&self) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.call, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            Ok(_) | Err(_) => 0,
        }
    }
}

fn emit(table: &Window, at: usize, piece: Piece, next: Option<u16>) {
    let offset = at * DESCRIPTOR;
    let flags = if next.is_some() { NEXT } else { 0 } | if piece.write { WRITE } else { 0 };
    table.store_u64(offset, piece.guest);
    table.store_u32(offset + 8, piece.len);
    table.store_u32(offset + 12, u32::from(flags) | u32::from(next.unwrap_or(0)) << 16);
}

fn event() -> anyhow::Result<OwnedFd> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("create an eventfd")
}
