//! Against the kernel, in network namespaces of their own. They need root (CAP_SYS_ADMIN).

use std::os::fd::AsFd;
use std::process::Command;
use std::thread;

use rustix::thread::UnshareFlags;

use super::*;

/// Runs a test in a new, empty network namespace.
fn in_new_namespace(work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        scope.spawn(|| {
            enter_new_namespace();
            work();
        });
    });
}

#[expect(unsafe_code, reason = "unshare is unsafe for file tables, of which this asks nothing")]
fn enter_new_namespace() {
    // SAFETY: descriptors must not be looked up in another table than theirs; only CLONE_NEWNET is asked for.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("these tests need root");
}

/// Runs `ip` once per line.
fn ip(lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let status = Command::new("ip").args(line.split_whitespace()).status().expect("ip is installed");
        assert!(status.success(), "ip {line}");
    }
}

fn ip_shows(line: &str) -> String {
    let output = Command::new("ip").args(line.split_whitespace()).output().expect("ip is installed");
    String::from_utf8(output.stdout).unwrap()
}

const VETH: &str = "link add eth0 type veth peer name far
                    link set eth0 mtu 1400
                    link set far up
                    link set eth0 up";

fn uplink<A>(address: &str, prefix_len: u8, gateway: Option<&str>) -> Uplink<A>
where
    A: std::str::FromStr<Err: std::fmt::Debug>,
{
    Uplink {
        index: 0,
        name: "eth0".to_owned(),
        mtu_bytes: 1400,
        address: address.parse().unwrap(),
        prefix_len,
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        has_default_route: gateway.is_some(),
    }
}

fn read(interface: Option<&str>) -> Pod {
    let pod = Pod::read(interface).unwrap();
    for index in
        [pod.v4.as_ref().map(|v4| v4.index), pod.v6.as_ref().map(|v6| v6.index)].into_iter().flatten()
    {
        assert!(index > 1, "an interface other than loopback");
    }
    Pod {
        v4: pod.v4.map(|v4| Uplink { index: 0, ..v4 }),
        v6: pod.v6.map(|v6| Uplink { index: 0, ..v6 }),
        own: pod.own,
    }
}

