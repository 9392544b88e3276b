//! What we have taken from the rings and not given back, in memory that outlives us (vhost-user, "Inflight I/O
//! tracking", split virtqueue).
//!
//! We give chains back in the order we took them, so after a crash everything from the used index on is to be taken
//! again. The records say the same chain by chain, for front ends that look, and for back ends other than us.
#![expect(unsafe_code, reason = "records lie in memory shared with the front end")]

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};

use super::memory::{Mapping, MemoryError};

/// Features, version, number of descriptors, head of the last batch, used index.
const HEADER_LEN: u64 = 16;
const VERSION_AT: u64 = 8;
const NUMBER_AT: u64 = 10;
const LAST_HEAD_AT: u64 = 12;
const USED_AT: u64 = 14;
/// In-flight flag, padding, next of the batch, counter.
const ENTRY_LEN: u64 = 16;
const NEXT_AT: u64 = 6;
const COUNTER_AT: u64 = 8;
/// A queue's records begin at a multiple of this.
const ALIGN: u64 = 64;
const VERSION: u16 = 1;

/// The records of all queues.
#[derive(Debug)]
pub(super) struct Inflight {
    mapping: Mapping,
    queues: u16,
    size: u16,
    /// The next chain's; it tells the order.
    counter: u64,
}

fn queue_len(size: u16) -> u64 {
    (HEADER_LEN + ENTRY_LEN * u64::from(size)).next_multiple_of(ALIGN)
}

/// Memory for the records of `queues` rings of `size` descriptors: a descriptor that the front end keeps, and its
/// length in bytes.
pub(super) fn create(queues: u16, size: u16) -> rustix::io::Result<(OwnedFd, u64)> {
    let len = queue_len(size) * u64::from(queues);
    let fd = rustix::fs::memfd_create("inflight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, len)?;
    // Nobody may take the memory away from under a mapping.
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok((fd, len))
}

impl Inflight {
    /// Uses `mapping`, which must have been made for as many rings of this size.
    pub(super) fn new(mapping: Mapping, len: u64, queues: u16, size: u16) -> Result<Self, MemoryError> {
        let needed = queue_len(size) * u64::from(queues);
        if len < needed {
            return Err(MemoryError::Short { offset: 0, len: needed, size: len });
        }
        Ok(Self { mapping, queues, size, counter: 0 })
    }

    pub(super) fn has_vanished(&self) -> bool {
        self.mapping.has_vanished()
    }

    /// A ring of `size` descriptors starts, and `used` is in its used ring. `true`: it ran before, and what it had taken
    /// from there on is to be taken again.
    pub(super) fn start(&mut self, queue: u16, size: u16, used: u16) -> bool {
        let (Some(version), true) = (self.half(queue, VERSION_AT), size <= self.size) else { return false };
        let ran_before = version.swap(VERSION, Ordering::Relaxed) == VERSION;
        if let Some(number) = self.half(queue, NUMBER_AT) {
            number.store(size, Ordering::Relaxed);
        }
        if let Some(place) = self.half(queue, USED_AT) {
            place.store(used, Ordering::Relaxed);
        }
        for head in 0..size {
            if let Some(flag) = self.flag(queue, head) {
                flag.store(0, Ordering::Relaxed);
            }
        }
        ran_before
    }

    /// The chain that begins with `head` was taken.
    pub(super) fn taken(&mut self, queue: u16, head: u16) {
        self.counter += 1;
        if let Some(counter) = self.counter_of(queue, head) {
            counter.store(self.counter, Ordering::Relaxed);
        }
        if let Some(flag) = self.flag(queue, head) {
            flag.store(1, Ordering::Release);
        }
    }

    /// The chain that begins with `head` lies in the used ring, not yet visible.
    pub(super) fn given_back(&self, queue: u16, head: u16) {
        let (Some(last), Some(next)) = (self.half(queue, LAST_HEAD_AT), self.next_of(queue, head)) else {
            return;
        };
        next.store(last.load(Ordering::Relaxed), Ordering::Relaxed);
        last.store(head, Ordering::Release);
    }

    /// The `chains` given back last are visible: the used index is `used`.
    pub(super) fn published(&self, queue: u16, used: u16, chains: u16) {
        let Some(last) = self.half(queue, LAST_HEAD_AT) else { return };
        let mut head = last.load(Ordering::Relaxed);
        for _ in 0..chains.min(self.size) {
            let (Some(flag), Some(next)) = (self.flag(queue, head), self.next_of(queue, head)) else { break };
            flag.store(0, Ordering::Release);
            head = next.load(Ordering::Relaxed);
        }
        if let Some(place) = self.half(queue, USED_AT) {
            place.store(used, Ordering::Release);
        }
    }

    fn place(&self, queue: u16, at: u64, len: u64) -> Option<*mut u8> {
        let start = queue_len(self.size) * u64::from(queue);
        (queue < self.queues).then(|| self.mapping.address(start + at, len))?
    }

    fn entry(&self, queue: u16, head: u16, at: u64, len: u64) -> Option<*mut u8> {
        (head < self.size).then(|| self.place(queue, HEADER_LEN + ENTRY_LEN * u64::from(head) + at, len))?
    }

    fn half(&self, queue: u16, at: u64) -> Option<&AtomicU16> {
        let place = self.place(queue, at, 2).filter(|place| place.addr() % 2 == 0)?;
        // SAFETY: two aligned bytes of the mapping, which lives as long as `self`; everybody uses atomic operations.
        Some(unsafe { AtomicU16::from_ptr(place.cast()) })
    }

    fn flag(&self, queue: u16, head: u16) -> Option<&AtomicU8> {
        let place = self.entry(queue, head, 0, 1)?;
        // SAFETY: a byte of the mapping, which lives as long as `self`; everybody uses atomic operations.
        Some(unsafe { AtomicU8::from_ptr(place) })
    }

    fn next_of(&self, queue: u16, head: u16) -> Option<&AtomicU16> {
        let place = self.entry(queue, head, NEXT_AT, 2).filter(|place| place.addr() % 2 == 0)?;
        // SAFETY: as in `half`.
        Some(unsafe { AtomicU16::from_ptr(place.cast()) })
    }

    fn counter_of(&self, queue: u16, head: u16) -> Option<&AtomicU64> {
        let place = self.entry(queue, head, COUNTER_AT, 8).filter(|place| place.addr() % 8 == 0)?;
        // SAFETY: eight aligned bytes of the mapping, which lives as long as `self`; everybody uses atomic operations.
        Some(unsafe { AtomicU64::from_ptr(place.cast()) })
    }
}
