//! What the numbers are compared by: the lines of the table, medians, ratios, and the targets they must meet.
//! It must never measure.

mod vhost_user;
mod sidecar;
mod cni;

use std::collections::BTreeMap;

use super::contender::{Contender, Guest};
use super::probe::{Direction, Numbers, Probe};

/// Every sample of every cell, and why cells are empty.
#[derive(Debug, Default)]
pub(super) struct Cells {
    samples: BTreeMap<(Contender, Probe, &'static str), Vec<f64>>,
    excuses: BTreeMap<(Contender, Probe), String>,
}

impl Cells {
    pub(super) fn add(&mut self, contender: Contender, probe: Probe, numbers: &Numbers) {
        for (&number, &value) in numbers {
            self.samples.entry((contender, probe, number)).or_default().push(value);
        }
    }

    /// Instead of those there are.
    pub(super) fn set_samples(
        &mut self,
        contender: Contender,
        probe: Probe,
        number: &'static str,
        samples: Vec<f64>,
    ) {
        self.samples.insert((contender, probe, number), samples);
    }

    pub(super) fn excuse(&mut self, contender: Contender, probe: Probe, reason: &str) {
        self.excuses.insert((contender, probe), reason.to_owned());
    }

    pub(super) fn samples(&self, contender: Contender, probe: Probe, number: &'static str) -> &[f64] {
        self.samples.get(&(contender, probe, number)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn median(&self, contender: Contender, probe: Probe, number: &'static str) -> Option<f64> {
        let mut samples = self.samples(contender, probe, number).to_vec();
        samples.sort_unstable_by(f64::total_cmp);
        let upper = samples.get(samples.len() / 2)?;
        let lower = samples.get((samples.len() - 1) / 2)?;
        Some(f64::midpoint(*lower, *upper))
    }

    pub(super) fn minimum(&self, contender: Contender, probe: Probe, number: &'static str) -> Option<f64> {
        self.samples(contender, probe, number).iter().copied().min_by(f64::total_cmp)
    }

    pub(super) fn maximum(&self, contender: Contender, probe: Probe, number: &'static str) -> Option<f64> {
        self.samples(contender, probe, number).iter().copied().max_by(f64::total_cmp)
    }

    /// Why there is no number, or that some repetitions failed.
    pub(super) fn excuse_of(&self, contender: Contender, probe: Probe) -> Option<&str> {
        self.excuses.get(&(contender, probe)).map(String::as_str)
    }
}

/// What is wanted of passt-rs in a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    Least(f64),
    Most(f64),
    /// Times this contender's number.
    LeastOf(Contender, f64),
    MostOf(Contender, f64),
    /// Times this contender's number, or the last number: where another does all there is to do, nobody can do more.
    LeastOfOr(Contender, f64, f64),
}

impl Target {
    pub(super) fn text(self) -> String {
        match self {
            Self::Least(limit) => format!("≥ {limit}"),
            Self::Most(limit) => format!("≤ {limit}"),
            Self::LeastOf(other, times) => format!("≥ {times} × {}", other.short_name()),
            Self::MostOf(other, times) => format!("≤ {times} × {}", other.short_name()),
            Self::LeastOfOr(other, times, all) => format!("≥ {times} × {} or {all}", other.short_name()),
        }
    }

    /// Whether it is met; unknown while a number is missing.
    pub(super) fn is_met(
        self,
        ours: Option<f64>,
        number_of: impl Fn(Contender) -> Option<f64>,
    ) -> Option<bool> {
        let ours = ours?;
        Some(match self {
            Self::Least(limit) => ours >= limit,
            Self::Most(limit) => ours <= limit,
            Self::LeastOf(other, times) => ours >= times * number_of(other)?,
            Self::MostOf(other, times) => ours <= times * number_of(other)?,
            Self::LeastOfOr(_, _, all) if ours >= all => true,
            Self::LeastOfOr(other, times, _) => ours >= times * number_of(other)?,
        })
    }
}

/// A line of the table.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) probe: Probe,
    /// Which of the probe's numbers.
    pub(super) number: &'static str,
    pub(super) title: String,
    pub(super) unit: &'static str,
    pub(super) targets: Vec<Target>,
}

impl Line {
    fn new(probe: Probe, number: &'static str, title: impl Into<String>, unit: &'static str) -> Self {
        Self { probe, number, title: title.into(), unit, targets: Vec::new() }
    }

