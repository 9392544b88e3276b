//! `sluice-sidecar status`: what a sidecar says of itself, asked for over its Unix socket and shown to a person. It must
//! never change anything.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The answer to `/status`. Names may be added; those here keep their meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of the sidecar.
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    /// Why it is not ready; null: it is.
    pub not_ready: Option<String>,
    pub interfaces: Vec<Interface>,
    pub hook_calls: Vec<HookCalls>,
}

/// One NIC with its translator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The VMI's name of it.
    pub interface: String,
    pub pod_interface: String,
    pub socket: PathBuf,
    pub state: State,
    /// Of the translator.
    pub pid: Option<u32>,
    /// Since it serves.
    pub uptime_seconds: Option<u64>,
    pub restarts: u64,
    /// How the translator before this one ended.
    pub last_end: Option<String>,
    /// What the translator counts; null: it does not answer.
    pub counters: Option<Counters>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Starting,
    Running,
    /// Ended, and is to be started again.
    Waiting,
    /// Did not come up at its first start.
    Failed,
}

/// Since the translator's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Times a guest was attached.
    pub link_ups: u64,
    /// Open now.
    pub flows: u64,
    pub from_guest_bytes: u64,
    pub to_guest_bytes: u64,
    /// Those that are not 0.
    pub drops: BTreeMap<String, u64>,
}

/// Hook calls of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCalls {
    pub call: String,
    pub version: String,
    pub outcome: String,
    pub count: u64,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error(
        "{}: no sidecar answers; run this in the container of a sidecar that runs, as \
         `kubectl exec POD -c hook-sidecar-0 -- /sluice-sidecar status`", socket.display()
    )]
    NotRunning { socket: PathBuf, source: io::Error },
    /// Another version, or somebody else.
    #[error("{}: the answer is not a sidecar's status: {answer}", socket.display())]
    NotUnderstood { socket: PathBuf, answer: String },
    #[error("the status cannot be written")]
    Output(#[from] io::Error),
}

/// Asks the sidecar at `socket` and writes what it says to `out`: as JSON, or for a person.
pub fn run(socket: &Path, json: bool, out: &mut impl Write) -> Result<(), StatusError> {
    let text = ask(socket)?;
    let status: Status = serde_json::from_str(&text)
        .map_err(|_| StatusError::NotUnderstood { socket: socket.to_owned(), answer: first_line(&text) })?;
    let text = if json { text } else { table(&status) };
    out.write_all(text.as_bytes())?;
    Ok(())
}