#[test]
fn ordinary_dual_stack_pod() {
    in_new_namespace(|| {
        ip(VETH);
        ip("addr add 10.244.1.5/24 dev eth0
            addr add fd00:10:244::5/64 dev eth0 nodad
            route add default via 10.244.1.1
            -6 route add default via fd00:10:244::1");
        let pod = read(None);
        assert_eq!(pod.v4, Some(uplink("10.244.1.5", 24, Some("10.244.1.1"))));
        assert_eq!(pod.v6, Some(uplink("fd00:10:244::5", 64, Some("fd00:10:244::1"))));
    });
}

#[test]
fn calico_pod_has_a_host_prefix_and_an_on_link_gateway() {
    in_new_namespace(|| {
        ip(VETH);
        ip("addr add 10.65.0.2/32 dev eth0
            addr add fd00::2/128 dev eth0 nodad
            route add 169.254.1.1 dev eth0 scope link
            route add default via 169.254.1.1 dev eth0
            -6 route add default via fe80::ecee:eeff:feee:eeee dev eth0");
        let pod = read(None);
        assert_eq!(pod.v4, Some(uplink("10.65.0.2", 32, Some("169.254.1.1"))));
        assert_eq!(pod.v6, Some(uplink("fd00::2", 128, Some("fe80::ecee:eeff:feee:eeee"))));
    });
}

#[test]
fn ipv6_only_pod_has_no_ipv4() {
    in_new_namespace(|| {
        ip(VETH);
        ip("addr add fd00::5/64 dev eth0 nodad
            -6 route add default via fe80::1 dev eth0");
        let pod = read(None);
        assert_eq!((pod.v4, pod.v6), (None, Some(uplink("fd00::5", 64, Some("fe80::1")))));
    });
}

#[test]
fn without_a_default_route_the_first_address_counts() {
    in_new_namespace(|| {
        ip(VETH);
        ip("link set lo up
            addr add 192.0.2.7/24 dev eth0");
        assert_eq!(read(None).v4, Some(uplink("192.0.2.7", 24, None)));
    });
}

#[test]
fn the_best_default_route_wins_and_a_named_interface_beats_it() {
    in_new_namespace(|| {
        ip(VETH);
        ip("link add eth1 type veth peer name far1
            link set eth1 up
            link set far1 up
            addr add 10.0.0.5/24 dev eth0
            addr add 10.0.1.5/24 dev eth1
            route add default via 10.0.1.1 dev eth1 metric 50
            route add default via 10.0.0.1 dev eth0 metric 100");
        assert_eq!(Pod::read(None).unwrap().v4.unwrap().name, "eth1");
        assert_eq!(read(Some("eth0")).v4, Some(uplink("10.0.0.5", 24, Some("10.0.0.1"))));
        assert!(matches!(Pod::read(Some("eth9")), Err(NetlinkError::NoInterface(name)) if name == "eth9"));
    });
}

#[test]
fn several_next_hops_give_the_first() {
    in_new_namespace(|| {
        ip(VETH);
        ip("addr add 10.0.0.5/24 dev eth0
            route add default nexthop via 10.0.0.1 dev eth0 nexthop via 10.0.0.2 dev eth0");
        assert_eq!(read(None).v4, Some(uplink("10.0.0.5", 24, Some("10.0.0.1"))));
    });
}

#[test]
fn an_empty_namespace_has_no_way_out() {
    in_new_namespace(|| assert_eq!(Pod::read(None).unwrap(), Pod::default()));
}

#[test]
fn configured_link_reads_back_and_configuring_again_changes_nothing() {
    in_new_namespace(|| {
        ip("link add tap0 type veth peer name far
            link set far up");
        let setup = LinkSetup {
            mac: Some([2, 0, 0, 0, 0, 9]),
            mtu_bytes: Some(65520),
            v4: Some(LinkAddress {
                address: "10.65.0.2".parse().unwrap(),
                prefix_len: 32,
                gateway: Some("169.254.1.1".parse().unwrap()),
            }),
            v6: Some(LinkAddress {
                address: "fd00::2".parse().unwrap(),
                prefix_len: 128,
                gateway: Some("fe80::1".parse().unwrap()),
            }),
        };
        for _ in 0..2 {
            configure("tap0", &setup).unwrap();
            let pod = Pod::read(None).unwrap();
            let (v4, v6) = (pod.v4.unwrap(), pod.v6.unwrap());
            assert_eq!((v4.address, v4.prefix_len), ("10.65.0.2".parse().unwrap(), 32));
            assert_eq!((v4.gateway, v4.mtu_bytes), (Some("169.254.1.1".parse().unwrap()), 65520));
            assert_eq!((v6.address, v6.prefix_len), ("fd00::2".parse().unwrap(), 128));
            assert_eq!(v6.gateway, Some("fe80::1".parse().unwrap()));
        }
        assert!(ip_shows("link show tap0").contains("02:00:00:00:00:09"));
        assert!(ip_shows("link show lo").contains("UP"));
        assert!(ip_shows("-6 addr show tap0").contains("fd00::2/128"));
        assert!(
            !ip_shows("-6 addr show tap0")
                .lines()
                .any(|line| line.contains("fd00::2") && line.contains("tentative"))
        );
        assert!(matches!(configure("tap9", &setup), Err(NetlinkError::NoInterface(_))));
    });
}

#[test]
fn a_gateway_outside_an_ipv6_prefix_gets_a_route() {
    in_new_namespace(|| {
        ip("link add tap0 type veth peer name far
            link set far up");
        let v6 = LinkAddress {
            address: "fd00::2".parse().unwrap(),
            prefix_len: 128,
            gateway: Some("fd00:1::1".parse().unwrap()),
        };
        configure("tap0", &LinkSetup { v6: Some(v6), ..LinkSetup::default() }).unwrap();
        assert_eq!(Pod::read(None).unwrap().v6.unwrap().gateway, v6.gateway);
    });
}

#[test]
fn work_inside_another_namespace_leaves_the_caller_where_it_was() {
    in_new_namespace(|| {
        ip(VETH);
        let here = namespace::open(&format!("/proc/self/task/{}/ns/net", rustix::thread::gettid())).unwrap();
        in_new_namespace(|| {
            let names = || ip_shows("-o link");
            assert!(!names().contains("eth0"));
            assert!(namespace::inside(here.as_fd(), names).unwrap().contains("eth0"));
            assert!(!names().contains("eth0"));
        });
    });
}

#[test]
fn an_interface_without_default_route_has_its_own_and_all_addresses_are_known() {
    in_new_namespace(|| {
        ip(VETH);
        ip("link add net1 type veth peer name far1
            link set far1 up
            link set net1 up
            addr add 10.244.1.5/24 dev eth0
            addr add 10.0.1.5/24 dev net1
            addr add fd00:1::5/64 dev net1 nodad
            addr add fe80::77/64 dev net1 nodad
            route add default via 10.244.1.1
            -6 route add default dev eth0");
        let net1 = read(Some("net1"));
        let (v4, v6) = (net1.v4.unwrap(), net1.v6.unwrap());
        assert_eq!(
            (v4.address, v4.gateway, v4.has_default_route),
            ("10.0.1.5".parse().unwrap(), None, false)
        );
        assert_eq!(
            (v6.address, v6.gateway, v6.has_default_route),
            ("fd00:1::5".parse().unwrap(), None, false)
        );
        for own in ["10.244.1.5", "10.0.1.5", "fd00:1::5", "fe80::77"] {
            assert!(net1.own.contains(&own.parse().unwrap()), "{own}: {:?}", net1.own);
        }
        ip("addr add fd00:10:244::5/64 dev eth0 nodad");
        let v6 = read(Some("eth0")).v6.unwrap();
        assert_eq!((v6.gateway, v6.has_default_route), (None, true), "straight to the link");
    });
}
