//! Addresses, routes, rules and neighbours.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::json;
use sluice_cni::netlink::{
    AddressOptions, Family, Kind, Neighbour, Netlink, NewLink, NewRoute, Peer, Route, RouteFilter, RouteKind,
    Rule, Scope, TABLE_LOCAL, TABLE_MAIN,
};
use sluice_cni::protocol::MacAddress;

use crate::lab::{self, enter_new_namespace, link};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A link `a` with a carrier.
fn link_up() -> (Netlink, u32) {
    let netlink = enter_new_namespace();
    let peer = Peer::new("b", None);
    let mut new = NewLink::new("a", Kind::Veth { peer });
    new.up = true;
    netlink.create(&new).unwrap();
    lab::up(&netlink, "b");
    let index = link(&netlink, "a").index;
    (netlink, index)
}

#[test]
fn addresses_read_back() {
    let (netlink, index) = link_up();
    let no_dad = AddressOptions { no_dad: true, ..AddressOptions::default() };
    let peer = AddressOptions { peer: Some(ip("169.254.1.1")), scope: Some(Scope::Link), ..no_dad };
    for (address, options) in [("10.1.0.5/24", no_dad), ("fd00::5/64", no_dad), ("10.2.0.5/32", peer)] {
        netlink.add_address(index, net(address), options).unwrap();
        let error = netlink.add_address(index, net(address), options).unwrap_err();
        assert!(error.is_existing(), "{error}");
        let all = netlink.addresses(Some(index)).unwrap();
        let read = all.iter().find(|read| read.network == net(address)).unwrap();
        assert_eq!((read.peer, read.scope), (options.peer, options.scope.unwrap_or(Scope::Universe)));
        assert!(read.permanent && !read.tentative, "{read:?}");
    }
    let seen = lab::json("ip -j address show dev a");
    let seen = seen[0]["addr_info"].as_array().unwrap();
    let find = |local: &str| seen.iter().find(|address| address["local"] == local).unwrap();
    assert_eq!(find("10.1.0.5")["broadcast"], "10.1.0.255");
    assert_eq!(
        (&find("10.2.0.5")["address"], &find("10.2.0.5")["scope"]),
        (&json!("169.254.1.1"), &json!("link"))
    );
    assert_eq!(find("fd00::5")["prefixlen"], 64);
    assert!(netlink.addresses(None).unwrap().len() > 3);

    assert!(netlink.delete_address(index, net("10.1.0.5/24")).unwrap());
    assert!(!netlink.delete_address(index, net("10.1.0.5/24")).unwrap());
    assert!(netlink.delete_address(index, net("fd00::5/64")).unwrap());
    assert!(!netlink.delete_address(index, net("fd00::5/64")).unwrap());
    assert!(!netlink.delete_address(4000, net("10.1.0.5/24")).unwrap());
}

#[test]
fn address_is_tentative_until_nobody_else_has_it() {
    let (netlink, index) = link_up();
    netlink.add_address(index, net("fd00::5/64"), AddressOptions::default()).unwrap();
    let all = netlink.addresses(Some(index)).unwrap();
    let read = all.iter().find(|read| read.network == net("fd00::5/64")).unwrap();
    assert!(read.tentative && !read.duplicate, "{read:?}");
}

#[test]
fn address_without_a_prefix_route_makes_none() {
    let (netlink, index) = link_up();
    let options = AddressOptions { no_prefix_route: true, ..AddressOptions::default() };
    netlink.add_address(index, net("10.1.0.5/24"), options).unwrap();
    let filter = RouteFilter { family: Some(Family::V4), table: Some(TABLE_MAIN), device: Some(index) };
    assert_eq!(netlink.routes(filter).unwrap(), []);
}