/// The JSON.
fn ask(socket: &Path) -> Result<String, StatusError> {
    let exchange = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        stream.set_write_timeout(Some(ANSWER_DEADLINE))?;
        // Of HTTP 1.0 the answer comes in one piece and ends with the connection (RFC 1945 section 7.2.2).
        stream.write_all(b"GET /status HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer =
        exchange().map_err(|source| StatusError::NotRunning { socket: socket.to_owned(), source })?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        Some(_) | None => {
            Err(StatusError::NotUnderstood { socket: socket.to_owned(), answer: first_line(&answer) })
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

/// The same for a person.
pub fn table(status: &Status) -> String {
    let mut text = String::new();
    let ready =
        status.not_ready.as_ref().map_or_else(|| "ready".to_owned(), |why| format!("not ready: {why}"));
    let up = duration(status.uptime_seconds);
    // A string takes everything.
    let _ = writeln!(text, "sluice-sidecar {}, pid {}, up {up}, {ready}", status.version, status.pid);
    text.push('\n');
    let mut rows = vec![INTERFACE_HEADS.map(str::to_owned).to_vec()];
    rows.extend(status.interfaces.iter().map(interface_row));
    text.push_str(&columns(&rows));
    for interface in &status.interfaces {
        let _ = writeln!(text, "\n{}: socket {}", interface.interface, interface.socket.display());
        let drops = interface.counters.iter().flat_map(|counters| &counters.drops);
        let drops: Vec<_> = drops.map(|(reason, count)| format!("{count} {reason}")).collect();
        if !drops.is_empty() {
            let _ = writeln!(text, "{}: dropped {}", interface.interface, drops.join(", "));
        }
    }
    text.push('\n');
    let mut rows = vec![CALL_HEADS.map(str::to_owned).to_vec()];
    rows.extend(status.hook_calls.iter().map(|calls| {
        vec![calls.call.clone(), calls.version.clone(), calls.outcome.clone(), calls.count.to_string()]
    }));
    text.push_str(&columns(&rows));
    text
}

fn interface_row(interface: &Interface) -> Vec<String> {
    let none = || "-".to_owned();
    let state = match interface.state {
        State::Starting => "starting",
        State::Running => "running",
        State::Waiting => "waiting",
        State::Failed => "failed",
    };
    let restarts = match &interface.last_end {
        Some(end) => format!("{} ({end})", interface.restarts),
        None => interface.restarts.to_string(),
    };
    let count = |of: fn(&Counters) -> String| interface.counters.as_ref().map_or_else(none, of);
    vec![
        interface.interface.clone(),
        interface.pod_interface.clone(),
        state.to_owned(),
        interface.pid.map_or_else(none, |pid| pid.to_string()),
        interface.uptime_seconds.map_or_else(none, duration),
        restarts,
        count(|counters| match counters.link_ups {
            0 => "not yet".to_owned(),
            1 => "once".to_owned(),
            times => format!("{times} times"),
        }),
        count(|counters| counters.flows.to_string()),
        count(|counters| bytes(counters.from_guest_bytes)),
        count(|counters| bytes(counters.to_guest_bytes)),
    ]
}

/// Cells below each other, two spaces between columns.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..count).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// As `3d 4h`, `5m 6s`: the two largest units.
fn duration(seconds: u64) -> String {
    match (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, ..) => format!("{days}d {hours}h"),
    }
}

/// As `512 B`, `1.5 MiB`; cut, not rounded.
fn bytes(count: u64) -> String {
    let unit = BYTE_UNITS.iter().rev().find(|(shift, _)| count >> shift > 0);
    match unit {
        Some((shift, name)) => {
            let tenths = (u128::from(count) * 10) >> shift;
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{count} B"),
    }
}

const INTERFACE_HEADS: [&str; 10] =
    ["INTERFACE", "POD", "STATE", "PID", "UP", "RESTARTS", "GUEST CAME", "FLOWS", "FROM GUEST", "TO GUEST"];
const CALL_HEADS: [&str; 4] = ["HOOK CALL", "VERSION", "OUTCOME", "COUNT"];
/// By powers of two.
const BYTE_UNITS: [(u32, &str); 5] = [(10, "KiB"), (20, "MiB"), (30, "GiB"), (40, "TiB"), (50, "PiB")];
/// How long a sidecar may take; it waits half a second for a translator that hangs.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);
/// Longest answer: some hundred interfaces.
const ANSWER_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let interface = Interface {
            interface: "default".to_owned(),
            pod_interface: "eth0".to_owned(),
            socket: "/net/default.sock".into(),
            state: State::Running,
            pid: Some(23),
            uptime_seconds: Some(61),
            restarts: 1,
            last_end: Some("SIGKILL".to_owned()),
            counters: Some(Counters {
                link_ups: 2,
                flows: 37,
                from_guest_bytes: 3 << 29,
                to_guest_bytes: 512,
                drops: BTreeMap::from([("disabled".to_owned(), 4), ("source".to_owned(), 2)]),
            }),
        };
        let waiting = Interface {
            interface: "a-long-name".to_owned(),
            pod_interface: "net1".to_owned(),
            socket: "/net/a-long-name.sock".into(),
            state: State::Waiting,
            pid: None,
            uptime_seconds: None,
            restarts: 0,
            last_end: None,
            counters: None,
        };
        Status {
            version: "0.1.0".to_owned(),
            pid: 1,
            uptime_seconds: 90_000,
            not_ready: None,
            interfaces: vec![interface, waiting],
            hook_calls: vec![HookCalls {
                call: "OnDefineDomain".to_owned(),
                version: "v1alpha3".to_owned(),
                outcome: "ok".to_owned(),
                count: 3,
            }],
        }
    }

    #[test]
    fn a_person_sees_a_table() {
        let expected = "\
sluice-sidecar 0.1.0, pid 1, up 1d 1h, ready

INTERFACE    POD   STATE    PID  UP     RESTARTS     GUEST CAME  FLOWS  FROM GUEST  TO GUEST
default      eth0  running  23   1m 1s  1 (SIGKILL)  2 times     37     1.5 GiB     512 B
a-long-name  net1  waiting  -    -      0            -           -      -           -

default: socket /net/default.sock
default: dropped 4 disabled, 2 source

a-long-name: socket /net/a-long-name.sock

HOOK CALL       VERSION   OUTCOME  COUNT
OnDefineDomain  v1alpha3  ok       3
";
        assert_eq!(table(&status()), expected);
        let status = Status { not_ready: Some("no translator".to_owned()), ..status() };
        assert!(
            table(&status).starts_with("sluice-sidecar 0.1.0, pid 1, up 1d 1h, not ready: no translator\n")
        );
    }

    #[test]
    fn quantities_are_short() {
        for (seconds, text) in [(0, "0s"), (60, "1m 0s"), (3661, "1h 1m"), (86_400, "1d 0h")] {
            assert_eq!(duration(seconds), text);
        }
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_sidecar_that_does_not_run_is_an_error_that_says_where_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("sluice.http");
        let error = run(&socket, false, &mut Vec::new()).unwrap_err();
        assert!(matches!(&error, StatusError::NotRunning { .. }));
        let text = error.to_string();
        assert!(text.contains(socket.to_str().unwrap()) && text.contains("kubectl exec"), "{text}");
    }
}
