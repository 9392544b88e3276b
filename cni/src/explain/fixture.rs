//! Pods that are as they should be, for tests that break one thing of them.

use std::net::IpAddr;

use super::facts::{Device, Facts, Pod, Record, View};
use crate::attachment::Attachment;
use crate::journal::Step;
use crate::netlink::{
    Address, Details, FdbEntry, Link, MacvlanMode, Port, PortState, Route, RouteKind, Scope, TABLE_MAIN, Tun,
    Vlan, Vxlan,
};
use crate::nft::Mark;

/// Indices of links, in the pod...
pub(super) const NIC: u32 = 2;
pub(super) const TAP: u32 = 3;
/// ...and on the node.
pub(super) const UPLINK: u32 = 2;
pub(super) const BRIDGE: u32 = 5;
pub(super) const VXLAN: u32 = 6;
pub(super) const END: u32 = 7;

pub(super) const MAC: &str = "02:00:00:00:00:05";

pub(super) fn link(index: u32, name: &str, kind: Option<&str>, details: Details) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: kind.map(str::to_owned),
        hardware: 1,
        mtu: 1500,
        max_mtu: None,
        mac: None,
        up: true,
        carrier: true,
        loopback: name == "lo",
        arp: true,
        promiscuous: false,
        all_multicast: false,
        master: None,
        parent: None,
        parent_elsewhere: false,
        alias: None,
        tx_queue_len: 1000,
        details,
        port: None,
    }
}

pub(super) fn address(index: u32, network: &str) -> Address {
    Address {
        index,
        network: network.parse().unwrap(),
        peer: None,
        scope: Scope::Universe,
        label: None,
        tentative: false,
        duplicate: false,
        deprecated: false,
        permanent: true,
    }
}

pub(super) fn route(dst: &str, gateway: Option<&str>, device: u32) -> Route {
    Route {
        dst: dst.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        device: Some(device),
        table: TABLE_MAIN,
        scope: Scope::Universe,
        priority: 0,
        mtu: None,
        advmss: None,
        onlink: false,
        source: None,
        kind: RouteKind::Unicast,
        protocol: 3,
    }
}

fn port_of(bridge: u32, link: Link) -> Link {
    let port = Port {
        hairpin: false,
        isolated: false,
        learning: true,
        unicast_flood: true,
        neigh_suppress: false,
        state: PortState::Forwarding,
    };
    Link { master: Some(bridge), port: Some(port), ..link }
}

fn across(parent: u32, link: Link) -> Link {
    Link { parent: Some(parent), parent_elsewhere: true, ..link }
}

fn record(mode: &str, steps: Vec<Step>) -> Record {
    let attachment = Attachment {
        network: "net".to_owned(),
        container: "c0ffee".to_owned(),
        interface: "eth0".to_owned(),
        beside: None,
    };
    Record {
        id: attachment.id(),
        attachment,
        mode: mode.to_owned(),
        netns: "/run/netns/pod".into(),
        steps,
        done: true,
        pod: Pod::Alive,
    }
}

fn pod_link(name: &str) -> Step {
    Step::PodLink { name: name.to_owned() }
}

fn host_link() -> Step {
    Step::HostLink { name: "veth7".to_owned() }
}

/// What modes with a veth pair share: tap and NIC in the pod, its other end on the node.
fn veth(mode: &str, steps: Vec<Step>) -> Facts {
    let record = record(mode, steps);
    let tun = Tun {
        tap: true,
        owner: Some(107),
        group: Some(107),
        vnet_hdr: true,
        persistent: true,
        ..Tun::default()
    };
    let alias = Some(format!("sluice:{}", record.id));
    let nic = across(END, link(NIC, "eth0", Some("veth"), Details::Veth));
    let pod = View {
        links: vec![
            link(1, "lo", None, Details::Other),
            Link { mac: MAC.parse().ok(), arp: false, ..nic },
            Link { alias, ..link(TAP, "tap0", Some("tun"), Details::Tun(tun)) },
        ],
        redirects: [(NIC, vec![TAP]), (TAP, vec![NIC])].into(),
        ..View::default()
    };
    let node = View {
        links: vec![
            link(1, "lo", None, Details::Other),
            link(UPLINK, "eth1", None, Details::Other),
            across(NIC, link(END, "veth7", Some("veth"), Details::Veth)),
        ],
        settings: [("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/all/rp_filter", "0")]
            .map(|(path, value)| (path.to_owned(), value.to_owned()))
            .into(),
        ..View::default()
    };
    Facts { pod, node, records: vec![record], marks: Some(Vec::new()), user: 107, ..Facts::default() }
}

/// A NIC of another plugin, a tap beside it.
pub(super) fn tap() -> Facts {
    let (name, tap) = ("eth0".to_owned(), "tap0".to_owned());
    let redirect = Step::PodRedirect { name, tap, ingress: true, mtu: Some(1500) };
    veth("tap", vec![pod_link("tap0"), redirect])
}

/// Ports of a bridge: the VM's, and an uplink.
pub(super) fn bridge() -> Facts {
    bridged("bridge", vec![host_link(), pod_link("tap0")])
}

fn bridged(mode: &str, steps: Vec<Step>) -> Facts {
    let mut facts = veth(mode, steps);
    let details = Details::Bridge { vlan_filtering: false, default_pvid: 1, stp: false };
    facts.node.links.push(link(BRIDGE, "br0", Some("bridge"), details));
    for link in facts.node.links.iter_mut().filter(|link| [END, UPLINK].contains(&link.index)) {
        *link = port_of(BRIDGE, link.clone());
    }
    facts
}

