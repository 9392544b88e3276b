//! Links made, changed and removed.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use sluice_cni::netlink::{
    Change, Details, IpvlanMode, Kind, MacvlanMode, Netlink, NetlinkError, NewLink, Peer, Vxlan, existing_ok,
};
use sluice_cni::protocol::MacAddress;

use crate::lab::{enter_new_namespace, ip_link, link, other_namespace, up};

fn mac(text: &str) -> MacAddress {
    text.parse().unwrap()
}

fn veth<'a>(name: &str, peer: &str) -> NewLink<'a> {
    NewLink::new(name, Kind::Veth { peer: Peer::new(peer, None) })
}

/// Of links that go together.
const GROUP: u32 = 1 << 31 | 5;

#[test]
fn veth_is_whole_in_both_namespaces_after_one_message() {
    let host = enter_new_namespace();
    let pod = other_namespace();
    host.create(&NewLink::new("br0", Kind::Bridge { vlan_filtering: false, default_pvid: None })).unwrap();
    let bridge = link(&host, "br0");
    let mut peer = Peer::new("eth0", Some(pod.as_fd()));
    peer.mtu = Some(1400);
    peer.mac = Some(mac("02:00:00:00:00:02"));
    let mut new = NewLink::new("vethhost", Kind::Veth { peer });
    new.mtu = Some(1300);
    new.mac = Some(mac("02:00:00:00:00:01"));
    new.up = true;
    new.master = Some(bridge.index);
    new.tx_queue_len = Some(77);
    host.create(&new).unwrap();

    let ours = link(&host, "vethhost");
    assert_eq!(ours.mac, Some(mac("02:00:00:00:00:01")));
    assert_eq!((ours.mtu, ours.up, ours.tx_queue_len), (1300, true, 77));
    assert_eq!(ours.master, Some(bridge.index));
    assert!(ours.parent_elsewhere);
    assert_eq!(ours.details, Details::Veth);
    let theirs = link(&Netlink::within(&pod).unwrap(), "eth0");
    assert_eq!(theirs.mac, Some(mac("02:00:00:00:00:02")));
    assert_eq!((theirs.mtu, theirs.up), (1400, false));
    assert_eq!(theirs.kind.as_deref(), Some("veth"));
    assert_eq!((ours.parent, theirs.parent), (Some(theirs.index), Some(ours.index)));

    let seen = ip_link("vethhost");
    assert_eq!((&seen["mtu"], &seen["txqlen"], &seen["master"]), (&json!(1300), &json!(77), &json!("br0")));
    let seen = pod.run(|| ip_link("eth0")).unwrap();
    assert_eq!((&seen["mtu"], &seen["address"]), (&json!(1400), &json!("02:00:00:00:00:02")));
}

#[test]
fn name_that_is_taken_is_exists_and_changes_nothing() {
    let netlink = enter_new_namespace();
    let pod = other_namespace();
    netlink.create(&veth("a", "b")).unwrap();
    let before = netlink.links().unwrap();
    let error = netlink.create(&veth("a", "c")).unwrap_err();
    assert!(error.is_existing(), "{error}");
    assert!(error.to_string().starts_with("cannot create veth link a: File exists"), "{error}");
    // The peer's name is taken where it would be, not here.
    Netlink::within(&pod).unwrap().create(&NewLink::new("eth0", Kind::Ifb)).unwrap();
    let new = NewLink::new("d", Kind::Veth { peer: Peer::new("eth0", Some(pod.as_fd())) });
    assert!(netlink.create(&new).unwrap_err().is_existing());
    assert_eq!(netlink.links().unwrap(), before);
    assert!(!existing_ok(netlink.create(&veth("a", "c"))).unwrap());
}

#[test]
fn removal_of_what_is_not_there_is_false() {
    let netlink = enter_new_namespace();
    netlink.create(&veth("a", "b")).unwrap();
    assert!(netlink.delete("a").unwrap());
    assert!(!netlink.delete("a").unwrap());
    assert!(!netlink.delete("b").unwrap());
    assert!(!netlink.delete("").unwrap());
    assert!(!netlink.delete("a-name-longer-than-any-link-has").unwrap());
    assert_eq!(netlink.link("a-name-longer-than-any-link-has").unwrap(), None);
    assert_eq!(netlink.link_at(4000).unwrap(), None);
    let error = netlink.change(4000, &Change { up: Some(true), ..Change::default() }).unwrap_err();
    assert!(error.is_missing(), "{error}");
}

