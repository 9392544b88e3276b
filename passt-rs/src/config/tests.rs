use std::ffi::OsString;
use std::net::IpAddr;

use super::*;
use crate::cli::{self, Asked};
use crate::flow::nat::DnsForward;
use crate::host::netlink::{Pod, Uplink};

/// An ordinary dual-stack pod.
fn around() -> Surroundings {
    Surroundings {
        pod: Ok(Pod {
            v4: Some(Uplink {
                index: 2,
                name: "eth0".to_owned(),
                mtu_bytes: 1400,
                address: "10.244.1.5".parse().unwrap(),
                prefix_len: 24,
                gateway: Some("10.244.1.1".parse().unwrap()),
                has_default_route: true,
            }),
            v6: Some(Uplink {
                index: 2,
                name: "eth0".to_owned(),
                mtu_bytes: 1400,
                address: "fd00:10:244::5".parse().unwrap(),
                prefix_len: 64,
                gateway: Some("fd00:10:244::1".parse().unwrap()),
                has_default_route: true,
            }),
            own: vec![
                "10.244.1.5".parse().unwrap(),
                "fd00:10:244::5".parse().unwrap(),
                "10.0.1.5".parse().unwrap(),
            ],
        }),
        resolv_conf: ResolvConf::parse("search svc.cluster.local\nnameserver 10.96.0.10\n"),
        ephemeral_ports: 32768..=60999,
        free_socket: "/tmp/passt_1.socket".into(),
    }
}

fn calico() -> Surroundings {
    let mut around = around();
    if let Ok(Pod { v4: Some(v4), v6: Some(v6), .. }) = &mut around.pod {
        (v4.prefix_len, v4.gateway) = (32, Some("169.254.1.1".parse().unwrap()));
        (v6.prefix_len, v6.gateway) = (128, Some("fe80::ecee:eeff:feee:eeee".parse().unwrap()));
    }
    around
}

fn with_resolvers(text: &str) -> Surroundings {
    Surroundings { resolv_conf: ResolvConf::parse(text), ..around() }
}

fn resolve(around: &Surroundings, args: &str) -> Result<Config, Vec<String>> {
    let args = ["passt-rs"].into_iter().chain(args.split_whitespace()).map(OsString::from);
    let Asked::Run(cli, mut faults) = cli::parse(args) else { panic!("asked to print") };
    let resolved = Config::resolve(&cli, around);
    faults.extend(resolved.as_ref().err().into_iter().flatten().cloned());
    resolved.map_err(|_| faults.iter().map(Fault::to_string).collect())
}

fn good(args: &str) -> Config {
    resolve(&around(), args).unwrap()
}

fn shown(dns: &[IpAddr]) -> Vec<String> {
    dns.iter().map(IpAddr::to_string).collect()
}

