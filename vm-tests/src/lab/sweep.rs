//! Removes what labs of dead processes left behind (a test killed, interrupted, or out of time), and keeps labs of
//! different processes from changing the machine's settings at the same time. It must never touch a living lab.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};

use super::Namespace;
use super::namespace::NAMES;

/// What the names of all labs begin with; the process id follows.
pub(super) const PREFIX: &str = "sluice-";

/// Logs of a failed test outlive the rest of its test run.
const LOGS_KEPT: Duration = Duration::from_secs(3600);

/// Held while namespaces are made; released when dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take() -> anyhow::Result<Self> {
        let path = "/run/sluice-lab.lock";
        let file = File::create(path).with_context(|| format!("create {path}"))?;
        flock(&file, FlockOperation::LockExclusive).with_context(|| format!("lock {path}"))?;
        Ok(Self { _file: file })
    }
}

/// Removes namespaces and directories of labs whose process is gone.
pub(super) fn stale_labs() {
    for name in names_in(Path::new(NAMES)).filter(|name| is_stale(name)) {
        if let Ok(namespace) = Namespace::found(&name) {
            namespace.remove();
        }
    }
    let temporary = std::env::temp_dir();
    for name in names_in(&temporary).filter(|name| is_stale(name)) {
        let directory = temporary.join(name);
        let age =
            std::fs::metadata(&directory).and_then(|data| data.modified()).map(|changed| changed.elapsed());
        if age.is_ok_and(|age| age.is_ok_and(|age| age > LOGS_KEPT)) {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

pub(super) fn names_in(directory: &Path) -> impl Iterator<Item = String> + use<> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
}

pub(super) fn is_stale(name: &str) -> bool {
    owner(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// The process a name of a lab belongs to: `sluice-<pid>-<n>` or `sluice-<pid>-<n>-<namespace>`.
fn owner(name: &str) -> Option<u32> {
    let (pid, number) = name.strip_prefix(PREFIX)?.split_once('-')?;
    number.split('-').next()?.parse::<u32>().ok()?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn only_names_of_labs_have_an_owner() {
        assert_eq!(owner("sluice-123-0-world"), Some(123));
        assert_eq!(owner("sluice-123-0"), Some(123));
        assert_eq!(owner("sluice-notes"), None);
        assert_eq!(owner("sluice-123-notes"), None);
        assert_eq!(owner("cni-1234"), None);
    }
}