#[test]
fn links_over_an_uplink_are_whole_in_the_pod_after_one_message() {
    let host = enter_new_namespace();
    let pod = other_namespace();
    let inside = Netlink::within(&pod).unwrap();
    host.create(&veth("uplink", "far")).unwrap();
    let uplink = link(&host, "uplink");
    let rows = [
        (
            Kind::Macvlan { mode: MacvlanMode::Bridge, broadcast_queue: Some(500) },
            MacvlanMode::Bridge,
            "bridge",
        ),
        (Kind::Macvtap { mode: MacvlanMode::Vepa }, MacvlanMode::Vepa, "vepa"),
        (Kind::Macvtap { mode: MacvlanMode::Private }, MacvlanMode::Private, "private"),
    ];
    for (kind, mode, word) in rows {
        let driver = kind.name();
        let mut new = NewLink::new("net1", kind);
        new.parent = Some(uplink.index);
        new.namespace = Some(pod.as_fd());
        new.mac = Some(mac("02:00:00:00:00:07"));
        new.mtu = Some(1280);
        host.create(&new).unwrap();
        let made = link(&inside, "net1");
        assert_eq!(made.kind.as_deref(), Some(driver));
        assert_eq!((made.mac, made.mtu), (Some(mac("02:00:00:00:00:07")), 1280));
        assert_eq!(made.details, Details::Macvlan { mode: Some(mode) });
        assert_eq!((made.parent, made.parent_elsewhere), (Some(uplink.index), true));
        let seen = pod.run(|| ip_link("net1")).unwrap();
        assert_eq!(seen["linkinfo"]["info_data"]["mode"], word);
        assert!(inside.delete("net1").unwrap());
    }
}

#[test]
fn mtu_above_the_uplinks_is_refused_without_a_reason() {
    let host = enter_new_namespace();
    let mut uplink = veth("uplink", "far");
    uplink.mtu = Some(1400);
    host.create(&uplink).unwrap();
    let index = link(&host, "uplink").index;
    let mut new = NewLink::new("net1", Kind::Macvlan { mode: MacvlanMode::Bridge, broadcast_queue: None });
    new.parent = Some(index);
    host.create(&new).unwrap();
    let made = link(&host, "net1");
    assert_eq!(made.mtu, 1400, "of its uplink");
    let error = host.change(made.index, &Change { mtu: Some(1500), ..Change::default() }).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EINVAL), "{error}");
    assert!(host.delete("net1").unwrap());
    new.mtu = Some(1500);
    let error = host.create(&new).unwrap_err();
    assert!(
        matches!(&error, NetlinkError::Refused { errno: libc::EINVAL, kernel_says, .. } if kernel_says.is_empty()),
        "{error:?}"
    );
    assert_eq!(host.link("net1").unwrap(), None);
}

#[test]
fn link_in_the_pod_is_up_from_the_beginning_and_has_its_uplinks_carrier() {
    let host = enter_new_namespace();
    let pod = other_namespace();
    let inside = Netlink::within(&pod).unwrap();
    host.create(&veth("uplink", "far")).unwrap();
    let mut new = NewLink::new("net1", Kind::Macvtap { mode: MacvlanMode::Bridge });
    new.parent = Some(link(&host, "uplink").index);
    new.namespace = Some(pod.as_fd());
    new.up = true;
    host.create(&new).unwrap();
    let made = link(&inside, "net1");
    assert_eq!((made.up, made.carrier), (true, false));
    assert!(inside.delete("net1").unwrap());
    up(&host, "uplink");
    up(&host, "far");
    host.create(&new).unwrap();
    let made = link(&inside, "net1");
    assert_eq!((made.up, made.carrier), (true, true));
}

