//! Multus on a pod that the runtime has made and attached to the cluster's network: what it calls for the pod's further
//! networks, with its arguments and in its order.

use anyhow::ensure;
use serde_json::{Value, json};
use vm_tests::cni::{Attachment, Containerd, Network, Node, Runtime, Sandbox};

use crate::stage::{self, TYPE, VERSION, bridge, network};

/// KubeVirt's name of the NIC for the network `red`: `pod` and 11 digits of the name's SHA-256; the tap's ends alike.
const RED: &str = "podb1f51a511f1";
const RED_TAP: &str = "tapb1f51a511f1";

const MAC: &str = "02:00:00:00:00:17";

/// The pod's further networks with the interface each is for: one of its own, and KubeVirt's bindings for it and for the
/// cluster's. They are called from without the runtime's mounts, and so are told where its state is.
fn networks(node: &Node) -> anyhow::Result<[(Network, &'static str); 3]> {
    let binding = |name: &str, logical: &str| {
        Network::parse(&json!({
            "cniVersion": VERSION, "name": name, "type": TYPE, "stateDir": node.state(),
            "args": { "cni": { "logicNetworkName": logical } },
        }))
    };
    let red = Network::parse(&json!({
        "cniVersion": VERSION, "name": "red", "type": TYPE, "mode": "bridge", "tap": false, "bridge": "red0",
        "stateDir": node.state(), "capabilities": { "mac": true, "ips": true }, "ipam": { "type": "static" },
    }))?;
    Ok([(red, RED), (binding("tap-of-red", "red")?, "net2"), (binding("tap-of-default", "default")?, "net3")])
}

/// As Multus names the pod to every plugin.
fn attachment(pod: &Sandbox, interface: &str) -> anyhow::Result<Attachment> {
    let attachment = Attachment::new(&pod.id, interface, pod.netns.to_str().unwrap_or_default())
        .with_arg("IgnoreUnknown", "true")
        .with_arg("K8S_POD_NAMESPACE", "labs")
        .with_arg("K8S_POD_NAME", "virt-launcher")
        .with_arg("K8S_POD_INFRA_CONTAINER_ID", &pod.id)
        .with_arg("K8S_POD_UID", &pod.uid);
    Ok(attachment.with_capability("mac", json!(MAC)).with_capability("ips", json!(["10.9.0.17/24"])))
}

fn attach(runtime: &mut Runtime<'_>, node: &Node, pod: &Sandbox) -> anyhow::Result<Vec<Value>> {
    ensure!(pod.netns.exists(), "{} is gone", pod.netns.display());
    networks(node)?
        .iter()
        .map(|(network, interface)| runtime.add(network, &attachment(pod, interface)?))
        .collect()
}

/// Last to first.
fn detach(runtime: &mut Runtime<'_>, node: &Node, pod: &Sandbox) -> anyhow::Result<()> {
    networks(node)?
        .iter()
        .rev()
        .try_for_each(|(network, interface)| runtime.del(network, &attachment(pod, interface)?))
}

#[test]
fn further_networks_of_a_running_pod_come_and_go() -> anyhow::Result<()> {
    let node = stage::node()?;
    let containerd = Containerd::start(&node, &network(VERSION, &[bridge()]))?;
    let cri = containerd.cri()?;
    let mut runtime = Runtime::new(&node);
    // The first pod leaves bridges.
    let first = cri.run("first", &[])?;
    attach(&mut runtime, &node, &first)?;
    detach(&mut runtime, &node, &first)?;
    cri.stop(&first.id)?;
    stage::is_bare(&node)?;
    let before = node.snapshot(&[MAC])?;

    let pod = cri.run("virt-launcher", &[])?;
    let alone = node.snapshot(&[MAC])?;
    let results = attach(&mut runtime, &node, &pod)?;
    let [_, red_tap, default_tap] = results.as_slice() else { anyhow::bail!("{results:?}") };
    for tap in [red_tap, default_tap] {
        ensure!(
            tap.get("interfaces").is_none_or(|all| all == &json!([])),
            "a binding has an interface: {tap}"
        );
    }
    let inside = pod.namespace()?;
    assert_eq!(stage::links(&inside)?, ["eth0", RED, "tap0", RED_TAP]);
    assert_eq!(stage::link(&inside, RED)?["address"], MAC);
    assert_eq!(stage::address(&inside, RED)?.octets(), [10, 9, 0, 17]);
    for (network, interface) in &networks(&node)? {
        runtime.check(network, &attachment(&pod, interface)?)?;
    }
    // What the runtime made stays as it was until the runtime removes it.
    detach(&mut runtime, &node, &pod)?;
    node.comes_back_to(&alone, &[MAC], &[])?;
    assert_eq!(stage::links(&inside)?, ["eth0"]);
    stage::ping(&inside, stage::GATEWAY)?;
    cri.stop(&pod.id)?;
    node.comes_back_to(&before, &[MAC], &[])
}

#[test]
fn further_networks_of_a_pod_that_is_gone_leave_nothing() -> anyhow::Result<()> {
    let node = stage::node()?;
    let containerd = Containerd::start(&node, &network(VERSION, &[bridge()]))?;
    let cri = containerd.cri()?;
    let mut runtime = Runtime::new(&node);
    let first = cri.run("first", &[])?;
    attach(&mut runtime, &node, &first)?;
    detach(&mut runtime, &node, &first)?;
    cri.stop(&first.id)?;
    let before = node.snapshot(&[MAC])?;

    let pod = cri.run("virt-launcher", &[])?;
    attach(&mut runtime, &node, &pod)?;
    // The sandbox goes first, with its namespace; then the pod's networks, which only a path is left of.
    cri.stop(&pod.id)?;
    cri.remove(&pod.id)?;
    ensure!(!pod.netns.exists(), "{} is left", pod.netns.display());
    for _ in 0..2 {
        detach(&mut runtime, &node, &pod)?;
        node.comes_back_to(&before, &[MAC], &[])?;
    }
    stage::is_bare(&node)
}
