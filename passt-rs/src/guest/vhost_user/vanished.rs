//! Memory that vanishes: a front end may shrink a file that we mapped, and whoever touches what lay beyond its new end
//! gets SIGBUS, which ends the process.
//!
//! So each mapping is watched. A fault in one puts zeros in the place of the page, which nobody but us sees, and leaves a
//! mark: the transport goes on to the end of its turn and ends the connection. Every other SIGBUS has the effect that it
//! had before. Checking sizes first would not do, as a file shrinks at any time; nor would asking for sealed files, which
//! front ends do not offer.
//!
//! The kernel's own accesses raise no signal: those fail with EFAULT.
#![expect(unsafe_code, reason = "a signal handler, and mappings made in it")]

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::io::Errno;

/// Mappings watched at once: twice what one front end may have, as a new table of regions is made before the old one
/// goes.
const SLOTS: usize = 1024;

/// One mapping; free while `start` is 0.
struct Slot {
    start: AtomicUsize,
    /// 0 until the rest is filled in.
    end: AtomicUsize,
    page: AtomicUsize,
    vanished: AtomicBool,
}

// A signal handler is given an address and nothing else: what it needs must be where it can find it. These are the
// only statics, and only this module writes them.
static WATCHED: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
        vanished: AtomicBool::new(false),
    }
}; SLOTS];
/// Faults in all mappings so far, so that a look that finds nothing new costs one load.
static FAULTS: AtomicUsize = AtomicUsize::new(0);
/// What SIGBUS did before.
static BEFORE: OnceLock<Result<libc::sigaction, Errno>> = OnceLock::new();

/// A mapping that is watched until [`Self::end`].
#[derive(Debug)]
pub(super) struct Watch {
    slot: usize,
}

impl Watch {
    /// Watches the mapping of `len` bytes at `start`, whose pages have `page` bytes. Fails with ENOSPC if too many
    /// mappings are watched already.
    pub(super) fn new(start: usize, len: usize, page: usize) -> Result<Self, Errno> {
        install()?;
        let claim =
            |slot: &Slot| slot.start.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let slot = WATCHED.iter().position(claim).ok_or(Errno::NOSPC)?;
        if let Some(slot) = WATCHED.get(slot) {
            slot.page.store(page, Ordering::Relaxed);
            slot.vanished.store(false, Ordering::Relaxed);
            slot.end.store(start + len, Ordering::Release);
        }
        Ok(Self { slot })
    }

    /// A page of the mapping was not there.
    pub(super) fn has_vanished(&self) -> bool {
        WATCHED.get(self.slot).is_some_and(|slot| slot.vanished.load(Ordering::Relaxed))
    }

    /// Must be called before the mapping goes: its addresses may be somebody else's at once.
    pub(super) fn end(&self) {
        if let Some(slot) = WATCHED.get(self.slot) {
            slot.end.store(0, Ordering::Release);
            slot.start.store(0, Ordering::Release);
        }
    }
}

/// Faults in watched mappings since the program began.
pub(super) fn faults() -> usize {
    FAULTS.load(Ordering::Relaxed)
}

/// Has SIGBUS come to us, once.
fn install() -> Result<(), Errno> {
    let installed = BEFORE.get_or_init(|| {
        let before = action(None)?;
        let mut ours = before;
        ours.sa_sigaction = on_fault as *const () as usize;
        // On the stack that the thread has for signals, if any: faults come deep inside copies.
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        action(Some(&ours))?;
        Ok(before)
    });
    installed.as_ref().map(|_| ()).map_err(|error| *error)
}

/// Sets what SIGBUS does; gives what it did.
fn action(new: Option<&libc::sigaction>) -> Result<libc::sigaction, Errno> {
    let mut before = MaybeUninit::uninit();
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `new` is null or a whole action whose handler keeps to what handlers may do (see `on_fault`), or one that
    // was in force; `before` has room for one.
    if unsafe { libc::sigaction(libc::SIGBUS, new, before.as_mut_ptr()) } != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    }
    // SAFETY: the call succeeded, and filled it.
    Ok(unsafe { before.assume_init() })
}

/// Runs in the place of whatever faulted, maybe in the middle of the allocator: it allocates nothing, takes no lock, and
/// calls only what enters the kernel directly.
extern "C" fn on_fault(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a whole one.
    let info = unsafe { &*info };
    // Sent by somebody, not raised by a fault: there is no address.
    let sent = info.si_code <= 0;
    // SAFETY: SIGBUS has an address where it is a fault; the bytes are part of every signal's information.
    let address = unsafe { info.si_addr() } as usize;
    if sent || !put_zeros(address) {
        hand_on(sent);
    }
}

