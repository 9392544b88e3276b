//! Chains of descriptors: from the number of the first one to the parts of memory that a frame lies in.
//!
//! Where a ring stands is none of a chain's business, and what is in its buffers is nobody's here. Descriptors may
//! change at any time, so each is read once and checked after it was read.
#![expect(unsafe_code, reason = "descriptors lie in memory shared with the guest")]

use std::sync::atomic::{AtomicU64, Ordering};

use super::memory::{Memory, Part};

/// Bytes of a descriptor, in any table (virtio 1.2 section 2.7.5).
pub(super) const DESCRIPTOR_LEN: u64 = 16;
/// Descriptors of one table that we follow; what iovecs of one system call hold. A frame needs some twenty.
const CHAIN_MAX: usize = 1024;

const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const DESC_F_INDIRECT: u16 = 4;

/// Which way a chain's buffers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Filled by the driver; we read.
    FromDriver,
    /// Empty; we write.
    ToDriver,
}

/// A chain that no frame can be in; the ring goes on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chain loops, leaves memory or goes the wrong way")]
pub(super) struct BadChain;

#[derive(Clone, Copy, Debug)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn parse(bits: u128) -> Self {
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = bits.to_le_bytes();
        Self {
            address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// An address of ours.
    Ring(*const u8),
    /// An address of the guest's; each descriptor is looked up, as the table may be in several regions.
    Indirect(u64),
}

/// Descriptors that refer to each other by number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    place: Place,
    /// How many there are.
    count: u32,
    /// One of them may refer to another table.
    refers: bool,
}

impl Table {
    /// The `count` descriptors of a ring, whose chains may end in tables of their own if `indirect` was negotiated.
    ///
    /// # Safety
    /// So many must lie at `first`, at a multiple of 16, and stay mapped for as long as the table is used.
    pub(super) unsafe fn of_ring(first: *const u8, count: u16, indirect: bool) -> Self {
        Self { place: Place::Ring(first), count: count.into(), refers: indirect }
    }

    /// The table that `descriptor` refers to (virtio 1.2 section 2.7.5.3).
    fn indirect(descriptor: &Descriptor) -> Result<Self, BadChain> {
        let count = descriptor.len / 16;
        // Section 2.7.5.3.1: a driver never sets INDIRECT with NEXT, nor in such a table.
        if !descriptor.len.is_multiple_of(16) || count == 0 || descriptor.flags & DESC_F_NEXT != 0 {
            return Err(BadChain);
        }
        Ok(Self { place: Place::Indirect(descriptor.address), count, refers: false })
    }

    /// Appends the parts of the chain that begins with `head` to `parts`; gives their length together.
    pub(super) fn follow(
        &self,
        memory: &Memory,
        head: u16,
        direction: Direction,
        parts: &mut Vec<Part>,
    ) -> Result<usize, BadChain> {
        let (total, last) = self.walk(memory, head, direction, parts)?;
        let Some(last) = last else { return Ok(total) };
        let (rest, _) = Self::indirect(&last)?.walk(memory, 0, direction, parts)?;
        Ok(total + rest)
    }

    /// Follows descriptors from `first` to the last one. If that refers to another table it is given back, not
    /// followed.
    fn walk(
        &self,
        memory: &Memory,
        first: u16,
        direction: Direction,
        parts: &mut Vec<Part>,
    ) -> Result<(usize, Option<Descriptor>), BadChain> {
        let (mut number, mut total, before) = (first, 0, parts.len());
        for _ in 0..CHAIN_MAX.min(self.count as usize) {
            if parts.len() - before > CHAIN_MAX {
                break;
            }
            let descriptor = self.read(memory, number)?;
            if descriptor.flags & DESC_F_INDIRECT != 0 {
                return if self.refers { Ok((total, Some(descriptor))) } else { Err(BadChain) };
            }
            total += append(memory, &descriptor, direction, parts)?;
            if descriptor.flags & DESC_F_NEXT == 0 {
                return Ok((total, None));
            }
            number = descriptor.next;
        }
        Err(BadChain)
    }

    fn read(&self, memory: &Memory, number: u16) -> Result<Descriptor, BadChain> {
        if u32::from(number) >= self.count {
            return Err(BadChain);
        }
        let bits = match self.place {
            Place::Ring(first) => {
                let place = first.wrapping_add(16 * usize::from(number)).cast_mut();
                // SAFETY: whoever made the table promised `count` descriptors, aligned and mapped, and `number` is one
                // of them; a torn read is some value, checked by whoever uses it.
                let low = unsafe { AtomicU64::from_ptr(place.cast()) }.load(Ordering::Relaxed);
                // SAFETY: as above; the second half of the same 16 bytes.
                let high = unsafe { AtomicU64::from_ptr(place.wrapping_add(8).cast()) };
                let high = high.load(Ordering::Relaxed);
                u128::from(u64::from_le(low)) | u128::from(u64::from_le(high)) << 64
            }
            Place::Indirect(first) => {
                let entry = first.checked_add(DESCRIPTOR_LEN * u64::from(number)).ok_or(BadChain)?;
                let part = memory.part(entry, 16).filter(|part| part.len == 16).ok_or(BadChain)?;
                let mut bytes = [0; 16];
                part.as_piece().copy_to(&mut bytes);
                u128::from_le_bytes(bytes)
            }
        };
        Ok(Descriptor::parse(bits))
    }
}

/// Appends one descriptor's buffer, which may cross regions that lie side by side.
fn append(
    memory: &Memory,
    descriptor: &Descriptor,
    direction: Direction,
    parts: &mut Vec<Part>,
) -> Result<usize, BadChain> {
    let writable = descriptor.flags & DESC_F_WRITE != 0;
    if writable != (direction == Direction::ToDriver) {
        return Err(BadChain);
    }
    let (mut address, mut rest) = (descriptor.address, descriptor.len);
    while rest > 0 {
        let part = memory.part(address, rest).ok_or(BadChain)?;
        address = address.checked_add(u64::from(part.len)).ok_or(BadChain)?;
        rest -= part.len;
        parts.push(part);
    }
    Ok(descriptor.len as usize)
}
