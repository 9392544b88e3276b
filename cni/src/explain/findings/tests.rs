use super::super::facts::{Device, Facts, Pod, Record};
use super::super::fixture::{self, BRIDGE, END, NIC, TAP, UPLINK, VXLAN, route};
use super::super::path;
use super::*;
use crate::netlink::{Details, Link, PortState};

fn of(facts: &Facts) -> Vec<Finding> {
    path::all(facts).iter().flat_map(on).collect()
}

fn pod(facts: &mut Facts, index: u32) -> &mut Link {
    facts.pod.links.iter_mut().find(|link| link.index == index).unwrap()
}

fn node(facts: &mut Facts, index: u32) -> &mut Link {
    facts.node.links.iter_mut().find(|link| link.index == index).unwrap()
}

fn remove(facts: &mut Facts, name: &str) {
    facts.pod.links.retain(|link| link.name != name);
    facts.node.links.retain(|link| link.name != name);
}

fn set(facts: &mut Facts, path: &str, value: &str) {
    facts.node.settings.insert(path.to_owned(), value.to_owned());
}

fn user(facts: &mut Facts, owner: Option<u32>, group: Option<u32>) {
    if let Details::Tun(tun) = &mut pod(facts, TAP).details {
        (tun.owner, tun.group) = (owner, group);
    }
}

#[test]
fn nothing_is_wrong_with_what_is_as_it_was_made() {
    for (mode, facts) in [
        ("tap", fixture::tap()),
        ("bridge", fixture::bridge()),
        ("bridge by VLAN", fixture::vlans()),
        ("bridge as gateway", fixture::gateway()),
        ("vxlan", fixture::vxlan()),
        ("ptp", fixture::ptp()),
        ("macvtap", fixture::macvtap()),
        ("ipvlan", fixture::ipvlan()),
        ("passt", fixture::passt()),
        ("none", fixture::none()),
    ] {
        assert_eq!(path::all(&facts).len(), 1, "{mode}");
        assert_eq!(of(&facts), [], "{mode}");
    }
}

