//! The reference plugins in modes that need a node's kernel: that the node has one, and what ours is compared with.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::stage::{INTERFACE, Stage, configuration, on_a_node};

const PLUGINS: [&str; 4] = ["bridge", "vlan", "ipvlan", "static"];

#[test]
fn reference_plugins_wire_vlans_and_ipvlan_on_the_node() {
    on_a_node(&PLUGINS, |stage| {
        stage.node.succeed("ip link set dummy0 up")?;
        stage.step("bridge with VLANs", bridge_with_vlans)?;
        stage.step("vlan", vlan)?;
        for mode in ["l2", "l3", "l3s"] {
            stage.step(&format!("ipvlan {mode}"), |stage| ipvlan(stage, mode))?;
        }
        Ok(())
    });
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
