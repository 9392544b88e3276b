//! Removes what killed labs left behind: namespaces and folders named after a process that no longer exists.
//!
//! A lab cleans up after itself when it is dropped. One that was killed cannot; its names carry its process id.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Labs name everything `sluice-PID-...` (`vm-tests`).
const PREFIX: &str = "sluice-";

/// Where `ip netns` keeps names.
const NAMESPACES: &str = "/run/netns";

pub(crate) fn run() {
    for name in stale(Path::new(NAMESPACES)) {
        eprintln!("xtask: removing the network namespace {name}, left by a lab that was killed");
        let _ = Command::new("ip").args(["netns", "delete", &name]).status();
    }
    let folder = std::env::temp_dir();
    for name in stale(&folder) {
        let _ = fs::remove_dir_all(folder.join(name));
    }
}

fn stale(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| owner(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()))
        .collect()
}

/// The process id in a lab's name.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_is_the_process_id_after_the_prefix() {
        assert_eq!(owner("sluice-123-1-pod"), Some(123));
        assert_eq!(owner("sluice-demo"), None);
        assert_eq!(owner("cni-123-1"), None);
    }
}