#[test]
fn routes_read_back() {
    let (netlink, index) = link_up();
    let options = AddressOptions { no_dad: true, ..AddressOptions::default() };
    netlink.add_address(index, net("10.1.0.5/24"), options).unwrap();
    netlink.add_address(index, net("fd00::5/64"), options).unwrap();
    let on = |dst: &str| NewRoute { device: Some(index), ..NewRoute::new(net(dst)) };
    let via = |dst: &str, gateway: &str| NewRoute { gateway: Some(ip(gateway)), ..on(dst) };
    let rows = [
        via("0.0.0.0/0", "10.1.0.1"),
        on("169.254.1.1/32"),
        NewRoute { onlink: true, priority: Some(50), ..via("10.9.0.0/16", "172.16.0.1") },
        NewRoute { mtu: Some(1300), advmss: Some(1200), table: Some(1000), ..via("10.8.0.0/16", "10.1.0.1") },
        NewRoute { source: Some(ip("10.1.0.5")), scope: Some(Scope::Link), ..on("10.7.0.0/16") },
        via("10.6.0.0/16", "fe80::1"),
        NewRoute { priority: Some(1024), ..via("::/0", "fd00::1") },
        NewRoute { priority: Some(7), table: Some(200), ..on("2001:db8::/32") },
    ];
    for new in rows {
        netlink.add_route(&new).unwrap_or_else(|error| panic!("{new:?}: {error}"));
        assert!(netlink.add_route(&new).unwrap_err().is_existing(), "{new:?}");
        let filter = RouteFilter {
            family: Some(if new.dst.addr().is_ipv4() { Family::V4 } else { Family::V6 }),
            table: Some(new.table.unwrap_or(TABLE_MAIN)),
            device: Some(index),
        };
        let find = || netlink.routes(filter).unwrap().into_iter().find(|route| route.dst == new.dst);
        let v4 = new.dst.addr().is_ipv4();
        let plain = if new.gateway.is_some() || !v4 { Scope::Universe } else { Scope::Link };
        let wanted = Route {
            dst: new.dst,
            gateway: new.gateway,
            device: Some(index),
            table: new.table.unwrap_or(TABLE_MAIN),
            scope: new.scope.unwrap_or(plain),
            priority: new.priority.unwrap_or(0),
            mtu: new.mtu,
            advmss: new.advmss,
            onlink: new.onlink,
            source: new.source,
            kind: RouteKind::Unicast,
            protocol: 3,
        };
        assert_eq!(find(), Some(wanted), "{new:?}");
        let witness = if new.dst.addr().is_ipv4() { "ip -4" } else { "ip -6" };
        let dst = if new.dst.prefix_len() == 0 { "default".to_owned() } else { new.dst.to_string() };
        let seen = lab::json(&format!("{witness} -j route show table {} {dst}", wanted_table(&new)));
        assert_eq!(seen[0]["dev"], "a", "{seen}");
        assert!(netlink.delete_route(&new).unwrap(), "{new:?}");
        assert!(!netlink.delete_route(&new).unwrap(), "{new:?}");
        assert_eq!(find(), None);
    }
}

#[test]
fn routes_of_other_programs_are_read() {
    let (netlink, index) = link_up();
    let options = AddressOptions { no_dad: true, ..AddressOptions::default() };
    netlink.add_address(index, net("10.1.0.5/24"), options).unwrap();
    lab::run("ip route add 10.5.0.0/16 nexthop via 10.1.0.1 dev a nexthop via 10.1.0.2 dev a weight 2");
    lab::run("ip route add blackhole 10.4.0.0/16 proto 77");
    lab::run("ip route add 10.3.0.0/16 via 10.1.0.1 window 1000 rtt 5 congctl cubic initcwnd 20");
    let filter = RouteFilter { family: Some(Family::V4), table: Some(TABLE_MAIN), device: None };
    let routes = netlink.routes(filter).unwrap();
    let find = |dst: &str| routes.iter().find(|route| route.dst == net(dst)).unwrap();
    let several = find("10.5.0.0/16");
    assert_eq!((several.gateway, several.device), (Some(ip("10.1.0.1")), Some(index)));
    let hole = find("10.4.0.0/16");
    assert_eq!((hole.kind, hole.protocol, hole.device), (RouteKind::Blackhole, 77, None));
    assert_eq!(find("10.3.0.0/16").mtu, None);
    let local = netlink.routes(RouteFilter { table: Some(TABLE_LOCAL), ..filter }).unwrap();
    assert!(local.iter().any(|route| route.dst == net("10.1.0.5/32") && route.kind == RouteKind::Local));
}