/// A pod, what is broken of it, and what is found: where, and what is said of it.
type Row = (fn() -> Facts, fn(&mut Facts), &'static str, &'static str, &'static str);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // In the pod.
    (fixture::tap, |f| pod(f, TAP).carrier = false, "tap-closed", "tap0", "no carrier: no QEMU has it open"),
    (fixture::tap, |f| user(f, Some(1000), None), "tap-user", "tap0", "made for user 1000; QEMU, which runs as 107, is refused"),
    (fixture::tap, |f| user(f, None, Some(5)), "tap-user", "tap0", "made for group 5; QEMU, which runs as 107, is refused"),
    (fixture::tap, |f| f.user = 1, "tap-user", "tap0", "made for user 107; QEMU, which runs as 1, is refused"),
    (fixture::tap, |f| pod(f, TAP).up = false, "link-down", "tap0", "down"),
    (fixture::tap, |f| drop(f.pod.redirects.remove(&TAP)), "redirect-missing", "tap0", "no redirect: its frames do not reach eth0"),
    (fixture::tap, |f| drop(f.pod.redirects.remove(&NIC)), "redirect-missing", "eth0", "no redirect: its frames do not reach tap0"),
    (fixture::tap, |f| drop(f.pod.redirects.insert(NIC, vec![1])), "redirect-elsewhere", "eth0", "its frames go to lo, not to tap0"),
    (fixture::tap, |f| drop(f.pod.redirects.insert(NIC, vec![99])), "redirect-elsewhere", "eth0", "its frames go to a link that is gone, not to tap0"),
    (fixture::tap, |f| { f.records.clear(); f.pod.redirects.clear(); }, "redirect-missing", "tap0", "leads nowhere: no redirect to a NIC, nor from one"),
    (fixture::tap, |f| pod(f, NIC).mtu = 1400, "mtu-narrows", "eth0", "MTU 1400 is below tap0's 1500: longer packets are lost here"),
    (fixture::tap, |f| { remove(f, "tap0"); f.pod.redirects.clear(); }, "link-missing", "tap0", "gone, and the attachment was made with it"),
    (fixture::tap, |f| remove(f, "veth7"), "other-end-unseen", "eth0", "its other end is not in this network namespace"),
    (fixture::tap, |f| f.records[0].done = false, "add-unfinished", "eth0", "ADD did not come to its end"),
    (fixture::tap, |f| f.pod.links[1].kind = None, "", "", ""),
    (fixture::tap, |f| { f.pod.links[1].kind = None; pod(f, NIC).carrier = false; }, "no-carrier", "eth0", "no carrier: nothing leaves by it"),
    // The bridge.
    (fixture::bridge, |f| node(f, END).up = false, "link-down", "veth7", "down"),
    (fixture::bridge, |f| node(f, BRIDGE).up = false, "link-down", "br0", "down"),
    (fixture::bridge, |f| node(f, END).mtu = 1400, "mtu-narrows", "veth7", "MTU 1400 is below tap0's 1500: longer packets are lost here"),
    (fixture::bridge, |f| node(f, UPLINK).mtu = 1400, "mtu-narrows", "eth1", "MTU 1400 is below tap0's 1500: longer packets are lost here"),
    (fixture::bridge, |f| node(f, UPLINK).carrier = false, "no-carrier", "eth1", "no carrier: nothing leaves by it"),
    (fixture::bridge, |f| node(f, END).master = None, "port-removed", "veth7", "port of no bridge any more"),
    (fixture::bridge, |f| node(f, END).port.as_mut().unwrap().state = PortState::Blocking, "port-blocked", "veth7", "port of br0 is blocking: nothing passes"),
    (fixture::bridge, |f| node(f, UPLINK).port.as_mut().unwrap().state = PortState::Disabled, "port-blocked", "eth1", "port of br0 is disabled: nothing passes"),
    (fixture::bridge, |f| for index in [END, UPLINK] { node(f, index).port.as_mut().unwrap().isolated = true; }, "port-isolated", "veth7", "isolated, as eth1 is: neither reaches the other"),
    (fixture::bridge, |f| node(f, END).port.as_mut().unwrap().isolated = true, "", "", ""),
    (fixture::vlans, |f| f.node.vlans.get_mut(&UPLINK).unwrap()[0].id = 8, "vlan-missing", "eth1", "without VLAN 7, which veth7 is in: its frames do not leave the node"),
    (fixture::vlans, |f| drop(f.node.vlans.remove(&END)), "vlan-none", "veth7", "in no VLAN, and br0 filters by them: nothing passes"),
    (fixture::gateway, |f| f.marks.as_mut().unwrap()[1].frames = Some(3), "mac-refused", "veth7", "3 frames dropped: the guest sends from another MAC than 02:00:00:00:00:05"),
    (fixture::gateway, |f| f.marks = Some(Vec::new()), "rules-missing", "table sluice", "none of the attachment's rules is left: no masquerading, port mappings or check of its MAC"),
    (fixture::gateway, |f| f.marks = None, "", "", ""),
    (fixture::gateway, |f| set(f, "net/ipv4/ip_forward", "0"), "forwarding-off", "net.ipv4.ip_forward", "0, so that the node forwards nothing of the VM's, masqueraded or not"),
    (fixture::bridge, |f| set(f, "net/ipv4/ip_forward", "0"), "", "", ""),
    (fixture::gateway, |f| set(f, "net/ipv4/conf/br0/rp_filter", "1"), "", "", ""),
    (fixture::gateway, |f| { set(f, "net/ipv4/conf/br0/rp_filter", "1"); f.node.routes[0] = route("10.7.0.0/24", None, UPLINK); }, "rp-filter", "br0", "rp_filter is strict, and the way back to 10.7.0.2 goes through eth1: its packets are dropped"),
    // The tunnel.
    (fixture::vxlan, |f| f.node.stations.clear(), "vxlan-alone", "vxlan42", "no peers: broadcasts, and so ARP, reach no other node"),
    (fixture::vxlan, |f| node(f, UPLINK).up = false, "vxlan-carrier", "eth1", "is down, and vxlan42 goes through it"),
    (fixture::vxlan, |f| node(f, UPLINK).carrier = false, "vxlan-carrier", "eth1", "has no carrier, and vxlan42 goes through it"),
    (fixture::vxlan, |f| node(f, UPLINK).mtu = 1499, "vxlan-mtu", "vxlan42", "MTU 1450 with 50 bytes of outer headers is above eth1's 1499"),
    (fixture::vxlan, |f| if let Details::Vxlan { device, .. } = &mut node(f, VXLAN).details { *device = None; }, "vxlan-unrouted", "vxlan42", "no route to peer 192.0.2.3"),
    (fixture::vxlan, |f| node(f, VXLAN).mtu = 1400, "mtu-narrows", "vxlan42", "MTU 1400 is below tap0's 1450: longer packets are lost here"),
    (fixture::vxlan, |f| remove(f, "vxlan42"), "link-missing", "vxlan42", "gone, and the attachment was made with it"),
    // Routes.
    (fixture::ptp, |f| set(f, "net/ipv4/ip_forward", "0"), "forwarding-off", "net.ipv4.ip_forward", "0, so that the node forwards nothing of the VM's, masqueraded or not"),
    (fixture::ptp, |f| set(f, "net/ipv4/conf/veth7/proxy_arp", "0"), "proxy-arp-off", "veth7", "proxy_arp is 0: nobody answers the guest's ARP for its own network"),
    (fixture::ptp, |f| { f.node.routes.remove(0); }, "route-missing", "veth7", "what the node sends to 10.8.0.2 goes through eth1, not through veth7"),
    (fixture::ptp, |f| f.node.routes.clear(), "route-missing", "veth7", "what the node sends to 10.8.0.2 has no route, not through veth7"),
    // A link of the node beneath.
    (fixture::macvtap, |f| node(f, UPLINK).up = false, "link-down", "eth1", "down"),
    (fixture::macvtap, |f| node(f, UPLINK).carrier = false, "no-carrier", "eth1", "no carrier: nothing leaves by it"),
    (fixture::macvtap, |f| node(f, UPLINK).mtu = 1400, "mtu-narrows", "eth1", "MTU 1400 is below eth0's 1500: longer packets are lost here"),
    (fixture::macvtap, |f| f.devices.clear(), "device-missing", "/dev/tap2", "the device node of eth0 is gone: QEMU cannot open it"),
    (fixture::macvtap, |f| { f.devices.insert(NIC, Device { user: 0, group: 0 }); }, "device-user", "/dev/tap2", "belongs to user 0; QEMU, which runs as 107, is refused"),
    (fixture::ipvlan, |f| f.pod.routes.clear(), "guest-route-missing", "tap0", "the pod does not route 10.9.0.2 to it"),
    (fixture::ipvlan, |f| drop(f.pod.settings.insert("net/ipv4/ip_forward".to_owned(), "0".to_owned())), "forwarding-off", "net.ipv4.ip_forward", "0, so that the pod forwards nothing between the VM and its NIC"),
    // The translator's pod.
    (fixture::passt, |f| drop(f.pod.settings.insert("net/ipv4/ip_unprivileged_port_start".to_owned(), "1024".to_owned())), "translator-ports", "net.ipv4.ip_unprivileged_port_start", "1024, so that a translator without root cannot listen below it"),
    (fixture::passt, |f| drop(f.pod.settings.insert("net/ipv4/ping_group_range".to_owned(), "1\t0".to_owned())), "translator-pings", "net.ipv4.ping_group_range", "without group 107: the VM's pings do not leave"),
];

