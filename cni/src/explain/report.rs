//! What was found as text for a terminal, or as JSON. It must never add anything to it.

use std::fmt;

use serde::Serialize;

use super::facts::{Pod, Record};
use super::findings::Finding;
use super::trace::Hop;

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) attachments: Option<Vec<Attached>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) traces: Vec<Trace>,
    /// What is on no trace.
    pub(super) wrong: Vec<Finding>,
}

/// One VM's NIC.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Trace {
    pub(super) name: String,
    /// `VM` or `container`.
    pub(super) guest: &'static str,
    /// `None`: nobody wrote it down.
    pub(super) attachment: Option<Attached>,
    pub(super) out: Vec<Hop>,
    pub(super) back: Vec<Hop>,
    pub(super) wrong: Vec<Finding>,
}

/// An attachment as it was written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Attached {
    pub(super) container: String,
    pub(super) interface: String,
    pub(super) network: String,
    pub(super) mode: String,
    pub(super) netns: String,
    pub(super) pod: Pod,
    pub(super) complete: bool,
}

impl Attached {
    pub(super) fn of(record: &Record) -> Self {
        let attachment = record.attachment.clone();
        Self {
            container: attachment.container,
            interface: attachment.interface,
            network: attachment.network,
            mode: record.mode.clone(),
            netns: record.netns.display().to_string(),
            pod: record.pod,
            complete: record.done,
        }
    }

    const fn state(&self) -> &'static str {
        match (self.pod, self.complete) {
            (Pod::Alive, true) => "alive",
            (Pod::Alive, false) => "unfinished",
            (Pod::Gone, _) => "gone",
            (Pod::Unknown, _) => "unknown",
        }
    }
}

impl Report {
    pub(super) fn is_fine(&self) -> bool {
        self.wrong.is_empty() && self.traces.iter().all(|trace| trace.wrong.is_empty())
    }

    /// With a newline.
    pub(super) fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        // Of these types nothing can fail to be written.
        format!("{}\n", text.unwrap_or_default())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(attachments) = &self.attachments {
            write_list(formatter, attachments)?;
        }
        for (place, trace) in self.traces.iter().enumerate() {
            let gap = if place == 0 { "" } else { "\n" };
            write!(formatter, "{gap}{trace}")?;
        }
        if self.traces.is_empty() {
            let gap = if self.attachments.is_some() { "\n" } else { "" };
            write!(formatter, "{gap}")?;
            write_wrong(formatter, &self.wrong)?;
        }
        Ok(())
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.attachment {
            Some(attached) => {
                let Attached { container, interface, network, mode, netns, .. } = attached;
                writeln!(formatter, "{}: {interface} on network {network}, mode {mode}", self.name)?;
                writeln!(formatter, "container {container}")?;
                writeln!(formatter, "netns {netns}")?;
            }
            None => writeln!(formatter, "{}: not written down in the state folder", self.name)?,
        }
        writeln!(formatter)?;
        let widths = widths(self.out.iter().chain(&self.back));
        write_hops(formatter, &format!("from the {}", self.guest), &self.out, widths)?;
        write_hops(formatter, &format!("to the {}", self.guest), &self.back, widths)?;
        write_wrong(formatter, &self.wrong)
    }
}

/// Of the columns name, place and kind.
fn widths<'a>(hops: impl Iterator<Item = &'a Hop> + Clone) -> [usize; 3] {
    let name = |hop: &Hop| hop.name.chars().count() + if hop.branch { BRANCH.len() } else { 0 };
    [
        hops.clone().map(name).max().unwrap_or(0).max(NAME_WIDTH),
        hops.clone().map(|hop| hop.place.as_str().len()).max().unwrap_or(0),
        hops.map(|hop| hop.kind.len()).max().unwrap_or(0),
    ]
}

fn write_hops(
    formatter: &mut fmt::Formatter<'_>,
    title: &str,
    hops: &[Hop],
    [name, place, kind]: [usize; 3],
) -> fmt::Result {
    if hops.is_empty() {
        return Ok(());
    }
    writeln!(formatter, "{title}")?;
    let mtu_of = |hop: &Hop| hop.mtu.map(|mtu| format!("MTU {mtu}")).unwrap_or_default();
    let mtu_width = hops.iter().map(|hop| mtu_of(hop).len()).max().unwrap_or(0);
    for hop in hops {
        let called = if hop.branch { format!("{BRANCH}{}", hop.name) } else { hop.name.clone() };
        let mtu = if mtu_width > 0 { format!("  {:mtu_width$}", mtu_of(hop)) } else { String::new() };
        let line = format!(
            "  {called:name$}  {:place$}  {:kind$}{mtu}  {}",
            hop.place.as_str(),
            hop.kind,
            hop.says.join(", ")
        );
        writeln!(formatter, "{}", line.trim_end())?;
    }
    writeln!(formatter)
}

fn write_wrong(formatter: &mut fmt::Formatter<'_>, findings: &[Finding]) -> fmt::Result {
    if findings.is_empty() {
        return writeln!(formatter, "nothing is wrong");
    }
    writeln!(formatter, "wrong")?;
    for finding in findings {
        let Finding { name, place, what, remedy, .. } = finding;
        writeln!(formatter, "  {name} ({}): {what}; {remedy}", place.as_str())?;
    }
    Ok(())
}

fn write_list(formatter: &mut fmt::Formatter<'_>, attachments: &[Attached]) -> fmt::Result {
    if attachments.is_empty() {
        return writeln!(formatter, "no attachments are written down");
    }
    let titles = ["CONTAINER", "INTERFACE", "NETWORK", "MODE", "STATE", "NETNS"].map(str::to_owned);
    let rows = attachments.iter().map(|one| {
        let container: String = one.container.chars().take(CONTAINER_WIDTH).collect();
        let one = one.clone();
        let state = one.state().to_owned();
        [container, one.interface, one.network, one.mode, state, one.netns]
    });
    let rows: Vec<[String; 6]> = std::iter::once(titles).chain(rows).collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(formatter, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Before the name of one of several ways on.
const BRANCH: &str = "+ ";

/// Most links' names fit, so that columns of several pods stand alike.
const NAME_WIDTH: usize = 15;

/// As much of a container's id as other tools show, and `--container` takes it.
const CONTAINER_WIDTH: usize = 13;
