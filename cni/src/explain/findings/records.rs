//! What is written down of an attachment against what is there.

use std::collections::BTreeSet;

use super::super::facts::{Facts, Pod, Record};
use super::super::trace::Place;
use super::super::words::and;
use super::{Finding, Findings, recreate};
use crate::journal::Step;

pub(super) fn all(facts: &Facts, record: &Record, findings: &mut Findings) {
    if !record.done {
        let remedy = "the runtime repeats it or removes the pod; if it does neither, restart the VM";
        findings.add(
            "add-unfinished",
            Place::Node,
            &record.attachment.interface,
            "ADD did not come to its end",
            remedy,
        );
    }
    for (place, name) in links(record) {
        let view = match place {
            Place::Pod => &facts.pod,
            Place::Node => &facts.node,
        };
        if view.link(name).is_none() {
            let what = "gone, and the attachment was made with it";
            findings.add("link-missing", place, name, what, recreate(Some(record)));
        }
    }
    let has_rules = |marks: &Vec<crate::nft::Mark>| marks.iter().any(|mark| mark.id == record.id);
    if record.steps.contains(&Step::Rules) && facts.marks.as_ref().is_some_and(|marks| !has_rules(marks)) {
        let what =
            "none of the attachment's rules is left: no masquerading, port mappings or check of its MAC";
        let remedy = "see who flushed nf_tables, then restart the VM";
        findings.add("rules-missing", Place::Node, "table sluice", what, remedy);
    }
}

/// An attachment whose pod is no more.
pub(in super::super) fn gone(record: &Record, node: &BTreeSet<String>) -> Option<Finding> {
    if record.pod != Pod::Gone {
        return None;
    }
    let left: Vec<&str> = links(record)
        .filter(|(place, name)| *place == Place::Node && node.contains(*name))
        .map(|(_, name)| name)
        .collect();
    let left = if left.is_empty() { String::new() } else { format!("; {} left on the node", and(&left)) };
    let Record { attachment, netns, .. } = record;
    Some(Finding {
        id: "pod-gone",
        name: attachment.container.clone(),
        place: Place::Node,
        what: format!(
            "{} is written down, and its pod's namespace {} is gone{left}",
            attachment.interface,
            netns.display()
        ),
        remedy: format!(
            "the runtime's DEL or GC removes it, or the next ADD to network {}",
            attachment.network
        ),
    })
}

/// Links that the attachment was made with and that still have the name they were made with.
fn links(record: &Record) -> impl Iterator<Item = (Place, &str)> {
    // A device plugin's macvtap has another name on the node than in the pod, and enters the pod under that.
    let moved = record.mode == "macvtap";
    let is_interim = move |name: &str| moved && name != record.attachment.interface;
    record.steps.iter().filter_map(move |step| match step {
        Step::HostLink { name }
        | Step::SharedLink { name }
        | Step::HostShaper { name }
        | Step::Port { name } => Some((Place::Node, name.as_str())),
        Step::PodLink { name } if is_interim(name) => None,
        Step::PodLink { name } | Step::PodRedirect { name, .. } | Step::PodShaper { name } => {
            Some((Place::Pod, name.as_str()))
        }
        Step::Lease
        | Step::Rules
        | Step::LocalRoute { .. }
        | Step::DeviceNode { .. }
        | Step::File { .. }
        | Step::Neighbour { .. }
        | Step::PodRules { .. } => None,
    })
}
