//! Pods that come to nothing: the runtime says why, in our words where they are ours, and the node is as before.

use serde_json::{Value, json};
use vm_tests::cni::Containerd;

use crate::stage::{self, BRIDGE, TYPE, VERSION, bridge, network, with};

/// What the default network is, and what kubelet hears of it.
fn networks_that_fail() -> [(&'static str, Value, &'static str); 4] {
    [
        (
            "a typo in a key's value",
            network(VERSION, &[with(bridge(), "mode", json!("brigde"))]),
            "\"brigde\"",
        ),
        ("a VLAN that cannot be", network(VERSION, &[with(bridge(), "vlan", json!(5000))]), "5000"),
        (
            "the second of the chain fails",
            network(VERSION, &[bridge(), json!({ "type": TYPE, "mode": "tap", "uplink": "net7" })]),
            "net7",
        ),
        (
            "another plugin of the chain fails",
            network(VERSION, &[bridge(), json!({ "type": "tuning", "sysctl": { "net.no.such": "1" } })]),
            "no/such",
        ),
    ]
}

#[test]
fn a_pod_without_a_network_is_refused_and_leaves_nothing() -> anyhow::Result<()> {
    let node = stage::node()?;
    let containerd = Containerd::start(&node, &network(VERSION, &[bridge()]))?;
    containerd.run("first")?.stop()?;
    let before = node.snapshot(&[])?;
    for (number, (what, network, words)) in networks_that_fail().into_iter().enumerate() {
        containerd.use_network(&network)?;
        // `ctr` gives up on a container without removing it: its namespace stays.
        let error = containerd.run(&format!("one{number}")).map(drop).expect_err(what).to_string();
        assert!(error.contains(words), "{what}: {error}");
        node.comes_back_to(&before, &[], &[]).map_err(|left| left.context(what))?;
    }
    Ok(())
}

/// containerd 1.6 cannot read a result of 1.1.0; by then our work is done, and it asks for it to be undone.
#[test]
fn a_version_that_the_runtime_does_not_know_leaves_nothing() -> anyhow::Result<()> {
    let node = stage::node()?;
    node.host()?.ip(&format!("link add {BRIDGE} type bridge\nlink set {BRIDGE} up\n"))?;
    let containerd = Containerd::start(&node, &network("1.1.0", &[bridge()]))?;
    let cri = containerd.cri()?;
    cri.run("first", &[]).map(drop).expect_err("a result of 1.1.0");
    let before = node.snapshot(&[])?;
    let error = format!("{:#}", cri.run("one", &[]).map(drop).expect_err("a result of 1.1.0"));
    assert!(error.contains("1.1.0"), "{error}");
    node.comes_back_to(&before, &[], &[])?;
    stage::is_bare(&node)
}
