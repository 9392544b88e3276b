//! The lock that a file is. It must never be held by two, also when the file is removed and made anew meanwhile.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::protocol::{CniError, Code};

/// How long another call for the same attachment may take; kubelet gives up on a sandbox after minutes.
const LONGEST: Duration = Duration::from_secs(30);

/// How often to look. A lock is rarely contended, and then for milliseconds.
const INTERVAL: Duration = Duration::from_millis(2);

/// The file at `path`, made if needed, locked until it is closed.
///
/// Fails with code 11 (try again later) where another call keeps it.
pub(super) fn exclusively(path: &Path) -> Result<File, CniError> {
    let deadline = Instant::now() + LONGEST;
    loop {
        let file =
            super::open(path).map_err(|error| CniError::io(format!("opening {}", path.display()), error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // Whoever had it may have removed the file: then this lock is one on nothing.
            Ok(()) if is_at(&file, path) => return Ok(file),
            Ok(()) | Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => {
                if Instant::now() > deadline {
                    return Err(CniError::new(
                        Code::TryAgainLater,
                        format!("another call has held {} for {LONGEST:?}", path.display()),
                    ));
                }
                thread::sleep(INTERVAL);
            }
            Err(error) => return Err(CniError::io(format!("locking {}", path.display()), error)),
        }
    }
}

/// The same, if nobody else has it.
pub(super) fn at_once(path: &Path) -> Option<File> {
    let file = super::open(path).ok()?;
    let free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    (free && is_at(&file, path)).then_some(file)
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}