#[test]
fn one_thing_that_is_broken_is_one_finding() {
    for (healthy, sicken, id, name, what) in ROWS {
        let mut facts = healthy();
        sicken(&mut facts);
        let found = of(&facts);
        let said: Vec<_> =
            found.iter().map(|found| (found.id, found.name.as_str(), found.what.as_str())).collect();
        let expected = if id.is_empty() { Vec::new() } else { vec![(*id, *name, *what)] };
        assert_eq!(said, expected, "of {:?}", facts.records.first().map(|record| &record.mode));
        assert!(found.iter().all(|found| !found.remedy.is_empty()), "{id}");
    }
}

#[test]
fn every_finding_has_a_row() {
    let sources = [include_str!("links.rs"), include_str!("networks.rs"), include_str!("records.rs")];
    let named = sources.iter().flat_map(|source| source.split("findings.add(\"").skip(1));
    for id in named.filter_map(|rest| rest.split('"').next()) {
        assert!(ROWS.iter().any(|row| row.2 == id), "{id}");
    }
}

#[test]
fn attachment_whose_pod_is_gone_is_wrong_and_says_what_is_left() {
    let record = Record { pod: Pod::Gone, ..fixture::bridge().records.remove(0) };
    let found = gone(&record, &["veth7".to_owned()].into()).unwrap();
    assert_eq!(
        found.what,
        "eth0 is written down, and its pod's namespace /run/netns/pod is gone; veth7 left on the node"
    );
    let found = gone(&record, &[].into()).unwrap();
    assert_eq!(found.what, "eth0 is written down, and its pod's namespace /run/netns/pod is gone");
    assert_eq!(gone(&Record { pod: Pod::Unknown, ..record.clone() }, &[].into()), None);
    assert_eq!(gone(&Record { pod: Pod::Alive, ..record }, &[].into()), None);
}
