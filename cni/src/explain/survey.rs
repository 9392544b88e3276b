//! Looks: asks the kernel, reads journals and device nodes. It must never change anything, take a lock, or judge.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::ExplainError;
use super::facts::{Device, Facts, Pod, Record, View, forwarding};
use super::path::{self, Beyond};
use crate::journal::{Header, Store};
use crate::namespace::{Namespace, NamespaceError};
use crate::netlink::{Details, Link, Netlink, RouteFilter};
use crate::nft::Nft;
use crate::sysctl;

/// What a translator needs of a pod.
pub(super) const TRANSLATOR: [&str; 2] = ["net/ipv4/ip_unprivileged_port_start", "net/ipv4/ping_group_range"];

/// Everything about one pod and its node.
pub(super) fn facts(pod: &Namespace, records: Vec<Record>, user: u32) -> Result<Facts, ExplainError> {
    let inside = Netlink::within(pod)?;
    let host = Netlink::open()?;
    let mut facts = Facts {
        pod: view(&inside)?,
        node: view(&host)?,
        records,
        marks: Nft::open().and_then(|mut nft| nft.marks()).ok(),
        devices: BTreeMap::new(),
        user,
    };
    let all: Vec<u32> = facts.pod.links.iter().map(|link| link.index).collect();
    details(&inside, &mut facts.pod, &all)?;
    let wanted = node_links(&facts);
    details(&host, &mut facts.node, &wanted)?;
    bridges(&host, &mut facts.node, &wanted)?;
    facts.node.settings = settings(&node_settings(&facts.node, &wanted));
    let paths = TRANSLATOR.iter().map(|path| (*path).to_owned());
    let paths: Vec<String> = paths.chain([true, false].map(|v4| forwarding(v4).to_owned())).collect();
    facts.pod.settings = pod.run(|| settings(&paths)).map_err(ExplainError::Enter)?;
    facts.devices = facts.pod.links.iter().filter_map(device).collect();
    Ok(facts)
}

/// Every attachment in the state folder, and what became of its pod.
pub(super) fn records(store: &Store) -> Result<Vec<Record>, ExplainError> {
    let entries = store.entries().map_err(ExplainError::State)?;
    let mut records: Vec<Record> = entries
        .into_iter()
        .filter_map(|entry| {
            let pod = entry.header.as_ref().map_or(Pod::Unknown, what_became_of);
            Record::of(entry, pod)
        })
        .collect();
    records.sort_by(|one, other| one.attachment.cmp(&other.attachment));
    Ok(records)
}

/// Links that records of pods that are gone name and the node still has.
pub(super) fn node_names() -> Result<BTreeSet<String>, ExplainError> {
    Ok(Netlink::open()?.links()?.into_iter().map(|link| link.name).collect())
}

fn what_became_of(header: &Header) -> Pod {
    // A runtime's folder that is not seen from here says nothing about what is in it, nor a process's, whose number may be
    // another's by now, or one of another container.
    let seen = !header.netns.starts_with("/proc") && header.netns.parent().is_some_and(Path::is_dir);
    match Namespace::open(&header.netns).map(|pod| pod.identity()) {
        Ok(Ok(identity)) if identity == header.netns_identity => Pod::Alive,
        Ok(Ok(_)) | Err(NamespaceError::NotANamespace(_) | NamespaceError::NotFound(_)) if seen => Pod::Gone,
        Ok(_) | Err(_) => Pod::Unknown,
    }
}

fn view(netlink: &Netlink) -> Result<View, ExplainError> {
    Ok(View {
        links: netlink.links()?,
        addresses: netlink.addresses(None)?,
        routes: netlink.routes(RouteFilter::default())?,
        ..View::default()
    })
}

/// Redirection and limits of links.
fn details(netlink: &Netlink, view: &mut View, wanted: &[u32]) -> Result<(), ExplainError> {
    for index in wanted {
        let redirects = netlink.redirects(*index)?;
        if !redirects.is_empty() {
            view.redirects.insert(*index, redirects);
        }
        if let Some(limit) = netlink.tbf(*index)? {
            view.limits.insert(*index, limit);
        }
    }
    Ok(())
}

/// VLANs and forwarding tables of bridges' ports.
fn bridges(netlink: &Netlink, view: &mut View, wanted: &[u32]) -> Result<(), ExplainError> {
    let filters = |link: &Link| matches!(link.details, Details::Bridge { vlan_filtering: true, .. });
    for link in view.links.iter().filter(|link| wanted.contains(&link.index)) {
        let bridge = link.master.and_then(|master| view.at(master));
        if bridge.is_some_and(filters) || filters(link) {
            view.vlans.insert(link.index, netlink.vlans(link.index)?);
        }
        if link.port.is_some() || matches!(link.details, Details::Vxlan { .. }) {
            view.stations.insert(link.index, netlink.fdb(link.index)?);
        }
    }
    Ok(())
}

/// Links of the node that frames of this pod pass.
fn node_links(facts: &Facts) -> Vec<u32> {
    let mut wanted = BTreeSet::new();
    for path in path::all(facts) {
        wanted.extend(path.end().map(|link| link.index));
        wanted.extend(path.stack().iter().map(|link| link.index));
        match &path.beyond {
            Beyond::Bridge(bridge) => {
                wanted.insert(bridge.bridge.index);
                wanted.extend(bridge.uplinks.iter().map(|link| link.index));
            }
            Beyond::Parent { parent } => drop(wanted.insert(parent.index)),
            Beyond::Nothing
            | Beyond::Unseen
            | Beyond::Foreign
            | Beyond::Switch { .. }
            | Beyond::Routed { .. } => {}
        }
    }
    wanted.into_iter().collect()
}

fn node_settings(node: &View, wanted: &[u32]) -> Vec<String> {
    let names = node.links.iter().filter(|link| wanted.contains(&link.index)).map(|link| link.name.as_str());
    let of_links = names.chain(["all"]).flat_map(|name| {
        [
            format!("net/ipv4/conf/{name}/rp_filter"),
            format!("net/ipv4/conf/{name}/proxy_arp"),
            format!("net/ipv6/conf/{name}/proxy_ndp"),
        ]
    });
    of_links.chain([true, false].map(|v4| forwarding(v4).to_owned())).collect()
}

fn settings(paths: &[String]) -> BTreeMap<String, String> {
    paths.iter().filter_map(|path| Some((path.clone(), sysctl::read(path).ok()?))).collect()
}

/// The node that QEMU opens for a macvtap.
fn device(link: &Link) -> Option<(u32, Device)> {
    let there = fs::metadata(device_path(link)).ok().filter(|_| link.kind.as_deref() == Some("macvtap"))?;
    Some((link.index, Device { user: there.uid(), group: there.gid() }))
}

/// Where a macvtap's device node is.
pub(super) fn device_path(link: &Link) -> String {
    format!("/dev/tap{}", link.index)
}
