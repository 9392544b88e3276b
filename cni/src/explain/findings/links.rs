//! The links themselves: there, up, open, of the right user, redirected, and none narrower than the one before.

use super::super::facts::forwarding;
use super::super::path::{Beyond, Guest, Path};
use super::super::survey::{TRANSLATOR, device_path};
use super::super::trace::Place;
use super::{Findings, recreate};
use crate::netlink::{Details, Link};

pub(super) fn all(path: &Path<'_>, findings: &mut Findings) {
    match path.guest {
        Guest::Tap(_) => tap(path, findings),
        Guest::Macvtap => device(path, findings),
        Guest::Translator => translator(path, findings),
        Guest::Container => {}
    }
    if path.is_routed_in_pod() {
        routed_in_pod(path, findings);
    } else if let (Some(tap), Some(nic)) = (path.tap, path.nic) {
        redirect(path, tap, nic, findings);
        redirect(path, nic, tap, findings);
    }
    states(path, findings);
    widths(path, findings);
}

fn tap(path: &Path<'_>, findings: &mut Findings) {
    let Some(link) = path.tap else { return };
    let Details::Tun(tun) = &link.details else { return };
    let user = path.facts.user;
    // Both must fit where both are set (drivers/net/tun.c, tun_not_capable).
    let set = [("user", "owner", tun.owner), ("group", "group", tun.group)];
    let refused = set.into_iter().find_map(|(what, key, id)| Some((what, key, id.filter(|id| *id != user)?)));
    if let Some((what, key, id)) = refused {
        let whose = format!("made for {what} {id}; QEMU, which runs as {user}, is refused");
        let remedy = format!("set \"{key}\": {user} in the network, or explain with --user {id}");
        findings.add("tap-user", Place::Pod, &link.name, whose, remedy);
    }
    if !link.carrier && link.up {
        let remedy = "start the VM, or see in its launcher's log why QEMU did not open it";
        findings.add("tap-closed", Place::Pod, &link.name, "no carrier: no QEMU has it open", remedy);
    }
    if path.nic.is_none() && path.record.is_none_or(|record| record.mode != "none") {
        let remedy = recreate(path.record);
        findings.add(
            "redirect-missing",
            Place::Pod,
            &link.name,
            "leads nowhere: no redirect to a NIC, nor from one",
            remedy,
        );
    }
}

fn device(path: &Path<'_>, findings: &mut Findings) {
    let Some(nic) = path.nic else { return };
    let (name, user) = (device_path(nic), path.facts.user);
    match path.facts.devices.get(&nic.index) {
        None => {
            let what = format!("the device node of {} is gone: QEMU cannot open it", nic.name);
            findings.add("device-missing", Place::Node, &name, what, recreate(path.record));
        }
        Some(device) if device.user != user => {
            let what = format!("belongs to user {}; QEMU, which runs as {user}, is refused", device.user);
            let remedy =
                format!("set \"owner\": {user} in the network, or explain with --user {}", device.user);
            findings.add("device-user", Place::Node, &name, what, remedy);
        }
        Some(_) => {}
    }
}

fn translator(path: &Path<'_>, findings: &mut Findings) {
    let [ports, pings] = TRANSLATOR;
    let user = path.facts.user;
    let value = |setting: &str| path.facts.pod.setting(setting).unwrap_or_default().to_owned();
    let first = value(ports);
    if first != "0" {
        let what = format!("{first}, so that a translator without root cannot listen below it");
        findings.add("translator-ports", Place::Pod, &ports.replace('/', "."), what, recreate(path.record));
    }
    let groups: Vec<u32> = value(pings).split_whitespace().filter_map(|number| number.parse().ok()).collect();
    if !matches!(groups.as_slice(), [first, last] if (*first..=*last).contains(&user)) {
        let what = format!("without group {user}: the VM's pings do not leave");
        findings.add("translator-pings", Place::Pod, &pings.replace('/', "."), what, recreate(path.record));
    }
}

fn redirect(path: &Path<'_>, from: &Link, to: &Link, findings: &mut Findings) {
    let pod = &path.facts.pod;
    let remedy = || recreate(path.record);
    match pod.redirects(from).first() {
        Some(index) if *index == to.index => {}
        Some(index) => {
            let other = pod.at(*index).map_or("a link that is gone", |link| &link.name);
            let what = format!("its frames go to {other}, not to {}", to.name);
            findings.add("redirect-elsewhere", Place::Pod, &from.name, what, remedy());
        }
        None => {
            let what = format!("no redirect: its frames do not reach {}", to.name);
            findings.add("redirect-missing", Place::Pod, &from.name, what, remedy());
        }
    }
}

