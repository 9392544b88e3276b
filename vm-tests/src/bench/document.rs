//! The results as people and programs read them: a table on the terminal, performance.md with the same table and a
//! picture, and every sample in performance.json.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::chart;
use super::contender::Contender;
use super::results::{FILE, Run, Section, to_json};
use super::table::{Columns, Line, ON_A_TAP, Table, Target};

/// Prints tables.
#[expect(clippy::print_stdout, reason = "the table is what was asked for")]
pub(super) fn print(measured: &[Section]) {
    println!("{}", all_tables(measured).trim_end());
}

/// Writes the page and the samples of all tables, and the picture if what it shows was `measured`.
pub(super) fn write(directory: &Path, measured: &[Section], all: &[Section]) -> anyhow::Result<()> {
    fs::write(directory.join("performance.md"), page(all))?;
    if let Some(drawn) = measured.iter().find(|section| is_drawn(&section.table)) {
        fs::write(directory.join("performance.svg"), chart::draw(&drawn.cells))?;
    }
    fs::write(directory.join(FILE), format!("{:#}\n", to_json(all)))?;
    Ok(())
}

/// Not all that the picture shows is in a table, so it cannot be drawn later.
fn is_drawn(table: &Table) -> bool {
    table.contenders == ON_A_TAP
}

fn page(sections: &[Section]) -> String {
    let picture = if sections.iter().any(|section| is_drawn(&section.table)) {
        "![TCP throughput and request rates of the four contenders](performance.svg)\n\n"
    } else {
        ""
    };
    format!(
        "# Performance\n\n\
         Made by `cargo xtask bench`; do not edit. Every repetition visits all contenders in turn, because timings of\n\
         one machine drift by tens of percent; compare within a line only. Each contender has a lab of its own: the\n\
         outside, a pod behind a veth, and a guest. All programs share CUBIC and the kernel's default buffer sizes.\n\n\
         {picture}\
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
         - *sidecar*: in a container as KubeVirt's, with an interface whose ports are listed, called as virt-launcher\n\
           does, on a connection of its own each time. It starts when its program does: its container is there. No\n\
           VM runs, so its resident memory, all of which counts, is that of a sidecar whose calls have been made.\n\
         - Resident memory of a translator is what it shares with nobody and what it has mapped of files: no pages of\n\
           a guest.\n\
         - A translator may have 20 000 descriptors, as in a pod.\n\
         - \"CPU of the whole machine\" counts both ends of the traffic too, and whatever else ran.\n\n\
         Where the time of passt-rs goes over vhost-user, by perf, one stream at MTU 1500: towards the outside\n\
         42 % is the kernel copying from the guest's memory into socket buffers, 18 % waking and being woken, 30 %\n\
         the rest of the kernel's TCP and veth, under 8 % our own code. Towards the guest the kernel's copy is 57 %.\n\
         The translator uses less of the processor than on a tap; what the rig loses against the tap is its own hop.\n\
         So the next bottleneck is that one copy, which zero-copy sends would spare, and behind it the one thread.\n\n\
         All samples are in [performance.json](performance.json).\n",
        tables = all_tables(sections),
    )
}

fn all_tables(sections: &[Section]) -> String {
    let mut notes = Notes::default();
    let mut text = String::new();
    for section in sections {
        let _ = writeln!(text, "## {}\n\n{}\n", section.table.heading, circumstances(section));
        write_table(section, &mut text, &mut notes);
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

/// When, where and how a table was measured: tables of one page need not be of one run.
fn circumstances(section: &Section) -> String {
    let Run { date, command, machine, peer, seconds, repetitions } = &*section.run;
    let date = date.as_ref().map(|date| format!("{date}, ")).unwrap_or_default();
    let runs = if *repetitions == 1 { "one run".to_owned() } else { format!("{repetitions} runs") };
    let runs = match (section.table.columns, *repetitions) {
        (Columns::Contenders, 1) => format!("{runs} of {seconds} s"),
        (Columns::Contenders, _) => format!("medians of {runs} of {seconds} s each"),
        (Columns::Spread, _) => runs,
    };
    let is_peer = |contender: &Contender| matches!(contender, Contender::Peer(_));
    let peer = if section.table.contenders.iter().any(is_peer) {
        format!(" passt is {peer}.")
    } else {
        String::new()
    };
    format!("{date}`{command}`: {runs}.\n{machine}.{peer}")
}

fn write_table(section: &Section, text: &mut String, notes: &mut Notes) {
    let Section { table, cells, .. } = section;
    let headings: Vec<_> = match table.columns {
        Columns::Contenders => {
            let names = table.contenders.iter().map(|contender| contender.name().to_owned());
            let ratios = table.references.iter().map(|reference| format!("of {}", reference.short_name()));
            names.chain(ratios).collect()
        }
        Columns::Spread => ["minimum", "median", "maximum"].map(str::to_owned).into(),
    };
    let _ = writeln!(text, "| | {} | target |", headings.join(" | "));
    let _ = writeln!(text, "|---|{}---|", "---:|".repeat(headings.len()));
    for line in &table.lines {
        let unit = if line.unit.is_empty() { String::new() } else { format!(", {}", line.unit) };
        let _ = write!(text, "| {}{unit} |", line.title);
        let median = |contender| cells.median(contender, line.probe, line.number);
        let ours = median(table.ours);
        match table.columns {
            Columns::Contenders => {
                for &contender in table.contenders {
                    let _ = write!(text, " {} |", cell(section, line, contender, notes));
                }
                for &reference in table.references {
                    let _ = write!(text, " {} |", ratio(ours, median(reference)));
                }
            }
            Columns::Spread => {
                let bound = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), shown);
                let minimum = bound(cells.minimum(table.ours, line.probe, line.number));
                let maximum = bound(cells.maximum(table.ours, line.probe, line.number));
                let _ = write!(text, " {minimum} | {} | {maximum} |", cell(section, line, table.ours, notes));
            }
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

fn cell(section: &Section, line: &Line, contender: Contender, notes: &mut Notes) -> String {
    let excuse = section.cells.excuse_of(contender, line.probe);
    let median = section.cells.median(contender, line.probe, line.number);
    match (median, excuse) {
        (Some(median), None) => shown(median),
        (Some(median), Some(excuse)) => {
            format!("{} ({})", shown(median), notes.number(&format!("some runs failed: {excuse}")))
        }
        (None, Some(excuse)) => format!("- ({})", notes.number(excuse)),
        (None, None) => "-".to_owned(),
    }
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
