//! The benchmark: the same traffic through passt-rs, the kernel's NAT path, a plain user-space relay, and passt,
//! in turns on the same machine, because only ratios of one run mean anything; a sidecar's life; a CNI plugin's calls.

mod contender;
mod plug;
mod process;
mod probe;
mod life;
mod plugin_calls;
mod wire;
mod table;
mod results;
mod chart;
mod machine;
mod document;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;

use anyhow::Context as _;

use contender::{Contender, Programs, Running};
use probe::{Numbers, Probe};
use results::{Run, Section};
use table::{Cells, Table};

/// What to compare, and how thoroughly.
#[derive(Debug, Clone)]
pub struct Options {
    /// passt's binary.
    pub peer: PathBuf,
    pub passt_rs: PathBuf,
    /// Only rows whose name contains this.
    pub rows: Option<String>,
    /// Of each run.
    pub seconds: f64,
    /// Of each run; the table shows the median.
    pub repetitions: usize,
    /// Where performance.md, .svg and .json go. Tables of a .json that is there, and are not measured, stay.
    pub output: PathBuf,
    /// What the reader types to do the same.
    pub command_line: String,
}

/// Who runs a probe, in turns.
type Plan = BTreeMap<Probe, BTreeSet<Contender>>;

/// Measures everything, prints the tables, and writes them down.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let known = table::tables();
    let mut tables = known.clone();
    if let Some(filter) = &options.rows {
        for table in &mut tables {
            table.keep_rows(filter);
        }
        tables.retain(|table| !table.lines.is_empty());
        anyhow::ensure!(!tables.is_empty(), "--rows: no row's name contains {filter:?}");
    }

    // Not found out after all the measuring.
    let output = &options.output;
    std::fs::create_dir_all(output).with_context(|| format!("create {}", output.display()))?;
    let stored = results::read(&output.join(results::FILE), &known)?;

    let bench = Bench { options, programs: Programs { peer: &options.peer, ours: &options.passt_rs } };
    let mut cells = Cells::default();
    let mut in_turns = BTreeMap::<_, Plan>::new();
    let mut fresh = Plan::new();
    for (probe, contenders) in bench.plan(&tables, &mut cells) {
        for contender in contenders {
            // Emulated guests would disturb the others.
            let plan = match probe.wants_fresh_start() {
                true => &mut fresh,
                false => in_turns.entry((contender.is_emulated(), probe.mtu())).or_default(),
            };
            plan.entry(probe).or_default().insert(contender);
        }
    }
    for ((_, mtu), plan) in in_turns {
        bench.measure_in_turns(mtu, &plan, &mut cells);
    }
    bench.measure_fresh(&fresh, &mut cells);

    let (run, cells) = (Rc::new(Run::now(options)), Rc::new(cells));
    let section = |table| Section { run: Rc::clone(&run), table, cells: Rc::clone(&cells) };
    let measured: Vec<_> = tables.into_iter().map(section).collect();
    document::print(&measured);
    let all = results::merge(measured.clone(), stored, &known);
    document::write(output, &measured, &all).with_context(|| format!("write to {}", output.display()))
}

struct Bench<'a> {
    options: &'a Options,
    programs: Programs<'a>,
}

impl Bench<'_> {
    /// What the tables need; a cell that cannot be filled is excused instead.
    fn plan(&self, tables: &[Table], cells: &mut Cells) -> Plan {
        let mut plan = Plan::new();
        for table in tables {
            for &contender in table.contenders {
                let lacks = contender.lacks(&self.programs);
                for probe in table.lines.iter().map(|line| line.probe) {
                    match lacks.or_else(|| probe.cannot(contender)) {
                        Some(reason) => cells.excuse(contender, probe, reason),
                        None => {
                            plan.entry(probe).or_default().insert(contender);
                        }
                    }
                }
            }
        }
        plan
    }

    /// Every contender stays up; each repetition of each probe visits them all.
    fn measure_in_turns(&self, mtu: u32, plan: &Plan, cells: &mut Cells) {
        let contenders: BTreeSet<Contender> = plan.values().flatten().copied().collect();
        let running: BTreeMap<_, _> = contenders
            .into_iter()
            .map(|contender| (contender, contender.start(&self.programs, mtu)))
            .collect();
        for (&probe, contenders) in plan {
            for _ in 0..self.options.repetitions {
                let visited = running.iter().filter(|(contender, _)| contenders.contains(contender));
                for (&contender, running) in visited {
                    self.measure(contender, probe, running.as_ref(), cells);
                }
            }
        }
    }

    /// Each repetition starts every contender anew.
    fn measure_fresh(&self, plan: &Plan, cells: &mut Cells) {
        for (&probe, contenders) in plan {
            for _ in 0..self.options.repetitions {
                for &contender in contenders {
                    let running = contender.start(&self.programs, probe.mtu());
                    self.measure(contender, probe, running.as_ref(), cells);
                }
            }
        }
    }

    fn measure(
        &self,
        contender: Contender,
        probe: Probe,
        running: Result<&Running, &anyhow::Error>,
        cells: &mut Cells,
    ) {
        let result = match running {
            Ok(running) => probe.run(running, self.options.seconds),
            Err(error) => Err(anyhow::anyhow!("does not start: {error:#}")),
        };
        progress(contender, probe, &result);
        match result {
            Ok(numbers) => cells.add(contender, probe, &numbers),
            Err(error) => cells.excuse(contender, probe, &self.without_paths(&format!("{error:#}"))),
        }
    }

    /// A page must not name the directories of the machine it was made on.
    fn without_paths(&self, text: &str) -> String {
        [&self.options.peer, &self.options.passt_rs].iter().fold(text.to_owned(), |text, path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            text.replace(&path.display().to_string(), &name)
        })
    }
}

/// A benchmark of many minutes must show that it lives.
fn progress(contender: Contender, probe: Probe, result: &anyhow::Result<Numbers>) {
    let text = match result {
        Ok(numbers) => {
            let numbers: Vec<_> = numbers.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
            numbers.join(", ")
        }
        Err(error) => format!("{error:#}"),
    };
    eprintln!("{:<20} {:<20} {text}", probe.id(), contender.name());
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned()
}
