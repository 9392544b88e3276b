//! `sluice explain`: where a VM's frames go at each hop, and what is wrong, as it is now. It must never change anything.
//!
//! Facts are collected in one place (`survey`); the way (`path`), what is said of it (`trace`) and what is wrong with it
//! (`findings`) are functions of the facts alone.

mod facts;
mod survey;
mod path;
mod words;
mod trace;
mod findings;
mod report;
#[cfg(test)]
mod fixture;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::journal::{STATE_DIRECTORY, Store};
use crate::namespace::{Namespace, NamespaceError};
use crate::netlink::NetlinkError;
use crate::protocol::CniError;
use facts::{Pod, Record};
use path::Path;
use report::{Attached, Report, Trace};

/// What to explain. Without a pod: which attachments there are.
#[derive(Debug, Args)]
pub struct Request {
    /// The pod's network namespace: /run/netns/NAME or /proc/PID/ns/net
    #[arg(long, value_name = "PATH", group = "pod")]
    netns: Option<PathBuf>,
    /// The pod by its container, or the beginning of it, as the state folder knows it
    #[arg(long, value_name = "ID", group = "pod")]
    container: Option<String>,
    /// One tap or macvtap of the pod; otherwise all are explained
    #[arg(long, value_name = "NAME", requires = "pod")]
    tap: Option<String>,
    /// The user and group that QEMU runs as
    #[arg(long, value_name = "ID", default_value_t = 107)]
    user: u32,
    /// Where attachments are written down
    #[arg(long, value_name = "FOLDER", default_value = STATE_DIRECTORY)]
    state_dir: PathBuf,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error("--netns: {0}")]
    Namespace(#[from] NamespaceError),
    #[error("--container {id}: no such attachment in {}", folder.display())]
    NoContainer { id: String, folder: PathBuf },
    #[error("--container {id}: {} begin so: {}", found.len(), found.join(", "))]
    Ambiguous { id: String, found: Vec<String> },
    #[error("--container {id}: {netns} cannot be seen from here; give it with --netns", netns = netns.display())]
    Unseen { id: String, netns: PathBuf },
    #[error("--tap {name}: the pod has no such tap; it has {}", if found.is_empty() { "none".to_owned() } else { found.join(", ") })]
    NoTap { name: String, found: Vec<String> },
    #[error("cannot enter the pod's network namespace: {0}")]
    Enter(io::Error),
    #[error("{0}")]
    State(CniError),
    #[error("{0}")]
    Netlink(#[from] NetlinkError),
}

/// Exit statuses of this command; clap's own for bad arguments is 2 too.
const WRONG: u8 = 1;
const UNANSWERED: u8 = 2;

/// Prints what was asked for. 0: nothing is wrong; 1: something is; 2: it cannot be told.
pub fn run(request: &Request) -> ExitCode {
    let report = match report(request) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("sluice explain: {error}");
            return ExitCode::from(UNANSWERED);
        }
    };
    let text = if request.json { report.to_json() } else { report.to_string() };
    // Whoever reads may have read enough.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    if report.is_fine() { ExitCode::SUCCESS } else { ExitCode::from(WRONG) }
}

fn report(request: &Request) -> Result<Report, ExplainError> {
    let store = Store::new(&request.state_dir);
    let records = survey::records(&store)?;
    if let Some(path) = &request.netns {
        let pod = Namespace::open(path)?;
        let here = |record: &Record| {
            Namespace::open(&record.netns).is_ok_and(|other| other.same_as(&pod).unwrap_or(false))
        };
        let records = records.into_iter().filter(|record| record.pod == Pod::Alive && here(record)).collect();
        return explain(request, &pod, records);
    }
    let Some(id) = &request.container else { return list(records) };
    let records = of_container(request, id, records)?;
    let gone = records.iter().all(|record| record.pod == Pod::Gone);
    let Some(first) = records.iter().find(|record| record.pod == Pod::Alive) else {
        if gone {
            return list(records);
        }
        let netns = records.first().map(|record| record.netns.clone()).unwrap_or_default();
        return Err(ExplainError::Unseen { id: id.clone(), netns });
    };
    let pod = Namespace::open(&first.netns)?;
    let records = records.into_iter().filter(|record| record.pod == Pod::Alive).collect();
    explain(request, &pod, records)
}

/// The attachments of the one container whose id begins so.
fn of_container(request: &Request, id: &str, records: Vec<Record>) -> Result<Vec<Record>, ExplainError> {
    let exact = records.iter().any(|record| record.attachment.container == id);
    let fits = |record: &Record| {
        let container = &record.attachment.container;
        if exact { container == id } else { container.starts_with(id) }
    };
    let records: Vec<Record> = records.into_iter().filter(fits).collect();
    let mut found: Vec<String> = records.iter().map(|record| record.attachment.container.clone()).collect();
    found.dedup();
    match found.len() {
        0 => Err(ExplainError::NoContainer { id: id.to_owned(), folder: request.state_dir.clone() }),
        1 => Ok(records),
        _ => Err(ExplainError::Ambiguous { id: id.to_owned(), found }),
    }
}

fn explain(request: &Request, pod: &Namespace, records: Vec<Record>) -> Result<Report, ExplainError> {
    let facts = survey::facts(pod, records, request.user)?;
    let mut paths = path::all(&facts);
    if let Some(name) = &request.tap {
        let found: Vec<String> = paths.iter().map(|path| path.name().to_owned()).collect();
        paths.retain(|path| path.name() == name);
        if paths.is_empty() {
            return Err(ExplainError::NoTap { name: name.clone(), found });
        }
    }
    let wrong = if paths.is_empty() { vec![findings::nothing(&facts)] } else { Vec::new() };
    let traces = paths.iter().map(trace_of).collect();
    Ok(Report { traces, wrong, attachments: None })
}

fn trace_of(path: &Path<'_>) -> Trace {
    Trace {
        name: path.name().to_owned(),
        guest: if path.guest == path::Guest::Container { "container" } else { "VM" },
        attachment: path.record.map(Attached::of),
        out: trace::out(path),
        back: trace::back(path),
        wrong: findings::on(path),
    }
}

/// All attachments, and those among them whose pod is gone.
fn list(records: Vec<Record>) -> Result<Report, ExplainError> {
    let node = survey::node_names()?;
    let wrong = records.iter().filter_map(|record| findings::gone(record, &node)).collect();
    Ok(Report { traces: Vec::new(), wrong, attachments: Some(records.iter().map(Attached::of).collect()) })
}
