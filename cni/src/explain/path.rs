//! Which links a VM's frames pass, found from the facts alone: tap, redirection, NIC, other end, bridge, what is on it.
//! It must never judge them.
//!
//! The other end of a veth pair is found by both ends naming each other's index. Were the NIC's end in a third namespace
//! with the same indices, it would be taken for one of this node; run on the node itself, there is no third.

use std::collections::BTreeSet;

use super::facts::{Facts, Record};
use crate::netlink::{Address, Details, Link};
use crate::nft::Mark;

/// The way from a VM, or a container, outward.
#[derive(Clone, Debug)]
pub(super) struct Path<'a> {
    pub(super) facts: &'a Facts,
    pub(super) record: Option<&'a Record>,
    pub(super) guest: Guest<'a>,
    pub(super) tap: Option<&'a Link>,
    pub(super) nic: Option<&'a Link>,
    pub(super) beyond: Beyond<'a>,
}

/// Who is at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guest<'a> {
    /// A VM on the tap of this name, which may be gone.
    Tap(&'a str),
    /// A VM on a macvtap, which is the NIC.
    Macvtap,
    Container,
    /// A VM whose traffic a translator takes over in the pod's own sockets.
    Translator,
}

/// What is behind the NIC.
#[derive(Clone, Debug)]
pub(super) enum Beyond<'a> {
    /// There is no NIC, or there is to be none.
    Nothing,
    /// Its other end is not where we are.
    Unseen,
    /// A link of a driver that has no other end here: hardware, another plugin's.
    Foreign,
    Bridge(Bridge<'a>),
    /// The other end has a master that is no bridge of the kernel's: Open vSwitch, a VRF.
    Switch {
        end: &'a Link,
        master: &'a Link,
    },
    /// The node routes to the other end.
    Routed {
        end: &'a Link,
    },
    /// A macvlan, macvtap or ipvlan on a link of the node.
    Parent {
        parent: &'a Link,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Bridge<'a> {
    /// The other end of the pod's NIC.
    pub(super) port: &'a Link,
    pub(super) bridge: &'a Link,
    /// Ports that lead out of the node.
    pub(super) uplinks: Vec<&'a Link>,
    /// How many other ports there are, of pods mostly.
    pub(super) others: usize,
    /// Links of the node that take part with an address of their own.
    pub(super) gateways: Vec<(&'a Link, &'a Address)>,
}

/// One way for each tap, each macvtap, and each attachment without.
pub(super) fn all(facts: &Facts) -> Vec<Path<'_>> {
    let mut paths: Vec<Path<'_>> = Vec::new();
    for link in &facts.pod.links {
        match (&link.details, link.kind.as_deref()) {
            (Details::Tun(tun), _) if tun.tap => paths.push(from_tap(facts, link)),
            (_, Some("macvtap")) => {
                paths.push(from_nic(facts, record_of(facts, link), Guest::Macvtap, None, Some(link)));
            }
            _ => {}
        }
    }
    let known: BTreeSet<&str> = paths.iter().filter_map(|path| Some(path.record?.id.as_str())).collect();
    let others: Vec<Path<'_>> = facts
        .records
        .iter()
        .filter(|record| !known.contains(record.id.as_str()))
        .map(|record| from_record(facts, record))
        .collect();
    paths.extend(others);
    paths.sort_by_key(|path| (path.interface(), path.name()));
    paths
}

fn from_tap<'a>(facts: &'a Facts, tap: &'a Link) -> Path<'a> {
    let record = record_of(facts, tap);
    let pod = &facts.pod;
    let ahead = || pod.redirects(tap).first().and_then(|index| pod.at(*index));
    let back = || pod.links.iter().find(|link| pod.redirects(link).contains(&tap.index));
    let recorded = || record.and_then(Record::nic).and_then(|name| pod.link(name));
    let nic = recorded().or_else(ahead).or_else(back);
    from_nic(facts, record, Guest::Tap(&tap.name), Some(tap), nic)
}

/// Of an attachment whose tap is not there, or was not to be.
fn from_record<'a>(facts: &'a Facts, record: &'a Record) -> Path<'a> {
    let guest = match (record.mode.as_str(), record.tap()) {
        ("passt", _) => Guest::Translator,
        ("macvtap", _) => Guest::Macvtap,
        (_, Some(tap)) => Guest::Tap(tap),
        (_, None) => Guest::Container,
    };
    let nic = record.nic().and_then(|name| facts.pod.link(name));
    from_nic(facts, Some(record), guest, None, nic)
}

fn from_nic<'a>(
    facts: &'a Facts,
    record: Option<&'a Record>,
    guest: Guest<'a>,
    tap: Option<&'a Link>,
    nic: Option<&'a Link>,
) -> Path<'a> {
    let beyond = nic.map_or(Beyond::Nothing, |nic| beyond(facts, nic));
    Path { facts, record, guest, tap, nic, beyond }
}

/// By the mark on the link, else by its name.
fn record_of<'a>(facts: &'a Facts, link: &Link) -> Option<&'a Record> {
    let id = link.alias.as_deref().and_then(|alias| alias.strip_prefix("sluice:"));
    let named = |record: &&Record| record.tap() == Some(&link.name);
    match id {
        Some(id) => facts.records.iter().find(|record| record.id == id),
        None => facts.records.iter().find(named),
    }
}

