use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::nic::{DhcpOptions, Link, Mac, Model, Tuning, Uplink};

fn plain() -> Nic {
    Nic {
        name: "default".to_owned(),
        mac: Mac([2, 0, 0, 0, 0, 0xa]),
        model: Model::VirtioNonTransitional,
        pci_address: None,
        acpi_index: None,
        boot_order: None,
        link: Link::Up,
        mtu: 1400,
        queues: None,
        uplink: Uplink { interface: "eth0".to_owned(), sharing: Sharing::Alone },
        tcp: Ports::AllBut(vec![]),
        udp: Ports::AllBut(vec![]),
        dhcp: DhcpOptions::default(),
        hostname: None,
        fqdn: None,
        tuning: Tuning::default(),
    }
}

/// The arguments behind those that all have, as one line.
fn line(nic: &Nic) -> String {
    let arguments = arguments(nic, Path::new("/run/a.sock"), Path::new("/run/a.control"), None);
    let arguments: Vec<&str> = arguments.iter().map(|argument| argument.to_str().unwrap()).collect();
    let line = arguments.join(" ");
    let common = "--foreground --vhost-user --socket=/run/a.sock --control=/run/a.control --guest-mac=02:00:00:00:00:0a ";
    line.strip_prefix(common).unwrap_or_else(|| panic!("{line}")).to_owned()
}

#[test]
fn uplinks_and_ports() {
    let uplink = |sharing, interface: &str| Uplink { interface: interface.to_owned(), sharing };
    let only = |ports: &[u16]| Ports::Only(ports.to_vec());
    let all = "--tcp-ports=all --udp-ports=all";
    let eth0 = "--mtu=1400 --interface=eth0 --no-map-gw";
    let net1 = "--mtu=1400 --interface=net1 --outbound-if4=net1 --outbound-if6=net1 --no-map-gw";
    let table = [
        ("plain", plain(), format!("{eth0} {all}")),
        ("jumbo", Nic { mtu: 65520, ..plain() }, format!("--mtu=65520 --interface=eth0 --no-map-gw {all}")),
        (
            "listed ports",
            Nic { tcp: only(&[8080, 80]), udp: only(&[53]), ..plain() },
            format!("{eth0} --tcp-ports=80,8080 --udp-ports=53"),
        ),
        (
            "neighbours",
            Nic { tcp: only(&[1, 2, 3, 5, 65534, 65535]), udp: only(&[7, 8, 7]), ..plain() },
            format!("{eth0} --tcp-ports=1-3,5,65534-65535 --udp-ports=7-8"),
        ),
        (
            "no ports",
            Nic { tcp: only(&[]), udp: only(&[]), ..plain() },
            format!("{eth0} --tcp-ports=none --udp-ports=none"),
        ),
        (
            "all but some",
            Nic { tcp: Ports::AllBut(vec![15000, 15001, 15090]), ..plain() },
            format!("{eth0} --tcp-ports=all,~15000-15001,~15090 --udp-ports=all"),
        ),
        (
            "primary of several",
            Nic { uplink: uplink(Sharing::Primary, "eth0"), tcp: only(&[80]), ..plain() },
            format!("{eth0} --tcp-ports=%eth0/80 --tcp-ports=%lo/80 --udp-ports=%eth0/all"),
        ),
        (
            "primary of several, no ports",
            Nic { uplink: uplink(Sharing::Primary, "eth0"), tcp: only(&[]), udp: only(&[]), ..plain() },
            format!("{eth0} --tcp-ports=none --udp-ports=none"),
        ),
        (
            "secondary",
            Nic { uplink: uplink(Sharing::Secondary, "net1"), udp: only(&[]), ..plain() },
            format!("{net1} --tcp-ports=%net1/all --udp-ports=none"),
        ),
        (
            "secondary, all but some",
            Nic { uplink: uplink(Sharing::Secondary, "net1"), tcp: Ports::AllBut(vec![9]), ..plain() },
            format!("{net1} --tcp-ports=%net1/all,~9 --udp-ports=%net1/all"),
        ),
    ];
    check(&table);
}

