//! What ADD prints in each version of the specification.

use anyhow::Context as _;
use serde_json::{Value, json};
use vm_tests::cni::{Attachment, Network, Node, Runtime};

use crate::ours;

const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn network(node: &Node, kind: &Value, version: &str) -> anyhow::Result<Network> {
    let mut config = json!({
        "cniVersion": version, "name": "net", "bridge": "br0", "isDefaultGateway": true,
        "ipam": { "type": "static", "addresses": [
            { "address": "10.7.0.5/24", "gateway": "10.7.0.1" },
            { "address": "fd00:7::5/64", "gateway": "fd00:7::1" },
        ] },
        "dns": { "nameservers": ["10.7.0.1"], "search": ["example.org"] },
    });
    for (key, value) in kind.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    if config["type"] == ours::TYPE {
        config["stateDir"] = json!(node.state());
    }
    Network::parse(&config)
}

/// The result of ADD, which is undone.
fn result(kind: &Value, version: &str) -> anyhow::Result<(Value, Vec<String>)> {
    let node = ours::node(1)?;
    let network = network(&node, kind, version)?;
    let attachment = Attachment::new("c0ffee", "eth0", &node.netns(0)?);
    let mut runtime = Runtime::new(&node);
    let result = runtime.add(&network, &attachment).with_context(|| version.to_owned())?;
    let words = node.snapshot(&[])?.words(&result);
    if !["0.1.0", "0.2.0", "0.3.0", "0.3.1"].contains(&version) {
        runtime.check(&network, &attachment).with_context(|| format!("CHECK of {version}"))?;
    }
    runtime.del(&network, &attachment).with_context(|| format!("DEL of {version}"))?;
    Ok((result, words))
}

fn kind_of_ours() -> Value {
    json!({ "type": ours::TYPE, "mode": "bridge", "tap": false })
}

/// The reference plugin is of 1.0.0.
#[test]
fn results_up_to_1_0_0_are_those_of_the_reference_plugin() -> anyhow::Result<()> {
    let [older @ .., _] = VERSIONS;
    for version in older {
        let (_, reference) = result(&json!({ "type": "bridge" }), version)?;
        let (_, ours) = result(&kind_of_ours(), version)?;
        assert_eq!(ours, reference, "{version}");
    }
    Ok(())
}

#[test]
fn a_result_of_1_1_0_has_the_mtu_of_each_interface() -> anyhow::Result<()> {
    let (result, _) = result(&kind_of_ours(), "1.1.0")?;
    let interfaces = result.get("interfaces").and_then(Value::as_array).context("interfaces")?;
    assert_eq!(interfaces.len(), 3, "{result}");
    for interface in interfaces {
        assert_eq!(interface.get("mtu"), Some(&json!(1500)), "{result}");
    }
    Ok(())
}

/// 0.1.0 is what a configuration without a version is of.
#[test]
fn no_version_is_the_oldest() -> anyhow::Result<()> {
    let node = ours::node(1)?;
    let mut network = network(&node, &kind_of_ours(), "0.1.0")?;
    network.version = String::new();
    let attachment = Attachment::new("c0ffee", "eth0", &node.netns(0)?);
    let mut runtime = Runtime::new(&node);
    let result = runtime.add(&network, &attachment)?;
    assert_eq!(result.pointer("/ip4/ip"), Some(&json!("10.7.0.5/24")), "{result}");
    assert_eq!(result.pointer("/ip6/ip"), Some(&json!("fd00:7::5/64")), "{result}");
    runtime.del(&network, &attachment)
}
