//! The overlay between nodes: peers that are listed, a multicast group, and ARP that stays at home.

use anyhow::Result;
use serde_json::{Value, json};
use vm_tests::lab::Child;

use crate::stage::{
    INTERFACE, Stage, UPLINK, cluster, count, counted, eventually, merge, mtu_of, node_address,
};

const VNI: u32 = 4097;
const GROUP: &str = "239.1.1.1";
const V4: [&str; 3] = ["10.1.0.2", "10.1.0.3", "10.1.0.4"];
const V6: [&str; 3] = ["fd00:1::2", "fd00:1::3", "fd00:1::4"];

fn mac(number: usize) -> String {
    format!("02:00:00:00:01:0{number}")
}

/// One guest on each node, as the keys say for each.
fn guests(stages: &[Stage], keys: impl Fn(usize) -> Value) -> Result<Vec<Child>> {
    let mut guests = Vec::new();
    for (number, stage) in stages.iter().enumerate() {
        let mut config = stage.config("vxlan", &json!({ "vni": VNI, "device": UPLINK, "mac": mac(number) }));
        merge(&mut config, &keys(number));
        let result = stage.add(0, &config)?;
        guests.push(stage.plug(0, &result, mtu_of(&result, INTERFACE)?)?);
        stage.address(0, &[&format!("{}/24", V4[number]), &format!("{}/64", V6[number])])?;
    }
    Ok(guests)
}

fn all_reach_all(stages: &[Stage]) -> Result<()> {
    for (from, stage) in stages.iter().enumerate() {
        for to in (0..stages.len()).filter(|to| *to != from) {
            stage.reaches(0, V4[to])?;
            stage.reaches(0, V6[to])?;
        }
    }
    Ok(())
}

#[test]
fn guests_of_three_nodes_reach_each_other_through_listed_peers() {
    let stages = cluster(3, 1).unwrap();
    let all: Vec<String> = (1..=3).map(node_address).collect();
    let _guests = guests(&stages, |number| {
        let peers: Vec<&String> =
            all.iter().enumerate().filter(|(at, _)| *at != number).map(|(_, one)| one).collect();
        json!({ "peers": peers })
    })
    .unwrap();
    all_reach_all(&stages).unwrap();
}

#[test]
fn guests_of_three_nodes_reach_each_other_through_a_multicast_group() {
    let stages = cluster(3, 1).unwrap();
    let _guests = guests(&stages, |_| json!({ "multicastGroup": GROUP })).unwrap();
    all_reach_all(&stages).unwrap();
}

/// EtherType of the frame in a VXLAN packet: behind the headers of UDP and VXLAN, and two addresses.
const INNER_ARP: &str = "udp dport 4789 @th,224,16 0x0806";
/// IPv6's next header of the frame, and ICMPv6's type: neighbour solicitation.
const INNER_SOLICITATION: &str = "udp dport 4789 @th,224,16 0x86dd @th,288,8 58 @th,560,8 135";

/// Who is asked for is told in advance, and answered for by the bridge at home.
#[test]
fn neighbours_that_are_told_are_not_asked_for_across_the_overlay() {
    for (packets, told, suppressed) in [
        (INNER_ARP, true, true),
        (INNER_ARP, false, false),
        (INNER_SOLICITATION, true, true),
        (INNER_SOLICITATION, false, false),
    ] {
        let stages = cluster(2, 1).unwrap();
        for stage in &stages {
            count(stage.node.host().unwrap(), packets).unwrap();
        }
        let _guests = guests(&stages, |number| {
            let other = 1 - number;
            let peer = node_address(other + 1);
            let both = [V4[other], V6[other]].map(|ip| json!({ "ip": ip, "mac": mac(other), "peer": peer }));
            let own = [format!("{}/24", V4[number]), format!("{}/64", V6[number])]
                .map(|address| json!({ "address": address }));
            let mut keys = json!({ "peers": [peer], "arpSuppress": told });
            if told {
                merge(
                    &mut keys,
                    &json!({
                        "neighbors": both, "ipam": { "type": "static", "addresses": own },
                    }),
                );
            }
            keys
        })
        .unwrap();
        all_reach_all(&stages).unwrap();
        let crossed = || -> Result<u64> { stages.iter().map(|stage| counted(stage.node.host()?)).sum() };
        if suppressed {
            assert_eq!(crossed().unwrap(), 0, "{packets}");
        } else {
            eventually("a question that crosses", || Ok(crossed()? > 0)).unwrap();
        }
    }
}