#[test]
fn services_and_limits() {
    let tuning = Tuning::default;
    let alone =
        |more: &str| format!("--mtu=1400 --interface=eth0 --no-map-gw{more} --tcp-ports=all --udp-ports=all");
    let table = [
        (
            "names",
            Nic { hostname: Some("vm".to_owned()), fqdn: Some("vm.peers.demo.svc.c".to_owned()), ..plain() },
            alone(" --hostname=vm --fqdn=vm.peers.demo.svc.c"),
        ),
        (
            "DHCP",
            Nic {
                dhcp: DhcpOptions {
                    boot_file: Some("-boot me".to_owned()),
                    tftp_server: Some("10.0.0.9".to_owned()),
                    ntp_servers: vec![Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(10, 0, 0, 8)],
                    private: vec![(254, "a=b".to_owned()), (224, "--mtu".to_owned())],
                },
                ..plain()
            },
            alone(
                " --dhcp-bootfile=-boot me --dhcp-tftp=10.0.0.9 --dhcp-ntp=10.0.0.7 --dhcp-ntp=10.0.0.8 \
                 --dhcp-option=254=a=b --dhcp-option=224=--mtu",
            ),
        ),
        (
            "DNS",
            Nic {
                tuning: Tuning {
                    dns: vec![Ipv4Addr::new(9, 9, 9, 9).into(), Ipv6Addr::LOCALHOST.into()],
                    dns_search: vec!["a.example".to_owned(), "b.example".to_owned()],
                    ..tuning()
                },
                ..plain()
            },
            alone(" --dns=9.9.9.9 --dns=::1 --search=a.example --search=b.example"),
        ),
        (
            "loopback",
            Nic {
                tuning: Tuning {
                    host_loopback_v4: Some(Ipv4Addr::new(10, 0, 0, 9)),
                    host_loopback_v6: Some("fd00::9".parse().unwrap()),
                    ..tuning()
                },
                ..plain()
            },
            alone(" --map-host-loopback=10.0.0.9 --map-host-loopback=fd00::9"),
        ),
        (
            "warnings and few flows",
            Nic { tuning: Tuning { log_level: LogLevel::Warn, flows_max: Some(9), ..tuning() }, ..plain() },
            format!("{} --flows-max=9 --quiet", alone("")),
        ),
        (
            "debug",
            Nic { tuning: Tuning { log_level: LogLevel::Debug, ..tuning() }, ..plain() },
            format!("{} --debug", alone("")),
        ),
        (
            "trace",
            Nic { tuning: Tuning { log_level: LogLevel::Trace, ..tuning() }, ..plain() },
            format!("{} --trace", alone("")),
        ),
        (
            "libvirt's alone",
            Nic {
                name: "x".to_owned(),
                model: Model::E1000e,
                acpi_index: Some(1),
                boot_order: Some(1),
                link: Link::Down,
                queues: Some(4),
                ..plain()
            },
            alone(""),
        ),
    ];
    check(&table);
}

fn check(table: &[(&str, Nic, String)]) {
    for (case, nic, wanted) in table {
        assert_eq!(line(nic), *wanted, "{case}");
    }
}

#[test]
fn paths_stay_as_they_are() {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let socket = OsString::from_vec(b"/run/\xff x".to_vec());
    let arguments = arguments(&plain(), Path::new(&socket), Path::new("/c"), None);
    assert_eq!(arguments[2].as_bytes(), b"--socket=/run/\xff x");
}

#[test]
fn little_memory_is_passed_on() {
    let arguments = arguments(&plain(), Path::new("/s"), Path::new("/c"), Some(Allowance::of(64_000_000)));
    assert!(arguments.iter().any(|argument| argument == "--socket-memory=16000000"), "{arguments:?}");
}

#[test]
fn a_list_longer_than_an_argument_is_several() {
    let odd: Vec<u16> = (0..=u16::MAX).filter(|port| port % 2 == 1).collect();
    let arguments =
        arguments(&Nic { tcp: Ports::Only(odd.clone()), ..plain() }, Path::new("/s"), Path::new("/c"), None);
    let lists: Vec<&str> = arguments
        .iter()
        .filter_map(|argument| argument.to_str().unwrap().strip_prefix("--tcp-ports="))
        .collect();
    assert_eq!(lists.len(), 4);
    assert!(lists.iter().all(|list| list.len() < 100_000));
    let ports: Vec<u16> =
        lists.iter().flat_map(|list| list.split(',')).map(|port| port.parse().unwrap()).collect();
    assert_eq!(ports, odd);
}
