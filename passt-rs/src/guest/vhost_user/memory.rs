//! The guest's memory: which addresses the front end gave us, and where they lie in ours.
//!
//! A chain names guest addresses, which are looked up each time. The front end names rings by addresses of its own; those
//! are found when it sets them and whenever regions come or go.
#![expect(unsafe_code, reason = "mappings of memory that a guest shares with us")]

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

use super::vanished::Watch;
use crate::iovec::{Piece, PieceMut};

/// Bytes that one bit of a dirty log stands for (vhost-user, "Migration").
const LOG_PAGE: u64 = 4096;

/// Regions that a front end may give us; as many as KVM once had slots.
pub(super) const REGIONS_MAX: usize = 509;

/// Why memory of the front end cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemoryError {
    #[error("cannot map {len} bytes at offset {offset:#x} of the descriptor")]
    Map { offset: u64, len: u64, source: rustix::io::Errno },
    #[error("{len} bytes at offset {offset:#x} are beyond the end of the file, which has {size} bytes")]
    Short { offset: u64, len: u64, size: u64 },
    #[error("the region at {guest:#x} overlaps another")]
    Overlap { guest: u64 },
    #[error("more than {REGIONS_MAX} regions")]
    TooMany,
    #[error("there is no such region at {guest:#x}")]
    Unknown { guest: u64 },
}

/// Memory of a descriptor that both we and the front end can write.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    mapped: usize,
    /// Where what was asked for begins; mappings begin at pages.
    start: usize,
    len: usize,
    watch: Watch,
}

impl Mapping {
    /// Maps `len` bytes at `offset` of `fd`.
    pub(super) fn new(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Self, MemoryError> {
        let failed = |source| MemoryError::Map { offset, len, source };
        let stat = rustix::fs::fstat(fd).map_err(failed)?;
        let end = offset.checked_add(len).ok_or_else(|| failed(rustix::io::Errno::OVERFLOW))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        // Beyond the end of a file there is nothing to touch but a signal.
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile
            && end > size
        {
            return Err(MemoryError::Short { offset, len, size });
        }
        // The block size of hugetlbfs is that of its pages, at which its mappings must begin and end.
        let page = u64::try_from(stat.st_blksize).unwrap_or(0).max(LOG_PAGE);
        let first = offset - offset % page;
        let mapped = (end - first)
            .checked_next_multiple_of(page)
            .ok_or_else(|| failed(rustix::io::Errno::OVERFLOW))?;
        let bytes = |value: u64| usize::try_from(value).map_err(|_| failed(rustix::io::Errno::OVERFLOW));
        let (mapped, start, len) = (bytes(mapped)?, bytes(offset - first)?, bytes(len)?);
        let (protection, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing of ours; what it holds is only
        // reached through raw pointers, as others write it too.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), mapped, protection, flags, fd, first) };
        let base = NonNull::new(base.map_err(failed)?.cast::<u8>())
            .ok_or_else(|| failed(rustix::io::Errno::FAULT))?;
        let watch = bytes(page).and_then(|page| Watch::new(base.addr().get(), mapped, page).map_err(failed));
        let watch = match watch {
            Ok(watch) => watch,
            Err(error) => {
                unmap(base, mapped);
                return Err(error);
            }
        };
        Ok(Self { base, mapped, start, len, watch })
    }

    /// Part of it was taken away under us; zeros are in its place.
    pub(super) fn has_vanished(&self) -> bool {
        self.watch.has_vanished()
    }

    /// The address of byte `at`, if `len` bytes from there on are ours to use.
    pub(super) fn address(&self, at: u64, len: u64) -> Option<*mut u8> {
        let end = at.checked_add(len)?;
        (end <= self.len as u64)
            .then(|| self.base.as_ptr().wrapping_add(self.start + usize::try_from(at).unwrap_or(0)))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.watch.end();
        unmap(self.base, self.mapped);
    }
}

fn unmap(base: NonNull<u8>, len: usize) {
    // SAFETY: the mapping is ours, and whoever has pointers into it borrows the memory it belongs to, or holds none
    // beyond one turn, in which regions do not go.
    let _ = unsafe { rustix::mm::munmap(base.as_ptr().cast(), len) };
}

/// One region as the front end describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// First guest-physical address.
    pub(super) guest: u64,
    /// The same byte's address in the front end.
    pub(super) user: u64,
    pub(super) len: u64,
    /// The same byte's place in the descriptor.
    pub(super) offset: u64,
}

#[derive(Debug)]
struct Mapped {
    region: Region,
    mapping: Mapping,
}

/// Part of a buffer of the guest: contiguous for both of us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) address: *mut u8,
    pub(super) len: u32,
    /// The guest's name of the first byte.
    pub(super) guest: u64,
}

