//! Rules of nf_tables against a real kernel: what `nft` lists, and what becomes of packets.

#[path = "nft/lab.rs"]
mod lab;

mod tests {
    use std::thread;

    use sluice_cni::nft::{
        Nft, NftError, PortMapping, Protocol, Rule, masquerade, port_mappings, spoof_check,
    };

    use super::lab::{Net, seen_by};

    const A: &str = "aaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbb";

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
