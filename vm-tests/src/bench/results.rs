//! What was measured, by table, and what performance.json keeps of it: tables that a run leaves out stay as an earlier
//! run left them. It must never mix two runs in one table.

use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::contender::Contender;
use super::table::{Cells, Line, Table};
use super::{Options, first_line, machine};

pub(super) const FILE: &str = "performance.json";

/// When, where and how something was measured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Run {
    /// `2026-01-31`, UTC.
    pub(super) date: Option<String>,
    pub(super) command: String,
    pub(super) machine: String,
    /// passt's version.
    pub(super) peer: String,
    /// Of each measurement of traffic.
    pub(super) seconds: f64,
    pub(super) repetitions: u64,
}

impl Run {
    /// This one.
    pub(super) fn now(options: &Options) -> Self {
        Self {
            date: Some(first_line(Command::new("date").args(["--utc", "+%F"])))
                .filter(|date| !date.is_empty()),
            command: options.command_line.clone(),
            machine: machine::describe(),
            peer: peer_version(&options.peer),
            seconds: options.seconds,
            repetitions: u64::try_from(options.repetitions).unwrap_or(u64::MAX),
        }
    }

    fn from_json(value: &Value) -> Option<Self> {
        let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
        Some(Self {
            date: text("date"),
            command: text("command")?,
            machine: text("machine")?,
            peer: text("peer")?,
            seconds: value.get("seconds")?.as_f64()?,
            repetitions: value.get("repetitions")?.as_u64()?,
        })
    }
}

/// A table and its numbers.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub(super) run: Rc<Run>,
    pub(super) table: Table,
    /// Perhaps of more than this table.
    pub(super) cells: Rc<Cells>,
}

/// The tables of `known` that a file has; of its lines those it has numbers or excuses for. No file has none.
pub(super) fn read(path: &Path, known: &[Table]) -> anyhow::Result<Vec<Section>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("read {}", path.display()))?,
    };
    let file: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    // Once there was but one run, of everything.
    let runs = file.get("runs").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![file]);
    let mut sections = Vec::new();
    for value in runs {
        let run = Run::from_json(&value).with_context(|| format!("{}: not a run", path.display()))?;
        let run = Rc::new(run);
        let stored = value.get("cells").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for table in known {
            let mut table = table.clone();
            let mut cells = Cells::default();
            let row_and_lines = std::mem::take(&mut table.lines).into_iter();
            table.lines = row_and_lines.filter(|line| restore(&table, line, stored, &mut cells)).collect();
            if !table.lines.is_empty() {
                sections.push(Section { run: Rc::clone(&run), table, cells: Rc::new(cells) });
            }
        }
    }
    Ok(sections)
}

/// Whether there was anything to restore.
fn restore(table: &Table, line: &Line, stored: &[Value], cells: &mut Cells) -> bool {
    let row = table.row(line.probe);
    let is = |cell: &Value, name: &str, text: &str| cell.get(name).and_then(Value::as_str) == Some(text);
    let mut found = false;
    for cell in stored.iter().filter(|cell| is(cell, "row", &row) && is(cell, "number", line.number)) {
        let Some(&contender) =
            table.contenders.iter().find(|contender| is(cell, "contender", contender.name()))
        else {
            continue;
        };
        found = true;
        let samples = cell.get("samples").and_then(Value::as_array).into_iter().flatten();
        let samples = samples.filter_map(Value::as_f64).collect();
        cells.set_samples(contender, line.probe, line.number, samples);
        if let Some(note) = cell.get("note").and_then(Value::as_str) {
            cells.excuse(contender, line.probe, note);
        }
    }
    found
}

/// `fresh` and, of tables that it lacks, `stored`, in the order of `known`.
pub(super) fn merge(fresh: Vec<Section>, stored: Vec<Section>, known: &[Table]) -> Vec<Section> {
    let all: Vec<Section> = fresh.into_iter().chain(stored).collect();
    let of = |table: &Table| all.iter().find(|section| section.table.heading == table.heading).cloned();
    known.iter().filter_map(of).collect()
}

/// The whole file.
pub(super) fn to_json(sections: &[Section]) -> Value {
    let mut runs: Vec<(&Run, Vec<Value>)> = Vec::new();
    for section in sections {
        let cells = cells_to_json(section);
        match runs.iter_mut().find(|(run, _)| *run == &*section.run) {
            Some((_, others)) => others.extend(cells),
            None => runs.push((&section.run, cells)),
        }
    }
    let runs = runs.into_iter().map(|(run, cells)| {
        json!({
            "date": run.date,
            "command": run.command,
            "machine": run.machine,
            "peer": run.peer,
            "seconds": run.seconds,
            "repetitions": run.repetitions,
            "cells": cells,
        })
    });
    json!({ "runs": runs.collect::<Vec<_>>() })
}

