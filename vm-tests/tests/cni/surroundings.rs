//! Runtimes that give a plugin less than a shell would: no home, no path, a root of their own, nothing to write to.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vm_tests::cni::{Call, Node, Place};

use crate::ours;

/// What is unusual about a call.
type Change = fn(Call) -> Call;

const SURROUNDINGS: [(&str, Change); 10] = [
    // `Call` gives no HOME, USER or TERM to begin with.
    ("nothing but CNI's variables and a path", |call| call),
    ("no PATH", |call| call.without("PATH")),
    ("an empty PATH", |call| call.env("PATH", "")),
    ("a home that does not exist", |call| call.env("HOME", "/no/such/home").env("TMPDIR", "/no/such/folder")),
    ("a umask of 077", |call| call.umask(0o077)),
    ("a umask of 777", |call| call.umask(0o777)),
    ("a working directory that is gone", Call::folder_is_gone),
    ("the chroot of thick Multus", |call| call.at(Place::Chroot)),
    ("a root that cannot be written, but for /run", |call| call.at(Place::ReadOnly)),
    ("all of these", |call| call.without("PATH").umask(0o077).folder_is_gone().at(Place::ReadOnly)),
];

/// Configurations that keep what they keep below `/run`, as by default.
fn configs() -> [(&'static str, Value); 2] {
    [
        ("none", json!({ "cniVersion": "1.1.0", "name": "net", "type": ours::TYPE, "mode": "none" })),
        (
            "bridge",
            json!({
                "cniVersion": "1.1.0", "name": "net", "type": ours::TYPE, "mode": "bridge", "bridge": "br0",
                "tap": false, "isDefaultGateway": true, "ipMasq": true,
                "ipam": { "type": "host-local", "dataDir": "/run/leases", "subnet": "10.7.0.0/24" },
            }),
        ),
    ]
}

fn call(node: &Node, verb: &str, config: &Value) -> anyhow::Result<Call> {
    Ok(Call::new(verb)
        .container("c0ffee")
        .interface("eth0")
        .netns(node.netns(0)?)
        .path(&node.plugins())
        .config(config))
}

#[test]
fn add_check_and_del_work_wherever_they_are_called() -> anyhow::Result<()> {
    for (surroundings, change) in SURROUNDINGS {
        for (mode, mut config) in configs() {
            let what = || format!("{surroundings}, mode {mode}");
            let node = ours::node(1)?;
            let read_only = surroundings.contains("root that") || surroundings.contains("all of");
            if !read_only {
                config["stateDir"] = json!(node.state());
                if config.get("ipam").is_some() {
                    config["ipam"]["dataDir"] = json!(node.leases());
                }
            }
            let run =
                |verb: &str, config: &Value| ours::plugin()?.run(&node, &change(call(&node, verb, config)?));
            run("STATUS", &config)?.silent().with_context(what)?;
            // The first time leaves the bridge.
            run("ADD", &config)?.result().with_context(what)?;
            run("DEL", &config)?.silent().with_context(what)?;
            let before = node.snapshot(&[])?;
            let result = run("ADD", &config)?.result().with_context(what)?;
            let during = node.snapshot(&[])?;
            ensure!(
                during.lines().iter().any(|line| line.starts_with("pod0/link/eth0/")),
                "{}: no eth0",
                what()
            );
            let mut checked = config.clone();
            checked["prevResult"] = result;
            run("CHECK", &checked)?.silent().with_context(what)?;
            for _ in 0..2 {
                run("DEL", &checked)?.silent().with_context(what)?;
                node.comes_back_to(&before, &[], &[]).with_context(what)?;
            }
            let mut swept = config.clone();
            swept["cni.dev/valid-attachments"] = json!([]);
            run("GC", &swept)?.silent().with_context(what)?;
            node.comes_back_to(&before, &[], &[]).with_context(what)?;
        }
    }
    Ok(())
}

/// What is written during an ADD for a pod is kept where it was asked for and nowhere else.
#[test]
fn state_and_leases_are_below_run_where_nothing_else_can_be_written() -> anyhow::Result<()> {
    let node = ours::node(1)?;
    let [_, (_, config)] = configs();
    let call = call(&node, "ADD", &config)?.at(Place::ReadOnly);
    ours::plugin()?.run(&node, &call)?.result()?;
    let during = node.snapshot(&[])?;
    let is_there = |beginning: &str| during.lines().iter().any(|line| line.starts_with(beginning));
    ensure!(is_there("file run/leases/net/10.7.0.2"), "no lease: {:#?}", during.lines());
    ensure!(is_there("file run/sluice/cni/"), "no state: {:#?}", during.lines());
    Ok(())
}

/// The harness: what a chroot and a root that cannot be written are.
#[test]
fn a_place_is_what_it_says() -> anyhow::Result<()> {
    let node = Node::new(1)?;
    let shell = vm_tests::cni::Plugin::new("/bin/sh");
    let script = node.directory().join("script");
    std::fs::write(&script, "")?;
    // `sh` reads its commands from standard input.
    let run = |place: Place, text: &str| shell.run(&node, &Call::new("").stdin(text.to_owned()).at(place));
    let pod = node.netns(0)?;
    for place in [Place::Node, Place::Chroot, Place::ReadOnly] {
        let outcome = run(place, &format!("nsenter --net={pod} ip -o link | wc -l"))?;
        ensure!(outcome.stdout.trim() == "1", "{place:?}: {outcome}");
    }
    let touch = "touch /etc/sluice-cni-test 2>/dev/null && echo written; rm -f /etc/sluice-cni-test 2>/dev/null; true";
    ensure!(run(Place::ReadOnly, touch)?.stdout.is_empty(), "the root can be written");
    ensure!(run(Place::ReadOnly, "touch /run/mark && echo written")?.stdout == "written\n", "/run cannot");
    ensure!(!std::path::Path::new("/run/mark").exists(), "it was the machine's /run");
    ensure!(node.directory().join("run/mark").exists(), "/run is not the node's");
    let inode = |outcome: vm_tests::cni::Outcome| outcome.stdout.trim().to_owned();
    let root = "stat -c '%m %i' / ; mountpoint -q / && echo mounted";
    ensure!(inode(run(Place::Chroot, root)?).contains("mounted"), "the root is no mount");
    Ok(())
}
