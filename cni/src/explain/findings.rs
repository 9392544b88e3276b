//! What is wrong on a VM's way: for each thing what, where, and what to do about it. It must never take for wrong what
//! some configuration asks for.

mod links;
mod networks;
mod records;

use serde::Serialize;

use super::facts::{Facts, Record};
use super::path::Path;
use super::trace::Place;

pub(super) use records::gone;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Stays as it is from version to version, for programs.
    pub(super) id: &'static str,
    /// A link's name mostly.
    pub(super) name: String,
    #[serde(rename = "where")]
    pub(super) place: Place,
    pub(super) what: String,
    #[serde(rename = "do")]
    pub(super) remedy: String,
}

/// Of one way.
pub(super) fn on(path: &Path<'_>) -> Vec<Finding> {
    let mut findings = Findings::default();
    if let Some(record) = path.record {
        records::all(path.facts, record, &mut findings);
    }
    links::all(path, &mut findings);
    networks::all(path, &mut findings);
    findings.0
}

/// In the order they are met.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        id: &'static str,
        place: Place,
        name: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Finding { id, place, name: name.to_owned(), what: what.into(), remedy: remedy.into() });
    }
}

/// Nothing at all to follow.
pub(super) fn nothing(facts: &Facts) -> Finding {
    let links: Vec<&str> =
        facts.pod.links.iter().filter(|link| !link.loopback).map(|link| link.name.as_str()).collect();
    let links = if links.is_empty() { "no link but lo".to_owned() } else { links.join(", ") };
    Finding {
        id: "no-attachment",
        name: links,
        place: Place::Pod,
        what: "no tap, no macvtap, and no attachment is written down".to_owned(),
        remedy:
            "see whether the pod's annotation asks for the network, and the runtime's log for a failed ADD"
                .to_owned(),
    }
}

/// What removes all of an attachment.
fn recreate(record: Option<&Record>) -> String {
    match record {
        Some(_) => "restart the VM, so that its pod is wired anew".to_owned(),
        None => "see who made it".to_owned(),
    }
}

#[cfg(test)]
#[path = "findings/tests.rs"]
mod tests;
