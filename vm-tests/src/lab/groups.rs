//! Control groups that a container runtime makes for a lab's containers, in every hierarchy there is: all below one name, by
//! which they are removed. It must never remove one that a process is in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::{sweep, wait_for};

/// The kernel counts a killed process out a moment after it has been waited for.
const EMPTY_LIMIT: Duration = Duration::from_secs(10);

/// Whatever has this name. Removed when dropped; by then nothing may run inside.
#[derive(Debug)]
pub(crate) struct Groups {
    name: String,
    hierarchies: Vec<PathBuf>,
}

impl Groups {
    /// `name` is a lab's. Removes what runtimes made for labs whose process is gone.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
        let hierarchies: Vec<PathBuf> = hierarchies(&mounts).map(PathBuf::from).collect();
        anyhow::ensure!(!hierarchies.is_empty(), "no control groups are mounted");
        for hierarchy in &hierarchies {
            for stale in sweep::names_in(hierarchy).filter(|name| sweep::is_stale(name)) {
                remove(&hierarchy.join(stale));
            }
        }
        Ok(Self { name: name.to_owned(), hierarchies })
    }

    /// As runtimes write it: from the root of each hierarchy.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.name)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let folders: Vec<PathBuf> =
            self.hierarchies.iter().map(|hierarchy| hierarchy.join(&self.name)).collect();
        let _ = wait_for(EMPTY_LIMIT, "a runtime's control groups to be empty", || {
            folders.iter().for_each(|folder| remove(folder));
            folders.iter().all(|folder| !folder.exists())
        });
    }
}

/// Where they are mounted (proc_pid_mountinfo(5)): `ID PARENT DEVICE ROOT POINT OPTIONS [FIELDS...] - TYPE SOURCE OPTIONS`.
fn hierarchies(mounts: &str) -> impl Iterator<Item = &str> {
    mounts.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let point = place.split(' ').nth(4)?;
        kind.starts_with("cgroup").then_some(point)
    })
}

/// A group and those below it, as far as they are empty: their files go with them.
fn remove(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::hierarchies;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found: Vec<&str> = hierarchies(mounts).collect();
        assert_eq!(found, ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"]);
    }
}
