//! Pods as kubelet asks for them: our plugin is the cluster's network, for containers and for VMs.

use std::net::IpAddr;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vm_tests::cni::{Containerd, HostPort};

use crate::stage::{self, HOST_PORT, NODE, PORT, TYPE, VERSION, bridge, network, with};

#[test]
fn a_pod_has_its_address_and_host_port_until_it_is_stopped() -> anyhow::Result<()> {
    let node = stage::node()?;
    let plugin = with(bridge(), "capabilities", json!({ "portMappings": true }));
    let containerd = Containerd::start(&node, &network(VERSION, &[plugin]))?;
    let cri = containerd.cri()?;
    let ports = [HostPort { host: HOST_PORT, pod: PORT }];
    let first = cri.run("first", &ports)?;
    cri.stop(&first.id)?;
    stage::is_bare(&node)?;
    let before = node.snapshot(&[])?;
    let pod = cri.run("one", &ports)?;
    let inside = pod.namespace()?;
    assert_eq!(pod.ip, IpAddr::V4(stage::address(&inside, "eth0")?));
    stage::is_served(&inside, node.outside()?, NODE.into(), HOST_PORT)?;
    stage::is_served(&inside, node.host()?, pod.ip, PORT)?;
    stage::is_masqueraded(&inside, &node)?;
    // kubelet stops a pod until it is sure.
    for _ in 0..2 {
        cri.stop(&pod.id)?;
        node.comes_back_to(&before, &[], &[])?;
    }
    ensure!(!pod.netns.exists(), "{} is left", pod.netns.display());
    cri.remove(&pod.id)?;
    cri.remove(&first.id)?;
    node.comes_back_to(&before, &[], &[])
}

/// Networks whose pods are VMs' launchers, and what the runtime is told of.
fn networks_for_vms() -> [(&'static str, Vec<Value>); 2] {
    [
        ("a tap beside a container's interface", vec![bridge(), json!({ "type": TYPE, "mode": "tap" })]),
        ("a tap of the bridge's own", vec![with(bridge(), "tap", json!(true))]),
    ]
}

#[test]
fn a_vms_pod_has_its_address_and_tap0() -> anyhow::Result<()> {
    for (what, plugins) in networks_for_vms() {
        let story = || -> anyhow::Result<()> {
            let node = stage::node()?;
            let containerd = Containerd::start(&node, &network(VERSION, &plugins))?;
            let cri = containerd.cri()?;
            let first = cri.run("first", &[])?;
            cri.stop(&first.id)?;
            stage::is_bare(&node)?;
            let before = node.snapshot(&[])?;
            let pod = cri.run("vm", &[])?;
            let inside = pod.namespace()?;
            assert_eq!(stage::links(&inside)?, ["eth0", "tap0"]);
            let tap = stage::link(&inside, "tap0")?;
            assert_eq!(tap["linkinfo"]["info_data"]["type"], "tap", "{tap}");
            let interfaces = pod.result.get("Interfaces").context("interfaces")?;
            ensure!(interfaces.get("tap0").is_some(), "{interfaces}");
            let told =
                interfaces.pointer("/eth0/IPConfigs/0/IP").and_then(Value::as_str).context("an address")?;
            assert_eq!(told, pod.ip.to_string());
            cri.stop(&pod.id)?;
            cri.remove(&pod.id)?;
            node.comes_back_to(&before, &[], &[])
        };
        story().context(what)?;
    }
    Ok(())
}
