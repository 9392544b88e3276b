//! Our modes that need a node's kernel, beside the reference plugin where there is one: VLANs of a bridge, and ipvlan. And
//! macvtap, to show it on a kernel that is years older than the machine's.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::stage::{INTERFACE, Stage, configuration, on_a_node};

const PLUGINS: [&str; 3] = ["bridge", "ipvlan", "static"];
const TAP: &str = "tap0";
const MTU: u16 = 1500;

#[test]
fn bridge_keeps_vlans_apart_for_containers_and_vms() {
    on_a_node(&PLUGINS, |stage| {
        stage.step("containers, as the reference plugin's", containers_of_a_vlan)?;
        stage.step("VMs", vms_of_a_vlan)?;
        stage.step("a VM with a trunk", trunk)?;
        stage.step("CHECK sees a VLAN that is gone", check_of_vlans)?;
        stage.step("VLANs that are none", bad_vlans)
    });
}

#[test]
fn ipvlan_serves_containers_and_vms_in_every_mode() {
    on_a_node(&PLUGINS, |stage| {
        stage.node.succeed("ip link set dummy0 up")?;
        for mode in ["l2", "l3", "l3s"] {
            stage.step(&format!("containers, {mode}, as the reference plugin's"), |stage| {
                ipvlan_containers(stage, mode)
            })?;
            stage.step(&format!("VMs, {mode}"), |stage| ipvlan_vms(stage, mode))?;
            stage.step(&format!("limits, {mode}"), |stage| ipvlan_limits(stage, mode))?;
        }
        Ok(())
    });
}

#[test]
fn macvtaps_are_made_in_the_pods_with_indices_of_their_own() {
    on_a_node(&[], |stage| {
        stage.node.succeed("ip link set dummy0 up")?;
        stage.step("VMs", macvtap_vms)
    });
}

/// Ours and the reference's on one bridge, in one VLAN, are the same to the kernel and reach each other.
fn containers_of_a_vlan(stage: &mut Stage) -> Result<()> {
    let reference = configuration("bridge", "10.1.0.1", &json!({ "bridge": "br0", "vlan": 100 }));
    let same = bridge("10.1.0.2", &json!({ "vlan": 100, "tap": false }));
    let other = bridge("10.1.0.3", &json!({ "vlan": 200, "tap": false }));
    stage.with_pods(&["a", "b", "c"], |stage| {
        let theirs = stage.add("a", &reference)?;
        let ours = stage.add("b", &same)?;
        stage.add("c", &other)?;
        let kinds = |result: &Value| {
            let interfaces = result.get("interfaces").and_then(Value::as_array).cloned().unwrap_or_default();
            interfaces.iter().map(|interface| interface.get("sandbox").is_some()).collect::<Vec<_>>()
        };
        ensure!(kinds(&theirs) == kinds(&ours), "{theirs}\n{ours}");
        let (theirs, ours) = (vlans(stage, &theirs)?, vlans(stage, &ours)?);
        ensure!(without_default(&theirs) == ours, "{theirs} and {ours}");
        stage.reaches("a", "10.1.0.2")?;
        stage.does_not_reach("b", "10.1.0.3")?;
        stage.call("CHECK", "b", &with_previous(&same, stage.result("b")?))?;
        stage.delete("a", &reference)?;
        stage.delete("b", &same)?;
        stage.delete("c", &other)?;
        stage.node.succeed("ip link delete br0").map(drop)
    })
}

/// The guests are in the VLANs, and the pods' own stacks see nothing of it.
fn vms_of_a_vlan(stage: &mut Stage) -> Result<()> {
    let pods = [("a", 100), ("b", 100), ("c", 200)];
    stage.with_pods(&["a", "b", "c", "vm-a", "vm-b", "vm-c"], |stage| {
        for (pod, vlan) in pods {
            stage.add(pod, &l2(&json!({ "vlan": vlan })))?;
            stage.plug(pod, TAP, &format!("vm-{pod}"), MTU)?;
        }
        for (guest, address) in [("vm-a", "10.1.0.1"), ("vm-b", "10.1.0.2"), ("vm-c", "10.1.0.3")] {
            stage.address(guest, INTERFACE, address)?;
        }
        stage.reaches("vm-a", "10.1.0.2")?;
        stage.does_not_reach("vm-a", "10.1.0.3")?;
        for (pod, vlan) in pods {
            stage.delete(pod, &l2(&json!({ "vlan": vlan })))?;
        }
        stage.node.succeed("ip link delete br0").map(drop)
    })
}

