//! Work in another network namespace.
//!
//! A namespace belongs to a thread. The work runs on a thread that enters the namespace and then ends, so the
//! caller's own thread never changes place, not even when the work panics. Descriptors opened there stay
//! usable everywhere.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Opens the namespace of a process (a number), of a name under `/run/netns`, or at a path.
pub fn open(which: &str) -> io::Result<File> {
    File::open(path_of(which))
}

/// Runs `work` inside the network namespace `netns`.
pub fn inside<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        })?;
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn path_of(which: &str) -> PathBuf {
    if !which.is_empty() && which.bytes().all(|byte| byte.is_ascii_digit()) {
        PathBuf::from(format!("/proc/{which}/ns/net"))
    } else if which.contains('/') {
        PathBuf::from(which)
    } else {
        Path::new("/run/netns").join(which)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_and_paths_are_told_apart() {
        let table = [
            ("42", "/proc/42/ns/net"),
            ("blue", "/run/netns/blue"),
            ("/x/4", "/x/4"),
            ("./4", "./4"),
            ("4a", "/run/netns/4a"),
        ];
        for (which, path) in table {
            assert_eq!(path_of(which), Path::new(path), "{which}");
        }
    }
}
