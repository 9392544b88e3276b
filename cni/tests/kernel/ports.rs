//! Bridges, their ports, VLANs and forwarding tables.

use serde_json::json;
use sluice_cni::netlink::{
    Change, Details, FdbEntry, Kind, Netlink, NewLink, NewVlan, Peer, Port, PortChange, PortState, Vxlan,
};

use crate::lab::{self, enter_new_namespace, ip_link, link};

/// A bridge `br0` with a port `p0`, both up.
fn bridge() -> (Netlink, u32, u32) {
    let netlink = enter_new_namespace();
    let mut bridge = NewLink::new("br0", Kind::Bridge { vlan_filtering: false, default_pvid: None });
    bridge.up = true;
    netlink.create(&bridge).unwrap();
    let bridge = link(&netlink, "br0").index;
    let peer = Peer::new("far", None);
    let mut port = NewLink::new("p0", Kind::Veth { peer });
    port.master = Some(bridge);
    port.up = true;
    netlink.create(&port).unwrap();
    let port = link(&netlink, "p0").index;
    lab::up(&netlink, "far");
    (netlink, bridge, port)
}

#[test]
fn port_settings_read_back() {
    let (netlink, _, port) = bridge();
    let fresh = Port {
        hairpin: false,
        isolated: false,
        learning: true,
        unicast_flood: true,
        neigh_suppress: false,
        state: PortState::Forwarding,
    };
    assert_eq!(link(&netlink, "p0").port, Some(fresh));
    let change = PortChange {
        hairpin: Some(true),
        isolated: Some(true),
        learning: Some(false),
        unicast_flood: None,
        neigh_suppress: Some(true),
    };
    netlink.set_port(port, &change).unwrap();
    let wanted = Port { hairpin: true, isolated: true, learning: false, neigh_suppress: true, ..fresh };
    assert_eq!(link(&netlink, "p0").port, Some(wanted));
    let seen = &ip_link("p0")["linkinfo"]["info_slave_data"];
    for (key, value) in [("hairpin", true), ("isolated", true), ("learning", false), ("neigh_suppress", true)]
    {
        assert_eq!(seen[key], json!(value), "{key}: {seen}");
    }
    netlink.change(port, &Change { master: Some(None), ..Change::default() }).unwrap();
    assert_eq!(link(&netlink, "p0").port, None);
    assert!(netlink.set_port(port, &change).is_err(), "no port any more");
}

#[test]
fn vlan_filtering_reads_back_or_is_refused() {
    let (netlink, bridge, port) = bridge();
    let Details::Bridge { vlan_filtering, .. } = link(&netlink, "br0").details else { panic!("no bridge") };
    assert!(!vlan_filtering);
    match netlink.set_vlan_filtering(bridge, true) {
        Ok(()) => {
            let vlan =
                NewVlan { first: 100, last: 103, pvid: false, untagged: false, on_bridge_itself: false };
            netlink.add_vlan(port, &vlan).unwrap();
            let ids = |netlink: &Netlink| -> Vec<_> {
                netlink.vlans(port).unwrap().into_iter().map(|vlan| vlan.id).collect()
            };
            assert_eq!(ids(&netlink), [1, 100, 101, 102, 103]);
            assert!(netlink.delete_vlan(port, &vlan).unwrap());
            assert_eq!(ids(&netlink), [1]);
        }
        // A kernel without bridge VLANs.
        Err(error) => {
            assert_eq!(error.errno(), Some(libc::EOPNOTSUPP), "{error}");
            assert_eq!(netlink.vlans(port).unwrap(), []);
        }
    }
}

#[test]
fn forwarding_entry_of_a_port_reads_back() {
    let (netlink, _, port) = bridge();
    let entry = FdbEntry { mac: [2, 0, 0, 0, 0, 5], on_master: true, vlan: None, dst: None, permanent: true };
    netlink.fdb_add(port, &entry).unwrap();
    assert!(netlink.fdb_add(port, &entry).unwrap_err().is_existing());
    assert!(netlink.fdb(port).unwrap().contains(&entry));
    let seen = lab::json("bridge -j fdb show dev p0").to_string();
    assert!(seen.contains(r#""mac":"02:00:00:00:00:05""#) && seen.contains("static"), "{seen}");
    assert!(netlink.fdb_delete(port, &entry).unwrap());
    assert!(!netlink.fdb_delete(port, &entry).unwrap());
    assert!(!netlink.fdb(port).unwrap().contains(&entry));
}

#[test]
fn vxlan_floods_to_several_nodes() {
    let netlink = enter_new_namespace();
    let settings = Vxlan {
        vni: 7,
        port: 4789,
        local: Some("192.0.2.1".parse().unwrap()),
        remote: None,
        learning: false,
        proxy: false,
        ttl: 0,
    };
    netlink.create(&NewLink::new("vx0", Kind::Vxlan(settings))).unwrap();
    let index = link(&netlink, "vx0").index;
    let node = |text: &str| FdbEntry {
        mac: [0; 6],
        on_master: false,
        vlan: None,
        dst: Some(text.parse().unwrap()),
        permanent: true,
    };
    netlink.fdb_add(index, &node("192.0.2.2")).unwrap();
    netlink.fdb_add(index, &node("192.0.2.3")).unwrap();
    let station = FdbEntry { mac: [2, 0, 0, 0, 0, 9], ..node("192.0.2.3") };
    netlink.fdb_add(index, &station).unwrap();
    let mut entries = netlink.fdb(index).unwrap();
    entries.sort_by_key(|entry| (entry.mac, entry.dst));
    assert_eq!(entries, [node("192.0.2.2"), node("192.0.2.3"), station]);
    let seen = lab::json("bridge -j fdb show dev vx0");
    assert_eq!(seen.as_array().unwrap().len(), 3, "{seen}");
    assert!(netlink.fdb_delete(index, &node("192.0.2.2")).unwrap());
    assert_eq!(netlink.fdb(index).unwrap().len(), 2);
    // The kernel finds the station, and does not say that the node was not among its own.
    assert!(netlink.fdb_delete(index, &node("192.0.2.2")).unwrap());
    assert_eq!(netlink.fdb(index).unwrap().len(), 2);
    assert!(netlink.fdb_delete(index, &node("192.0.2.3")).unwrap());
    assert!(!netlink.fdb_delete(index, &node("192.0.2.3")).unwrap());
}
