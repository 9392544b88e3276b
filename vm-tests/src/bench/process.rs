//! What the kernel says a process, or the whole machine, has used.

use std::fs;

use anyhow::Context as _;

/// CPU seconds the threads of a process have used, in user and kernel mode, as the scheduler counts them: finer than the
/// clock ticks of `stat`. No contender's threads end before it does.
pub(super) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let mut nanoseconds = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("read its threads")? {
        let path = thread.context("read its threads")?.path().join("schedstat");
        let text = fs::read_to_string(path).context("read its CPU time")?;
        let used: f64 = text.split_whitespace().next().unwrap_or_default().parse().context("its CPU time")?;
        nanoseconds += used;
    }
    Ok(nanoseconds / 1e9)
}

/// CPU seconds everything on the machine has used.
pub(super) fn machine_cpu_seconds() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("read the machine's CPU time")?;
    let line = stat.lines().next().unwrap_or_default();
    let columns = line.split_whitespace().skip(1).filter_map(|ticks| ticks.parse::<u64>().ok());
    // user nice system idle iowait irq softirq steal; what follows is contained in user and nice.
    let busy =
        columns.take(8).enumerate().filter(|(column, _)| ![3, 4, 7].contains(column)).map(|(_, ticks)| ticks);
    Ok(seconds(busy.sum()))
}

/// Memory in use, in MiB, but for what it shares: a guest's pages are not the translator's.
pub(super) fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read its memory")?;
    let mut kib = 0.0;
    for name in ["RssAnon:", "RssFile:"] {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("its resident memory")?;
        let part: f64 = line.trim().trim_end_matches(" kB").parse().context("its resident memory")?;
        kib += part;
    }
    Ok(kib / 1024.0)
}

/// Open descriptors.
pub(super) fn descriptors(pid: u32) -> anyhow::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd")).context("read its descriptors")?.count())
}

fn seconds(ticks: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a measurement has fewer than 53 significant bits")]
    let (ticks, per_second) = (ticks as f64, rustix::param::clock_ticks_per_second() as f64);
    ticks / per_second
}