fn beyond<'a>(facts: &'a Facts, nic: &'a Link) -> Beyond<'a> {
    let node = &facts.node;
    let across = nic.parent.filter(|_| nic.parent_elsewhere).and_then(|index| node.at(index));
    match (nic.kind.as_deref(), across) {
        (Some("veth" | "macvlan" | "macvtap" | "ipvlan"), None) if nic.parent_elsewhere => Beyond::Unseen,
        (Some("macvlan" | "macvtap" | "ipvlan"), Some(parent)) => Beyond::Parent { parent },
        (Some("veth"), Some(end)) if end.parent == Some(nic.index) && end.parent_elsewhere => {
            behind(facts, end)
        }
        (Some("veth"), Some(_)) => Beyond::Unseen,
        _ => Beyond::Foreign,
    }
}

fn behind<'a>(facts: &'a Facts, end: &'a Link) -> Beyond<'a> {
    let node = &facts.node;
    let Some(master) = end.master.and_then(|index| node.at(index)) else { return Beyond::Routed { end } };
    if !matches!(master.details, Details::Bridge { .. }) {
        return Beyond::Switch { end, master };
    }
    let ports = || node.links.iter().filter(|link| link.master == Some(master.index));
    let uplinks: Vec<&Link> = ports().filter(|link| link.index != end.index && is_uplink(link)).collect();
    // The other end of a port that is on the node too has its address there.
    let own = node.links.iter().filter(|link| {
        link.index == master.index
            || (!link.parent_elsewhere
                && ports().any(|port| link.parent == Some(port.index) && link.kind == port.kind))
    });
    let gateways: Vec<_> =
        own.flat_map(|link| node.addresses(link).map(move |address| (link, address))).collect();
    let others = ports().count().saturating_sub(uplinks.len() + 1);
    Beyond::Bridge(Bridge { port: end, bridge: master, uplinks, others, gateways })
}

/// A port that is no pod's: ends of those are called `veth...`, by all that make them.
fn is_uplink(link: &Link) -> bool {
    match link.kind.as_deref() {
        Some("veth") => !link.name.starts_with("veth"),
        Some("tun") => false,
        _ => true,
    }
}

impl<'a> Path<'a> {
    /// What a person calls it.
    pub(super) fn name(&self) -> &'a str {
        match (self.guest, self.nic, self.record) {
            (Guest::Tap(name), _, _) => name,
            (_, Some(nic), _) => &nic.name,
            (_, None, Some(record)) => &record.attachment.interface,
            (_, None, None) => "?",
        }
    }

    /// Of the attachment, as the runtime calls it.
    fn interface(&self) -> &'a str {
        self.record.map_or_else(|| self.name(), |record| &record.attachment.interface)
    }

    /// Whether the pod routes between tap and NIC, where others are redirected to each other.
    pub(super) fn is_routed_in_pod(&self) -> bool {
        matches!(self.guest, Guest::Tap(_)) && self.record.is_some_and(|record| record.mode == "ipvlan")
    }

    /// The other end of the NIC, on the node.
    pub(super) const fn end(&self) -> Option<&'a Link> {
        match &self.beyond {
            Beyond::Bridge(Bridge { port: end, .. })
            | Beyond::Switch { end, .. }
            | Beyond::Routed { end } => Some(end),
            Beyond::Nothing | Beyond::Unseen | Beyond::Foreign | Beyond::Parent { .. } => None,
        }
    }

    /// The attachment's rules.
    pub(super) fn marks(&self, kind: &str) -> impl Iterator<Item = &'a Mark> {
        let id = self.record.map(|record| record.id.as_str());
        let marks = self.facts.marks.iter().flatten();
        marks.filter(move |mark| Some(mark.id.as_str()) == id && mark.kind == kind)
    }

    /// Addresses that the pod's NIC has, the guest's mostly.
    pub(super) fn addresses(&self) -> Vec<&'a Address> {
        self.nic.map_or_else(Vec::new, |nic| self.facts.pod.addresses(nic).collect())
    }

    /// Links by which the node's own stack gets the VM's packets, and sends to it.
    pub(super) fn stack(&self) -> Vec<&'a Link> {
        match &self.beyond {
            Beyond::Routed { end } => vec![end],
            Beyond::Bridge(bridge) => {
                let mut links: Vec<&Link> = bridge.gateways.iter().map(|(link, _)| *link).collect();
                links.dedup_by_key(|link| link.index);
                links
            }
            Beyond::Nothing
            | Beyond::Unseen
            | Beyond::Foreign
            | Beyond::Switch { .. }
            | Beyond::Parent { .. } => Vec::new(),
        }
    }

    /// Whether the node is to forward what the VM sends elsewhere. A bridge with a way out of its own has another router.
    pub(super) fn is_routed(&self) -> bool {
        let translated = || ["masquerade", "port"].iter().any(|kind| self.marks(kind).next().is_some());
        match &self.beyond {
            Beyond::Routed { .. } => true,
            Beyond::Bridge(bridge) => {
                let out = bridge.uplinks.iter().any(|link| link.kind.as_deref() != Some("vxlan"));
                !bridge.gateways.is_empty() && (!out || translated())
            }
            Beyond::Nothing
            | Beyond::Unseen
            | Beyond::Foreign
            | Beyond::Switch { .. }
            | Beyond::Parent { .. } => false,
        }
    }
}