#[test]
fn by_default_the_guest_is_the_pod() {
    let config = good("");
    assert_eq!(
        config.summary(),
        [
            "guest's end: socket /tmp/passt_1.socket",
            "our address: 9a:55:9a:55:9a:55, MTU 65520",
            "IPv4: 10.244.1.5/24, gateway 10.244.1.1",
            "IPv6: fd00:10:244::5/64, router fe80::9855:9aff:fe55:9a55",
            "DNS: 10.96.0.10; search svc.cluster.local",
            "mapping: 10.244.1.1 reaches 127.0.0.1",
            "mapping: fd00:10:244::1 reaches ::1",
            "TCP forwarded in: none",
            "UDP forwarded in: none",
        ]
    );
    assert_eq!(config.nat.link_local_scope6, 2);
    assert_eq!(config.log, Log { verbosity: Verbosity::Normal, file: None, size_bytes: 1 << 20 });
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn calico_pod_keeps_its_prefix_and_gateways() {
    let config = resolve(&calico(), "").unwrap();
    assert_eq!(
        config.summary()[2..4],
        [
            "IPv4: 10.244.1.5/32, gateway 169.254.1.1",
            "IPv6: fd00:10:244::5/128, router fe80::ecee:eeff:feee:eeee"
        ]
    );
}

/// A secondary interface: its subnet and nothing behind it.
#[test]
fn an_interface_without_default_route_gives_none_unless_a_gateway_is_given() {
    let mut around = around();
    if let Ok(Pod { v4: Some(v4), v6: Some(v6), .. }) = &mut around.pod {
        (v4.gateway, v4.has_default_route) = (None, false);
        (v6.gateway, v6.has_default_route) = (None, false);
    }
    let lines = [
        "IPv4: 10.244.1.5/24, gateway none",
        "IPv6: fd00:10:244::5/64, router fe80::9855:9aff:fe55:9a55 without default route",
    ];
    let config = resolve(&around, "--netns g --config-net").unwrap();
    assert_eq!(config.summary()[2..4], lines);
    let Transport::Tap(Tap { config_net: Some(setup), .. }) = config.transport else { panic!("no tap") };
    assert_eq!((setup.v4.unwrap().gateway, setup.v6.unwrap().gateway), (None, None));
    let given = resolve(&around, "-g 10.244.1.9 -g fd00:10:244::9").unwrap().network;
    assert_eq!(given.v4.unwrap().gateway, Some("10.244.1.9".parse().unwrap()));
    assert!(given.v6.unwrap().has_default_route);
    // A link that is all there is to reach, as point-to-point ones: the way out needs no gateway.
    if let Ok(Pod { v6: Some(v6), .. }) = &mut around.pod {
        v6.has_default_route = true;
    }
    assert!(resolve(&around, "").unwrap().network.v6.unwrap().has_default_route);
}

#[test]
fn all_addresses_of_the_pod_are_known() {
    let other = "10.0.1.5:80".parse().unwrap();
    assert!(!good("").nat.is_unreachable(other));
    assert!(good("--no-map-gw").nat.is_unreachable(other));
}

#[test]
fn everything_given_is_shown() {
    let config = good(
        "-a 192.0.2.2/28 -a 2001:db8::2 -g 192.0.2.1 -g fe80::1 -m 1400 -M 02:00:00:00:00:01 -D 9.9.9.9 -S a -S b. \
         --dns-forward 192.0.2.9 --dns-host 127.0.0.53 --map-guest-addr 192.0.2.10 --no-map-gw --no-icmp -s /x \
         -t 22,8000-8010:80-90 -t 127.0.0.1/443 -u ~53 --socket-memory 33554432",
    );
    assert_eq!(
        config.summary(),
        [
            "guest's end: socket /x",
            "our address: 02:00:00:00:00:01, MTU 1400",
            "IPv4: 192.0.2.2/28, gateway 192.0.2.1",
            "IPv6: 2001:db8::2/64, router fe80::1",
            "DNS: 9.9.9.9; search a b",
            "mapping: DNS to 192.0.2.9 reaches 127.0.0.53",
            "mapping: 192.0.2.10 reaches the pod's own address",
            "off: ICMP, NDP, router advertisements",
            "kernel memory of sockets: 33554432 bytes",
            "TCP forwarded in: * 22,8000-8010:80-90; 127.0.0.1 443",
            "UDP forwarded in: * 1-52,54-32767,61000-65535",
        ]
    );
    assert_eq!(config.nat.host4, Some("10.244.1.5".parse().unwrap()));
}

#[test]
fn prefix_of_an_address_is_the_one_given_or_the_pods_or_by_class() {
    let table = [
        ("-a 10.244.1.9/30", 30),
        ("-a 10.244.1.9 -n 255.255.0.0", 16),
        ("-a 10.244.1.9 -n 20", 20),
        ("-n 20", 20),
        ("-a 10.244.1.9", 24),
        ("-a 10.1.1.9", 8),
        ("-a 172.16.0.9", 16),
        ("-a 192.168.0.9", 24),
    ];
    for (args, prefix_len) in table {
        assert_eq!(good(args).network.v4.unwrap().prefix_len, prefix_len, "{args}");
    }
}

#[test]
fn families_are_off_without_an_address_or_when_told() {
    let mut no_v4 = around();
    no_v4.pod.as_mut().unwrap().v4 = None;
    let table = [
        (around(), "-4", (true, false)),
        (around(), "-6", (false, true)),
        (around(), "-m 1279", (true, false)),
        (around(), "-m 1280", (true, true)),
        (around(), "-m 0", (true, true)),
        (no_v4.clone(), "", (false, true)),
        (no_v4, "-a 10.0.0.2/24", (true, true)),
    ];
    for (around, args, wanted) in table {
        let config = resolve(&around, args).unwrap();
        let found = (config.network.v4.is_some(), config.network.v6.is_some());
        assert_eq!(found, wanted, "{args}");
        assert_eq!((config.nat.guest4.is_some(), config.nat.guest6.is_some()), wanted, "{args}");
        assert_eq!(config.nat.map_host_loopback6.is_some(), wanted.1, "{args}");
    }
    assert_eq!(good("-m 0").network.mtu, None);
}

#[test]
fn loopback_is_mapped_as_told() {
    let none: (Option<&str>, Option<&str>) = (None, None);
    let table = [
        ("", (Some("10.244.1.1"), Some("fd00:10:244::1"))),
        ("-g 10.244.1.2", (Some("10.244.1.2"), Some("fd00:10:244::1"))),
        ("--no-map-gw", none),
        ("--map-host-loopback none", none),
        ("--map-host-loopback 192.0.2.1", (Some("192.0.2.1"), Some("fd00:10:244::1"))),
        ("--no-map-gw --map-host-loopback 192.0.2.1", (Some("192.0.2.1"), None)),
        ("--map-host-loopback 192.0.2.1 --map-host-loopback fd00::9", (Some("192.0.2.1"), Some("fd00::9"))),
    ];
    for (args, (v4, v6)) in table {
        let nat = good(args).nat;
        assert_eq!(nat.map_host_loopback4, v4.map(|v4| v4.parse().unwrap()), "{args}");
        assert_eq!(nat.map_host_loopback6, v6.map(|v6| v6.parse().unwrap()), "{args}");
    }
}

#[test]
fn resolvers_are_announced_as_the_guest_can_reach_them() {
    let systemd = "nameserver 127.0.0.53";
    let table: &[(&str, &str, &[&str], usize)] = &[
        ("nameserver 10.96.0.10\nnameserver fd00::10", "", &["10.96.0.10", "fd00::10"], 0),
        ("nameserver 10.96.0.10\nnameserver fd00::10", "-4", &["10.96.0.10"], 1),
        ("nameserver 10.96.0.10", "-D none", &[], 0),
        ("nameserver 10.96.0.10", "-D 1.1.1.1 -D fd00::53", &["1.1.1.1", "fd00::53"], 0),
        ("nameserver 10.96.0.10", "--dns-forward 10.244.1.53", &["10.244.1.53"], 0),
        (systemd, "", &["10.244.1.1"], 0),
        (systemd, "--map-host-loopback 192.0.2.1", &["192.0.2.1"], 0),
        (systemd, "--no-map-gw", &[], 1),
        (systemd, "--no-map-gw --dns-forward 10.244.1.53", &["10.244.1.53"], 0),
        ("nameserver 127.0.0.53\nnameserver 127.0.0.1", "", &["10.244.1.1"], 0),
        ("", "", &[], 0),
    ];
    for (text, args, announced, warnings) in table {
        let config = resolve(&with_resolvers(text), args).unwrap();
        assert_eq!(shown(&config.network.dns), *announced, "{text:?} {args}");
        assert_eq!(config.warnings.len(), *warnings, "{text:?} {args}: {:?}", config.warnings);
    }
}

#[test]
fn dns_ports_lead_to_the_resolver_behind_the_announced_address() {
    let dns = |seen: &str, resolver: &str| {
        Some(DnsForward { seen_by_guest: seen.parse().unwrap(), resolver: resolver.parse().unwrap() })
    };
    let table = [
        ("nameserver 127.0.0.53", "", dns("10.244.1.1", "127.0.0.53")),
        ("nameserver 127.0.0.53", "--dns-host 9.9.9.9", dns("10.244.1.1", "9.9.9.9")),
        ("nameserver 127.0.0.53", "--no-map-gw", None),
        ("nameserver 10.96.0.10", "", None),
        ("nameserver 10.96.0.10", "--dns-forward 10.244.1.53", dns("10.244.1.53", "10.96.0.10")),
        ("", "--dns-forward 10.244.1.53 --dns-host 127.0.0.1", dns("10.244.1.53", "127.0.0.1")),
    ];
    for (text, args, wanted) in table {
        assert_eq!(resolve(&with_resolvers(text), args).unwrap().nat.dns4, wanted, "{text:?} {args}");
    }
}

#[test]
fn transports() {
    assert_eq!(good("-s /x").transport, Transport::Stream { socket: "/x".into() });
    assert_eq!(good("-F 5").transport, Transport::StreamFd(5));
    assert_eq!(good("--vhost-user -s /x").transport, Transport::VhostUser { socket: "/x".into() });
    assert_eq!(good("--vhost-user").transport, Transport::VhostUser { socket: "/tmp/passt_1.socket".into() });
    assert_eq!(good("-F 5 --vhost-user").transport, Transport::VhostUserFd(5));
    assert_eq!(good("--vhost-user").summary()[0], "guest's end: vhost-user on socket /tmp/passt_1.socket");
    assert_eq!(good("--vhost-user -F 5").summary()[0], "guest's end: vhost-user on descriptor 5");
    let tap = |args: &str| match good(args).transport {
        Transport::Tap(tap) => tap,
        other @ (Transport::Stream { .. }
        | Transport::StreamFd(_)
        | Transport::VhostUser { .. }
        | Transport::VhostUserFd(_)) => panic!("{other:?}"),
    };
    let plain =
        Tap { netns: "/run/netns/g".to_owned(), ifname: "eth0".to_owned(), mac: None, config_net: None };
    assert_eq!(tap("--netns /run/netns/g --netns-only"), plain);
    let named = tap("--netns 42 -I tap7 --ns-mac-addr 02:00:00:00:00:02 --config-net -m 1400");
    assert_eq!((named.netns.as_str(), named.ifname.as_str()), ("42", "tap7"));
    let setup = named.config_net.unwrap();
    assert_eq!((setup.mac, setup.mtu_bytes), (Some([2, 0, 0, 0, 0, 2]), Some(1400)));
    assert_eq!(setup.v4.unwrap().gateway, Some("10.244.1.1".parse().unwrap()));
    assert_eq!(setup.v6.unwrap().gateway, Some("fe80::9855:9aff:fe55:9a55".parse().unwrap()));
}

#[test]
fn flags_without_effect_are_accepted_and_said_so() {
    let table = [
        ("--repair-path none", None),
        ("--vhost-user --repair-path none", None),
        ("--chroot-fallback", None),
        ("--vhost-user --repair-path /x.repair", Some("--repair-path has no effect")),
        ("--vhost-user --migrate-exit", Some("--migrate-exit has no effect")),
        ("--vhost-user --migrate-no-linger", Some("--migrate-no-linger has no effect")),
        ("-e", Some("--stderr has no effect")),
    ];
    for (args, wanted) in table {
        let warnings = good(args).warnings;
        assert_eq!(warnings.len(), usize::from(wanted.is_some()), "{args}: {warnings:?}");
        assert!(warnings.iter().all(|said| said.starts_with(wanted.unwrap())), "{args}: {warnings:?}");
    }
}

#[test]
fn search_domains_may_share_an_argument() {
    let Asked::Run(cli, _) = cli::parse(["p", "--search", "a b.example", "-S", "c"].map(OsString::from))
    else {
        panic!("asked to print")
    };
    assert_eq!(Config::resolve(&cli, &around()).unwrap().network.search, ["a", "b.example", "c"]);
}

#[test]
fn a_guest_on_a_descriptor_is_the_only_one() {
    for (args, one_off) in [("", false), ("-1", true), ("-F 3", true), ("--vhost-user -F 3", true)] {
        assert_eq!(good(args).one_off, one_off, "{args}");
    }
}

#[test]
fn a_protocol_that_is_not_carried_forwards_nothing() {
    let config = good("--no-tcp -t 22 -u 53");
    assert_eq!((config.tcp_forward.len(), config.udp_forward.len()), (0, 1));
    assert_eq!(good("--no-udp -t 22 -u 53").udp_forward.len(), 0);
}

#[test]
fn the_last_of_contrary_switches_counts() {
    assert!(!good("--no-dhcp-dns").network.services.announce_dns);
    assert!(good("--no-dhcp-dns --dhcp-dns").network.services.announce_dns);
    assert!(!good("--dhcp-search --no-dhcp-search").network.services.announce_search);
}

#[test]
fn what_dhcp_hands_out_besides_is_shown() {
    let config = good(
        "--dhcp-bootfile pxelinux.0 --dhcp-tftp 192.0.2.3 --dhcp-ntp 192.0.2.4 --dhcp-ntp 192.0.2.5 \
         --dhcp-option 254=a=b --dhcp-option=224=-x",
    );
    let wanted =
        "DHCP: boot file pxelinux.0, TFTP server 192.0.2.3, NTP 192.0.2.4 192.0.2.5, options 254 224";
    assert!(config.summary().contains(&wanted.to_owned()), "{:?}", config.summary());
    assert_eq!(config.network.extras.site, [(254, "a=b".to_owned()), (224, "-x".to_owned())]);
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(good("--dhcp-tftp a.example").summary()[5], "DHCP: TFTP server a.example");
}

#[test]
fn what_nobody_hands_out_is_said() {
    let flags = "--dhcp-bootfile a --dhcp-tftp b --dhcp-ntp 192.0.2.4 --dhcp-option 224=c";
    for off in ["--no-dhcp", "-6"] {
        let warnings = good(&format!("{flags} {off}")).warnings;
        let said: Vec<_> = warnings.iter().map(|said| said.split_once(' ').unwrap()).collect();
        let why = "has no effect: there is no DHCPv4 server";
        let wanted =
            ["--dhcp-bootfile", "--dhcp-tftp", "--dhcp-ntp", "--dhcp-option"].map(|flag| (flag, why));
        assert_eq!(
            said.iter().filter(|(flag, _)| flag.starts_with("--dhcp")).copied().collect::<Vec<_>>(),
            wanted
        );
    }
}

#[test]
fn options_are_as_long_as_one_option_holds() {
    for (flag, prefix) in [("--dhcp-bootfile", ""), ("--dhcp-tftp", ""), ("--dhcp-option", "230=")] {
        for (len, is_good) in [(1, true), (255, true), (256, false)] {
            let args = format!("{flag} {prefix}{}", "x".repeat(len));
            assert_eq!(resolve(&around(), &args).is_ok(), is_good, "{flag} {len}");
        }
    }
    let servers = |count: usize| resolve(&around(), &"--dhcp-ntp 192.0.2.4 ".repeat(count));
    assert!(servers(63).is_ok());
    assert_eq!(servers(64).unwrap_err(), ["--dhcp-ntp: given 64 times, an option holds 63 addresses"]);
}

#[test]
fn control_characters_are_no_names_but_may_be_data_of_the_site() {
    let run = |flag: &str, value: &str| {
        let Asked::Run(cli, _) = cli::parse(["p", flag, value].map(OsString::from)) else {
            panic!("asked to print")
        };
        Config::resolve(&cli, &around()).map_err(|faults| faults[0].to_string())
    };
    for flag in ["--dhcp-bootfile", "--dhcp-tftp"] {
        let wanted = format!("{flag}: `a\\nb`: expected text without control characters");
        assert_eq!(run(flag, "a\nb").unwrap_err(), wanted);
    }
    assert_eq!(run("--dhcp-option", "224=a\nb").unwrap().network.extras.site, [(224, "a\nb".to_owned())]);
}

#[test]
fn the_guests_address_and_the_limits_are_as_told() {
    let config = good("");
    assert_eq!((config.guest_mac, config.flows_max, config.socket_memory_bytes), (None, None, None));
    let config = good("--guest-mac 02:00:00:00:00:07 --flows-max 131072 --socket-memory 1048576");
    assert_eq!((config.guest_mac, config.flows_max), (Some(Mac([2, 0, 0, 0, 0, 7])), Some(131_072)));
    assert_eq!(config.socket_memory_bytes, Some(1 << 20));
}

#[test]
fn bad_values_are_named_with_their_flag() {
    let table = [
        ("-m 65521", "--mtu: `65521`: expected 68 to 65520"),
        ("-m big", "--mtu: `big`: expected 68"),
        ("-m 1400 -m 1401", "--mtu: `1401`: given more than once"),
        ("--mtu=", "--mtu: the value is empty"),
        ("-a host", "--address: `host`: expected an IPv4 or IPv6 address"),
        ("-a 10.0.0.5/33", "--address: `10.0.0.5/33`: expected a prefix length from 1 to 32"),
        ("-a fd00::1/x", "--address: `fd00::1/x`: expected a prefix length from 1 to 128"),
        ("-a 127.0.0.1", "--address: `127.0.0.1`: expected the address of one station"),
        ("-a ::ffff:10.0.0.1", "--address: `::ffff:10.0.0.1`: expected the address of one station"),
        ("-a 10.0.0.1 -a 10.0.0.2", "--address: `10.0.0.2`: a second address of the same family"),
        ("-n 255.0.255.0", "--netmask: `255.0.255.0`: expected 1 to 32"),
        ("-n 0", "--netmask: `0`: expected 1 to 32"),
        ("-a 10.0.0.1/8 -n 8", "--netmask: the prefix length is given"),
        ("-M ff:ff:ff:ff:ff:ff", "--mac-addr: `ff:ff:ff:ff:ff:ff`: expected the address of one station"),
        ("-M 1", "--mac-addr: `1`: expected an address such as"),
        ("-g x", "--gateway: `x`: expected an IPv4 or IPv6 address"),
        ("-i this-name-is-too-long", "--interface: `this-name-is-too-long`: expected an interface name"),
        ("-o 0.0.0.0", "--outbound: `0.0.0.0`: expected the address of one station"),
        ("--outbound-if4 a/b", "--outbound-if4: `a/b`: expected an interface name"),
        ("-4 -6", "--ipv4-only: contradicts --ipv6-only"),
        ("-q -d", "--quiet: contradicts --debug"),
        ("--log-size 10", "--log-size: `10`: expected a number from 4096"),
        ("--runas root", "--runas: `root`: expected numbers"),
        ("--runas 4294967295", "--runas: `4294967295`: expected numbers"),
        ("-D none -D 1.1.1.1", "--dns: `none`: cannot be combined"),
        ("-D 127.0.0.1", "--dns: `127.0.0.1`: the guest cannot reach loopback"),
        ("-D x", "--dns: `x`: expected an IPv4 or IPv6 address, or `none`"),
        ("--dns-forward fd00::53", "--dns-forward: /etc/resolv.conf has no resolver of this family"),
        ("--dns-host x", "--dns-host: `x`: expected"),
        ("--dns-host 1.1.1.1 --dns-host 1.1.1.2", "--dns-host: `1.1.1.2`: a second address"),
        ("-S none -S a", "--search: `none`: cannot be combined"),
        ("-S a..b", "--search: `a..b`: expected a name"),
        ("-H .", "--hostname: `.`: expected a name"),
        ("--fqdn a..b", "--fqdn: `a..b`: expected a name"),
        (
            "--map-host-loopback none --map-host-loopback 1.1.1.1",
            "--map-host-loopback: `none`: cannot be combined",
        ),
        ("--map-guest-addr 10.244.1.5", "--map-guest-addr: is the guest's own address"),
        ("-s /a -F 3", "--fd: cannot be combined with --socket"),
        ("--socket-path /a -F 3", "--fd: cannot be combined with --socket-path"),
        ("-s /a --socket-path /b", "--socket-path: `/b`: given more than once"),
        ("--no-netns-quit", "--no-netns-quit: needs --netns"),
        ("-6 -t 192.0.2.1/22", "--tcp-ports: `192.0.2.1`: IPv4 is off"),
        ("-4 -u ::1/53", "--udp-ports: `::1`: IPv6 is off"),
        ("-F 3 --netns 1", "--netns: cannot be combined with --fd"),
        ("-F 2", "--fd: `2`: expected the number of an open descriptor"),
        ("-I tap0", "--ns-ifname: needs --netns"),
        ("--config-net", "--config-net: needs --netns"),
        ("-t 22-21", "--tcp-ports: `22-21`: the range ends before it begins"),
        ("-u 0", "--udp-ports: `0`: port 0"),
        ("-T 22", "--tcp-ns: not supported yet"),
        ("-f --stats 5", "--stats: not supported yet"),
        ("-c /x", "--conf-path: not supported yet"),
        ("--vhost-user --netns 1", "--netns: cannot be combined with --vhost-user"),
        ("--vhost-user -s /x -F 3", "--fd: cannot be combined with --socket"),
        ("--repair-path /x", "--repair-path: needs --vhost-user"),
        ("--dhcp-bootfile=", "--dhcp-bootfile: the value is empty"),
        ("--dhcp-bootfile a --dhcp-bootfile b", "--dhcp-bootfile: `b`: given more than once"),
        ("--dhcp-tftp 224.0.0.1", "--dhcp-tftp: `224.0.0.1`: expected the address of one station"),
        ("--dhcp-tftp 127.0.0.1", "--dhcp-tftp: `127.0.0.1`: expected the address of one station"),
        ("--dhcp-ntp pool.example", "--dhcp-ntp: `pool.example`: expected an IPv4 address"),
        ("--dhcp-ntp fd00::1", "--dhcp-ntp: `fd00::1`: expected an IPv4 address"),
        ("--dhcp-ntp 0.0.0.0", "--dhcp-ntp: `0.0.0.0`: expected the address of one station"),
        ("--dhcp-option 223=x", "--dhcp-option: `223=x`: expected CODE=TEXT with a code from 224 to 254"),
        ("--dhcp-option 255=x", "--dhcp-option: `255=x`: expected CODE=TEXT"),
        ("--dhcp-option 224", "--dhcp-option: `224`: expected CODE=TEXT"),
        ("--dhcp-option x=224", "--dhcp-option: `x=224`: expected CODE=TEXT"),
        ("--dhcp-option 224=", "--dhcp-option: `224=`: expected 1 to 255 bytes"),
        ("--dhcp-option 224=a --dhcp-option 224=b", "--dhcp-option: `224=b`: a second option 224"),
        (
            "--guest-mac 01:00:00:00:00:07",
            "--guest-mac: `01:00:00:00:00:07`: expected the address of one station",
        ),
        ("--guest-mac ff:ff:ff:ff:ff:ff", "--guest-mac: `ff:ff:ff:ff:ff:ff`: expected the address of one"),
        ("--guest-mac 0:0:0:0:0:0", "--guest-mac: `0:0:0:0:0:0`: expected the address of one station"),
        ("--guest-mac x", "--guest-mac: `x`: expected an address such as"),
        ("--flows-max 0", "--flows-max: `0`: expected a number from 1 to 131072"),
        ("--flows-max 131073", "--flows-max: `131073`: expected a number from 1 to 131072"),
        (
            "--socket-memory 1048575",
            "--socket-memory: `1048575`: expected a number from 1048576 to 1099511627776",
        ),
        ("--socket-memory 32M", "--socket-memory: `32M`: expected a number from"),
        ("--flows-max many", "--flows-max: `many`: expected a number from 1"),
        ("--migrate-exit", "--migrate-exit: needs --vhost-user"),
        ("--migrate-no-linger", "--migrate-no-linger: needs --vhost-user"),
    ];
    for (args, wanted) in table {
        let faults = resolve(&around(), args).expect_err(args);
        assert_eq!(faults.len(), 1, "{args}: {faults:?}");
        assert!(faults[0].starts_with(wanted), "{args}: {faults:?}");
    }
}

#[test]
fn a_socket_path_too_long_for_the_kernel_is_refused() {
    let path = format!("/{}", "x".repeat(107));
    assert!(resolve(&around(), &format!("-s {path}")).unwrap_err()[0].contains("107 bytes"));
}

#[test]
fn a_pod_that_cannot_be_read_or_has_nothing_is_a_fault() {
    let fault = Fault::new("--interface", "there is no interface named eth9");
    let unread = Surroundings { pod: Err(fault), ..around() };
    assert_eq!(resolve(&unread, "").unwrap_err(), ["--interface: there is no interface named eth9"]);
    let empty = Surroundings { pod: Ok(Pod::default()), ..around() };
    assert!(resolve(&empty, "").unwrap_err()[0].starts_with("--address: this namespace has no address"));
}

#[test]
fn all_faults_are_found_in_one_run() {
    let faults = resolve(&around(), "--foo -m x -t 0 -a y --splice-only").unwrap_err();
    let flags: Vec<&str> = faults.iter().map(|fault| fault.split(':').next().unwrap()).collect();
    assert_eq!(flags, ["--foo", "--splice-only", "--mtu", "--address", "--tcp-ports"]);
}
