//! The transport against memory, rings and messages that the tests make themselves.
//!
//! A memfd is the guest's memory. We see it through [`Memory`] or a whole [`VhostUser`]; the test, being the guest and
//! its front end, reads and writes the same file by offset.

mod chains;
mod device;
mod inflight;
mod memory;
mod rig;
mod transport;
mod used;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::MemfdFlags;

use super::memory::{Memory, Region};
use super::ring::{Addresses, Ring};
use super::{Guest, Link};
use crate::wire::{Checksum, Offload, Segmentation};

/// Guest address of the first region.
const GUEST: u64 = 0x4000_0000;
/// What the front end calls the file's first byte.
const USER: u64 = 0x7f12_0000_0000;

const NO_OFFLOAD: Offload =
    Offload { checksum: Checksum::Complete, segmentation: Segmentation::None, header_len: 0 };

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// The guest's memory, by offset in its file.
struct Ram(File);

impl Ram {
    fn new(len: u64) -> Self {
        let file = File::from(rustix::fs::memfd_create("ram", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(len).unwrap();
        Self(file)
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.0.write_all_at(bytes, at).unwrap();
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn len(&self) -> usize {
        usize::try_from(self.0.metadata().unwrap().len()).unwrap()
    }

    fn half(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at, 2).try_into().unwrap())
    }

    fn set_half(&self, at: u64, value: u16) {
        self.write(at, &value.to_le_bytes());
    }
}

/// One entry of a table of descriptors.
#[derive(Clone, Copy, Debug)]
struct Entry {
    guest: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Entry {
    fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.guest.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// Where the parts of a ring lie, by offset in the file.
#[derive(Clone, Copy, Debug)]
struct Layout {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
}

impl Layout {
    /// Begins at `start`; the used ring has pages of its own.
    fn at(start: u64, size: u16) -> Self {
        let available = start + 16 * u64::from(size);
        let used = (available + 6 + 2 * u64::from(size)).next_multiple_of(0x1000);
        Self { size, descriptors: start, available, used }
    }

    fn addresses(&self) -> Addresses {
        let Self { descriptors, available, used, .. } = *self;
        Addresses {
            descriptors: USER + descriptors,
            available: USER + available,
            used: USER + used,
            log: None,
        }
    }

    fn describe(&self, ram: &Ram, number: u16, entry: Entry) {
        ram.write(self.descriptors + 16 * u64::from(number), &entry.bytes());
    }

    /// Writes `head` where the chain with index `index` is to be; not visible yet.
    fn offer(&self, ram: &Ram, index: u16, head: u16) {
        ram.set_half(self.available + 4 + 2 * u64::from(index % self.size), head);
    }

    /// Makes all chains before `index` visible.
    fn set_available(&self, ram: &Ram, index: u16) {
        ram.set_half(self.available + 2, index);
    }

    fn set_interrupts_off(&self, ram: &Ram, off: bool) {
        ram.set_half(self.available, u16::from(off));
    }

    fn set_used_event(&self, ram: &Ram, index: u16) {
        ram.set_half(self.available + 4 + 2 * u64::from(self.size), index);
    }

    fn used_index(&self, ram: &Ram) -> u16 {
        ram.half(self.used + 2)
    }

    /// Head and length at `index` of the used ring.
    fn used(&self, ram: &Ram, index: u16) -> (u32, u32) {
        let bytes = ram.read(self.used + 4 + 8 * u64::from(index % self.size), 8);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        (word(0), word(4))
    }

    /// The ring as the device has it, at index `base`.
    fn ring(&self, memory: &Memory, base: u16, event_idx: bool, indirect: bool) -> Ring {
        let mut ring = Ring::default();
        ring.set_features(event_idx, indirect);
        assert!(ring.set_size(u32::from(self.size)));
        ring.set_base(base);
        assert!(ring.place(memory, &self.addresses()));
        ring.start();
        ring
    }
}

/// A region whose user addresses are those of the file.
fn region(guest: u64, offset: u64, len: u64) -> Region {
    Region { guest, user: USER.wrapping_add(offset), len, offset }
}

fn memory(ram: &Ram, regions: &[Region]) -> Memory {
    let mut memory = Memory::default();
    for region in regions {
        memory.add(*region, ram.0.as_fd()).unwrap();
    }
    memory
}