#[test]
fn vxlan_in_the_pod_is_carried_by_the_hosts_link() {
    let host = enter_new_namespace();
    let pod = other_namespace();
    host.create(&veth("uplink", "far")).unwrap();
    let settings =
        Vxlan { vni: 5, port: 4789, local: None, remote: None, learning: true, proxy: false, ttl: 0 };
    let mut new = NewLink::new("net1", Kind::Vxlan(settings.clone()));
    let uplink = link(&host, "uplink").index;
    new.parent = Some(uplink);
    new.namespace = Some(pod.as_fd());
    host.create(&new).unwrap();
    let made = link(&Netlink::within(&pod).unwrap(), "net1");
    assert_eq!(made.details, Details::Vxlan { settings, device: Some(uplink) });
    assert!(made.parent_elsewhere);
}

#[test]
fn passthru_takes_its_uplink_for_itself() {
    let host = enter_new_namespace();
    host.create(&veth("uplink", "far")).unwrap();
    let mut new = NewLink::new("net1", Kind::Macvtap { mode: MacvlanMode::Passthru });
    new.parent = Some(link(&host, "uplink").index);
    host.create(&new).unwrap();
    assert_eq!(link(&host, "net1").details, Details::Macvlan { mode: Some(MacvlanMode::Passthru) });
    new.name = "net2".to_owned();
    let error = host.create(&new).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EINVAL), "{error}");
}

#[test]
fn passthru_has_its_uplinks_mac_until_it_is_changed() {
    let host = enter_new_namespace();
    let pod = other_namespace();
    let inside = Netlink::within(&pod).unwrap();
    host.create(&veth("uplink", "far")).unwrap();
    let uplink = link(&host, "uplink");
    let asked = Some(mac("02:00:00:00:00:07"));
    let mut new = NewLink::new("net1", Kind::Macvtap { mode: MacvlanMode::Passthru });
    new.parent = Some(uplink.index);
    new.namespace = Some(pod.as_fd());
    new.mac = asked;
    host.create(&new).unwrap();
    let made = link(&inside, "net1");
    assert_eq!(made.mac, uplink.mac);
    inside.change(made.index, &Change { mac: asked, ..Change::default() }).unwrap();
    assert_eq!((link(&inside, "net1").mac, link(&host, "uplink").mac), (asked, asked));
}

#[test]
fn vxlan_reads_back_as_it_was_made() {
    let host = enter_new_namespace();
    host.create(&veth("uplink", "far")).unwrap();
    let uplink = link(&host, "uplink").index;
    let rows = [
        (Some("192.0.2.1"), Some("239.1.1.1"), true, 0),
        (Some("192.0.2.1"), Some("192.0.2.2"), false, 9),
        (Some("2001:db8::1"), Some("ff05::1"), false, 0),
        (Some("2001:db8::1"), None, true, 0),
        (None, None, false, 0),
    ];
    for (local, remote, learning, ttl) in rows {
        let settings = Vxlan {
            vni: 0x00ab_cdef,
            port: 4789,
            local: local.map(|text| text.parse().unwrap()),
            remote: remote.map(|text| text.parse().unwrap()),
            learning,
            proxy: !learning,
            ttl,
        };
        let mut new = NewLink::new("vx0", Kind::Vxlan(settings.clone()));
        new.parent = Some(uplink);
        host.create(&new).unwrap();
        let Details::Vxlan { settings: read, device } = link(&host, "vx0").details else {
            panic!("no vxlan")
        };
        assert_eq!(read, settings);
        assert_eq!(device, Some(uplink));
        let seen = &ip_link("vx0")["linkinfo"]["info_data"];
        assert_eq!(
            (&seen["id"], &seen["port"], &seen["link"]),
            (&json!(0x00ab_cdef), &json!(4789), &json!("uplink"))
        );
        assert_eq!(seen["learning"].as_bool().unwrap_or(false), learning, "{seen}");
        assert!(host.delete("vx0").unwrap());
    }
}

#[test]
fn driver_the_kernel_lacks_is_refused_in_its_own_words() {
    let host = enter_new_namespace();
    host.create(&veth("uplink", "far")).unwrap();
    let mut new = NewLink::new("iv0", Kind::Ipvlan { mode: IpvlanMode::L3s });
    new.parent = Some(link(&host, "uplink").index);
    match host.create(&new) {
        // A kernel that has it.
        Ok(()) => {
            assert_eq!(link(&host, "iv0").details, Details::Ipvlan { mode: Some(IpvlanMode::L3s) });
            assert_eq!(ip_link("iv0")["linkinfo"]["info_data"]["mode"], "l3s");
        }
        Err(error) => {
            assert_eq!(error.errno(), Some(libc::EOPNOTSUPP));
            assert!(error.to_string().ends_with("Unknown device type"), "{error}");
        }
    }
}

