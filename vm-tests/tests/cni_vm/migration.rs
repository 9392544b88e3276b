//! A VM that moves: the same MAC and addresses on another node, where nothing is said before the VM runs.

use anyhow::Result;
use serde_json::json;

use crate::stage::{
    INTERFACE, NIC, Stage, UPLINK, cluster, count, counted, echoes, eventually, mtu_of, node_address,
};

const VM: &str = "10.1.0.2";
const CLIENT: &str = "10.1.0.9";
const CLIENT_MAC: &str = "02:00:00:00:00:99";
const MAC: &str = "02:00:00:00:00:17";
const MAC_NUMBER: &str = "0x020000000017";

/// Behind the headers of UDP and VXLAN, and the other address, in bits.
const INNER_SOURCE: &str = "@th,176,48";

/// A client on the third node; the VM on the first, then on the second.
#[test]
fn traffic_follows_the_vm_once_it_runs_on_the_other_node() {
    let stages = cluster(3, 1).unwrap();
    let [source, target, client] = stages.as_slice() else { unreachable!("three nodes") };
    let attach = |number: usize, stage: &Stage, mac: &str, address: &str| {
        let peers: Vec<String> = (1..=3).filter(|one| *one != number).map(node_address).collect();
        let ipam = json!({ "type": "static", "addresses": [{ "address": format!("{address}/24") }] });
        let keys = json!({ "vni": 8, "device": UPLINK, "peers": peers, "mac": mac, "ipam": ipam });
        stage.add(0, &stage.config("vxlan", &keys))
    };
    let run = |stage: &Stage, result: &serde_json::Value, address: &str| -> Result<_> {
        let guest = stage.plug(0, result, mtu_of(result, INTERFACE)?)?;
        stage.address(0, &[&format!("{address}/24")])?;
        Ok(guest)
    };
    let there = attach(3, client, CLIENT_MAC, CLIENT).unwrap();
    let _client = run(client, &there, CLIENT).unwrap();
    let here = attach(1, source, MAC, VM).unwrap();
    // It answers and says nothing of itself, which would draw the traffic back: no neighbour is asked whether it is
    // still there, no router is looked for.
    let vm = source.guest(0).unwrap();
    vm.sysctl("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    let _before = run(source, &here, VM).unwrap();
    vm.ip(&format!("neigh replace {CLIENT} lladdr {CLIENT_MAC} dev {NIC} nud permanent\n")).unwrap();
    client.reaches(0, VM).unwrap();

    // The target's pod waits for the VM: nobody hears of it, and nobody is drawn to it.
    let from_target = format!("ip saddr {} udp dport 4789 {INNER_SOURCE} {MAC_NUMBER}", node_address(2));
    count(client.node.host().unwrap(), &from_target).unwrap();
    let waiting = attach(2, target, MAC, VM).unwrap();
    let at = |stage: &Stage| echoes(stage.guest(0).unwrap()).unwrap();
    let heard = at(source);
    client.reaches(0, VM).unwrap();
    assert!(at(source) > heard, "the source no longer gets the VM's packets");
    assert_eq!(counted(client.node.host().unwrap()).unwrap(), 0, "the target's pod spoke before the VM");

    // It runs, and sends: with the source still there traffic is the target's.
    let _after = run(target, &waiting, VM).unwrap();
    target.reaches(0, CLIENT).unwrap();
    assert!(counted(client.node.host().unwrap()).unwrap() > 0, "the VM itself is not counted");
    let heard = (at(source), at(target));
    client.reaches(0, VM).unwrap();
    assert_eq!(at(source), heard.0, "the source still gets the VM's packets");
    assert!(at(target) > heard.1, "the target does not get the VM's packets");

    // The source's attachment goes, and its pod with it.
    let config = source.config("vxlan", &json!({ "vni": 8 }));
    source.delete(0, &config).unwrap();
    let heard = at(target);
    client.reaches(0, VM).unwrap();
    eventually("the target to answer", || Ok(at(target) > heard)).unwrap();
}
