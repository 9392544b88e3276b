//! The reference plugins in modes that need a node's kernel: that the node has one, and what ours is compared with.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::stage::{INTERFACE, Stage, configuration, on_a_node};

const PLUGINS: [&str; 4] = ["bridge", "vlan", "ipvlan", "static"];

#[test]
fn reference_plugins_wire_vlans_and_ipvlan_on_the_node() {
    on_a_node(&PLUGINS, |stage| {
        stage.step("links and queueing of every kind", every_kind)?;
        stage.node.succeed("ip link set dummy0 up")?;
        stage.step("bridge with VLANs", bridge_with_vlans)?;
        stage.step("a guest on a tap beside the reference plugin's NIC", guest_of_a_tap)?;
        stage.step("vlan", vlan)?;
        for mode in ["l2", "l3", "l3s"] {
            stage.step(&format!("ipvlan {mode}"), |stage| ipvlan(stage, mode))?;
        }
        Ok(())
    });
}

/// What plugins ask of a kernel, without a plugin.
fn every_kind(stage: &mut Stage) -> Result<()> {
    let kinds = [
        "veth",
        "bridge vlan_filtering 1",
        "dummy",
        "vrf table 10",
        "ifb",
        "vxlan id 1 dstport 4789",
        "vlan id 5 link dummy0",
        "macvlan link dummy0",
        "macvtap link dummy0",
        "ipvlan link dummy0",
    ];
    for kind in kinds {
        let (kind, rest) = kind.split_once(' ').unwrap_or((kind, ""));
        // `link` comes before the kind.
        let (rest, parent) = rest.split_once("link ").unwrap_or((rest, ""));
        let parent = if parent.is_empty() { String::new() } else { format!("link {parent}") };
        stage.node.succeed(&format!("ip link add x {parent} type {kind} {rest}; ip link delete x"))?;
    }
    stage.node.succeed(
        "ip tuntap add tap0 mode tap user 107
         tc qdisc add dev tap0 ingress
         tc filter add dev tap0 parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev lo
         tc filter add dev tap0 parent ffff: protocol all u32 match u8 0 0 action skbmod set dmac 02:00:00:00:00:01
         tc filter add dev tap0 parent ffff: protocol all u32 match u8 0 0 action pedit munge offset 0 u8 set 0
         tc qdisc add dev tap0 root tbf rate 1mbit burst 10kb latency 10ms
         ip tuntap delete tap0 mode tap",
    )?;
    stage.node.succeed(
        "nft 'table inet x {
             chain a { type nat hook postrouting priority 100; masquerade; }
             chain b { type nat hook prerouting priority -100; fib daddr type local dnat ip to 10.0.0.1; }
             chain c { type filter hook forward priority 0; ct state established accept; reject; }
         }
         table bridge x {
             chain a { type filter hook prerouting priority -300; meta ibrname br0 ether saddr 02:00:00:00:00:01 drop; }
         }'
         nft flush ruleset",
    )
    .map(drop)
}

/// Two pods in one VLAN, a third in another.
fn bridge_with_vlans(stage: &mut Stage) -> Result<()> {
    let of = |vlan: u16, address| configuration("bridge", address, &json!({ "bridge": "br0", "vlan": vlan }));
    let pods =
        [("a", of(100, "10.1.0.1"), 100), ("b", of(100, "10.1.0.2"), 100), ("c", of(200, "10.1.0.3"), 200)];
    stage.with_pods(&["a", "b", "c"], |stage| {
        for (pod, configuration, vlan) in &pods {
            let result = stage.add(pod, configuration)?;
            let port = result.pointer("/interfaces/1/name").and_then(Value::as_str).context("the port")?;
            let vlans = stage.node.succeed(&format!("bridge vlan show dev {port}"))?;
            ensure!(vlans.contains(&format!("{vlan} PVID Egress Untagged")), "{vlans}");
        }
        stage.reaches("a", "10.1.0.2")?;
        stage.does_not_reach("a", "10.1.0.3")?;
        for (pod, configuration, _) in &pods {
            stage.delete(pod, configuration)?;
        }
        // The plugin leaves its bridge.
        stage.node.succeed("ip link delete br0").map(drop)
    })
}

/// A tap joined to a NIC by traffic control, as our mode `tap` does it: the guest is in the NIC's VLAN.
fn guest_of_a_tap(stage: &mut Stage) -> Result<()> {
    let of = |address| configuration("bridge", address, &json!({ "bridge": "br0", "vlan": 100 }));
    let pods = [("a", of("10.1.0.1")), ("b", of("10.1.0.2"))];
    stage.with_pods(&["a", "b", "vm"], |stage| {
        for (pod, configuration) in &pods {
            stage.add(pod, configuration)?;
        }
        stage.node.succeed(
            "ip -n a tuntap add tap0 mode tap user 107 group 107 vnet_hdr
             ip -n a link set tap0 up
             join() {
                 tc -n a qdisc add dev $1 ingress
                 tc -n a filter add dev $1 parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev $2
             }
             join tap0 eth0
             join eth0 tap0",
        )?;
        stage.plug("a", "tap0", "vm", 1500)?;
        stage.address("vm", INTERFACE, "10.1.0.3")?;
        stage.reaches("vm", "10.1.0.2")?;
        stage.reaches("b", "10.1.0.3")?;
        stage.does_not_reach("b", "10.1.0.1")?;
        stage.node.succeed("ip -n a link delete tap0")?;
        pods.iter().try_for_each(|(pod, configuration)| stage.delete(pod, configuration))?;
        stage.node.succeed("ip link delete br0").map(drop)
    })
}

fn vlan(stage: &mut Stage) -> Result<()> {
    let configuration = configuration("vlan", "10.1.0.1", &json!({ "master": "dummy0", "vlanId": 100 }));
    stage.with_pods(&["a"], |stage| {
        stage.add("a", &configuration)?;
        let link = stage.link(Some("a"), INTERFACE)?;
        ensure!(link.pointer("/linkinfo/info_kind") == Some(&json!("vlan")), "{link}");
        ensure!(link.pointer("/linkinfo/info_data/id") == Some(&json!(100)), "{link}");
        stage.delete("a", &configuration)
    })
}

fn ipvlan(stage: &mut Stage, mode: &str) -> Result<()> {
    let of = |address| configuration("ipvlan", address, &json!({ "master": "dummy0", "mode": mode }));
    let pods = [("a", of("10.1.0.1")), ("b", of("10.1.0.2"))];
    stage.with_pods(&["a", "b"], |stage| {
        for (pod, configuration) in &pods {
            stage.add(pod, configuration)?;
            let link = stage.link(Some(pod), INTERFACE)?;
            ensure!(link.pointer("/linkinfo/info_data/mode") == Some(&json!(mode)), "{link}");
        }
        stage.reaches("a", "10.1.0.2")?;
        pods.iter().try_for_each(|(pod, configuration)| stage.delete(pod, configuration))
    })
}
