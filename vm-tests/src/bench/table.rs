//! What the numbers are compared by: the lines of the table, medians, ratios, and the targets they must meet.
//! It must never measure.

use std::collections::BTreeMap;

use super::contender::Contender;
use super::probe::{Direction, Numbers, Probe};

/// Every sample of every cell, and why cells are empty.
#[derive(Debug, Default)]
pub(super) struct Cells {
    samples: BTreeMap<(&'static str, Probe, &'static str), Vec<f64>>,
    /// By contender and probe.
    excuses: BTreeMap<(&'static str, Probe), String>,
}

impl Cells {
    pub(super) fn add(&mut self, contender: &Contender, probe: Probe, numbers: &Numbers) {
        for (&number, &value) in numbers {
            self.samples.entry((contender.name(), probe, number)).or_default().push(value);
        }
    }

    pub(super) fn excuse(&mut self, contender: &Contender, probe: Probe, reason: &str) {
        self.excuses.insert((contender.name(), probe), reason.to_owned());
    }

    pub(super) fn samples(&self, contender: &Contender, probe: Probe, number: &'static str) -> &[f64] {
        self.samples.get(&(contender.name(), probe, number)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn median(&self, contender: &Contender, probe: Probe, number: &'static str) -> Option<f64> {
        let mut samples = self.samples(contender, probe, number).to_vec();
        samples.sort_unstable_by(f64::total_cmp);
        let upper = samples.get(samples.len() / 2)?;
        let lower = samples.get((samples.len() - 1) / 2)?;
        Some(f64::midpoint(*lower, *upper))
    }

    /// Why there is no number, or that some repetitions failed.
    pub(super) fn excuse_of(&self, contender: &Contender, probe: Probe) -> Option<&str> {
        self.excuses.get(&(contender.name(), probe)).map(String::as_str)
    }

    pub(super) fn has(&self, probe: Probe) -> bool {
        self.samples.keys().any(|(_, measured, _)| *measured == probe)
            || self.excuses.keys().any(|(_, measured)| *measured == probe)
    }
}

/// What is wanted of passt-rs in a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    Least(f64),
    Most(f64),
    /// Times the relay's number.
    LeastOfRelay(f64),
    /// Times passt's number.
    LeastOfPeer(f64),
    MostOfPeer(f64),
    /// Times passt's number, or this number: where passt does all there is to do, nobody can do more.
    LeastOfPeerOr(f64, f64),
}

impl Target {
    pub(super) fn text(self) -> String {
        match self {
            Self::Least(limit) => format!("≥ {limit}"),
            Self::Most(limit) => format!("≤ {limit}"),
            Self::LeastOfRelay(times) => format!("≥ {times} × relay"),
            Self::LeastOfPeer(times) => format!("≥ {times} × passt"),
            Self::MostOfPeer(times) => format!("≤ {times} × passt"),
            Self::LeastOfPeerOr(times, all) => format!("≥ {times} × passt or {all}"),
        }
    }

    /// Whether it is met; unknown while a number is missing.
    pub(super) fn is_met(self, ours: Option<f64>, relay: Option<f64>, peer: Option<f64>) -> Option<bool> {
        let ours = ours?;
        Some(match self {
            Self::Least(limit) => ours >= limit,
            Self::Most(limit) => ours <= limit,
            Self::LeastOfRelay(times) => ours >= times * relay?,
            Self::LeastOfPeer(times) => ours >= times * peer?,
            Self::MostOfPeer(times) => ours <= times * peer?,
            Self::LeastOfPeerOr(_, all) if ours >= all => true,
            Self::LeastOfPeerOr(times, _) => ours >= times * peer?,
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

/// The table, top to bottom.
pub(super) fn lines() -> Vec<Line> {
    let mut lines = stream_lines();
    lines.extend(exchange_lines());
    lines.extend(crowd_lines());
    lines.extend(cost_lines());
    lines
}

fn stream_lines() -> Vec<Line> {
    let mut lines = Vec::new();
    for mtu in [1500, 9000, 65520] {
        for flows in [1, 8] {
            for direction in [Direction::Out, Direction::In] {
                let title = format!("TCP stream, {}, MTU {mtu}, {}", way(direction), count(flows));
                let targets = match (mtu, flows) {
                    (1500, 1) => vec![Target::LeastOfRelay(0.75), Target::LeastOfPeer(10.0)],
                    (1500, _) => vec![],
                    _ => vec![Target::LeastOfRelay(0.70), Target::LeastOfPeer(1.2)],
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
        Line::new(Probe::Rr, "p50_us", "TCP request/response, p50", "µs").wants([Target::MostOfPeer(1.0)]),
        Line::new(Probe::Rr, "p99_us", "TCP request/response, p99", "µs"),
        Line::new(Probe::Crr { flows: 1 }, "per_second", "TCP connect/request/response/close", "1/s")
            .wants([Target::LeastOfPeer(1.2)]),
        Line::new(Probe::Crr { flows: 8 }, "per_second", "the same by 8 clients at once", "1/s"),
        Line::new(Probe::UdpRr, "p50_us", "UDP request/response, p50", "µs"),
        Line::new(Probe::UdpRr, "p99_us", "UDP request/response, p99", "µs"),
    ];
    for gbit_offered in [2, 8] {
        for direction in [Direction::Out, Direction::In] {
            let way = way(direction);
            let title = format!("UDP stream, {way}, 1400 bytes, {gbit_offered} Gbit/s offered: delivered");
            let probe = Probe::UdpStream { direction, gbit_offered };
            let target = Target::LeastOfPeerOr(1.5, 0.99 * f64::from(gbit_offered));
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
    use super::{Cells, Target};

    #[test]
    fn median_of_an_even_number_is_between_the_middle_ones() {
        let mut cells = Cells::default();
        for value in [9.0, 1.0, 3.0, 2.0] {
            cells.add(&Contender::Relay, Probe::Rr, &Numbers::from([("p50_us", value)]));
        }
        assert_eq!(cells.median(&Contender::Relay, Probe::Rr, "p50_us"), Some(2.5));
        assert_eq!(cells.median(&Contender::KernelNat, Probe::Rr, "p50_us"), None);
    }

    #[test]
    fn target_without_a_number_is_neither_met_nor_missed() {
        assert_eq!(Target::LeastOfRelay(0.75).is_met(Some(20.0), Some(25.0), None), Some(true));
        assert_eq!(Target::LeastOfRelay(0.75).is_met(Some(18.0), Some(25.0), None), Some(false));
        assert_eq!(Target::MostOfPeer(1.0).is_met(Some(18.0), Some(25.0), None), None);
        assert_eq!(Target::Most(8.0).is_met(None, None, None), None);
    }
}
