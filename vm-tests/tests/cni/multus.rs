//! Our plugin as a delegate of Multus: the cluster's network first, then what the pod asks for.

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value, json};
use vm_tests::cni::{Failure, Multus, Node, Place, Pod, Runtime, Selection};

use crate::ours;

/// KubeVirt's name of the NIC for the network `red`: `pod` and 11 digits of the name's SHA-256.
const RED: &str = "podb1f51a511f1";
const RED_TAP: &str = "tapb1f51a511f1";

const MAC: &str = "02:00:00:00:00:17";

fn pod(node: &Node) -> anyhow::Result<Pod> {
    Ok(Pod {
        namespace: "vms".to_owned(),
        name: "virt-launcher-vm-x7k2p".to_owned(),
        uid: "7f3c9d1e-0000-4000-8000-000000000001".to_owned(),
        container: "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00".to_owned(),
        netns: node.netns(0)?,
    })
}

/// The cluster's own network: the reference plugins', of an older version than ours.
fn cluster(node: &Node) -> Value {
    json!({
        "cniVersion": "0.3.1", "name": "cluster",
        "plugins": [{
            "type": "bridge", "bridge": "cbr0", "isDefaultGateway": true,
            "ipam": { "type": "host-local", "subnet": "10.244.0.0/24", "dataDir": node.leases() },
        }],
    })
}

fn secondary(node: &Node, version: &str) -> Selection {
    Selection {
        config: json!({
            "cniVersion": version, "name": "red", "type": ours::TYPE, "mode": "bridge", "bridge": "red0",
            "stateDir": node.state(), "capabilities": { "mac": true, "ips": true },
            "ipam": { "type": "static" },
        }),
        interface: Some(RED.to_owned()),
        mac: Some(MAC.to_owned()),
        ips: vec!["10.9.0.17/24".to_owned()],
        ..Selection::default()
    }
}

/// What KubeVirt's binding plugin appends: an entry without an interface of its own.
fn binding(node: &Node, version: &str, logical: &str) -> Selection {
    let mut cni_args = Map::new();
    cni_args.insert("logicNetworkName".to_owned(), json!(logical));
    Selection {
        config: json!({
            "cniVersion": version, "name": "sluice-tap", "type": ours::TYPE, "stateDir": node.state(),
        }),
        cni_args,
        ..Selection::default()
    }
}

fn multus<'n>(node: &'n Node, place: Place, selections: &[Selection]) -> anyhow::Result<Multus<'n>> {
    Multus::new(Runtime::new(node).at(place), pod(node)?, &cluster(node), selections)
}

fn has_link(node: &Node, name: &str) -> anyhow::Result<bool> {
    let beginning = format!("pod0/link/{name}/");
    Ok(node.snapshot(&[])?.lines().iter().any(|line| line.starts_with(&beginning)))
}

#[test]
fn a_pod_gets_what_multus_asks_for_and_leaves_nothing() -> anyhow::Result<()> {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        for place in [Place::Node, Place::Chroot] {
            let what = || format!("version {version}, {place:?}");
            let node = ours::node(1)?;
            let selections = [secondary(&node, version), binding(&node, version, "primary")];
            let mut multus = multus(&node, place, &selections)?;
            // The first time leaves the bridges.
            multus.add().with_context(what)?;
            multus.del().with_context(what)?;
            let before = node.snapshot(&[MAC])?;
            let results = multus.add().with_context(what)?;
            let [_, red, tap] = results.as_slice() else { anyhow::bail!("{results:?}") };
            ensure!(
                interfaces_inside(red) == [RED, RED_TAP] || interfaces_inside(red) == [RED_TAP],
                "{}: {red}",
                what()
            );
            ensure!(
                interfaces_inside(tap).is_empty(),
                "{}: a binding's entry has an interface: {tap}",
                what()
            );
            ensure!(
                red.to_string().contains(MAC) && red.to_string().contains("10.9.0.17/24"),
                "{}: {red}",
                what()
            );
            for name in ["eth0", "tap0", RED_TAP] {
                ensure!(has_link(&node, name)?, "{}: no {name}", what());
            }
            ensure!(!has_link(&node, "net2")?, "{}: a binding made a link of its own", what());
            for _ in 0..2 {
                multus.del().with_context(what)?;
                node.comes_back_to(&before, &[MAC], &[]).with_context(what)?;
            }
        }
    }
    Ok(())
}

/// The names a result gives to interfaces in the pod.
fn interfaces_inside(result: &Value) -> Vec<&str> {
    let interfaces =
        result.get("interfaces").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let inside = interfaces.iter().filter(|interface| interface.get("sandbox").is_some());
    inside.filter_map(|interface| interface.get("name").and_then(Value::as_str)).collect()
}