fn cells_to_json(section: &Section) -> Vec<Value> {
    let Section { table, cells, .. } = section;
    let cell = |line: &Line, contender: Contender| {
        json!({
            "row": table.row(line.probe),
            "number": line.number,
            "unit": line.unit,
            "contender": contender.name(),
            "median": cells.median(contender, line.probe, line.number),
            "samples": cells.samples(contender, line.probe, line.number),
            "note": cells.excuse_of(contender, line.probe),
        })
    };
    let of_line = |line| table.contenders.iter().map(move |&contender| cell(line, contender));
    table.lines.iter().flat_map(of_line).collect()
}

/// What passt says of itself, and what the distribution calls it, where it is the distribution's.
fn peer_version(peer: &Path) -> String {
    let own = first_line(Command::new(peer).arg("--version"));
    let own: Vec<_> = own.split_whitespace().filter(|word| !word.starts_with('/')).collect();
    let package = if peer.starts_with("/usr/bin") {
        first_line(Command::new("dpkg-query").args(["--show", "passt"])).replace('\t', " ")
    } else {
        String::new()
    };
    format!("\"{}\" {package}", own.join(" ")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::contender::Contender;
    use super::super::probe::{Numbers, Probe};
    use super::super::table::{Cells, TAP, tables};
    use super::{Run, Section, merge, read, to_json};

    fn run(date: &str) -> Rc<Run> {
        Rc::new(Run {
            date: Some(date.to_owned()),
            command: "bench".to_owned(),
            machine: "machine".to_owned(),
            peer: "passt".to_owned(),
            seconds: 0.5,
            repetitions: 2,
        })
    }

    /// One line of each table whose heading is among `headings`.
    fn sections(date: &str, request_us: f64, headings: &[&str]) -> Vec<Section> {
        let mut cells = Cells::default();
        cells.add(TAP, Probe::Rr, &Numbers::from([("p50_us", request_us)]));
        cells.add(Contender::Sidecar, Probe::Life, &Numbers::from([("ready_ms", 3.5)]));
        cells.excuse(Contender::Relay, Probe::Rr, "too slow");
        let (run, cells) = (run(date), Rc::new(cells));
        let wanted = tables().into_iter().filter(|table| headings.contains(&table.heading));
        let section = |mut table: super::Table| {
            table.lines.retain(|line| ["p50_us", "ready_ms"].contains(&line.number));
            table.lines.truncate(1);
            Section { run: Rc::clone(&run), table, cells: Rc::clone(&cells) }
        };
        wanted.map(section).collect()
    }

    const TAPS: &str = "A kernel on a tap as the guest";
    const CABLES: &str = "A kernel over vhost-user as the guest";
    const SIDECAR: &str = "The sidecar";

    #[test]
    fn tables_that_are_not_measured_stay_with_their_run_and_numbers() {
        let directory = std::env::temp_dir().join(format!("bench-results-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join(super::FILE);
        assert!(read(&path, &tables()).unwrap().is_empty());

        let old = to_json(&sections("2026-01-01", 1.0, &[TAPS, CABLES]));
        std::fs::write(&path, old.to_string()).unwrap();
        let fresh = sections("2026-02-02", 2.0, &[CABLES, SIDECAR]);
        let merged = merge(fresh, read(&path, &tables()).unwrap(), &tables());
        std::fs::write(&path, to_json(&merged).to_string()).unwrap();
        let merged = read(&path, &tables()).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();

        let merged = merge(Vec::new(), merged, &tables());
        let told: Vec<_> = merged
            .iter()
            .map(|section| {
                let date = section.run.date.clone().unwrap_or_default();
                (section.table.heading, date, section.cells.median(TAP, Probe::Rr, "p50_us"))
            })
            .collect();
        let expected = [
            (TAPS, "2026-01-01".to_owned(), Some(1.0)),
            (CABLES, "2026-02-02".to_owned(), Some(2.0)),
            (SIDECAR, "2026-02-02".to_owned(), None),
        ];
        assert_eq!(told, expected);
        let of_taps = merged.first().unwrap();
        assert_eq!(of_taps.cells.excuse_of(Contender::Relay, Probe::Rr), Some("too slow"));
        let of_sidecar = merged.last().unwrap();
        assert_eq!(of_sidecar.cells.minimum(Contender::Sidecar, Probe::Life, "ready_ms"), Some(3.5));
    }

    #[test]
    fn file_of_one_run_without_a_date_is_read() {
        let mut file = to_json(&sections("", 1.0, &[TAPS]));
        let mut run = file.pointer_mut("/runs/0").unwrap().take();
        run.as_object_mut().unwrap().remove("date");
        let path = std::env::temp_dir().join(format!("bench-one-run-{}.json", std::process::id()));
        std::fs::write(&path, run.to_string()).unwrap();
        let sections = read(&path, &tables()).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(sections.len(), 1);
        assert_eq!(sections.first().unwrap().run.date, None);
    }
}
