//! A split virtqueue seen from the device (virtio 1.2 section 2.7).
//!
//! All three parts lie in memory that the driver may change at any time, so every field is read once and checked
//! after it was read. What the driver may break is its own queue: a ring that contradicts itself stands still until
//! the front end sets it up again.
#![expect(unsafe_code, reason = "rings lie in memory shared with the guest")]

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

use super::chain::{BadChain, DESCRIPTOR_LEN, Direction, Table};
use super::memory::{Memory, Part};

/// The largest split queue (virtio 1.2 section 2.7).
pub(super) const SIZE_MAX: u16 = 32_768;

const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_F_NO_NOTIFY: u16 = 1;

/// Where the front end put a ring, by addresses of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    /// Guest address of the used ring, if what is written there is to be logged.
    pub(super) log: Option<u64>,
}

/// The ring contradicts itself; nothing in it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("the available index jumped by {0}")]
    Index(u16),
    #[error("descriptor {0} does not exist")]
    Head(u16),
}

#[derive(Clone, Copy, Debug)]
struct Places {
    descriptors: *const u8,
    available: *const u8,
    used: *mut u8,
}

/// One ring.
#[derive(Debug, Default)]
pub(super) struct Ring {
    size: u16,
    places: Option<Places>,
    log: Option<u64>,
    event_idx: bool,
    indirect: bool,
    /// Free-running, as all indices here: chains taken.
    next_available: u16,
    /// What the driver's index was when it was read last.
    seen: u16,
    /// Chains given back; those before `published` are visible.
    next_used: u16,
    published: u16,
    /// Index that the driver was interrupted for last. `None`: not yet since the ring started.
    signalled: Option<u16>,
}

impl Ring {
    /// Sets the length. `false`: not one that a split queue may have.
    pub(super) fn set_size(&mut self, size: u32) -> bool {
        match u16::try_from(size) {
            Ok(size) if size.is_power_of_two() && (2..=SIZE_MAX).contains(&size) => {
                self.size = size;
                self.places = None;
                true
            }
            _ => false,
        }
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    pub(super) fn set_features(&mut self, event_idx: bool, indirect: bool) {
        (self.event_idx, self.indirect) = (event_idx, indirect);
    }

    /// The first chain to take.
    pub(super) fn set_base(&mut self, base: u16) {
        self.next_available = base;
        self.seen = base;
    }

    /// The next chain to take.
    pub(super) fn base(&self) -> u16 {
        self.next_available
    }

    /// Gives back the last `chains` taken, as if they had not been.
    pub(super) fn untake(&mut self, chains: u16) {
        self.next_available = self.next_available.wrapping_sub(chains);
    }

    /// Finds the ring in `memory`. `false`: it is not there, and nothing happens until it is found.
    pub(super) fn place(&mut self, memory: &Memory, addresses: &Addresses) -> bool {
        let size = u64::from(self.size);
        let find = |address: u64, len: u64, align: usize| {
            memory.of_user(address, len).filter(|place| place.addr() % align == 0)
        };
        let places = (|| {
            Some(Places {
                descriptors: find(addresses.descriptors, DESCRIPTOR_LEN * size, 16)?,
                // Flags and index, the ring, and the other side's event index.
                available: find(addresses.available, 2 * 2 + 2 * size + 2, 2)?,
                used: find(addresses.used, 2 * 2 + 8 * size + 2, 4)?,
            })
        })();
        self.places = places.filter(|_| self.size > 0);
        self.log = addresses.log;
        self.places.is_some()
    }

    /// Begins at what is in the used ring.
    pub(super) fn start(&mut self) {
        if let Some(places) = self.places {
            self.next_used = load(places.used, 2);
            self.published = self.next_used;
            self.signalled = None;
        }
    }

    /// Nothing is to be found here until the ring is placed again.
    pub(super) fn stop(&mut self) {
        self.places = None;
    }

    pub(super) fn is_placed(&self) -> bool {
        self.places.is_some()
    }

    /// Chains that wait to be taken.
    pub(super) fn waiting(&mut self) -> Result<u16, Broken> {
        let Some(places) = self.places else { return Ok(0) };
        if self.seen == self.next_available {
            // Pairs with the driver's write barrier in front of its index.
            self.seen = load(places.available, 2);
        }
        let waiting = self.seen.wrapping_sub(self.next_available);
        if waiting > self.size { Err(Broken::Index(waiting)) } else { Ok(waiting) }
    }

    /// Chains that wait to be taken, as of now.
    pub(super) fn waiting_now(&mut self) -> Result<u16, Broken> {
        self.seen = self.next_available;
        self.waiting()
    }

    /// Takes the next chain: the number of its first descriptor.
    pub(super) fn take(&mut self) -> Result<Option<u16>, Broken> {
        if self.waiting()? == 0 {
            return Ok(None);
        }
        let Some(places) = self.places else { return Ok(None) };
        let at = usize::from(self.next_available & (self.size - 1));
        let head = load(places.available, 4 + 2 * at);
        if head >= self.size {
            return Err(Broken::Head(head));
        }
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(head))
    }

