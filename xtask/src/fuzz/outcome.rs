//! What a run of libFuzzer came to, read from what it said.

use std::fmt;

/// Numbers are libFuzzer's own words, and missing when it did not get as far as saying them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    runs: Option<String>,
    runs_per_second: Option<String>,
    /// Edges of the program that were taken.
    edges: Option<String>,
    /// Edges told apart by how often they were taken, and comparisons by their outcome.
    features: Option<String>,
    /// Inputs that did something none before had done.
    new_inputs: Option<String>,
    /// The input that ended the run, as a file.
    pub(super) input: Option<String>,
    /// The panic, or libFuzzer's own verdict.
    pub(super) complaint: Option<String>,
}

impl Outcome {
    pub(super) fn read(log: &str) -> Self {
        let statistic = |name: &str| {
            let line = log.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
            line.map(|value| value.trim_start_matches(':').trim().to_owned())
        };
        // `#123  NEW    cov: 45 ft: 67 corp: ...`; the last such line holds.
        let progress = log.lines().rfind(|line| line.starts_with('#') && line.contains(" cov: "));
        let after = |name: &str| {
            let mut words = progress?.split_whitespace();
            words.find(|word| *word == name)?;
            words.next().map(str::to_owned)
        };
        Self {
            runs: statistic("number_of_executed_units"),
            runs_per_second: statistic("average_exec_per_sec"),
            edges: after("cov:"),
            features: after("ft:"),
            new_inputs: statistic("new_units_added"),
            input: log
                .lines()
                .find_map(|line| line.split_once("Test unit written to "))
                .map(|(_, path)| path.to_owned()),
            complaint: complaint(log),
        }
    }
}

/// A panic stands in two lines, the place and what it says; libFuzzer's verdict in one.
fn complaint(log: &str) -> Option<String> {
    let mut lines = log.lines();
    if let Some(place) = lines.by_ref().find(|line| line.contains(" panicked at ")) {
        let (_, place) = place.split_once(" panicked at ")?;
        return Some(format!("{place} {}", lines.next().unwrap_or_default()));
    }
    let verdict = log.lines().find_map(|line| line.split_once("ERROR: libFuzzer: "));
    verdict.map(|(_, verdict)| verdict.to_owned())
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "?".to_owned());
        write!(
            f,
            "{:>9} runs {:>7} exec/s {:>6} cov {:>6} ft {:>5} new inputs",
            word(&self.runs),
            word(&self.runs_per_second),
            word(&self.edges),
            word(&self.features),
            word(&self.new_inputs)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINISHED: &str = "\
INFO: Running with entropic power schedule (0xFF, 100).
#2\tINITED cov: 30 ft: 31 corp: 1/1b exec/s: 0 rss: 40Mb
#900\tNEW    cov: 101 ft: 222 corp: 9/33b lim: 4 exec/s: 0 rss: 41Mb L: 4/4 MS: 1 ChangeByte-
#5000\tDONE   cov: 102 ft: 223 corp: 9/33b lim: 4 exec/s: 2500 rss: 41Mb
Done 5000 runs in 2 second(s)
stat::number_of_executed_units: 5000
stat::average_exec_per_sec:     2500
stat::new_units_added:          8
";

    const CRASHED: &str = "\
#2\tINITED cov: 30 ft: 31 corp: 1/1b exec/s: 0 rss: 40Mb

thread '<unnamed>' (7) panicked at passt-rs/fuzz/src/tcp.rs:1:2:
acknowledged a hole
==7== ERROR: libFuzzer: deadly signal
artifact_prefix='/x/'; Test unit written to /x/crash-0a
stat::number_of_executed_units: 77
";

    #[test]
    fn a_finished_run_is_told_in_a_line() {
        let outcome = Outcome::read(FINISHED);
        assert_eq!(
            outcome.to_string(),
            "     5000 runs    2500 exec/s    102 cov    223 ft     8 new inputs"
        );
        assert_eq!((outcome.input, outcome.complaint), (None, None));
    }

    #[test]
    fn a_crash_names_its_panic_and_its_input() {
        let outcome = Outcome::read(CRASHED);
        assert_eq!(outcome.input.as_deref(), Some("/x/crash-0a"));
        assert_eq!(outcome.complaint.as_deref(), Some("passt-rs/fuzz/src/tcp.rs:1:2: acknowledged a hole"));
        assert_eq!(outcome.edges.as_deref(), Some("30"));
    }

    #[test]
    fn a_verdict_of_libfuzzer_stands_for_a_panic_that_did_not_happen() {
        let log = "==7== ERROR: libFuzzer: timeout after 10 seconds\n";
        assert_eq!(Outcome::read(log).complaint.as_deref(), Some("timeout after 10 seconds"));
        assert_eq!(Outcome::read(""), Outcome::default());
    }
}