    fn wants(mut self, targets: impl IntoIterator<Item = Target>) -> Self {
        self.targets.extend(targets);
        self
    }
}

/// What a table shows of its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Columns {
    /// Everybody's median, and ratios.
    Contenders,
    /// Minimum, median and maximum of the only one there is.
    Spread,
}

/// Lines that compare the same contenders.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) heading: &'static str,
    /// Begins the names of its rows.
    prefix: &'static str,
    /// Left to right.
    pub(super) contenders: &'static [Contender],
    /// Who is judged.
    pub(super) ours: Contender,
    /// Whom its numbers are divided by, left to right.
    pub(super) references: &'static [Contender],
    pub(super) columns: Columns,
    pub(super) lines: Vec<Line>,
}

impl Table {
    /// A row's name, which `--rows` looks into. Several lines may show one row.
    pub(super) fn row(&self, probe: Probe) -> String {
        format!("{}{}", self.prefix, probe.id())
    }

    /// Drops the lines whose row's name does not contain `text`.
    pub(super) fn keep_rows(&mut self, text: &str) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.retain(|line| self.row(line.probe).contains(text));
        self.lines = lines;
    }
}

/// passt and passt-rs on a tap.
const PEER: Contender = Contender::Peer(Guest::Tap);
pub(super) const TAP: Contender = Contender::Ours(Guest::Tap);

/// Who is drawn, and in the first table.
pub(super) const ON_A_TAP: [Contender; 4] = [Contender::KernelNat, Contender::Relay, PEER, TAP];

/// All tables, top to bottom.
pub(super) fn tables() -> Vec<Table> {
    let mut lines = stream_lines();
    lines.extend(exchange_lines());
    lines.extend(crowd_lines());
    lines.extend(cost_lines());
    let on_a_tap = Table {
        heading: "A kernel on a tap as the guest",
        prefix: "",
        contenders: &ON_A_TAP,
        ours: TAP,
        references: &[Contender::Relay, PEER],
        columns: Columns::Contenders,
        lines,
    };
    vec![
        on_a_tap,
        vhost_user::native(),
        vhost_user::emulated(),
        sidecar::sidecar(),
        cni::wired(),
        cni::calls(),
    ]
}

fn stream_lines() -> Vec<Line> {
    let mut lines = Vec::new();
    for mtu in [1500, 9000, 65520] {
        for flows in [1, 8] {
            for direction in [Direction::Out, Direction::In] {
                let title = format!("TCP stream, {}, MTU {mtu}, {}", way(direction), count(flows));
                let targets = match (mtu, flows) {
                    (1500, 1) => vec![Target::LeastOf(Contender::Relay, 0.75), Target::LeastOf(PEER, 10.0)],
                    (1500, _) => vec![],
                    _ => vec![Target::LeastOf(Contender::Relay, 0.70), Target::LeastOf(PEER, 1.2)],
                };
                let probe = Probe::Stream { direction, mtu, flows };
                lines.push(Line::new(probe, "gbit_per_second", title, "Gbit/s").wants(targets));
            }
        }
    }
    lines
}

fn exchange_lines() -> Vec<Line> {
    let mut lines = vec![
        Line::new(Probe::Rr, "p50_us", "TCP request/response, p50", "µs").wants([Target::MostOf(PEER, 1.0)]),
        Line::new(Probe::Rr, "p99_us", "TCP request/response, p99", "µs"),
        Line::new(Probe::Crr { flows: 1 }, "per_second", "TCP connect/request/response/close", "1/s")
            .wants([Target::LeastOf(PEER, 1.2)]),
        Line::new(Probe::Crr { flows: 8 }, "per_second", "the same by 8 clients at once", "1/s"),
        Line::new(Probe::UdpRr, "p50_us", "UDP request/response, p50", "µs"),
        Line::new(Probe::UdpRr, "p99_us", "UDP request/response, p99", "µs"),
    ];
    for gbit_offered in [2, 8] {
        for direction in [Direction::Out, Direction::In] {
            let way = way(direction);
            let title = format!("UDP stream, {way}, 1400 bytes, {gbit_offered} Gbit/s offered: delivered");
            let probe = Probe::UdpStream { direction, gbit_offered };
            let target = Target::LeastOfOr(PEER, 1.5, 0.99 * f64::from(gbit_offered));
            lines.push(Line::new(probe, "delivered_gbit_per_second", title, "Gbit/s").wants([target]));
        }
    }
    lines
}

