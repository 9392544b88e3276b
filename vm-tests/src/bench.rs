//! The benchmark: the same traffic through passt-rs, the kernel's NAT path, a plain user-space relay, and passt,
//! in turns on the same machine, because only ratios of one run mean anything.

mod contender;
mod process;
mod probe;
mod table;
mod chart;
mod machine;
mod document;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;

use contender::{Contender, Running};
use probe::{Numbers, Probe};
use table::Cells;

/// What to compare, and how thoroughly.
#[derive(Debug, Clone)]
pub struct Options {
    /// passt's binary.
    pub peer: PathBuf,
    pub passt_rs: PathBuf,
    /// Only probes whose id contains this.
    pub rows: Option<String>,
    /// Of each run.
    pub seconds: f64,
    /// Of each run; the table shows the median.
    pub repetitions: usize,
    /// Where performance.md, .svg and .json go.
    pub output: PathBuf,
    /// What the reader types to do the same.
    pub command_line: String,
}

/// Measures everything, prints the table, and writes it down.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let contenders = [
        Contender::KernelNat,
        Contender::Relay,
        Contender::Peer(options.peer.clone()),
        Contender::Ours(options.passt_rs.clone()),
    ];
    let mut probes: Vec<Probe> = table::lines().into_iter().map(|line| line.probe).collect();
    probes.sort_unstable();
    probes.dedup();
    probes.retain(|probe| options.rows.as_ref().is_none_or(|filter| probe.id().contains(filter)));
    anyhow::ensure!(!probes.is_empty(), "--rows: no row's name contains {:?}", options.rows);

    let mut cells = Cells::default();
    let mut by_mtu = BTreeMap::<u32, Vec<Probe>>::new();
    for probe in probes.iter().copied().filter(|probe| !probe.wants_fresh_start()) {
        by_mtu.entry(probe.mtu()).or_default().push(probe);
    }
    for (mtu, probes) in by_mtu {
        measure_in_turns(&contenders, mtu, &probes, options, &mut cells);
    }
    for probe in probes.into_iter().filter(|probe| probe.wants_fresh_start()) {
        measure_fresh(&contenders, probe, options, &mut cells);
    }

    let report = document::Report { options, contenders: &contenders, cells: &cells };
    report.print();
    report.write().with_context(|| format!("write to {}", options.output.display()))
}

/// Every contender stays up; each repetition of each probe visits them all.
fn measure_in_turns(
    contenders: &[Contender],
    mtu: u32,
    probes: &[Probe],
    options: &Options,
    cells: &mut Cells,
) {
    let running: Vec<_> = contenders.iter().map(|contender| contender.start(mtu)).collect();
    for &probe in probes {
        for _ in 0..options.repetitions {
            for (contender, running) in contenders.iter().zip(&running) {
                measure(contender, probe, running.as_ref(), options, cells);
            }
        }
    }
}

/// Each repetition starts every contender anew.
fn measure_fresh(contenders: &[Contender], probe: Probe, options: &Options, cells: &mut Cells) {
    for _ in 0..options.repetitions {
        for contender in contenders {
            if let Some(reason) = probe.cannot(contender) {
                cells.excuse(contender, probe, reason);
                continue;
            }
            let running = contender.start(probe.mtu());
            measure(contender, probe, running.as_ref(), options, cells);
        }
    }
}

fn measure(
    contender: &Contender,
    probe: Probe,
    running: Result<&Running, &anyhow::Error>,
    options: &Options,
    cells: &mut Cells,
) {
    if let Some(reason) = probe.cannot(contender) {
        cells.excuse(contender, probe, reason);
        return;
    }
    let result = match running {
        Ok(running) => probe.run(running, options.seconds),
        Err(error) => Err(anyhow::anyhow!("does not start: {error:#}")),
    };
    progress(contender, probe, &result);
    match result {
        Ok(numbers) => cells.add(contender, probe, &numbers),
        Err(error) => cells.excuse(contender, probe, &format!("{error:#}")),
    }
}

/// A benchmark of many minutes must show that it lives.
fn progress(contender: &Contender, probe: Probe, result: &anyhow::Result<Numbers>) {
    let text = match result {
        Ok(numbers) => {
            let numbers: Vec<_> = numbers.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
            numbers.join(", ")
        }
        Err(error) => format!("{error:#}"),
    };
    eprintln!("{:<20} {:<12} {text}", probe.id(), contender.name());
}