/// Puts a page of zeros where `address` is. `false`: it is in no watched mapping, or cannot be done.
fn put_zeros(address: usize) -> bool {
    let holds = |slot: &&Slot| {
        address < slot.end.load(Ordering::Acquire) && slot.start.load(Ordering::Relaxed) <= address
    };
    let Some(slot) = WATCHED.iter().find(holds) else { return false };
    let page = slot.page.load(Ordering::Relaxed);
    let first = slot.start.load(Ordering::Relaxed);
    let Some(inside) = (address - first).checked_rem(page) else { return false };
    // Not rustix or std, which would change `errno` under whoever was interrupted; its place is the thread's own.
    // SAFETY: takes nothing, and always gives the place of this thread's `errno`.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the place stays for as long as the thread.
    let before = unsafe { errno.read() };
    // SAFETY: the page is a whole one of a mapping that `Mapping` owns, which reaches it by raw pointers alone and unmaps
    // the range whatever it consists of.
    let zeros = unsafe {
        libc::mmap(
            (address - inside) as *mut c_void,
            page,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    // SAFETY: as above.
    unsafe { errno.write(before) };
    if zeros == libc::MAP_FAILED {
        return false;
    }
    slot.vanished.store(true, Ordering::Relaxed);
    FAULTS.fetch_add(1, Ordering::Relaxed);
    true
}

/// Does what SIGBUS did before: a fault happens again when the handler returns, what was `sent` is sent again.
fn hand_on(sent: bool) {
    if let Some(Ok(before)) = BEFORE.get() {
        let _ = action(Some(before));
    }
    if sent {
        // SAFETY: may be called in handlers; the signal comes when this one ends.
        unsafe { libc::raise(libc::SIGBUS) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::fs::MemfdFlags;

    use super::super::memory::Mapping;

    const PAGE: u64 = 4096;

    fn file(flags: MemfdFlags, len: u64) -> rustix::io::Result<OwnedFd> {
        let fd = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC | flags)?;
        rustix::fs::ftruncate(&fd, len)?;
        Ok(fd)
    }

    fn byte(mapping: &Mapping, at: u64) -> u8 {
        // SAFETY: `address` checked it.
        unsafe { mapping.address(at, 1).unwrap().read_volatile() }
    }

    fn put(mapping: &Mapping, at: u64, value: u8) {
        // SAFETY: as above.
        unsafe { mapping.address(at, 1).unwrap().write_volatile(value) }
    }

    #[test]
    fn a_page_that_vanished_reads_as_zeros_and_is_noticed() {
        let fd = file(MemfdFlags::empty(), 4 * PAGE).unwrap();
        let mapping = Mapping::new(fd.as_fd(), 0, 4 * PAGE).unwrap();
        let other = Mapping::new(fd.as_fd(), 0, PAGE).unwrap();
        put(&mapping, 1, 7);
        put(&mapping, 2 * PAGE + 1, 7);
        assert_eq!(byte(&mapping, 2 * PAGE + 1), 7);
        rustix::fs::ftruncate(&fd, 2 * PAGE).unwrap();
        assert!(!mapping.has_vanished());
        assert_eq!(byte(&mapping, 2 * PAGE + 1), 0);
        assert!(mapping.has_vanished());
        put(&mapping, 4 * PAGE - 1, 9);
        assert_eq!((byte(&mapping, 4 * PAGE - 1), byte(&mapping, 3 * PAGE)), (9, 0));
        assert_eq!(byte(&mapping, 1), 7, "what is still there is still shared");
        assert!(!other.has_vanished());
    }

    #[test]
    fn a_huge_page_that_vanished_reads_as_zeros() {
        const HUGE: u64 = 2 * 1024 * 1024;
        let fd = file(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, 2 * HUGE).unwrap();
        // Whether the machine has huge pages to spare does not matter: there is nothing to touch.
        let mapping = Mapping::new(fd.as_fd(), 0, 2 * HUGE).unwrap();
        rustix::fs::ftruncate(&fd, 0).unwrap();
        assert_eq!(byte(&mapping, HUGE + PAGE), 0);
        put(&mapping, 2 * HUGE - 1, 9);
        assert_eq!((byte(&mapping, 2 * HUGE - 1), byte(&mapping, 5)), (9, 0));
        assert!(mapping.has_vanished());
    }
}