fn crowd_lines() -> Vec<Line> {
    let held = Probe::Hold { count: 18_000 };
    let asked = Probe::Hold { count: 25_000 };
    vec![
        Line::new(Probe::Start, "resident_mib", "resident memory at start", "MiB").wants([Target::Most(8.0)]),
        Line::new(held, "established", "18 000 connections asked for: open", ""),
        Line::new(held, "held", "18 000 connections: still open afterwards", ""),
        Line::new(held, "opening_seconds", "18 000 connections: time to open", "s"),
        Line::new(held, "resident_mib", "18 000 connections: resident memory", "MiB")
            .wants([Target::Most(48.0)]),
        Line::new(held, "descriptors_per_connection", "18 000 connections: descriptors for each", "")
            .wants([Target::Most(1.01)]),
        Line::new(held, "rr_during_per_second", "18 000 connections: requests on one", "1/s"),
        Line::new(held, "rr_kept", "18 000 connections: of its request rate before", "×")
            .wants([Target::Least(0.9)]),
        Line::new(asked, "established", "25 000 asked for at 20 000 descriptors: open", ""),
        Line::new(asked, "refused", "25 000 asked for: refused", ""),
        Line::new(asked, "unanswered", "25 000 asked for: left without an answer", "")
            .wants([Target::Most(0.0)]),
        Line::new(asked, "refused_p50_us", "25 000 asked for: time to be refused, p50", "µs"),
        Line::new(asked, "refused_p99_us", "25 000 asked for: time to be refused, p99", "µs"),
        Line::new(asked, "rr_kept", "25 000 asked for: of the request rate before", "×")
            .wants([Target::Least(0.8)]),
        Line::new(asked, "rr_p99_growth", "25 000 asked for: p99 against before", "×")
            .wants([Target::Most(2.0)]),
    ]
}

fn cost_lines() -> Vec<Line> {
    let mut lines = Vec::new();
    for direction in [Direction::Out, Direction::In] {
        let probe = Probe::Stream { direction, mtu: 1500, flows: 1 };
        let title = format!("CPU of the translator, {}, MTU 1500", way(direction));
        lines.push(Line::new(probe, "cpu_seconds_per_gib", title, "s/GiB"));
        let title = format!("CPU of the whole machine, {}, MTU 1500", way(direction));
        lines.push(Line::new(probe, "machine_cpu_seconds_per_gib", title, "s/GiB"));
    }
    lines
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Out => "guest → outside",
        Direction::In => "outside → guest",
    }
}

fn count(flows: usize) -> String {
    if flows == 1 { "1 flow".to_owned() } else { format!("{flows} flows") }
}

#[cfg(test)]
mod tests {
    use super::super::contender::Contender;
    use super::super::probe::{Numbers, Probe};
    use super::{Cells, PEER, Target, tables};

    #[test]
    fn median_of_an_even_number_is_between_the_middle_ones() {
        let mut cells = Cells::default();
        for value in [9.0, 1.0, 3.0, 2.0] {
            cells.add(Contender::Relay, Probe::Rr, &Numbers::from([("p50_us", value)]));
        }
        assert_eq!(cells.median(Contender::Relay, Probe::Rr, "p50_us"), Some(2.5));
        assert_eq!(cells.median(Contender::KernelNat, Probe::Rr, "p50_us"), None);
    }

    #[test]
    fn target_without_a_number_is_neither_met_nor_missed() {
        let number_of = |contender| (contender == Contender::Relay).then_some(25.0);
        let is_met = |target: Target, ours| target.is_met(ours, number_of);
        assert_eq!(is_met(Target::LeastOf(Contender::Relay, 0.75), Some(20.0)), Some(true));
        assert_eq!(is_met(Target::LeastOf(Contender::Relay, 0.75), Some(18.0)), Some(false));
        assert_eq!(is_met(Target::MostOf(PEER, 1.0), Some(18.0)), None);
        assert_eq!(is_met(Target::LeastOfOr(PEER, 1.5, 17.0), Some(18.0)), Some(true));
        assert_eq!(is_met(Target::Most(8.0), None), None);
    }

    #[test]
    fn rows_are_kept_by_their_tables_prefix() {
        let kept: Vec<_> = tables()
            .into_iter()
            .map(|mut table| {
                table.keep_rows("vhost");
                !table.lines.is_empty()
            })
            .collect();
        assert_eq!(kept, [false, true, true, false, false, false]);
    }
}