#[test]
fn a_delegate_that_fails_takes_those_before_it_along() -> anyhow::Result<()> {
    let node = ours::node(1)?;
    let mut failing = secondary(&node, "1.0.0");
    failing.config["name"] = json!("blue");
    failing.config["bridge"] = json!("blue0");
    failing.config["mtu"] = json!(70000);
    failing.interface = None;
    let good = [secondary(&node, "1.0.0"), binding(&node, "1.0.0", "primary")];
    let mut warm = multus(&node, Place::Node, &good)?;
    warm.add()?;
    warm.del()?;
    let before = node.snapshot(&[MAC])?;
    let [red, tap] = good;
    let error = multus(&node, Place::Node, &[red, tap, failing])?.add().expect_err("an MTU of 70000");
    assert_eq!(Failure::of(&error)?.code, 7, "{error:#}");
    node.comes_back_to(&before, &[MAC], &[])
}

#[test]
fn removal_without_a_cache_or_a_namespace_leaves_nothing_on_the_node() -> anyhow::Result<()> {
    let node = ours::node(1)?;
    let selections = [secondary(&node, "1.0.0"), binding(&node, "1.0.0", "primary")];
    let mut first = multus(&node, Place::Node, &selections)?;
    first.add()?;
    first.del()?;
    let before = node.snapshot(&[MAC])?.without(&["pod0/"]);
    multus(&node, Place::Node, &selections)?.add()?;
    // Another Multus, after a restart of the node's daemon, that only knows the container.
    let mut forgetful = Multus::new(
        Runtime::new(&node),
        Pod { netns: String::new(), ..pod(&node)? },
        &cluster(&node),
        &selections,
    )?;
    forgetful.del()?;
    let after = node.snapshot(&[MAC])?.without(&["pod0/"]);
    // The cluster's network is the reference plugins', which need the namespace for their link.
    let cluster = vm_tests::cni::Allowed { pattern: "cbr0", why: "the reference plugin's port stays" };
    let veth = vm_tests::cni::Allowed { pattern: "made-up#1", why: "and that port is a veth" };
    before.compare(&after, &[cluster, veth])
}

/// The harness: what a delegate hears, seen by one that writes it down.
#[test]
fn a_delegate_hears_what_multus_says() -> anyhow::Result<()> {
    let node = Node::new(1)?;
    let heard = node.directory().join("heard");
    let script = node.directory().join("spy");
    std::fs::write(
        &script,
        format!(
            "#!/bin/sh\nexec 3>>{}\necho \"$CNI_COMMAND $CNI_IFNAME $CNI_ARGS\" >&3\ncat >&3\necho >&3\n\
             [ \"$CNI_COMMAND\" != ADD ] || echo '{{\"cniVersion\":\"1.0.0\"}}'\n",
            heard.display()
        ),
    )?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    node.install("spy", &script)?;
    let mut cni_args = Map::new();
    cni_args.insert("logicNetworkName".to_owned(), json!("red"));
    let selection = Selection {
        config: json!({
            "cniVersion": "1.0.0", "name": "red", "type": "spy",
            "capabilities": { "mac": true, "deviceID": true, "ips": false }, "args": { "cni": { "own": 1 } },
        }),
        mac: Some(MAC.to_owned()),
        ips: vec!["10.9.0.17/24".to_owned(), "fd00::17/64".to_owned()],
        cni_args,
        device_id: Some("tapMvp7".to_owned()),
        ..Selection::default()
    };
    let cluster = json!({ "cniVersion": "1.0.0", "name": "cluster", "type": "spy" });
    let mut multus = Multus::new(Runtime::new(&node), pod(&node)?, &cluster, &[selection])?;
    multus.add()?;
    multus.check()?;
    multus.del()?;
    let heard = std::fs::read_to_string(heard)?;
    let lines: Vec<&str> = heard.lines().collect();
    let calls: Vec<&str> = lines.iter().step_by(2).copied().collect();
    let common = "IgnoreUnknown=true;K8S_POD_NAMESPACE=vms;K8S_POD_NAME=virt-launcher-vm-x7k2p;\
                  K8S_POD_INFRA_CONTAINER_ID=c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00;\
                  K8S_POD_UID=7f3c9d1e-0000-4000-8000-000000000001";
    let wanted = [
        format!("ADD eth0 {common}"),
        format!("ADD net1 {common};MAC={MAC};IP=10.9.0.17/24,fd00::17/64"),
        format!("CHECK eth0 {common}"),
        format!("CHECK net1 {common}"),
        format!("DEL net1 {common}"),
        format!("DEL eth0 {common}"),
    ];
    assert_eq!(calls, wanted);
    let config: Value = serde_json::from_str(lines.get(3).context("standard input of the second call")?)?;
    assert_eq!(config["runtimeConfig"], json!({ "mac": MAC, "deviceID": "tapMvp7" }));
    assert_eq!(config["args"], json!({ "cni": { "own": 1, "logicNetworkName": "red" } }));
    assert_eq!((&config["deviceID"], &config["pciBusID"]), (&json!("tapMvp7"), &json!("tapMvp7")));
    Ok(())
}