/// The guest tags its frames: the VLANs of the trunk pass, another does not. What it does not tag is in VLAN 1.
fn trunk(stage: &mut Stage) -> Result<()> {
    let trunk = l2(&json!({ "vlanTrunk": [{ "minID": 100, "maxID": 101 }, { "id": 200 }] }));
    let peers = [("p100", 100), ("p101", 101), ("p200", 200), ("p300", 300)];
    let of = |vlan: u16| {
        bridge(&format!("10.{}.{}.2", vlan / 100, vlan % 100), &json!({ "vlan": vlan, "tap": false }))
    };
    stage.with_pods(&["a", "vm", "p100", "p101", "p200", "p300"], |stage| {
        let result = stage.add("a", &trunk)?;
        let vlans = vlans(stage, &result)?;
        let default = json!({ "vlan": 1, "flags": ["PVID", "Egress Untagged"] });
        ensure!(vlans == json!([default, { "vlan": 100 }, { "vlan": 101 }, { "vlan": 200 }]), "{vlans}");
        stage.plug("a", TAP, "vm", MTU)?;
        for (peer, vlan) in peers {
            stage.add(peer, &of(vlan))?;
            stage.node.succeed(&format!(
                "ip -n vm link add link {INTERFACE} name v{vlan} type vlan id {vlan}; ip -n vm link set v{vlan} up"
            ))?;
            stage.address("vm", &format!("v{vlan}"), &format!("10.{}.{}.1", vlan / 100, vlan % 100))?;
        }
        for (_, vlan) in peers {
            let address = format!("10.{}.{}.2", vlan / 100, vlan % 100);
            if vlan == 300 {
                stage.does_not_reach("vm", &address)?;
            } else {
                stage.reaches("vm", &address)?;
            }
        }
        stage.delete("a", &trunk)?;
        for (peer, vlan) in peers {
            stage.delete(peer, &of(vlan))?;
        }
        stage.node.succeed("ip link delete br0").map(drop)
    })
}

fn check_of_vlans(stage: &mut Stage) -> Result<()> {
    let configuration = l2(&json!({ "vlan": 100 }));
    stage.with_pods(&["a"], |stage| {
        let result = stage.add("a", &configuration)?;
        let with_previous = with_previous(&configuration, result.clone());
        stage.call("CHECK", "a", &with_previous)?;
        stage.node.succeed(&format!("bridge vlan delete dev {} vid 100", port(&result)?))?;
        let error = stage.fails("CHECK", "a", &with_previous)?;
        ensure!(error.to_string().contains("VLAN 100"), "{error}");
        stage.delete("a", &configuration)?;
        stage.node.succeed("ip link delete br0").map(drop)
    })
}

/// Refused with code 7 and the key's name, and without a trace: also on a bridge that does not filter.
fn bad_vlans(stage: &mut Stage) -> Result<()> {
    let cases = [
        (json!({ "vlan": 5000 }), "vlan", "5000"),
        (json!({ "vlan": -1 }), "vlan", "-1"),
        (json!({ "vlanTrunk": [{ "id": 4095 }] }), "vlanTrunk", "4095"),
        (json!({ "vlanTrunk": [{ "minID": 7, "maxID": 6 }] }), "vlanTrunk", "7"),
        (json!({ "vlan": 100, "bridge": "plain" }), "vlan", "plain"),
    ];
    stage.node.succeed("ip link add plain type bridge")?;
    stage.with_pods(&["a"], |stage| {
        for (keys, key, value) in &cases {
            let error = stage.fails("ADD", "a", &l2(keys))?;
            let text = error.to_string();
            ensure!(
                error.get("code") == Some(&json!(7)) && text.contains(key) && text.contains(value),
                "{text}"
            );
            stage.delete("a", &l2(keys))?;
        }
        Ok(())
    })?;
    stage.node.succeed("ip link delete plain").map(drop)
}

