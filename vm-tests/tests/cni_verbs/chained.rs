//! Mode `bridge` behind a plugin that made the pod's interface: its end on the node becomes the port, and nothing else of
//! it is touched.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::rows::leases;
use crate::stage::{INTERFACE, Stage, with};

/// A veth pair as another plugin makes it, with an address; what that plugin answers.
fn made_by_another(stage: &Stage) -> anyhow::Result<Value> {
    let pod = stage.node.pod(0)?;
    stage.node.host()?.ip(&format!(
        "link add vport type veth peer name {INTERFACE} netns {}\nlink set vport up\n",
        pod.name()
    ))?;
    pod.ip(&format!("link set {INTERFACE} up\naddress add 10.7.0.9/24 dev {INTERFACE}\n"))?;
    Ok(json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "vport" }, { "name": INTERFACE, "sandbox": stage.node.netns(0)? }],
        "ips": [{ "address": "10.7.0.9/24", "interface": 1 }],
    }))
}

fn is_port_of_br0(stage: &Stage) -> anyhow::Result<()> {
    let picture = stage.snapshot()?;
    let master = picture.lines().iter().find_map(|line| line.strip_prefix("node/link/vport/master = "));
    ensure!(master == Some("\"br0\""), "{master:?}");
    Ok(())
}

#[test]
fn port_of_another_plugin_is_taken_and_let_go() -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    let (config, who) = (stage.config_of(json!({ "mode": "bridge", "bridge": "br0" })), stage.who(0)?);
    stage.warm_up(&config, &who)?;
    let given = made_by_another(&stage)?;
    let before = stage.snapshot()?;
    let result = stage.add(&with(&config, "prevResult", given.clone()), &who)?;
    is_port_of_br0(&stage)?;
    ensure!(result.get("ips") == given.get("ips"), "{result}");
    let names: Vec<&Value> =
        result["interfaces"].as_array().context("interfaces")?.iter().map(|one| &one["name"]).collect();
    ensure!(names == ["vport", INTERFACE, "br0"], "{result}");
    stage.is_whole(&config, &who, &result)?;
    stage.del(&with(&config, "prevResult", result), &who)?;
    stage.is_as(&before)
}

/// Whoever made the interface has given it its address: one more would be on nothing.
#[test]
fn address_for_an_interface_of_another_plugin_is_refused() -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    let keys = json!({ "mode": "bridge", "bridge": "br7", "isGateway": true, "ipam": leases(&stage.node) });
    let (config, who) = (stage.config_of(keys), stage.who(0)?);
    let given = made_by_another(&stage)?;
    let before = stage.snapshot()?;
    let failure =
        stage.run(&stage.call("ADD", &with(&config, "prevResult", given), &who))?.failure().context("ADD")?;
    ensure!(failure.code == 7 && failure.msg.contains("ipam given: "), "{failure}");
    ensure!(failure.msg.contains("prevResult"), "{failure}");
    let after = stage.snapshot()?.without(&["file state/"]);
    before.without(&["file state/"]).compare(&after, &[])?;
    ensure!(stage.journals().is_empty() && stage.leases().is_empty(), "{:?}", stage.journals());
    Ok(())
}
