//! A translator's lines in our log, under the interface's name and with the level they have. It must never make the
//! translator wait: whatever comes is taken, lines are cut where they are too long, and only the last ones are kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tracing::{Level, debug, error, info, trace, warn};

/// Under which a filter of the log finds translators' lines; what they say is chosen where they are started.
pub const LOG_TARGET: &str = "passt_rs";

/// The last lines, kept for the error of a start that failed.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    /// In one line. The last ones only: what comes before says that all is well.
    pub(super) fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() {
            return "it printed nothing".to_owned();
        }
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("; ")
    }

    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == TAIL_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }
}

/// Logs what comes until nothing can come any more.
pub(super) async fn copy(mut pipe: pipe::Receiver, interface: String, tail: Tail) {
    let mut lines = Lines::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut log = |line: &str| {
        let (level, text) = parse(line);
        tail.push(text);
        emit(level, &interface, text);
    };
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        lines.push(buffer.get(..length).unwrap_or_default(), &mut log);
    }
    lines.finish(&mut log);
}

/// Cuts bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    /// The line that has no end yet.
    begun: Vec<u8>,
    /// It is too long: the rest of it is thrown away.
    cut: bool,
}

impl Lines {
    fn push(&mut self, mut bytes: &[u8], log: &mut impl FnMut(&str)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.extend(line);
            self.finish(log);
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.extend(bytes);
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES - self.begun.len();
        self.begun.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        self.cut |= bytes.len() > room;
    }

    /// Ends the line; an empty one is none.
    fn finish(&mut self, log: &mut impl FnMut(&str)) {
        let line = String::from_utf8_lossy(self.begun.trim_ascii());
        match (line.is_empty(), self.cut) {
            (true, _) => {}
            (false, false) => log(&line),
            (false, true) => log(&format!("{line} [...]")),
        }
        self.begun.clear();
        self.cut = false;
    }
}

/// A line's level and what it says. The time goes: ours is the same to the millisecond. What has another form comes
/// from the command line's faults, or from a panic, and is somebody's business.
fn parse(line: &str) -> (Level, &str) {
    let formatted = || {
        let (time, rest) = line.split_once(' ')?;
        let (level, text) = rest.trim_start().split_once(' ')?;
        let dated = time.ends_with('Z') && time.starts_with(|first: char| first.is_ascii_digit());
        dated.then_some((level.parse().ok()?, text))
    };
    formatted().unwrap_or((Level::WARN, line))
}

fn emit(level: Level, interface: &str, text: &str) {
    match level {
        Level::ERROR => error!(target: LOG_TARGET, interface, "{text}"),
        Level::WARN => warn!(target: LOG_TARGET, interface, "{text}"),
        Level::INFO => info!(target: LOG_TARGET, interface, "{text}"),
        Level::DEBUG => debug!(target: LOG_TARGET, interface, "{text}"),
        Level::TRACE => trace!(target: LOG_TARGET, interface, "{text}"),
    }
}

/// Longest line; more of it is cut.
const LINE_BYTES: usize = 4096;
/// Lines of an error.
const TAIL_LINES: usize = 5;
/// As many bytes are taken at a time.
const READ_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_kept_and_other_lines_are_warnings() {
        for (line, level, text) in [
            ("2026-11-22T02:01:18.767352Z  INFO passt-rs 0.1.0", Level::INFO, "passt-rs 0.1.0"),
            ("2026-11-22T02:01:18.767675Z  WARN the guest cannot", Level::WARN, "the guest cannot"),
            ("2026-11-22T02:01:18.767675Z ERROR no", Level::ERROR, "no"),
            ("2026-11-22T02:01:18.767675Z DEBUG a flow", Level::DEBUG, "a flow"),
            ("2026-11-22T02:01:18.767675Z TRACE a state", Level::TRACE, "a state"),
            ("passt-rs: --mtu: 5 is too small", Level::WARN, "passt-rs: --mtu: 5 is too small"),
            ("thread 'main' panicked", Level::WARN, "thread 'main' panicked"),
            ("Zebra  INFO x", Level::WARN, "Zebra  INFO x"),
            ("x", Level::WARN, "x"),
        ] {
            assert_eq!(parse(line), (level, text));
        }
    }

    #[test]
    fn lines_come_whole_however_they_are_read_and_long_ones_are_cut() {
        let long = "x".repeat(LINE_BYTES + 1);
        let exact = "y".repeat(LINE_BYTES);
        let text = format!("one\n\n{long}\n{exact}\n\r\ntwo");
        let expected = ["one".to_owned(), format!("{} [...]", &long[1..]), exact, "two".to_owned()];
        for step in [1, 2, 3, 1000, text.len()] {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for bytes in text.as_bytes().chunks(step) {
                lines.push(bytes, &mut |line: &str| seen.push(line.to_owned()));
            }
            lines.finish(&mut |line: &str| seen.push(line.to_owned()));
            assert_eq!(seen, expected, "{step} bytes at a time");
        }
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let tail = Tail::default();
        assert_eq!(tail.text(), "it printed nothing");
        for line in 0..100 {
            tail.push(&line.to_string());
        }
        assert_eq!(tail.text(), "95; 96; 97; 98; 99");
    }
}
