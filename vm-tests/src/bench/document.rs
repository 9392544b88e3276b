//! The results as people and programs read them: a table on the terminal, performance.md with the same table and a
//! picture, and every sample in performance.json.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde_json::json;

use super::contender::Contender;
use super::table::{Cells, Line, Table, Target};
use super::{Options, chart, machine};

#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) options: &'a Options,
    pub(super) tables: &'a [Table],
    pub(super) cells: &'a Cells,
}

impl Report<'_> {
    #[expect(clippy::print_stdout, reason = "the table is what was asked for")]
    pub(super) fn print(&self) {
        println!("{}", self.all_tables());
    }

    pub(super) fn write(&self) -> anyhow::Result<()> {
        let directory = &self.options.output;
        fs::create_dir_all(directory)?;
        fs::write(directory.join("performance.md"), self.page())?;
        fs::write(directory.join("performance.svg"), chart::draw(self.cells))?;
        fs::write(directory.join("performance.json"), format!("{:#}\n", self.samples()))?;
        Ok(())
    }

    fn page(&self) -> String {
        format!(
            "# Performance\n\n\
             Made by `{command}`; do not edit. Medians of {repetitions} runs of {seconds} s each. Every repetition\n\
             visits all contenders in turn, because timings of one machine drift by tens of percent; compare within\n\
             a line only. Each contender has a lab of its own: the outside, a pod behind a veth, and a guest.\n\n\
             Machine: {machine}. All programs share CUBIC and the kernel's default buffer sizes.\n\
             passt is {peer}.\n\n\
             ![TCP throughput and request rates of the four contenders](performance.svg)\n\n\
             {tables}\
             ## Who is who\n\n\
             - *passt*, *passt-rs*: the guest is the kernel's own TCP/IP on a tap of the translator's; that of the\n\
               next two is on a second veth.\n\
             - *kernel NAT*: the pod's kernel forwards and translates, as KubeVirt's masquerade binding has it.\n\
             - *plain relay*: one thread reads up to 64 KiB from one socket and writes them to another; the guest\n\
               connects to the relay itself, so no frame is ever translated. The most a translator can hope for.\n\
             - *vhost-user*: the guest is the kernel's own TCP/IP on a tap that a program connects to the translator's\n\
               vhost-user socket, as a driver at native speed would: one hop and one copy more than on a tap.\n\
             - *VM*: QEMU without hardware virtualisation; the guest, not the translator, is the slower end.\n\
             - Resident memory is what the translator shares with nobody and what it has mapped of files: no pages of\n\
               a guest.\n\
             - A translator may have 20 000 descriptors, as in a pod.\n\
             - \"CPU of the whole machine\" counts both ends of the traffic too, and whatever else ran.\n\n\
             Where the time of passt-rs goes over vhost-user, by perf, one stream at MTU 1500: towards the outside\n\
             42 % is the kernel copying from the guest's memory into socket buffers, 18 % waking and being woken, 30 %\n\
             the rest of the kernel's TCP and veth, under 8 % our own code. Towards the guest the kernel's copy is 57 %.\n\
             The translator uses less of the processor than on a tap; what the rig loses against the tap is its own hop.\n\
             So the next bottleneck is that one copy, which zero-copy sends would spare, and behind it the one thread.\n\n\
             All samples are in [performance.json](performance.json).\n",
            command = self.options.command_line,
            repetitions = self.options.repetitions,
            seconds = self.options.seconds,
            machine = machine::describe(),
            peer = self.peer_version(),
            tables = self.all_tables(),
        )
    }

    fn all_tables(&self) -> String {
        let mut notes = Notes::default();
        let mut text = String::new();
        for table in self.tables {
            let _ = writeln!(text, "## {}\n", table.heading);
            self.write_table(table, &mut text, &mut notes);
            text.push('\n');
        }
        for (number, note) in notes.texts.iter().enumerate() {
            let _ = writeln!(text, "{}. {note}", number + 1);
        }
        if !notes.texts.is_empty() {
            text.push('\n');
        }
        text
    }

    fn write_table(&self, table: &Table, text: &mut String, notes: &mut Notes) {
        let names = table.contenders.iter().map(|contender| contender.name().to_owned());
        let ratios = table.references.iter().map(|reference| format!("of {}", reference.short_name()));
        let headings: Vec<_> = names.chain(ratios).collect();
        let _ = writeln!(text, "| | {} | target |", headings.join(" | "));
        let _ = writeln!(text, "|---|{}---|", "---:|".repeat(headings.len()));
        for line in &table.lines {
            let unit = if line.unit.is_empty() { String::new() } else { format!(", {}", line.unit) };
            let _ = write!(text, "| {}{unit} |", line.title);
            for &contender in table.contenders {
                let _ = write!(text, " {} |", self.cell(line, contender, notes));
            }
            let median = |contender| self.cells.median(contender, line.probe, line.number);
            let ours = median(table.ours);
            for &reference in table.references {
                let _ = write!(text, " {} |", ratio(ours, median(reference)));
            }
            let verdict = |target: &Target| {
                let mark = match target.is_met(ours, median) {
                    Some(true) => "✓",
                    Some(false) => "✗",
                    None => "?",
                };
                format!("{} {mark}", target.text())
            };
            let targets: Vec<_> = line.targets.iter().map(verdict).collect();
            let _ = writeln!(text, " {} |", targets.join(", "));
        }
    }

    fn cell(&self, line: &Line, contender: Contender, notes: &mut Notes) -> String {
        let excuse = self.cells.excuse_of(contender, line.probe);
        let median = self.cells.median(contender, line.probe, line.number);
        match (median, excuse) {
            (Some(median), None) => shown(median),
            (Some(median), Some(excuse)) => {
                format!("{} ({})", shown(median), notes.number(&format!("some runs failed: {excuse}")))
            }
            (None, Some(excuse)) => format!("- ({})", notes.number(&self.without_paths(excuse))),
            (None, None) => "-".to_owned(),
        }
    }

    /// A page must not name the directories of the machine it was made on.
    fn without_paths(&self, text: &str) -> String {
        [&self.options.peer, &self.options.passt_rs].iter().fold(text.to_owned(), |text, path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            text.replace(&path.display().to_string(), &name)
        })
    }

    /// What it says of itself, and what the distribution calls it, where it is the distribution's.
    fn peer_version(&self) -> String {
        let peer = &self.options.peer;
        let own = first_line(Command::new(peer).arg("--version"));
        let own: Vec<_> = own.split_whitespace().filter(|word| !word.starts_with('/')).collect();
        let package = if peer.starts_with("/usr/bin") {
            first_line(Command::new("dpkg-query").args(["--show", "passt"])).replace('\t', " ")
        } else {
            String::new()
        };
        format!("\"{}\" {package}", own.join(" ")).trim_end().to_owned()
    }

    fn samples(&self) -> serde_json::Value {
        let mut cells = Vec::new();
        let rows = self.tables.iter().flat_map(|table| table.lines.iter().map(move |line| (table, line)));
        for (table, line) in rows {
            for &contender in table.contenders {
                cells.push(json!({
                    "row": table.row(line.probe),
                    "number": line.number,
                    "unit": line.unit,
                    "contender": contender.name(),
                    "median": self.cells.median(contender, line.probe, line.number),
                    "samples": self.cells.samples(contender, line.probe, line.number),
                    "note": self.cells.excuse_of(contender, line.probe).map(|text| self.without_paths(text)),
                }));
            }
        }
        json!({
            "command": self.options.command_line,
            "machine": machine::describe(),
            "peer": self.peer_version(),
            "seconds": self.options.seconds,
            "repetitions": self.options.repetitions,
            "cells": cells,
        })
    }
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned()
}

/// A note says why, not everything a log says.
const NOTE_CHARACTERS: usize = 300;

/// Footnotes, each text once.
#[derive(Debug, Default)]
struct Notes {
    texts: Vec<String>,
}

impl Notes {
    fn number(&mut self, text: &str) -> usize {
        let text = text.replace(['\n', '|'], " ").chars().take(NOTE_CHARACTERS).collect::<String>();
        if let Some(at) = self.texts.iter().position(|known| *known == text) {
            return at + 1;
        }
        self.texts.push(text);
        self.texts.len()
    }
}

fn ratio(ours: Option<f64>, other: Option<f64>) -> String {
    match (ours, other) {
        (Some(ours), Some(other)) if other > 0.0 => format!("{}×", shown(ours / other)),
        _ => "-".to_owned(),
    }
}

/// Three significant digits.
fn shown(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