    /// Appends the parts of the chain that begins with `head` to `parts`; gives their length together.
    pub(super) fn follow(
        &self,
        memory: &Memory,
        head: u16,
        direction: Direction,
        parts: &mut Vec<Part>,
    ) -> Result<usize, BadChain> {
        let places = self.places.ok_or(BadChain)?;
        // SAFETY: `place` found so many descriptors, aligned, in a region of the memory, and another size or memory
        // unplaces the ring; the table does not outlive this call.
        let table = unsafe { Table::of_ring(places.descriptors, self.size, self.indirect) };
        let before = parts.len();
        let followed = table.follow(memory, head, direction, parts);
        if followed.is_err() {
            parts.truncate(before);
        }
        followed
    }

    /// Gives a chain back with `written` bytes in it; visible after [`Self::publish`].
    pub(super) fn give_back(&mut self, memory: &Memory, head: u16, written: u32) {
        let Some(places) = self.places else { return };
        let at = 4 + 8 * usize::from(self.next_used & (self.size - 1));
        store32(places.used, at, u32::from(head));
        store32(places.used, at + 4, written);
        self.note_used(memory, at, 8);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Makes everything given back visible.
    pub(super) fn publish(&mut self, memory: &Memory) {
        let Some(places) = self.places else { return };
        if self.published != self.next_used {
            let unsignalled = self.signalled.map(|signalled| self.next_used.wrapping_sub(signalled));
            if unsignalled.is_some_and(|chains| chains > self.size) {
                // More would wrap; one interrupt too many harms nobody.
                self.signalled = None;
            }
            store(places.used, 2, self.next_used);
            self.note_used(memory, 2, 2);
            self.published = self.next_used;
        }
    }

    /// The used index as the driver sees it.
    pub(super) fn published(&self) -> u16 {
        self.published
    }

    /// Whether the driver wants an interrupt for what was published since the last time this said so
    /// (virtio 1.2 section 2.7.7.2).
    pub(super) fn wants_interrupt(&mut self) -> bool {
        let Some(places) = self.places else { return false };
        let new = self.published;
        if self.signalled == Some(new) {
            return false;
        }
        // The index must be visible before the driver's wish is read: it looks for more before it sleeps.
        fence(Ordering::SeqCst);
        if !self.event_idx {
            self.signalled = Some(new);
            return load(places.available, 0) & AVAIL_F_NO_INTERRUPT == 0;
        }
        let event = load(places.available, 4 + 2 * usize::from(self.size));
        let old = self.signalled.replace(new);
        old.is_none_or(|old| passes(event, new, old))
    }

    /// Asks the driver to say when there is more. `true`: there is already.
    pub(super) fn ask_for_kicks(&mut self, memory: &Memory) -> Result<bool, Broken> {
        let Some(places) = self.places else { return Ok(false) };
        if self.event_idx {
            let at = 4 + 8 * usize::from(self.size);
            store(places.used, at, self.next_available);
            self.note_used(memory, at, 2);
        } else {
            store(places.used, 0, 0);
            self.note_used(memory, 0, 2);
        }
        // The wish must be visible before the index is read: the driver looks at it after it added something.
        fence(Ordering::SeqCst);
        Ok(self.waiting_now()? > 0)
    }

    /// Whether there is more. If not, the driver will say when there is.
    pub(super) fn has_more(&mut self, memory: &Memory) -> Result<bool, Broken> {
        let more = self.ask_for_kicks(memory)?;
        if more {
            self.do_without_kicks(memory);
        }
        Ok(more)
    }

    /// Lets the driver add without telling us. With an event index it does so by itself: the index stays behind.
    pub(super) fn do_without_kicks(&self, memory: &Memory) {
        if let Some(places) = self.places.filter(|_| !self.event_idx) {
            store(places.used, 0, USED_F_NO_NOTIFY);
            self.note_used(memory, 0, 2);
        }
    }

    fn note_used(&self, memory: &Memory, at: usize, len: u64) {
        if let Some(log) = self.log {
            memory.note_written(log.saturating_add(at as u64), len);
        }
    }
}

/// Whether an index that went from `old` to `new` passed `event` (virtio 1.2 section 2.7.10, vring_need_event).
fn passes(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

fn load(place: *const u8, at: usize) -> u16 {
    // SAFETY: `Ring::place` checked that the whole ring part is mapped and aligned; the other side uses it by atomic
    // operations too.
    let value = unsafe { AtomicU16::from_ptr(place.wrapping_add(at).cast_mut().cast()) };
    u16::from_le(value.load(Ordering::Acquire))
}

fn store(place: *mut u8, at: usize, value: u16) {
    // SAFETY: as in `load`, and the used ring is ours to write.
    unsafe { AtomicU16::from_ptr(place.wrapping_add(at).cast()) }.store(value.to_le(), Ordering::Release);
}

fn store32(place: *mut u8, at: usize, value: u32) {
    // SAFETY: as in `store`.
    unsafe { AtomicU32::from_ptr(place.wrapping_add(at).cast()) }.store(value.to_le(), Ordering::Relaxed);
}
