//! Waits to be told to end. It must never be asked to by a process that has threads: the mask would be one thread's.
#![expect(unsafe_code, reason = "signal masks have no safe wrapper; see each block")]

use std::io;
use std::mem::MaybeUninit;

/// SIGTERM, SIGINT and SIGHUP, held back until someone waits for them.
///
/// A container's first process gets no default action of a signal (signal(7), "pid_namespaces"): without this a pod would
/// take its whole grace period to end.
#[derive(Debug)]
pub struct Termination {
    signals: libc::sigset_t,
}

impl Termination {
    /// Holds them back from now on, so that none is lost that comes before [`Termination::wait`].
    pub fn hold() -> io::Result<Self> {
        let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset fills the set it is given, which is ours.
        unsafe { libc::sigemptyset(signals.as_mut_ptr()) };
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            // SAFETY: the set was filled above; these are signals' numbers.
            unsafe { libc::sigaddset(signals.as_mut_ptr(), signal) };
        }
        // SAFETY: sigemptyset filled it.
        let signals = unsafe { signals.assume_init() };
        // SAFETY: sigprocmask reads the set, and may be given no place for the old mask.
        if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { signals })
    }

    /// Until one of them has come.
    pub fn wait(&self) -> io::Result<()> {
        let mut came: libc::c_int = 0;
        // SAFETY: sigwait reads the set and writes one int; both are ours.
        match unsafe { libc::sigwait(&raw const self.signals, &raw mut came) } {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}