/// In place of redirection the pod is the VM's router.
fn routed_in_pod(path: &Path<'_>, findings: &mut Findings) {
    let pod = &path.facts.pod;
    let Some(tap) = path.tap else { return };
    for address in path.addresses() {
        let to = address.network.addr();
        if pod.route(to).is_none_or(|route| route.device != Some(tap.index)) {
            let what = format!("the pod does not route {to} to it");
            findings.add("guest-route-missing", Place::Pod, &tap.name, what, recreate(path.record));
        }
        if pod.forwards(to.is_ipv4()) == Some(false) {
            let name = forwarding(to.is_ipv4()).replace('/', ".");
            let what = "0, so that the pod forwards nothing between the VM and its NIC";
            findings.add("forwarding-off", Place::Pod, &name, what, recreate(path.record));
        }
    }
}

/// Links that are down, or whose wire is.
fn states(path: &Path<'_>, findings: &mut Findings) {
    for (place, link) in chain(path) {
        if !link.up {
            let within = if place == Place::Pod { "in the pod: " } else { "" };
            let remedy = format!("{within}ip link set {} up, and see who took it down", link.name);
            findings.add("link-down", place, &link.name, "down", remedy);
        }
    }
    let wires = match &path.beyond {
        Beyond::Parent { parent } => vec![(Place::Node, *parent)],
        Beyond::Bridge(bridge) => bridge.uplinks.iter().map(|link| (Place::Node, *link)).collect(),
        Beyond::Foreign => path.nic.map(|nic| (Place::Pod, nic)).into_iter().collect(),
        Beyond::Nothing | Beyond::Unseen | Beyond::Switch { .. } | Beyond::Routed { .. } => Vec::new(),
    };
    for (place, link) in wires.into_iter().filter(|(_, link)| link.up && !link.carrier) {
        let remedy = "see to its cable, or to the link at its other end";
        findings.add("no-carrier", place, &link.name, "no carrier: nothing leaves by it", remedy);
    }
    if matches!(path.beyond, Beyond::Unseen) {
        let name = path.nic.map_or("?", |nic| &nic.name);
        let what = "its other end is not in this network namespace";
        findings.add(
            "other-end-unseen",
            Place::Pod,
            name,
            what,
            "run this in the node's own network namespace",
        );
    }
}

/// The narrowest so far counts, and of those the first: what was lost before is not lost again.
fn widths(path: &Path<'_>, findings: &mut Findings) {
    let way: Vec<(Place, &Link)> = way(path).collect();
    let mut narrowest: Option<&Link> = None;
    for (place, link) in way {
        if let Some(before) = narrowest.filter(|before| link.mtu < before.mtu) {
            narrow(place, link, before, findings);
        }
        if narrowest.is_none_or(|before| link.mtu < before.mtu) {
            narrowest = Some(link);
        }
    }
    // Beyond the bridge each way counts by itself.
    if let (Beyond::Bridge(bridge), Some(before)) = (&path.beyond, narrowest) {
        for link in bridge.uplinks.iter().filter(|link| link.mtu < before.mtu) {
            narrow(Place::Node, link, before, findings);
        }
    }
}

fn narrow(place: Place, link: &Link, before: &Link, findings: &mut Findings) {
    let what =
        format!("MTU {} is below {}'s {}: longer packets are lost here", link.mtu, before.name, before.mtu);
    let remedy = format!("set \"mtu\": {} in the network, or widen {}", link.mtu, link.name);
    findings.add("mtu-narrows", place, &link.name, what, remedy);
}

/// Links that every frame passes, without the bridge, whose own MTU is that of its address.
fn way<'a>(path: &Path<'a>) -> impl Iterator<Item = (Place, &'a Link)> + use<'a> {
    let pod = path.tap.into_iter().chain(path.nic).map(|link| (Place::Pod, link));
    let parent = if let Beyond::Parent { parent } = path.beyond { Some(parent) } else { None };
    pod.chain(path.end().into_iter().chain(parent).map(|link| (Place::Node, link)))
}

/// All links on the way.
fn chain<'a>(path: &Path<'a>) -> Vec<(Place, &'a Link)> {
    let mut links: Vec<(Place, &Link)> = way(path).collect();
    if let Beyond::Bridge(bridge) = &path.beyond {
        links.push((Place::Node, bridge.bridge));
        links.extend(bridge.uplinks.iter().map(|link| (Place::Node, *link)));
        let stack = path.stack().into_iter().filter(|link| link.index != bridge.bridge.index);
        links.extend(stack.map(|link| (Place::Node, link)));
    }
    links
}