fn wanted_table(new: &NewRoute) -> u32 {
    new.table.unwrap_or(TABLE_MAIN)
}

#[test]
fn gateway_out_of_reach_is_refused_in_the_kernels_words() {
    let (netlink, index) = link_up();
    let new =
        NewRoute { device: Some(index), gateway: Some(ip("192.0.2.1")), ..NewRoute::new(net("0.0.0.0/0")) };
    let error = netlink.add_route(&new).unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENETUNREACH));
    assert!(error.to_string().ends_with("Nexthop has invalid gateway"), "{error}");
}

#[test]
fn rules_read_back() {
    let (netlink, _) = link_up();
    let plain = Rule {
        family: Family::V4,
        priority: 100,
        table: 1000,
        from: None,
        to: None,
        incoming: None,
        outgoing: None,
        mark: None,
    };
    let rows = [
        Rule { from: Some(net("10.1.0.0/24")), ..plain.clone() },
        Rule { to: Some(net("10.1.0.0/24")), incoming: Some("a".to_owned()), ..plain.clone() },
        Rule { mark: Some(7), outgoing: Some("a".to_owned()), table: 77, ..plain.clone() },
        Rule { family: Family::V6, from: Some(net("fd00::/64")), ..plain },
    ];
    for rule in rows {
        let before = netlink.rules(rule.family).unwrap();
        netlink.add_rule(&rule).unwrap();
        assert!(netlink.add_rule(&rule).unwrap_err().is_existing());
        assert!(netlink.rules(rule.family).unwrap().contains(&rule), "{rule:?}");
        let witness = if rule.family == Family::V4 { "ip -4 -j rule" } else { "ip -6 -j rule" };
        assert!(lab::json(witness).as_array().unwrap().iter().any(|seen| seen["priority"] == 100));
        assert!(netlink.delete_rule(&rule).unwrap());
        assert!(!netlink.delete_rule(&rule).unwrap());
        assert_eq!(netlink.rules(rule.family).unwrap(), before);
    }
}

#[test]
fn neighbours_and_proxies_read_back() {
    let (netlink, index) = link_up();
    let mac: MacAddress = "02:00:00:00:00:05".parse().unwrap();
    for address in [ip("10.1.0.9"), ip("fd00::9")] {
        netlink.add_neighbour(index, address, mac, true).unwrap();
        // Again, with another station: the last one counts.
        let other: MacAddress = "02:00:00:00:00:06".parse().unwrap();
        netlink.add_neighbour(index, address, other, true).unwrap();
        let wanted = Neighbour { device: index, ip: address, mac: Some(other), permanent: true };
        assert!(netlink.neighbours(index).unwrap().contains(&wanted));
        let seen = lab::json(&format!("ip -j neigh show {address} dev a"));
        assert_eq!(
            (&seen[0]["lladdr"], &seen[0]["state"][0]),
            (&json!("02:00:00:00:00:06"), &json!("PERMANENT"))
        );
        assert!(netlink.delete_neighbour(index, address).unwrap());
        assert!(!netlink.delete_neighbour(index, address).unwrap());

        netlink.add_proxy(index, address).unwrap();
        netlink.add_proxy(index, address).unwrap();
        assert_eq!(netlink.proxies(index).unwrap(), [address]);
        assert!(!netlink.neighbours(index).unwrap().contains(&wanted));
        assert!(netlink.delete_proxy(index, address).unwrap());
        assert!(!netlink.delete_proxy(index, address).unwrap());
        assert!(netlink.proxies(index).unwrap().is_empty());
    }
}
