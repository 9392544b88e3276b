//! Rules of nf_tables against a real kernel: what `nft` lists, and what becomes of packets.

#[cfg(test)]
#[path = "nft/lab.rs"]
mod lab;

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use sluice_cni::nft::{Nft, NftError, Rule, loopback_guard, masquerade, port_mappings, spoof_check};
    use sluice_cni::protocol::{PortMapping, Protocol};

    use super::lab::{Net, seen_by, wait_for};

    const A: &str = "aaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbb";
    const C: &str = "cccccccccccccccc";

    #[test]
    fn masquerade_is_listed_as_nft_would_have_written_it() {
        let net = Net::new();
        let mut nft = net.run(Nft::open).unwrap();
        nft.install(A, &[rule_v4(), masquerade("fd00:88::5/64".parse().unwrap())]).unwrap();
        assert_eq!(
            net.sh("nft list ruleset"),
            "table inet sluice {\n\
             \tchain postrouting {\n\
             \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
             \t\tip saddr 10.88.1.5 ip daddr != 10.88.1.0/24 ip daddr != 224.0.0.0/4 masquerade \
             comment \"sluice:aaaaaaaaaaaaaaaa:masquerade\"\n\
             \t\tip6 saddr fd00:88::5 ip6 daddr != fd00:88::/64 ip6 daddr != ff00::/8 masquerade \
             comment \"sluice:aaaaaaaaaaaaaaaa:masquerade\"\n\
             \t}\n\
             }\n"
        );
    }

    #[test]
    fn peer_sees_the_host_while_masquerade_is_installed() {
        let lab = Routed::new();
        let mut nft = lab.host.run(Nft::open).unwrap();
        let server = lab.world.listen("192.0.2.2:80");
        let seen = || seen_by(&server, &lab.pod, "192.0.2.2:80").to_string();
        assert_eq!(seen(), "10.88.1.5");
        nft.install(A, &[rule_v4()]).unwrap();
        assert_eq!(seen(), "192.0.2.1");
        nft.remove(A).unwrap();
        assert_eq!(seen(), "10.88.1.5");
    }

    #[test]
    fn port_mappings_are_listed_as_nft_would_have_written_them() {
        let net = Net::new();
        let mut nft = net.run(Nft::open).unwrap();
        nft.install(A, &mapped("10.88.1.5/24", None, Protocol::Tcp)).unwrap();
        nft.install(B, &mapped("10.88.1.6/32", Some("192.0.2.1"), Protocol::Udp)).unwrap();
        nft.install(C, &mapped("fd00:88::5/64", Some("::"), Protocol::Sctp)).unwrap();
        assert_eq!(
            net.sh("nft list ruleset"),
            "table inet sluice {
\tchain prerouting {
\t\ttype nat hook prerouting priority dstnat; policy accept;
\t\tip daddr 192.0.2.1 udp dport 8080 dnat ip to 10.88.1.6:80 comment \"sluice:bbbbbbbbbbbbbbbb:port\"
\t\tmeta nfproto ipv4 fib daddr type local tcp dport 8080 dnat ip to 10.88.1.5:80 comment \"sluice:aaaaaaaaaaaaaaaa:port\"
\t\tip6 daddr != ::1 fib daddr type local sctp dport 8080 dnat ip6 to [fd00:88::5]:80 comment \"sluice:cccccccccccccccc:port\"
\t}

\tchain output {
\t\ttype nat hook output priority -100; policy accept;
\t\tip daddr 192.0.2.1 udp dport 8080 dnat ip to 10.88.1.6:80 comment \"sluice:bbbbbbbbbbbbbbbb:port\"
\t\tmeta nfproto ipv4 fib daddr type local tcp dport 8080 dnat ip to 10.88.1.5:80 comment \"sluice:aaaaaaaaaaaaaaaa:port\"
\t\tip6 daddr != ::1 fib daddr type local sctp dport 8080 dnat ip6 to [fd00:88::5]:80 comment \"sluice:cccccccccccccccc:port\"
\t}

\tchain postrouting {
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tct status dnat ip saddr 10.88.1.0/24 ip daddr 10.88.1.5 masquerade comment \"sluice:aaaaaaaaaaaaaaaa:port-hairpin\"
\t\tct status dnat ip saddr 127.0.0.0/8 ip daddr 10.88.1.5 masquerade comment \"sluice:aaaaaaaaaaaaaaaa:port-loopback\"
\t\tct status dnat ip saddr 10.88.1.6 ip daddr 10.88.1.6 masquerade comment \"sluice:bbbbbbbbbbbbbbbb:port-hairpin\"
\t\tct status dnat ip saddr 127.0.0.0/8 ip daddr 10.88.1.6 masquerade comment \"sluice:bbbbbbbbbbbbbbbb:port-loopback\"
\t\tct status dnat ip6 saddr fd00:88::/64 ip6 daddr fd00:88::5 masquerade comment \"sluice:cccccccccccccccc:port-hairpin\"
\t}
}
"
        );
    }

    #[test]
    fn mapping_of_an_address_of_the_other_family_makes_no_rules() {
        assert_eq!(mapped("10.88.1.5/24", Some("::"), Protocol::Tcp), []);
        assert_eq!(mapped("fd00:88::5/64", Some("192.0.2.1"), Protocol::Tcp), []);
    }

    #[test]
    fn spoof_check_is_listed_as_nft_would_have_written_it() {
        let net = Net::new();
        let mut nft = net.run(Nft::open).unwrap();
        nft.install(A, &[spoof_check("veth0123456789a", "02:00:00:00:00:01".parse().unwrap())]).unwrap();
        assert_eq!(
            net.sh("nft list ruleset"),
            "table bridge sluice {
\tchain prerouting {
\t\ttype filter hook prerouting priority dstnat; policy accept;
\t\tiifname \"veth0123456789a\" ether saddr != 02:00:00:00:00:01 counter packets 0 bytes 0 drop comment \"sluice:aaaaaaaaaaaaaaaa:mac\"
\t}
}
"
        );
    }

    #[test]
    fn loopback_guard_is_listed_as_nft_would_have_written_it() {
        let net = Net::new();
        let mut nft = net.run(Nft::open).unwrap();
        nft.install(A, &[loopback_guard("br0")]).unwrap();
        assert_eq!(
            net.sh("nft list ruleset"),
            "table inet sluice {
\tchain raw {
\t\ttype filter hook prerouting priority raw; policy accept;
\t\tiifname \"br0\" ip daddr 127.0.0.0/8 drop comment \"sluice:aaaaaaaaaaaaaaaa:loopback\"
\t}
}
"
        );
    }

    #[test]
    fn loopback_guard_keeps_a_guest_from_what_the_host_has_for_itself() {
        let lab = Routed::new();
        let mut nft = lab.host.run(Nft::open).unwrap();
        lab.pod.sh("ip address del 127.0.0.1/8 dev lo; ip route add 127.0.0.0/8 via 10.88.1.1");
        let (private, guest) = (lab.host.udp("127.0.0.1:9000"), lab.pod.udp("10.88.1.5:5000"));
        let server = lab.pod.listen("10.88.1.5:80");
        nft.install(A, &mapped("10.88.1.5/24", None, Protocol::Tcp)).unwrap();
        nft.install(B, &[loopback_guard("br0")]).unwrap();
        guest.send_to(b"guarded", "127.0.0.1:9000").unwrap();
        assert_eq!(seen_by(&server, &lab.host, "127.0.0.1:8080").to_string(), "10.88.1.1");
        nft.remove(B).unwrap();
        guest.send_to(b"open", "127.0.0.1:9000").unwrap();
        let mut text = [0; 16];
        let length = private.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"open");
    }

    #[test]
    fn tcp_reaches_the_target_through_a_mapping_from_everywhere() {
        tcp_from_everywhere(
            "cd /proc/sys/net; [ ! -d bridge ] || echo 0 | tee bridge/bridge-nf-call-iptables >bridge/bridge-nf-call-ip6tables",
        );
    }

    #[test]
    fn tcp_reaches_the_target_through_a_mapping_where_bridges_call_netfilter() {
        tcp_from_everywhere(
            "cd /proc/sys/net/bridge; echo 1 | tee bridge-nf-call-iptables >bridge-nf-call-ip6tables
             ip link set p0 type bridge_slave hairpin on",
        );
    }

    fn tcp_from_everywhere(setting: &str) {
        let lab = Routed::new();
        lab.host.sh(setting);
        let mut nft = lab.host.run(Nft::open).unwrap();
        let v4 = lab.pod.listen("10.88.1.5:80");
        let v6 = lab.pod.listen("[fd00:88::5]:80");
        nft.install(A, &mapped("10.88.1.5/24", None, Protocol::Tcp)).unwrap();
        nft.install(A, &mapped("fd00:88::5/64", None, Protocol::Tcp)).unwrap();
        for (name, client, to, server, seen) in [
            ("from outside", &lab.world, "192.0.2.1:8080", &v4, "192.0.2.2"),
            ("from the host by 127.0.0.1", &lab.host, "127.0.0.1:8080", &v4, "10.88.1.1"),
            ("from the host by its address", &lab.host, "192.0.2.1:8080", &v4, "192.0.2.1"),
            ("from the target itself", &lab.pod, "192.0.2.1:8080", &v4, "10.88.1.1"),
            ("from the target by its gateway", &lab.pod, "10.88.1.1:8080", &v4, "10.88.1.1"),
            ("from the target's neighbour", &lab.neighbour, "192.0.2.1:8080", &v4, "10.88.1.1"),
            ("from outside, v6", &lab.world, "[2001:db8::1]:8080", &v6, "2001:db8::2"),
            ("from the target itself, v6", &lab.pod, "[2001:db8::1]:8080", &v6, "fd00:88::1"),
            ("from the target's neighbour, v6", &lab.neighbour, "[2001:db8::1]:8080", &v6, "fd00:88::1"),
        ] {
            assert_eq!(seen_by(server, client, to).to_string(), seen, "{name}");
        }
        assert_eq!(nft.remove(A).unwrap(), 7);
        let refused = lab.world.connect("192.0.2.1:8080").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn what_is_only_forwarded_is_not_mapped() {
        let lab = Routed::new();
        let mut nft = lab.host.run(Nft::open).unwrap();
        let server = lab.world.listen("192.0.2.2:8080");
        nft.install(A, &mapped("10.88.1.6/24", None, Protocol::Tcp)).unwrap();
        assert_eq!(seen_by(&server, &lab.pod, "192.0.2.2:8080").to_string(), "10.88.1.5");
    }

    #[test]
    fn mapping_of_one_address_is_of_no_other_and_comes_before_those_of_all() {
        let lab = Routed::new();
        let mut nft = lab.host.run(Nft::open).unwrap();
        let (pod, neighbour) = (lab.pod.listen("10.88.1.5:80"), lab.neighbour.listen("10.88.1.6:80"));
        nft.install(A, &mapped("10.88.1.5/24", None, Protocol::Tcp)).unwrap();
        nft.install(B, &mapped("10.88.1.6/24", Some("192.0.2.1"), Protocol::Tcp)).unwrap();
        assert_eq!(seen_by(&neighbour, &lab.world, "192.0.2.1:8080").to_string(), "192.0.2.2");
        assert_eq!(seen_by(&pod, &lab.world, "10.88.1.1:8080").to_string(), "192.0.2.2");
    }

    #[test]
    fn udp_goes_through_a_mapping_and_back() {
        let lab = Routed::new();
        let mut nft = lab.host.run(Nft::open).unwrap();
        nft.install(A, &mapped("10.88.1.5/24", None, Protocol::Udp)).unwrap();
        let (server, client) = (lab.pod.udp("10.88.1.5:80"), lab.world.udp("192.0.2.2:5000"));
        client.send_to(b"?", "192.0.2.1:8080").unwrap();
        let mut byte = [0];
        let (_, peer) = server.recv_from(&mut byte).unwrap();
        assert_eq!(peer.to_string(), "192.0.2.2:5000");
        server.send_to(b"!", peer).unwrap();
        let (_, peer) = client.recv_from(&mut byte).unwrap();
        assert_eq!((byte, peer.to_string().as_str()), (*b"!", "192.0.2.1:8080"));
    }

    #[test]
    fn client_that_keeps_sending_udp_follows_a_mapping_to_its_new_target() {
        let lab = Routed::new();
        let mut nft = lab.host.run(Nft::open).unwrap();
        let mapping =
            [PortMapping { host_ip: None, host_port: 8080, protocol: Protocol::Udp, container_port: 80 }];
        let (client, bystander) = (lab.world.udp("192.0.2.2:5000"), lab.world.udp("192.0.2.2:5001"));
        let servers = [
            ("10.88.1.5/24", lab.pod.udp("10.88.1.5:80")),
            ("10.88.1.6/24", lab.neighbour.udp("10.88.1.6:80")),
        ];
        // Flows are tracked once something needs that.
        nft.install(B, &[rule_v4()]).unwrap();
        client.send_to(b"nobody", "192.0.2.1:8080").unwrap();
        bystander.send_to(b"nobody", "192.0.2.1:8081").unwrap();
        for (target, server) in &servers {
            let target = target.parse().unwrap();
            nft.remove(A).unwrap();
            nft.install(A, &port_mappings(target, &mapping)).unwrap();
            wait_for("the flow", || (nft.forget_udp(target, &mapping).unwrap() == 1).then_some(()));
            client.send_to(b"?", "192.0.2.1:8080").unwrap();
            assert_eq!(server.recv(&mut [0; 8]).unwrap(), 1);
        }
        assert_eq!(nft.forget_udp("fd00:88::5/64".parse().unwrap(), &mapping).unwrap(), 0);
    }

    #[test]
    fn frame_with_anothers_mac_is_dropped_and_with_its_own_passes() {
        let lab = Routed::new();
        let mut nft = lab.host.run(Nft::open).unwrap();
        // Frames need no answer, so that a wrong source is all that can stop them.
        let neighbour = lab.neighbour.sh("ip -br link show eth0 | awk '{print $3}'");
        let (server, client) = (lab.neighbour.udp("10.88.1.6:80"), lab.pod.udp("10.88.1.5:5000"));
        let send = |mac: &str, text: &[u8]| {
            lab.pod.sh(&format!(
                "ip link set eth0 address {mac}
                 ip neighbour replace 10.88.1.6 lladdr {} dev eth0 nud permanent",
                neighbour.trim()
            ));
            client.send_to(text, "10.88.1.6:80").unwrap();
        };
        let received = || {
            let mut text = [0; 16];
            let length = server.recv(&mut text).unwrap();
            String::from_utf8_lossy(&text[..length]).into_owned()
        };
        nft.install(A, &[spoof_check("p0", "02:00:00:00:00:05".parse().unwrap())]).unwrap();
        nft.install(B, &[spoof_check("p1", "02:00:00:00:00:06".parse().unwrap())]).unwrap();
        send("02:00:00:00:00:66", b"spoofed");
        send("02:00:00:00:00:05", b"own");
        assert_eq!(received(), "own");
        let listed = lab.host.sh("nft list ruleset");
        assert!(!listed.contains("ether saddr != 02:00:00:00:00:05 counter packets 0 "), "{listed}");
        nft.remove(A).unwrap();
        send("02:00:00:00:00:66", b"unchecked");
        assert_eq!(received(), "unchecked");
    }

    #[test]
    fn check_finds_what_was_removed_added_and_altered() {
        let net = Net::new();
        let mut nft = net.run(Nft::open).unwrap();
        let spoof = |mac: &str| spoof_check("p0", mac.parse().unwrap());
        let mut rules = mapped("10.88.1.5/24", None, Protocol::Tcp);
        rules.extend(mapped("fd00:88::5/64", Some("2001:db8::1"), Protocol::Udp));
        rules.extend([rule_v4(), spoof("02:00:00:00:00:05")]);
        let count = rules.len();
        let mut differences = |rules: &[Rule]| -> Vec<String> {
            nft.check(A, rules).unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(differences(&rules).len(), count);
        net.run(Nft::open).unwrap().install(A, &rules).unwrap();
        assert_eq!(differences(&rules), [""; 0]);

        let missing = "rule mac is not in bridge sluice prerouting, or not as it was installed";
        let surplus =
            "a rule in prerouting with comment sluice:aaaaaaaaaaaaaaaa:mac is not one that was installed";
        rules.pop();
        assert_eq!(differences(&rules), [surplus]);
        rules.push(spoof("02:00:00:00:00:06"));
        assert_eq!(differences(&rules), [missing, surplus]);
        net.sh("nft flush chain bridge sluice prerouting");
        assert_eq!(differences(&rules), [missing]);
        net.sh("nft flush ruleset");
        assert_eq!(differences(&rules).len(), count);
    }

    /// The network is marked where neither `nft` shows it nor a check compares it.
    #[test]
    fn attachments_of_a_network_are_found_by_their_rules() {
        let net = Net::new();
        let (ours, theirs) = ("1111111111111111", "2222222222222222");
        let mut of = [Some(ours), Some(theirs), None].map(|network| {
            let nft = net.run(Nft::open).unwrap();
            match network {
                Some(id) => nft.of_network(id.to_owned()),
                None => nft,
            }
        });
        assert!(of[0].attachments_of(ours).unwrap().is_empty(), "no table");
        let rules = mapped("10.88.1.5/24", None, Protocol::Tcp);
        let all: Vec<String> = of
            .iter_mut()
            .zip([A, B, C])
            .map(|(nft, id)| {
                nft.install(id, &rules).unwrap();
                assert_eq!(nft.check(id, &rules).unwrap(), []);
                net.sh("nft list ruleset").replace(id, "")
            })
            .collect();
        let added = |before: &str, after: &str| after.lines().count() - before.lines().count();
        assert_eq!(added(&all[0], &all[1]), added(&all[1], &all[2]), "{all:?}");
        let [mut nft, ..] = of;
        assert_eq!(nft.attachments_of(ours).unwrap(), [A.to_owned()].into());
        assert_eq!(nft.attachments_of(theirs).unwrap(), [B.to_owned()].into());
        assert_eq!(nft.remove(A).unwrap(), rules.len());
        assert!(nft.attachments_of(ours).unwrap().is_empty());
    }

    #[test]
    fn removal_leaves_the_rules_of_others() {
        let net = Net::new();
        let mut nft = net.run(Nft::open).unwrap();
        net.sh(&format!("nft '{FOREIGN}'"));
        let before = net.sh("nft list ruleset");
        let rules = mapped("10.88.1.5/24", None, Protocol::Tcp);
        nft.install(A, &rules).unwrap();
        nft.install(B, &rules).unwrap();
        // An administrator's own in our table, one with a comment much like ours.
        net.sh("nft 'add rule inet sluice postrouting counter comment \"sluice:mine:x\"'");
        assert_eq!(nft.remove(A).unwrap(), 4);
        assert_eq!(nft.check(B, &rules).unwrap(), []);
        nft.remove(B).unwrap();
        assert!(net.sh("nft list ruleset").contains("sluice:mine:x"));
        net.sh("nft delete table inet sluice");
        assert_eq!(net.sh("nft list ruleset"), before);
    }

    #[test]
    fn removal_of_what_is_not_there_succeeds() {
        let net = Net::new();
        let mut nft = net.run(Nft::open).unwrap();
        assert_eq!(nft.remove(A).unwrap(), 0, "no table");
        nft.install(B, &[rule_v4()]).unwrap();
        assert_eq!(nft.remove(A).unwrap(), 0, "no rule");
        nft.install(A, &[rule_v4()]).unwrap();
        nft.install(A, &[rule_v4()]).unwrap();
        assert_eq!(nft.remove(A).unwrap(), 2);
        nft.install(A, &[rule_v4()]).unwrap();
        net.sh("nft delete chain inet sluice postrouting 2>/dev/null || nft flush ruleset");
        assert_eq!(nft.remove(A).unwrap(), 0, "no chain");
    }

    #[test]
    fn support_is_told_without_a_change() {
        let net = Net::new();
        let mut nft = net.run(Nft::open).unwrap();
        nft.supports(&mapped("10.88.1.5/24", None, Protocol::Tcp)).unwrap();
        nft.supports(&[rule_v4(), spoof_check("p0", "02:00:00:00:00:05".parse().unwrap())]).unwrap();
        assert_eq!(net.sh("nft list ruleset"), "");
    }

    #[test]
    fn refusal_names_the_rule_and_changes_nothing() {
        let net = Net::new();
        let mut nft = net.run(Nft::open).unwrap();
        let long = spoof_check("a-name-of-no-link-at-all-of-33-by", "02:00:00:00:00:05".parse().unwrap());
        for error in [nft.supports(&[rule_v4(), long.clone()]), nft.install(A, &[rule_v4(), long.clone()])] {
            match error {
                Err(NftError::Refused { what, .. }) => {
                    assert_eq!(what, "rule mac in bridge sluice prerouting")
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(net.sh("nft list ruleset"), "");
        assert!(matches!(nft.install("no id", &[rule_v4()]), Err(NftError::Id(_))));
    }

    #[test]
    fn chain_of_our_name_that_is_not_as_ours_is_refused_and_kept() {
        let net = Net::new();
        let mut nft = net.run(Nft::open).unwrap();
        net.sh(
            "nft 'table inet sluice { chain postrouting { type filter hook postrouting priority 7 ; } ; }'",
        );
        let before = net.sh("nft list ruleset");
        match nft.install(A, &[rule_v4()]) {
            Err(NftError::Refused { what, .. }) => assert_eq!(what, "chain inet sluice postrouting"),
            other => panic!("{other:?}"),
        }
        assert_eq!(net.sh("nft list ruleset"), before);
    }

    #[test]
    fn one_attachment_may_have_a_thousand_mappings() {
        let net = Net::new();
        let mut nft = net.run(Nft::open).unwrap();
        let mapping =
            |host_port| PortMapping { host_ip: None, host_port, protocol: Protocol::Tcp, container_port: 80 };
        let mappings: Vec<_> = (1..=1000).map(mapping).collect();
        let rules = port_mappings("10.88.1.5/24".parse().unwrap(), &mappings);
        nft.install(A, &rules).unwrap();
        assert_eq!(nft.check(A, &rules).unwrap(), []);
        assert_eq!(nft.remove(A).unwrap(), 2002);
    }

    #[test]
    fn fifty_attachments_come_and_go_at_the_same_time_and_leave_nothing() {
        let net = Net::new();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let others = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    net.sh("nft add table inet foreign; nft delete table inet foreign");
                }
            });
            let each: Vec<_> = (0..50)
                .map(|number: u64| {
                    let net = &net;
                    scope.spawn(move || {
                        let mut nft = net.run(Nft::open).unwrap();
                        let id = format!("{number:016x}");
                        let rules = mapped("10.88.1.5/24", None, Protocol::Tcp);
                        for _ in 0..4 {
                            nft.install(&id, &rules).unwrap();
                            assert_eq!(nft.check(&id, &rules).unwrap(), []);
                            assert_eq!(nft.remove(&id).unwrap(), rules.len());
                        }
                    })
                })
                .collect();
            let results: Vec<_> = each.into_iter().map(|thread| thread.join()).collect();
            done.store(true, Ordering::Relaxed);
            others.join().unwrap();
            assert!(results.iter().all(Result::is_ok));
        });
        let listed = net.sh("nft list ruleset");
        assert!(!listed.contains("comment"), "{listed}");
    }

    /// A table that is made again counts its rules from one again: what one of us read before means another rule then.
    #[test]
    fn removal_while_tables_are_flushed_takes_nobody_elses_rule() {
        let net = Net::new();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let busy = scope.spawn(|| {
                let mut nft = net.run(Nft::open).unwrap();
                while !done.load(Ordering::Relaxed) {
                    nft.install(A, &[rule_v4()]).unwrap();
                    nft.remove(A).unwrap();
                }
            });
            let kept = scope.spawn(|| {
                let mut nft = net.run(Nft::open).unwrap();
                (0..50).all(|_| {
                    net.sh("nft flush ruleset");
                    nft.install(B, &[rule_v4()]).unwrap();
                    thread::yield_now();
                    nft.check(B, &[rule_v4()]).unwrap().is_empty()
                })
            });
            let kept = kept.join();
            done.store(true, Ordering::Relaxed);
            busy.join().unwrap();
            assert!(kept.unwrap(), "a rule of {B} was deleted");
        });
    }

    /// What belongs to somebody else.
    const FOREIGN: &str = "table inet foreign {
        chain postrouting {
            type nat hook postrouting priority 100
            ip saddr 10.88.1.5 masquerade comment \"sluice:aaaaaaaaaaaaaaaa:masquerade\"
        }
    }
    table ip sluice {
        chain c { counter comment \"sluice:aaaaaaaaaaaaaaaa:masquerade\"; }
    }";

    /// Port 8080 to port 80 of `target`.
    fn mapped(target: &str, host_ip: Option<&str>, protocol: Protocol) -> Vec<Rule> {
        let host_ip = host_ip.map(|address| address.parse().unwrap());
        let mapping = PortMapping { host_ip, host_port: 8080, protocol, container_port: 80 };
        port_mappings(target.parse().unwrap(), &[mapping])
    }

    fn rule_v4() -> Rule {
        masquerade("10.88.1.5/24".parse().unwrap())
    }

    /// world -- host == bridge br0 == pod, neighbour.
    struct Routed {
        host: Net,
        world: Net,
        pod: Net,
        neighbour: Net,
    }

    impl Routed {
        fn new() -> Self {
            let lab = Self { host: Net::new(), world: Net::new(), pod: Net::new(), neighbour: Net::new() };
            lab.host.sh(&format!(
                "ip link add br0 type bridge
                 ip link add up0 type veth peer name eth0 netns {}
                 ip link add p0 type veth peer name eth0 netns {}
                 ip link add p1 type veth peer name eth0 netns {}
                 ip link set p0 master br0; ip link set p1 master br0
                 ip address add 10.88.1.1/24 dev br0; ip address add fd00:88::1/64 dev br0 nodad
                 ip address add 192.0.2.1/24 dev up0; ip address add 2001:db8::1/64 dev up0 nodad
                 for link in br0 up0 p0 p1; do ip link set $link up; done
                 echo 1 >/proc/sys/net/ipv4/ip_forward
                 echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
                 echo 1 >/proc/sys/net/ipv4/conf/br0/route_localnet",
                lab.world.path(),
                lab.pod.path(),
                lab.neighbour.path()
            ));
            for (net, v4, v6, gateway_v4, gateway_v6) in [
                (&lab.world, "192.0.2.2/24", "2001:db8::2/64", "192.0.2.1", "2001:db8::1"),
                (&lab.pod, "10.88.1.5/24", "fd00:88::5/64", "10.88.1.1", "fd00:88::1"),
                (&lab.neighbour, "10.88.1.6/24", "fd00:88::6/64", "10.88.1.1", "fd00:88::1"),
            ] {
                net.sh(&format!(
                    "ip address add {v4} dev eth0; ip address add {v6} dev eth0 nodad; ip link set eth0 up
                     ip route add default via {gateway_v4}; ip route add default via {gateway_v6}"
                ));
            }
            lab
        }
    }
}
