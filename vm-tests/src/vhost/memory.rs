//! The guest's memory: regions of a memory file at guest-physical addresses, and windows onto them.
//!
//! The back end has the same pages and may write them at any time, so nothing here ever makes a reference to a byte
//! of it: fields are read and written with atomics, bytes are copied, system calls get raw addresses.
//! It must never know what lies in the memory.
#![expect(unsafe_code, reason = "mapped memory has no safe access; see each block")]

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use anyhow::Context as _;
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

/// Guest pages: the unit of regions, and of the dirty log.
pub const PAGE: u64 = 4096;

/// No window starts at a region's start: address 0 is too easily taken for none.
const FIRST: usize = 4096;

/// All regions the back end is told about.
#[derive(Debug, Default)]
pub struct Memory {
    regions: Vec<Region>,
    /// The region to try first, so that neighbours in use are apart in memory.
    turn: usize,
}

/// One region of guest memory.
#[derive(Debug)]
pub struct Region {
    file: Arc<OwnedFd>,
    file_offset: u64,
    guest: u64,
    mapping: Arc<Mapping>,
    /// Bytes from the start that are given out.
    allocated: usize,
}

impl Memory {
    /// One memory file with a region of `len` bytes, rounded up to pages, for each guest-physical address.
    pub fn new(starts: &[u64], len: u64) -> anyhow::Result<Self> {
        let len = len.next_multiple_of(PAGE);
        let total = u64::try_from(starts.len()).ok().and_then(|count| count.checked_mul(len));
        let file = memory_file(total.context("more memory than there is")?)?;
        let mut memory = Self::default();
        let mut file_offset = 0;
        for &guest in starts {
            memory.push(Region::map(Arc::clone(&file), file_offset, guest, len)?)?;
            file_offset += len;
        }
        Ok(memory)
    }

    /// One more region, in a file of its own.
    pub fn add(&mut self, guest: u64, len: u64) -> anyhow::Result<&Region> {
        let len = len.next_multiple_of(PAGE);
        self.push(Region::map(memory_file(len)?, 0, guest, len)?)?;
        self.regions.last().context("a region was just added")
    }

    /// Forgets the region at `guest`; windows onto it keep its pages.
    pub fn remove(&mut self, guest: u64) -> Option<Region> {
        let at = self.regions.iter().position(|region| region.guest == guest)?;
        Some(self.regions.remove(at))
    }

    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// One past the last guest-physical address.
    pub fn end(&self) -> u64 {
        self.regions.iter().map(|region| region.guest + region.len()).max().unwrap_or(0)
    }

    /// A window onto memory nobody else was given, from one region after the other. Its first owner finds zeros.
    pub fn allocate(&mut self, len: usize, alignment: usize) -> anyhow::Result<Window> {
        let count = self.regions.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            if let Some(window) = self.regions.get_mut(at).and_then(|region| region.allocate(len, alignment))
            {
                self.turn = at + 1;
                return Ok(window);
            }
        }
        anyhow::bail!("no region has {len} bytes left")
    }

    /// Gives out all memory anew: for a guest that starts again, whose old windows nobody uses any more.
    pub(super) fn rewind(&mut self) {
        for region in &mut self.regions {
            region.allocated = FIRST;
        }
    }

    fn push(&mut self, region: Region) -> anyhow::Result<()> {
        let (start, end) = (region.guest, region.guest + region.len());
        let free = self.regions.iter().all(|other| other.guest >= end || other.guest + other.len() <= start);
        anyhow::ensure!(free, "regions overlap at {start:#x}");
        self.regions.push(region);
        Ok(())
    }
}

impl Region {
    fn map(file: Arc<OwnedFd>, file_offset: u64, guest: u64, len: u64) -> anyhow::Result<Self> {
        guest.checked_add(len).context("a region past the last address")?;
        let mapping = Arc::new(Mapping::new(file.as_fd(), file_offset, len)?);
        Ok(Self { file, file_offset, guest, mapping, allocated: FIRST })
    }

    /// Guest-physical address of its first byte.
    pub fn guest(&self) -> u64 {
        self.guest
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.mapping.len as u64
    }

    pub fn is_empty(&self) -> bool {
        self.mapping.len == 0
    }

    /// Its first byte in the front end's own address space, which is how ring addresses are named.
    pub fn user(&self) -> u64 {
        self.mapping.start.as_ptr() as u64
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn file_offset(&self) -> u64 {
        self.file_offset
    }

    fn allocate(&mut self, len: usize, alignment: usize) -> Option<Window> {
        let start = self.allocated.next_multiple_of(alignment);
        let end = start.checked_add(len)?;
        let window = Window::new(Arc::clone(&self.mapping), start, len, self.guest)?;
        self.allocated = end;
        Some(window)
    }
}

/// A stretch of guest memory. Offsets are bytes from its start; what is out of it reads as 0 and is not written.
#[derive(Debug, Clone)]
pub struct Window {
    start: NonNull<u8>,
    len: usize,
    guest: u64,
    /// Keeps the pages.
    _mapping: Arc<Mapping>,
}

// SAFETY: a window's memory is shared with another process anyway: every access is atomic, or a copy whose result
// may be torn, and no reference to its bytes exists. Its pages live as long as it does.
unsafe impl Send for Window {}
// SAFETY: as above; no method changes the window itself.
unsafe impl Sync for Window {}

impl Window {
    fn new(mapping: Arc<Mapping>, offset: usize, len: usize, region: u64) -> Option<Self> {
        (offset.checked_add(len)? <= mapping.len).then_some(())?;
        // SAFETY: add needs the result to be inside the same mapping, or just after it; the line above checked it.
        let start = unsafe { mapping.start.add(offset) };
        Some(Self { start, len, guest: region + offset as u64, _mapping: mapping })
    }

