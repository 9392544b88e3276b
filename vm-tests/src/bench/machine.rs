//! What a reader must know about the machine to judge the numbers: processor, cores, memory, kernel release.
//! No names of hosts, users or directories.

use std::fs;

/// In one line.
pub(super) fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| rest.trim_start_matches(['\t', ' ', ':']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo");
    let kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let gib = kib.unwrap_or_default().div_ceil(1 << 20);
    // The first two numbers: builds add names of their own.
    let release = read("/proc/sys/kernel/osrelease");
    let kernel: Vec<_> = release.split('.').take(2).collect();
    format!("{model}, {cores} cores, {gib} GiB, Linux {}", kernel.join("."))
}