/// A bridge by VLAN, all of whose ports have VLAN 7.
pub(super) fn vlans() -> Facts {
    let mut facts = bridge();
    let bridge = facts.node.links.iter_mut().find(|link| link.index == BRIDGE).unwrap();
    bridge.details = Details::Bridge { vlan_filtering: true, default_pvid: 1, stp: false };
    let vlan = |pvid| vec![Vlan { id: 7, pvid, untagged: pvid }];
    facts.node.vlans = [(END, vlan(true)), (UPLINK, vlan(false))].into();
    facts
}

/// A bridge that is its network's gateway, masquerades, and lets no other MAC in.
pub(super) fn gateway() -> Facts {
    let mut facts = bridged("bridge", vec![host_link(), Step::Rules, pod_link("tap0")]);
    let uplink = facts.node.links.iter_mut().find(|link| link.index == UPLINK).unwrap();
    *uplink = link(UPLINK, "eth1", None, Details::Other);
    facts.node.addresses = vec![address(BRIDGE, "10.7.0.1/24")];
    facts.node.routes =
        vec![route("10.7.0.0/24", None, BRIDGE), route("0.0.0.0/0", Some("192.0.2.1"), UPLINK)];
    facts.pod.addresses = vec![address(NIC, "10.7.0.2/24")];
    let mark = |kind: &str, mac| Mark {
        id: facts.records[0].id.clone(),
        kind: kind.to_owned(),
        chain: "inet sluice postrouting".to_owned(),
        frames: Some(0),
        mac,
    };
    facts.marks = Some(vec![mark("masquerade", None), mark("mac", MAC.parse().ok())]);
    facts
}

/// A bridge whose other nodes are behind a VXLAN device.
pub(super) fn vxlan() -> Facts {
    let mut facts = bridged(
        "vxlan",
        vec![
            Step::SharedLink { name: "br0".to_owned() },
            Step::SharedLink { name: "vxlan42".to_owned() },
            host_link(),
            pod_link("tap0"),
        ],
    );
    let uplink = facts.node.links.iter_mut().find(|link| link.index == UPLINK).unwrap();
    *uplink = link(UPLINK, "eth1", None, Details::Other);
    let settings =
        Vxlan { vni: 42, port: 4789, local: None, remote: None, learning: true, proxy: false, ttl: 0 };
    let details = Details::Vxlan { settings, device: Some(UPLINK) };
    facts.node.links.push(port_of(BRIDGE, link(VXLAN, "vxlan42", Some("vxlan"), details)));
    for view in [&mut facts.pod, &mut facts.node] {
        for link in view.links.iter_mut().filter(|link| link.name != "eth1") {
            link.mtu = 1450;
        }
    }
    let peer: IpAddr = "192.0.2.3".parse().unwrap();
    let everybody = FdbEntry { mac: [0; 6], on_master: false, vlan: None, dst: Some(peer), permanent: true };
    facts.node.stations = [(VXLAN, vec![everybody])].into();
    facts
}

pub(super) fn ptp() -> Facts {
    let mut facts = veth("ptp", vec![host_link(), pod_link("tap0")]);
    facts.node.addresses = vec![address(END, "10.8.0.1/32")];
    facts.node.routes = vec![route("10.8.0.2/32", None, END), route("0.0.0.0/0", Some("192.0.2.1"), UPLINK)];
    facts.node.settings.insert("net/ipv4/conf/veth7/proxy_arp".to_owned(), "1".to_owned());
    facts.pod.addresses = vec![address(NIC, "10.8.0.2/24")];
    facts
}

pub(super) fn macvtap() -> Facts {
    // Of a device plugin, which gave it another name.
    let mut facts = veth("macvtap", vec![pod_link("mvt7"), pod_link("eth0")]);
    let details = Details::Macvlan { mode: Some(MacvlanMode::Bridge) };
    facts.pod.links = vec![
        link(1, "lo", None, Details::Other),
        across(
            UPLINK,
            Link {
                alias: Some(format!("sluice:{}", facts.records[0].id)),
                ..link(NIC, "eth0", Some("macvtap"), details)
            },
        ),
    ];
    facts.pod.redirects.clear();
    facts.node.links.pop();
    facts.devices = [(NIC, Device { user: 107, group: 107 })].into();
    facts
}

pub(super) fn ipvlan() -> Facts {
    let mut facts = veth("ipvlan", vec![pod_link("eth0"), pod_link("tap0"), Step::PodRules { table: 9 }]);
    let details = Details::Ipvlan { mode: None };
    facts.pod.links[1] = across(UPLINK, link(NIC, "eth0", Some("ipvlan"), details));
    facts.pod.redirects.clear();
    facts.pod.addresses = vec![address(NIC, "10.9.0.2/24")];
    facts.pod.routes = vec![route("10.9.0.2/32", None, TAP)];
    facts.pod.settings.insert("net/ipv4/ip_forward".to_owned(), "1".to_owned());
    facts.node.links.pop();
    facts
}

pub(super) fn passt() -> Facts {
    let mut facts = veth("passt", Vec::new());
    facts.pod.links.pop();
    facts.pod.redirects.clear();
    facts.pod.settings = [("ip_unprivileged_port_start", "0"), ("ping_group_range", "107\t107")]
        .map(|(name, value)| (format!("net/ipv4/{name}"), value.to_owned()))
        .into();
    facts
}

pub(super) fn none() -> Facts {
    let mut facts = veth("none", vec![pod_link("tap0")]);
    facts.pod.links.remove(1);
    facts.pod.redirects.clear();
    facts
}
