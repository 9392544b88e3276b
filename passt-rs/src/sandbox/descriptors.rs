//! Which descriptors this process has, and how many it may.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::Mode;
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// First step of the working process: nothing inherited stays open but stdio and `keep`, files we create are for us
/// alone, and the descriptor limit is as high as it may be.
pub fn prepare(keep: Option<RawFd>) -> io::Result<()> {
    umask(Mode::RWXG | Mode::RWXO);
    close_inherited(open_descriptors()?, keep)?;
    raise_descriptor_limit();
    Ok(())
}

/// Takes ownership of the descriptor that [`prepare`] kept. Call at most once per descriptor.
#[expect(unsafe_code, reason = "a descriptor known by its number has no owner to take it from")]
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    if is_close_on_exec(fd).is_none() {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: `fd` must be open and owned by nobody else: it is open (just asked), it was inherited, and the
    // command line names it once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One descriptor per flow: the soft limit (often 1024, for programs that use `select`) would be reached early.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Refused only above the hard limit, which this is not; if so, we live with what there is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Closes what the starting program left open by accident, and marks what it gave us on purpose.
fn close_inherited(open: Vec<RawFd>, keep: Option<RawFd>) -> io::Result<()> {
    for fd in open {
        if is_close_on_exec(fd) != Some(false) {
            continue;
        }
        if Some(fd) == keep {
            mark_close_on_exec(fd)?;
        } else {
            close(fd);
        }
    }
    match keep {
        Some(fd) if is_close_on_exec(fd).is_none() => Err(io::Error::from_raw_os_error(libc::EBADF)),
        _ => Ok(()),
    }
}

fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let names = fs::read_dir("/proc/self/fd")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).filter(|fd| *fd > 2).collect())
}

/// `None`: not open.
#[expect(unsafe_code, reason = "a descriptor known by its number has no owner to borrow from")]
fn is_close_on_exec(fd: RawFd) -> Option<bool> {
    // SAFETY: the descriptor must not be used past its owner's life; it is asked for its flags, and one that is not
    // open any more (the directory just read) answers with an error.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl_getfd(fd).ok().map(|flags| flags.contains(FdFlags::CLOEXEC))
}

#[expect(unsafe_code, reason = "a descriptor known by its number has no owner to borrow from")]
fn mark_close_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: the descriptor must be open; `is_close_on_exec` has just read its flags, and nobody closes it meanwhile:
    // it has no owner in this process.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(fcntl_setfd(fd, FdFlags::CLOEXEC)?)
}

#[expect(unsafe_code, reason = "a descriptor known by its number has no owner that could close it")]
fn close(fd: RawFd) {
    // SAFETY: nothing else may own the descriptor. It survived our exec, so close-on-exec is not set on it; std,
    // rustix and netlink-sys set that on all they open, so it belongs to none of them.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    /// As if the starting program had left it open: no close-on-exec, no owner.
    fn inherited() -> RawFd {
        rustix::io::dup(rustix::stdio::stderr()).unwrap().into_raw_fd()
    }

    #[test]
    fn inherited_descriptors_are_closed_but_for_the_one_to_keep_and_our_own() {
        let (kept, stray) = (inherited(), inherited());
        let ours = fs::File::open("/dev/null").unwrap();
        let open = open_descriptors().unwrap();
        assert!([kept, stray, ours.as_raw_fd()].iter().all(|fd| open.contains(fd)));
        // Only this test's: others run in the same process.
        close_inherited(vec![kept, stray, ours.as_raw_fd()], Some(kept)).unwrap();
        assert_eq!(is_close_on_exec(kept), Some(true));
        assert!(ours.metadata().is_ok());
        assert_ne!(is_close_on_exec(stray), Some(false), "closed, or another test's by now");
        close(kept);
    }

    #[test]
    fn a_descriptor_to_keep_that_is_not_open_is_an_error() {
        assert_eq!(close_inherited(Vec::new(), Some(999_999)).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn descriptor_limit_is_raised_to_the_hard_one() {
        raise_descriptor_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