impl Part {
    /// The part as what is given to system calls. It must not outlive the turn, in which regions do not go.
    pub(super) fn as_piece(&self) -> Piece<'static> {
        // SAFETY: whoever made the part checked that it lies in a region; regions go only while messages are handled,
        // and no part is kept across that.
        unsafe { Piece::shared(self.address, self.len as usize) }
    }

    /// The same, to be written.
    pub(super) fn as_piece_mut(&self) -> PieceMut<'static> {
        // SAFETY: as in `as_piece`; nobody makes references to the guest's memory.
        unsafe { PieceMut::shared(self.address, self.len as usize) }
    }

    /// The part without its first `bytes`, which must not be more than it has.
    pub(super) fn skip(&self, bytes: u32) -> Self {
        Self {
            address: self.address.wrapping_add(bytes as usize),
            len: self.len.saturating_sub(bytes),
            guest: self.guest + u64::from(bytes),
        }
    }

    /// The first `len` bytes of the part.
    pub(super) fn first(&self, len: u32) -> Self {
        Self { len: self.len.min(len), ..*self }
    }
}

/// All memory that the front end gave us, and the log of what we wrote to it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// By guest address.
    regions: Vec<Mapped>,
    log: Option<Mapping>,
    /// Writes are to be logged (VHOST_F_LOG_ALL).
    logging: bool,
}

impl Memory {
    /// Adds a region. Nothing changes on an error.
    pub(super) fn add(&mut self, region: Region, fd: BorrowedFd<'_>) -> Result<(), MemoryError> {
        if self.regions.len() >= REGIONS_MAX {
            return Err(MemoryError::TooMany);
        }
        let end = region.guest.saturating_add(region.len);
        let overlaps = |other: &Mapped| {
            region.guest < other.region.guest.saturating_add(other.region.len) && other.region.guest < end
        };
        if self.regions.iter().any(overlaps) {
            return Err(MemoryError::Overlap { guest: region.guest });
        }
        let mapping = Mapping::new(fd, region.offset, region.len)?;
        let at = self.regions.partition_point(|other| other.region.guest < region.guest);
        self.regions.insert(at, Mapped { region, mapping });
        Ok(())
    }

    /// Has `regions` and no others from here on. Nothing changes on an error.
    pub(super) fn replace(&mut self, regions: &[(Region, BorrowedFd<'_>)]) -> Result<(), MemoryError> {
        let mut new = Self::default();
        for (region, fd) in regions {
            new.add(*region, *fd)?;
        }
        self.regions = new.regions;
        Ok(())
    }

    /// Takes a region away. The spec compares addresses and length, not the place in a descriptor.
    pub(super) fn remove(&mut self, region: Region) -> Result<(), MemoryError> {
        let same = |other: &Mapped| {
            (other.region.guest, other.region.user, other.region.len)
                == (region.guest, region.user, region.len)
        };
        let at = self.regions.iter().position(same).ok_or(MemoryError::Unknown { guest: region.guest })?;
        self.regions.remove(at);
        Ok(())
    }

    pub(super) fn set_log(&mut self, fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<(), MemoryError> {
        self.log = Some(Mapping::new(fd, offset, len)?);
        Ok(())
    }

    pub(super) fn set_logging(&mut self, logging: bool) {
        self.logging = logging;
        if !logging {
            self.log = None;
        }
    }

    pub(super) fn is_logging(&self) -> bool {
        self.logging && self.log.is_some()
    }

    /// Part of it was taken away under us.
    pub(super) fn has_vanished(&self) -> bool {
        self.regions.iter().map(|mapped| &mapped.mapping).chain(&self.log).any(Mapping::has_vanished)
    }

    /// The place of a ring, whose address is the front end's own; whole in one region.
    pub(super) fn of_user(&self, user: u64, len: u64) -> Option<*mut u8> {
        self.regions.iter().find_map(|Mapped { region, mapping }| {
            let at = user.checked_sub(region.user).filter(|at| *at < region.len)?;
            mapping.address(at, len)
        })
    }

    /// The part of `len` bytes at guest address `guest` that lies in one region.
    pub(super) fn part(&self, guest: u64, len: u32) -> Option<Part> {
        let next = self.regions.partition_point(|mapped| mapped.region.guest <= guest);
        let Mapped { region, mapping } = self.regions.get(next.checked_sub(1)?)?;
        let at = guest - region.guest;
        let there = region.len.checked_sub(at).filter(|there| *there > 0)?;
        let len = len.min(u32::try_from(there).unwrap_or(u32::MAX));
        Some(Part { address: mapping.address(at, u64::from(len))?, len, guest })
    }

    /// Notes that we wrote `len` bytes at guest address `guest`.
    pub(super) fn note_written(&self, guest: u64, len: u64) {
        let Some(log) = self.log.as_ref().filter(|_| self.logging && len > 0) else { return };
        for page in guest / LOG_PAGE..=guest.saturating_add(len - 1) / LOG_PAGE {
            // A page that the log has no bit for is none of the guest's.
            let Some(byte) = log.address(page / 8, 1) else { return };
            // SAFETY: the byte is part of the log's mapping, which lives as long as `log`; everybody changes it by
            // atomic operations.
            let byte = unsafe { AtomicU8::from_ptr(byte) };
            // Behind what was written: who finds the bit copies the page.
            byte.fetch_or(1 << (page % 8), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_length_that_ends_at_the_last_address_is_refused() {
        let zeros = File::open("/dev/zero").unwrap();
        for (offset, len) in [(0, u64::MAX), (1, u64::MAX - 1), (1, u64::MAX), (u64::MAX, 1)] {
            assert!(matches!(Mapping::new(zeros.as_fd(), offset, len), Err(MemoryError::Map { .. })));
        }
    }
}
