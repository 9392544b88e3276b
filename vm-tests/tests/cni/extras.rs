//! Keys that concern more than links: the label of a tap, the description of a device.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vm_tests::cni::{Attachment, Call, Failure, Network, Node, Runtime};

use crate::ours;

const LABEL: &str = "system_u:system_r:container_t:s0";

fn call(node: &Node, command: &str, config: &Value) -> anyhow::Result<Call> {
    let call = Call::new(command).container("c0ffee").interface("eth0").netns(node.netns(0)?);
    Ok(call.path(&node.plugins()).config(config))
}

/// As with the reference plugin. What happens where SELinux is enabled is not tested here: such a machine fails this.
#[test]
fn label_has_no_effect_without_selinux() -> anyhow::Result<()> {
    ensure!(!Path::new("/sys/fs/selinux/enforce").exists(), "this machine has SELinux: nothing tests it yet");
    let node = ours::node(1)?;
    let mut config = json!({
        "cniVersion": "1.1.0", "name": "net", "type": ours::TYPE, "mode": "none", "stateDir": node.state(),
    });
    let run = |command: &str, config: &Value| ours::plugin()?.run(&node, &call(&node, command, config)?);
    let plain = run("ADD", &config)?;
    let without = node.snapshot(&[])?;
    run("DEL", &config)?.silent()?;
    config["selinuxContext"] = json!(LABEL);
    let labelled = run("ADD", &config)?;
    without.compare(&node.snapshot(&[])?, &[])?;
    let names = |result: &Value| result["interfaces"][0]["name"].clone();
    ensure!(names(&plain.result()?) == names(&labelled.result()?), "{plain}\n{labelled}");
    let told = |outcome: &vm_tests::cni::Outcome| outcome.stderr.contains("SELinux is not enabled");
    ensure!(told(&labelled) && !told(&plain), "{plain}\n{labelled}");
    run("DEL", &config)?.silent()
}

#[test]
fn socket_of_the_translator_is_described_where_multus_asks_for_it() -> anyhow::Result<()> {
    let node = ours::node(1)?;
    let file = node.directory().join("devinfo/cni/net-device.json");
    let folder = file.parent().context("a folder")?;
    let attachment =
        Attachment::new("c0ffee", "net1", &node.netns(0)?).with_capability("CNIDeviceInfoFile", json!(file));
    let config = |mode: &str, socket: Option<&str>| {
        Network::parse(&json!({
            "cniVersion": "1.1.0", "name": "net", "type": ours::TYPE, "mode": mode, "stateDir": node.state(),
            "socketPath": socket, "capabilities": { "CNIDeviceInfoFile": true },
        }))
    };
    let mut runtime = Runtime::new(&node);
    for network in [config("passt", None)?, config("none", Some("/run/vm.sock"))?] {
        runtime.add(&network, &attachment)?;
        ensure!(!folder.exists(), "a device that is not there is described");
        runtime.check(&network, &attachment)?;
        runtime.del(&network, &attachment)?;
    }

    let network = config("passt", Some("/run/vm.sock"))?;
    runtime.add(&network, &attachment)?;
    let written: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    let expected = json!({
        "type": "vhost-user", "version": "1.1.0", "vhost-user": { "mode": "client", "path": "/run/vm.sock" },
    });
    ensure!(written == expected, "{written}");
    ensure!(std::fs::read_dir(folder)?.count() == 1, "more than the file is in its folder");
    runtime.check(&network, &attachment)?;
    std::fs::write(&file, "{}")?;
    let error = runtime.check(&network, &attachment).err().context("CHECK saw nothing")?;
    ensure!(Failure::of(&error)?.msg.contains("CNIDeviceInfoFile"), "{error:#}");
    for _ in 0..2 {
        runtime.del(&network, &attachment)?;
        ensure!(std::fs::read_dir(folder)?.count() == 0, "something is left in {}", folder.display());
    }

    let error =
        runtime.add(&config("passt", Some("vm.sock"))?, &attachment).err().context("a relative path")?;
    let failure = Failure::of(&error)?;
    ensure!(failure.code == 7 && failure.msg.contains("socketPath vm.sock"), "{failure}");
    Ok(())
}