fn ipvlan_containers(stage: &mut Stage, mode: &str) -> Result<()> {
    let reference = configuration("ipvlan", "10.1.0.1", &json!({ "master": "dummy0", "mode": mode }));
    let ours = ipvlan(mode, "10.1.0.2", &json!({ "tap": false }));
    stage.with_pods(&["a", "b"], |stage| {
        stage.add("a", &reference)?;
        stage.add("b", &ours)?;
        let [theirs, is] = [stage.link(Some("a"), INTERFACE)?, stage.link(Some("b"), INTERFACE)?]
            .map(|link| link.get("linkinfo").cloned());
        ensure!(theirs.is_some() && theirs == is, "{theirs:?} and {is:?}");
        stage.reaches("a", "10.1.0.2")?;
        stage.reaches("b", "10.1.0.1")?;
        stage.call("CHECK", "b", &with_previous(&ours, stage.result("b")?))?;
        stage.delete("a", &reference)?;
        stage.delete("b", &ours)
    })
}

/// Each guest has its own MAC, which the network beneath never sees, and the address that IPAM gave the pod.
fn ipvlan_vms(stage: &mut Stage, mode: &str) -> Result<()> {
    let pods = [("a", "10.1.0.1"), ("b", "10.1.0.2")];
    stage.with_pods(&["a", "b", "vm-a", "vm-b"], |stage| {
        for (pod, address) in pods {
            stage.add(pod, &ipvlan(mode, address, &json!({})))?;
            let guest = format!("vm-{pod}");
            stage.plug(pod, TAP, &guest, MTU)?;
            stage.address(&guest, INTERFACE, address)?;
        }
        stage.reaches("vm-a", "10.1.0.2")?;
        stage.reaches("vm-b", "10.1.0.1")?;
        for (pod, address) in pods {
            stage.call(
                "CHECK",
                pod,
                &with_previous(&ipvlan(mode, address, &json!({})), stage.result(pod)?),
            )?;
            stage.delete(pod, &ipvlan(mode, address, &json!({})))?;
        }
        Ok(())
    })
}

/// What reaches a pod and what leaves it goes through the devices that hold it back; a container's of mode `l3s` cannot.
fn ipvlan_limits(stage: &mut Stage, mode: &str) -> Result<()> {
    let bandwidth = json!({ "ingressRate": 80_000_000_u64, "ingressBurst": 800_000, "egressRate": 80_000_000_u64, "egressBurst": 800_000 });
    let (guest, container) =
        (json!({ "bandwidth": bandwidth }), json!({ "bandwidth": bandwidth, "tap": false }));
    let (guest, container) = (ipvlan(mode, "10.1.0.1", &guest), ipvlan(mode, "10.1.0.2", &container));
    stage.with_pods(&["a", "b", "vm-a"], |stage| {
        if mode == "l3s" {
            let error = stage.fails("ADD", "b", &container)?;
            ensure!(error.get("code") == Some(&json!(7)) && error.to_string().contains("l3s"), "{error}");
            return Ok(());
        }
        let (vm, other) = (stage.add("a", &guest)?, stage.add("b", &container)?);
        stage.plug("a", TAP, "vm-a", MTU)?;
        stage.address("vm-a", INTERFACE, "10.1.0.1")?;
        stage.reaches("vm-a", "10.1.0.2")?;
        let shaper = stage.node.succeed("ip -n b -o link show type ifb | cut -d ' ' -f 2 | tr -d :")?;
        for (pod, device) in [("a", TAP), ("a", INTERFACE), ("b", INTERFACE), ("b", shaper.trim())] {
            let queue = stage.node.look(&format!("tc -n {pod} -s -j qdisc show dev {device} root"))?;
            let passed = queue.pointer("/0/packets").and_then(Value::as_u64).unwrap_or_default();
            ensure!(
                queue.pointer("/0/kind") == Some(&json!("tbf")) && passed > 0,
                "{pod}, {device}: {queue}"
            );
        }
        for (pod, configuration, result) in [("a", &guest, vm), ("b", &container, other)] {
            stage.call("CHECK", pod, &with_previous(configuration, result))?;
            stage.delete(pod, configuration)?;
        }
        Ok(())
    })
}

