//! The signals that end a cable, as a descriptor.
#![expect(unsafe_code, reason = "signal masks and signalfd have no safe wrapper; see each block")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// A descriptor that becomes readable when SIGTERM or SIGINT comes, which then do nothing else.
pub(super) fn termination() -> io::Result<OwnedFd> {
    let mut wanted = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset needs a place for a set, which it fills; `wanted` is one.
    unsafe { libc::sigemptyset(wanted.as_mut_ptr()) };
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: sigaddset needs a filled set and a signal that exists; the set was emptied above.
        unsafe { libc::sigaddset(wanted.as_mut_ptr(), signal) };
    }
    // SAFETY: sigprocmask reads the set, filled above, and may be given no place for the old mask.
    if unsafe { libc::sigprocmask(libc::SIG_BLOCK, wanted.as_ptr(), std::ptr::null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd reads the set, filled above; -1 asks for a new descriptor.
    let descriptor = unsafe { libc::signalfd(-1, wanted.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, so nobody else closes it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