    /// A window onto a file that is not guest memory.
    pub(super) fn of_file(file: BorrowedFd<'_>, offset: u64, len: u64) -> anyhow::Result<Self> {
        let mapping = Arc::new(Mapping::new(file, offset, len)?);
        let len = mapping.len;
        Self::new(mapping, 0, len, 0).context("a window of a whole file")
    }

    /// Guest-physical address of its first byte.
    pub fn guest(&self) -> u64 {
        self.guest
    }

    /// Its first byte in the front end's own address space.
    pub fn user(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn load_u16(&self, offset: usize, order: Ordering) -> u16 {
        let Some(at) = self.at::<AtomicU16>(offset) else { return 0 };
        // SAFETY: from_ptr needs a pointer that is aligned and valid for the reference's life, and only atomic
        // accesses meanwhile; `at` checked the first two, and this process makes no others to ring fields.
        u16::from_le(unsafe { AtomicU16::from_ptr(at) }.load(order))
    }

    pub fn store_u16(&self, offset: usize, value: u16, order: Ordering) {
        let Some(at) = self.at::<AtomicU16>(offset) else { return };
        // SAFETY: as in load_u16.
        unsafe { AtomicU16::from_ptr(at) }.store(value.to_le(), order);
    }

    pub fn load_u32(&self, offset: usize) -> u32 {
        let Some(at) = self.at::<AtomicU32>(offset) else { return 0 };
        // SAFETY: as in load_u16.
        u32::from_le(unsafe { AtomicU32::from_ptr(at) }.load(Ordering::Relaxed))
    }

    pub fn store_u32(&self, offset: usize, value: u32) {
        let Some(at) = self.at::<AtomicU32>(offset) else { return };
        // SAFETY: as in load_u16.
        unsafe { AtomicU32::from_ptr(at) }.store(value.to_le(), Ordering::Relaxed);
    }

    pub fn store_u64(&self, offset: usize, value: u64) {
        let Some(at) = self.at::<AtomicU64>(offset) else { return };
        // SAFETY: as in load_u16.
        unsafe { AtomicU64::from_ptr(at) }.store(value.to_le(), Ordering::Relaxed);
    }

    /// Reads 64 bits and leaves zeros: how a dirty log is collected.
    pub fn take_u64(&self, offset: usize) -> u64 {
        let Some(at) = self.at::<AtomicU64>(offset) else { return 0 };
        // SAFETY: as in load_u16.
        u64::from_le(unsafe { AtomicU64::from_ptr(at) }.swap(0, Ordering::AcqRel))
    }

    /// Copies `bytes` to `offset`, whole or not at all.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        let Some(to) = self.bytes(offset, bytes.len()) else { return false };
        // SAFETY: copy needs both sides valid for the length and apart; `bytes` checked the window's side, and no
        // slice of this process can lie in guest memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        true
    }

    /// Copies from `offset` to all of `to`, whole or not at all.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> bool {
        let Some(from) = self.bytes(offset, to.len()) else { return false };
        // SAFETY: as in write, the other way.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) };
        true
    }

    /// Appends `len` bytes from `offset` to `to`, or nothing.
    pub fn append(&self, offset: usize, len: usize, to: &mut Vec<u8>) -> bool {
        let start = to.len();
        to.resize(start + len, 0);
        to.get_mut(start..).is_some_and(|place| self.read(offset, place))
    }

    /// For a system call that reads or writes at most the `len` bytes from `offset`.
    pub fn vector(&self, offset: usize, len: usize) -> Option<libc::iovec> {
        Some(libc::iovec { iov_base: self.bytes(offset, len)?.as_ptr().cast(), iov_len: len })
    }

    /// Everything becomes 0.
    pub fn clear(&self) {
        // SAFETY: write_bytes needs a pointer valid for the length; it is the window.
        unsafe { std::ptr::write_bytes(self.start.as_ptr(), 0, self.len) };
    }

    fn bytes(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        (offset.checked_add(len)? <= self.len).then_some(())?;
        // SAFETY: add needs the result inside the mapping, or just after it; the line above checked it.
        Some(unsafe { self.start.add(offset) })
    }

    /// The place of a `T`, aligned and inside.
    fn at<T>(&self, offset: usize) -> Option<*mut T::Value>
    where
        T: Field,
    {
        let place = self.bytes(offset, size_of::<T::Value>())?.as_ptr().cast::<T::Value>();
        place.is_aligned().then_some(place)
    }
}

/// What an atomic holds.
trait Field {
    type Value;
}

impl Field for AtomicU16 {
    type Value = u16;
}

impl Field for AtomicU32 {
    type Value = u32;
}

impl Field for AtomicU64 {
    type Value = u64;
}

/// Mapped pages of a file.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is an address and a length; pages can be unmapped from any thread.
unsafe impl Send for Mapping {}
// SAFETY: nothing is reached through a shared mapping but its address.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: BorrowedFd<'_>, offset: u64, len: u64) -> anyhow::Result<Self> {
        let len = usize::try_from(len).context("more memory than this machine can map")?;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE);
        // SAFETY: mmap without a wanted address disturbs no other memory.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, access, flags, file, offset) }
            .context("map guest memory")?;
        Ok(Self { start: NonNull::new(start.cast()).context("memory mapped at 0")?, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: munmap needs that nobody uses the pages any more; every window holds the mapping.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A memory file of `len` bytes of zeros, none of which take space yet.
pub(super) fn memory_file(len: u64) -> anyhow::Result<Arc<OwnedFd>> {
    let file = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).context("create a memory file")?;
    rustix::fs::ftruncate(&file, len).context("size a memory file")?;
    Ok(Arc::new(file))
}