#[test]
fn links_removed_together_are_all_gone_and_no_others() {
    let netlink = enter_new_namespace();
    for (one, other) in [("a", "b"), ("c", "d"), ("e", "f")] {
        netlink.create(&veth(one, other)).unwrap();
    }
    let index = |name: &str| link(&netlink, name).index;
    let names = || netlink.links().unwrap().into_iter().map(|link| link.name).collect::<Vec<_>>();
    // Both ends of a pair, a link that is not there, and one of another pair.
    netlink.delete_together(&[index("a"), index("b"), 4000, index("d")], GROUP).unwrap();
    assert_eq!(names(), ["lo", "f", "e"]);
    netlink.delete_together(&[], GROUP).unwrap();
    netlink.delete_together(&[4000], GROUP).unwrap();
    netlink.delete_together(&[4000, 4001], GROUP).unwrap();
    assert_eq!(names(), ["lo", "f", "e"]);
    // The loopback cannot go, and is no reason for others to stay.
    let error = netlink.delete_together(&[1, index("e")], GROUP).unwrap_err();
    assert!(error.to_string().starts_with("cannot delete link 1: "), "{error}");
    assert_eq!(names(), ["lo"]);
}

#[test]
fn changes_read_back() {
    let netlink = enter_new_namespace();
    let pod = other_namespace();
    netlink.create(&veth("a", "b")).unwrap();
    netlink.create(&NewLink::new("br0", Kind::Bridge { vlan_filtering: false, default_pvid: None })).unwrap();
    let bridge = link(&netlink, "br0").index;
    let index = link(&netlink, "a").index;
    let change = Change {
        name: Some("c".to_owned()),
        mtu: Some(1234),
        mac: Some(mac("02:00:00:00:00:09")),
        up: Some(true),
        master: Some(Some(bridge)),
        namespace: None,
        new_index: None,
        alias: Some("of the pod".to_owned()),
        tx_queue_len: Some(12),
        promiscuous: Some(true),
        all_multicast: Some(true),
        group: Some(77),
        arp: Some(true),
    };
    netlink.change(index, &change).unwrap();
    let read = netlink.link_at(index).unwrap().unwrap();
    assert_eq!((read.name.as_str(), read.mtu, read.mac), ("c", 1234, change.mac));
    assert_eq!((read.up, read.promiscuous, read.all_multicast), (true, true, true));
    assert_eq!(
        (read.master, read.alias.as_deref(), read.tx_queue_len),
        (Some(bridge), Some("of the pod"), 12)
    );
    assert_eq!(ip_link("c")["group"], "77");
    let flags = ip_link("c")["flags"].to_string();
    assert!(flags.contains("PROMISC") && flags.contains("ALLMULTI") && flags.contains("UP"), "{flags}");

    let back = Change { up: Some(false), master: Some(None), promiscuous: Some(false), ..Change::default() };
    netlink.change(index, &back).unwrap();
    let read = netlink.link_at(index).unwrap().unwrap();
    assert_eq!((read.up, read.promiscuous, read.all_multicast, read.master), (false, false, true, None));

    let away = Change { namespace: Some(pod.as_fd()), name: Some("eth0".to_owned()), ..Change::default() };
    netlink.change(index, &away).unwrap();
    assert!(netlink.link("c").unwrap().is_none());
    let arrived = link(&Netlink::within(&pod).unwrap(), "eth0");
    assert_eq!((arrived.mac, arrived.mtu, arrived.alias), (change.mac, 1234, change.alias));
}

