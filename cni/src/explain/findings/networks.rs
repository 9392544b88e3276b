//! What decides where frames go once they have left the pod: bridge, VLANs, tunnel, the node's own stack.

use std::collections::BTreeSet;

use super::super::facts::forwarding;
use super::super::path::{Beyond, Bridge, Path};
use super::super::trace::{Place, families};
use super::super::words::{and, count, ranges};
use super::{Findings, recreate};
use crate::netlink::{Details, Link, PortState, Vxlan};

pub(super) fn all(path: &Path<'_>, findings: &mut Findings) {
    if let Beyond::Bridge(bridge) = &path.beyond {
        port(path, bridge, findings);
        vlans(path, bridge, findings);
        for uplink in &bridge.uplinks {
            if let Details::Vxlan { settings, device } = &uplink.details {
                tunnel(path, uplink, settings, *device, findings);
            }
        }
    }
    if path.is_routed() {
        routing(path, findings);
    }
    let bridged = ["bridge", "vxlan"].contains(&path.record.map_or("", |record| &record.mode));
    if let (Beyond::Routed { end }, true) = (&path.beyond, bridged) {
        let what = "port of no bridge any more";
        findings.add("port-removed", Place::Node, &end.name, what, recreate(path.record));
    }
}

fn port(path: &Path<'_>, bridge: &Bridge<'_>, findings: &mut Findings) {
    let ports = std::iter::once(&bridge.port).chain(&bridge.uplinks);
    for link in ports.filter(|link| link.up && link.carrier) {
        let Some(port) = &link.port else { continue };
        let state = match port.state {
            PortState::Forwarding => continue,
            PortState::Disabled => "disabled",
            PortState::Listening | PortState::Learning => "not forwarding yet",
            PortState::Blocking => "blocking",
            PortState::Other(_) => "not forwarding",
        };
        let what = format!("port of {} is {state}: nothing passes", bridge.bridge.name);
        let remedy = format!("bridge link set dev {} state 3, or wait for the spanning tree", link.name);
        findings.add("port-blocked", Place::Node, &link.name, what, remedy);
    }
    let is_isolated = |link: &&Link| link.port.as_ref().is_some_and(|port| port.isolated);
    if is_isolated(&bridge.port) {
        for uplink in bridge.uplinks.iter().filter(|link| is_isolated(link)) {
            let what = format!("isolated, as {} is: neither reaches the other", uplink.name);
            let remedy = format!("bridge link set dev {} isolated off", uplink.name);
            findings.add("port-isolated", Place::Node, &bridge.port.name, what, remedy);
        }
    }
    for mark in path.marks("mac") {
        let Some(frames) = mark.frames.filter(|frames| *frames > 0) else { continue };
        let mac = mark.mac.map_or_else(|| "its own".to_owned(), |mac| mac.to_string());
        let what = format!("{} dropped: the guest sends from another MAC than {mac}", count(frames, "frame"));
        let remedy = "give the VM's interface this MAC, or the network \"macspoofchk\": false";
        findings.add("mac-refused", Place::Node, &bridge.port.name, what, remedy);
    }
}

fn vlans(path: &Path<'_>, bridge: &Bridge<'_>, findings: &mut Findings) {
    let node = &path.facts.node;
    if !matches!(bridge.bridge.details, Details::Bridge { vlan_filtering: true, .. }) {
        return;
    }
    let of = |link: &Link| node.vlans(link).iter().map(|vlan| vlan.id).collect::<BTreeSet<u16>>();
    let ours = of(bridge.port);
    if ours.is_empty() {
        let what = format!("in no VLAN, and {} filters by them: nothing passes", bridge.bridge.name);
        findings.add("vlan-none", Place::Node, &bridge.port.name, what, recreate(path.record));
    }
    if bridge.uplinks.is_empty() {
        return;
    }
    let carried: BTreeSet<u16> = bridge.uplinks.iter().flat_map(|link| of(link)).collect();
    let missing: Vec<u16> = ours.difference(&carried).copied().collect();
    // The one that every port has from the kernel is rarely meant to leave.
    let meant = |id: &u16| *id != 1 || ours.len() == 1;
    let missing: Vec<u16> = missing.into_iter().filter(meant).collect();
    if missing.is_empty() {
        return;
    }
    let names: Vec<&str> = bridge.uplinks.iter().map(|link| link.name.as_str()).collect();
    let (list, name) = (ranges(&missing), and(&names));
    let what =
        format!("without VLAN {list}, which {} is in: its frames do not leave the node", bridge.port.name);
    let vid = missing.first().map(u16::to_string).unwrap_or_default();
    let remedy = format!("bridge vlan add dev {} vid {vid}", names.first().unwrap_or(&"UPLINK"));
    findings.add("vlan-missing", Place::Node, &name, what, remedy);
}