/// Both are the first link that is made in their namespace.
fn macvtap_vms(stage: &mut Stage) -> Result<()> {
    let macvtap = json!({ "cniVersion": "1.0.0", "name": "lab", "type": "sluice", "mode": "macvtap", "master": "dummy0" });
    let pods = [("a", "10.1.0.1"), ("b", "10.1.0.2")];
    stage.with_pods(&["a", "b", "vm-a", "vm-b"], |stage| {
        let mut devices = Vec::new();
        for (pod, address) in pods {
            let result = stage.add(pod, &macvtap)?;
            stage.call("CHECK", pod, &with_previous(&macvtap, result))?;
            let link = stage.link(Some(pod), INTERFACE)?;
            let index = link.get("ifindex").and_then(Value::as_u64).context("an index")?;
            ensure!(index >= 1 << 30, "{link}");
            let device = format!("/dev/tap{index}");
            let mac = link.get("address").and_then(Value::as_str).context("a MAC")?;
            let guest = format!("vm-{pod}");
            stage.plug(pod, &device, &guest, MTU)?;
            stage.node.succeed(&format!("ip -n {guest} link set {INTERFACE} address {mac}"))?;
            stage.address(&guest, INTERFACE, address)?;
            devices.push(device);
        }
        ensure!(devices.first() != devices.last(), "{devices:?}");
        stage.reaches("vm-a", "10.1.0.2")?;
        stage.reaches("vm-b", "10.1.0.1")?;
        for (pod, _) in pods {
            stage.delete(pod, &macvtap)?;
        }
        for device in devices {
            stage.node.succeed(&format!("test ! -e {device}"))?;
        }
        Ok(())
    })
}

/// Ours on `br0`, with an address.
fn bridge(address: &str, rest: &Value) -> Value {
    with(&configuration("sluice", address, &json!({ "mode": "bridge", "bridge": "br0" })), rest)
}

/// Ours on `br0`, for a VM whose addresses are its own matter.
fn l2(rest: &Value) -> Value {
    let mut configuration = bridge("10.1.0.1", rest);
    if let Some(keys) = configuration.as_object_mut() {
        keys.remove("ipam");
    }
    configuration
}

fn ipvlan(mode: &str, address: &str, rest: &Value) -> Value {
    let keys = json!({ "mode": "ipvlan", "master": "dummy0", "ipvlanMode": mode });
    with(&configuration("sluice", address, &keys), rest)
}

fn with_previous(configuration: &Value, previous: Value) -> Value {
    with(configuration, &json!({ "prevResult": previous }))
}

fn with(configuration: &Value, rest: &Value) -> Value {
    let mut all = configuration.clone();
    if let (Some(all), Some(rest)) = (all.as_object_mut(), rest.as_object()) {
        all.extend(rest.clone());
    }
    all
}

/// The node's end of an attachment to a bridge.
fn port(result: &Value) -> Result<&str> {
    result
        .pointer("/interfaces/1/name")
        .and_then(Value::as_str)
        .with_context(|| format!("no port in {result}"))
}

/// Older reference plugins leave a port in VLAN 1, into which frames of others then leak; newer ones and ours do not,
/// unless `preserveDefaultVlan` says so.
fn without_default(vlans: &Value) -> Value {
    let vlans = vlans.as_array().map(Vec::as_slice).unwrap_or_default();
    vlans.iter().filter(|vlan| vlan.get("vlan") != Some(&json!(1))).cloned().collect()
}

/// The VLANs of an attachment's port, as the kernel lists them.
fn vlans(stage: &mut Stage, result: &Value) -> Result<Value> {
    let listed = stage.node.look(&format!("bridge -j vlan show dev {}", port(result)?))?;
    listed.pointer("/0/vlans").cloned().with_context(|| format!("no VLANs in {listed}"))
}