#[test]
fn link_takes_its_index_along_or_stays() {
    let netlink = enter_new_namespace();
    let pod = other_namespace();
    let inside = Netlink::within(&pod).unwrap();
    inside.create(&veth("x", "y")).unwrap();
    let taken = link(&inside, "x").index;
    netlink.create(&veth("a", "b")).unwrap();
    let index = link(&netlink, "a").index;
    let moved = |new_index| Change { namespace: Some(pod.as_fd()), new_index, ..Change::default() };
    let error = netlink.change(index, &moved(Some(taken))).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EBUSY), "{error}");
    assert_eq!(link(&netlink, "a").index, index);
    netlink.change(index, &moved(Some(4711))).unwrap();
    assert_eq!(link(&inside, "a").index, 4711);
}

#[test]
fn link_is_made_in_the_pod_with_the_index_asked_for_or_not_at_all() {
    let host = enter_new_namespace();
    let pod = other_namespace();
    let inside = Netlink::within(&pod).unwrap();
    host.create(&veth("uplink", "far")).unwrap();
    inside.create(&veth("x", "y")).unwrap();
    let mut new = NewLink::new("net1", Kind::Macvtap { mode: MacvlanMode::Bridge });
    new.parent = Some(link(&host, "uplink").index);
    new.namespace = Some(pod.as_fd());
    for index in [1 << 30, u32::MAX >> 1] {
        new.index = Some(index);
        host.create(&new).unwrap();
        assert_eq!(link(&inside, "net1").index, index);
        let another = NewLink { name: "net2".to_owned(), ..new.clone() };
        let error = host.create(&another).unwrap_err();
        assert!(error.is_existing() || error.errno() == Some(libc::EBUSY), "{error}");
        assert_eq!(inside.link("net2").unwrap(), None);
        // The kernel goes on counting where it was.
        let next = host.create(&NewLink { index: None, ..another });
        next.unwrap();
        assert!(link(&inside, "net2").index < 100, "{:?}", link(&inside, "net2"));
        assert!(inside.delete("net1").unwrap() && inside.delete("net2").unwrap());
    }
}

#[test]
fn hundreds_of_links_are_all_listed() {
    let netlink = enter_new_namespace();
    for number in 0..300 {
        netlink.create(&NewLink::new(format!("ifb{number}"), Kind::Ifb)).unwrap();
    }
    let links = netlink.links().unwrap();
    assert_eq!(links.iter().filter(|link| link.kind.as_deref() == Some("ifb")).count(), 300);
    let loopback = links.iter().find(|link| link.loopback).unwrap();
    assert_eq!((loopback.name.as_str(), loopback.mac, loopback.kind.clone()), ("lo", None, None));
}

#[test]
fn list_is_whole_while_another_program_makes_links() {
    let netlink = enter_new_namespace();
    for number in 0..200 {
        netlink.create(&NewLink::new(format!("ifb{number}"), Kind::Ifb)).unwrap();
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // It inherits the namespace.
        scope.spawn(|| {
            let other = Netlink::open().unwrap();
            while !done.load(Ordering::Relaxed) {
                other.create(&NewLink::new("passing", Kind::Ifb)).unwrap();
                assert!(other.delete("passing").unwrap());
            }
        });
        let lists: Vec<_> = (0..50).map(|_| netlink.links()).collect();
        done.store(true, Ordering::Relaxed);
        for list in lists {
            let steady = list.unwrap().into_iter().filter(|link| link.name.starts_with("ifb"));
            assert_eq!(steady.count(), 200);
        }
    });
}

#[test]
fn links_of_other_programs_do_not_spoil_the_list() {
    let netlink = enter_new_namespace();
    // Whatever drivers this kernel has; those it lacks are left out, and there is at least one.
    let others =
        ["gre0 type gretap remote 192.0.2.9", "sit9 type sit remote 192.0.2.9", "bond0 type bond", "tun9"];
    for other in others {
        let command = if other == "tun9" {
            "ip tuntap add tun9 mode tun".to_owned()
        } else {
            format!("ip link add {other}")
        };
        let _ = std::process::Command::new("sh").args(["-c", &command]).output();
    }
    let names: Vec<_> = netlink.links().unwrap().into_iter().map(|link| link.name).collect();
    let seen = crate::lab::json("ip -j link");
    let seen: Vec<_> = seen.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap()).collect();
    assert_eq!(names, seen);
    let Details::Tun(tun) = link(&netlink, "tun9").details else { panic!("no tun") };
    assert!(!tun.tap && tun.persistent);
}