fn tunnel(path: &Path<'_>, link: &Link, settings: &Vxlan, device: Option<u32>, findings: &mut Findings) {
    let node = &path.facts.node;
    let stations = node.stations(link);
    let everybody = stations.iter().filter(|entry| entry.mac == [0; 6]).find_map(|entry| entry.dst);
    let Some(peer) = settings.remote.or(everybody) else {
        let what = "no peers: broadcasts, and so ARP, reach no other node";
        findings.add(
            "vxlan-alone",
            Place::Node,
            &link.name,
            what,
            "name the other nodes in the network's \"peers\", or a \"group\"",
        );
        return;
    };
    let route = node.route(peer);
    let Some(carrier) =
        device.or_else(|| route.and_then(|route| route.device)).and_then(|index| node.at(index))
    else {
        let what = format!("no route to peer {peer}");
        findings.add("vxlan-unrouted", Place::Node, &link.name, what, "see to the node's routes");
        return;
    };
    if !carrier.up || !carrier.carrier {
        let state = if carrier.up { "has no carrier" } else { "is down" };
        let what = format!("{state}, and {} goes through it", link.name);
        findings.add("vxlan-carrier", Place::Node, &carrier.name, what, format!("see to {}", carrier.name));
    }
    let overhead = if peer.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
    let most = carrier.mtu.saturating_sub(overhead);
    if link.mtu > most {
        let what = format!(
            "MTU {} with {overhead} bytes of outer headers is above {}'s {}",
            link.mtu, carrier.name, carrier.mtu
        );
        findings.add(
            "vxlan-mtu",
            Place::Node,
            &link.name,
            what,
            format!("set \"mtu\": {most} in the network"),
        );
    }
}

/// The node's stack as the VM's router.
fn routing(path: &Path<'_>, findings: &mut Findings) {
    let node = &path.facts.node;
    for v4 in families(path) {
        if node.forwards(v4) == Some(false) {
            let name = forwarding(v4).replace('/', ".");
            let what = "0, so that the node forwards nothing of the VM's, masqueraded or not";
            findings.add(
                "forwarding-off",
                Place::Node,
                &name,
                what,
                format!("sysctl -w {name}=1, and see who set it to 0"),
            );
        }
    }
    let stack = path.stack();
    let is_ptp = path.record.is_some_and(|record| record.mode == "ptp");
    for address in path.addresses() {
        let to = address.network.addr();
        let device = node.route(to).and_then(|route| route.device).and_then(|index| node.at(index));
        if device.is_some_and(|device| stack.iter().any(|link| link.index == device.index)) {
            continue;
        }
        let elsewhere = device
            .map_or_else(|| "has no route".to_owned(), |device| format!("goes through {}", device.name));
        let name = stack.first().map_or("?", |link| &link.name);
        if is_ptp {
            let what = format!("what the node sends to {to} {elsewhere}, not through {name}");
            findings.add(
                "route-missing",
                Place::Node,
                name,
                what,
                format!("ip route add {to} dev {name}, and see who removed it"),
            );
        }
        if to.is_ipv4() && stack.iter().any(|link| node.is_strict(link)) {
            let what =
                format!("rp_filter is strict, and the way back to {to} {elsewhere}: its packets are dropped");
            findings.add(
                "rp-filter",
                Place::Node,
                name,
                what,
                format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2, or mend the route"),
            );
        }
    }
    if let (Beyond::Routed { end }, true) =
        (&path.beyond, is_ptp && path.record.is_some_and(|record| record.tap().is_some()))
    {
        let proxy = node.setting(&format!("net/ipv4/conf/{}/proxy_arp", end.name));
        if proxy == Some("0") && families(path).contains(&true) {
            let what = "proxy_arp is 0: nobody answers the guest's ARP for its own network";
            findings.add(
                "proxy-arp-off",
                Place::Node,
                &end.name,
                what,
                format!("sysctl -w net.ipv4.conf.{}.proxy_arp=1", end.name),
            );
        }
    }
}

/// Outer Ethernet payload (RFC 7348 5): IP, UDP, VXLAN and the inner Ethernet header.
const OVERHEAD_V4: u32 = 50;
const OVERHEAD_V6: u32 = 70;
