//! A node with an uplink, pods that have a NIC of another's making, and our plugin, whose every verb is a method. It must
//! never know a mode.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vm_tests::cni::{Call, Node, Outcome, Plugin, Snapshot};
use vm_tests::lab::{Namespace, binary};

use crate::rows::Row;

/// What the runtime calls the interfaces.
pub(crate) const INTERFACE: &str = "net1";

/// In debug builds: the step, counted from 1, before which the plugin kills itself.
pub(crate) const DIE_AT_STEP: &str = "SLUICE_CNI_DIE_AT_STEP";

pub(crate) struct Stage {
    pub(crate) node: Node,
    plugin: Plugin,
    /// A folder that the plugin sees as /dev.
    devices: PathBuf,
}

/// Who is attached: one pod's interface on the network of a configuration.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    pub(crate) container: String,
    pub(crate) netns: String,
}

impl Stage {
    pub(crate) fn new(pods: usize) -> anyhow::Result<Self> {
        let node = Node::new(pods)?;
        let devices = own_devices(&node)?;
        // Where the kernel makes no device nodes, as in a node that is a container.
        let program = script(
            &node,
            "plugin",
            &format!(
                "exec unshare --mount --propagation private sh -c 'mount --bind {} /dev && exec {}'",
                devices.display(),
                binary("sluice-cni")?.display()
            ),
        )?;
        node.uplink("up0", 1500)?;
        node.host()?.ip("address add 10.77.0.1/24 dev up0\nroute add default via 10.77.0.254\n")?;
        let outside = node.outside()?;
        for number in 0..pods {
            let pod = node.pod(number)?;
            outside.ip(&format!(
                "link add far-pod{number} type veth peer name eth0 netns {}\nlink set far-pod{number} up\n",
                pod.name()
            ))?;
            pod.ip("link set eth0 up\naddress add 10.244.0.5/24 dev eth0\n")?;
        }
        Ok(Self { node, plugin: Plugin::new(program), devices })
    }

    /// [`Self::warm_with`] the configuration of a row.
    pub(crate) fn warm(row: &Row, pods: usize) -> anyhow::Result<(Self, Value, Who, Snapshot)> {
        Self::warm_with(|stage| stage.config(row), pods).context(row.name)
    }

    /// A stage on which the configuration's attachment of the first pod has come and gone once, and how all looks since:
    /// what others share of it stays, a bridge for one.
    pub(crate) fn warm_with(
        config: impl FnOnce(&Self) -> Value,
        pods: usize,
    ) -> anyhow::Result<(Self, Value, Who, Snapshot)> {
        let stage = Self::new(pods)?;
        let (config, who) = (config(&stage), stage.who(0)?);
        stage.warm_up(&config, &who)?;
        let before = stage.snapshot()?;
        Ok((stage, config, who, before))
    }

    /// The pod's interface, under a container's name that only it has.
    pub(crate) fn who(&self, pod: usize) -> anyhow::Result<Who> {
        Ok(Who { container: format!("c0ffee{pod:02}"), netns: self.node.netns(pod)? })
    }

    pub(crate) fn config(&self, row: &Row) -> Value {
        self.config_of((row.keys)(&self.node))
    }

    pub(crate) fn config_of(&self, keys: Value) -> Value {
        let mut config =
            json!({ "cniVersion": "1.1.0", "name": "net", "type": "sluice", "stateDir": self.node.state() });
        for (key, value) in keys.as_object().into_iter().flatten() {
            config = with(&config, key, value.clone());
        }
        config
    }

    /// As a runtime calls it.
    pub(crate) fn call(&self, verb: &str, config: &Value, who: &Who) -> Call {
        Call::new(verb)
            .container(&who.container)
            .interface(INTERFACE)
            .netns(&who.netns)
            .path(&self.node.plugins())
            .config(config)
    }

    /// The program itself, with the machine's /dev, for who wants to see each of its steps.
    pub(crate) fn command(&self, verb: &str, who: &Who) -> anyhow::Result<Command> {
        let mut command = self.node.host()?.command(binary("sluice-cni")?);
        command.env_clear();
        for (name, value) in [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", &who.container),
            ("CNI_IFNAME", INTERFACE),
            ("CNI_NETNS", &who.netns),
            ("CNI_PATH", vm_tests::cni::REFERENCE),
        ] {
            command.env(name, value);
        }
        Ok(command)
    }

    pub(crate) fn run(&self, call: &Call) -> anyhow::Result<Outcome> {
        self.plugin.run(&self.node, call)
    }

    /// With another root, say: a script that ends in executing `$PLUGIN`.
    pub(crate) fn run_within(&self, surroundings: &str, call: &Call) -> anyhow::Result<Outcome> {
        let text = surroundings.replace("$PLUGIN", &binary("sluice-cni")?.to_string_lossy());
        Plugin::new(script(&self.node, "surroundings", &text)?).run(&self.node, call)
    }

    pub(crate) fn add(&self, config: &Value, who: &Who) -> anyhow::Result<Value> {
        self.run(&self.call("ADD", config, who))?.result().context("ADD")
    }

    pub(crate) fn del(&self, config: &Value, who: &Who) -> anyhow::Result<()> {
        self.run(&self.call("DEL", config, who))?.silent().context("DEL")
    }

    pub(crate) fn check(&self, config: &Value, who: &Who, result: &Value) -> anyhow::Result<Outcome> {
        self.run(&self.call("CHECK", &with(config, "prevResult", result.clone()), who))
    }

    pub(crate) fn is_whole(&self, config: &Value, who: &Who, result: &Value) -> anyhow::Result<()> {
        self.check(config, who, result)?.silent().with_context(|| format!("CHECK of {}", who.container))
    }

    pub(crate) fn gc(&self, config: &Value, valid: &[&Who]) -> anyhow::Result<()> {
        let valid: Vec<Value> =
            valid.iter().map(|who| json!({ "containerID": who.container, "ifname": INTERFACE })).collect();
        let config = with(config, "cni.dev/valid-attachments", json!(valid));
        self.run(&self.network_call("GC", &config))?.silent().context("GC")
    }

    /// Of a verb that is about no attachment.
    pub(crate) fn network_call(&self, verb: &str, config: &Value) -> Call {
        Call::new(verb).path(&self.node.plugins()).config(config)
    }

    /// An ADD and a DEL: what a mode leaves on purpose, for the next, is there then.
    pub(crate) fn warm_up(&self, config: &Value, who: &Who) -> anyhow::Result<()> {
        self.add(config, who).context("first ADD")?;
        self.del(config, who).context("first DEL")
    }

    pub(crate) fn snapshot(&self) -> anyhow::Result<Snapshot> {
        self.node.snapshot(&[])
    }

    /// Nothing differs from `before`, and nothing is written down.
    pub(crate) fn is_as(&self, before: &Snapshot) -> anyhow::Result<()> {
        self.has_no_journal()?;
        self.has_no_device()?;
        self.node.comes_back_to(before, &[], &[])
    }

    fn has_no_journal(&self) -> anyhow::Result<()> {
        let left = self.journals();
        ensure!(left.is_empty(), "the state folder has {left:?}");
        Ok(())
    }

    fn has_no_device(&self) -> anyhow::Result<()> {
        let left: Vec<String> =
            names_in(&self.devices).into_iter().filter(|name| name.starts_with("tap")).collect();
        ensure!(left.is_empty(), "/dev has {left:?}");
        Ok(())
    }

    /// The one that a macvtap has.
    pub(crate) fn device_node(&self) -> Option<PathBuf> {
        let name = names_in(&self.devices).into_iter().find(|name| name.starts_with("tap"))?;
        Some(self.devices.join(name))
    }

    /// Where the device node of the macvtap with this index is.
    pub(crate) fn device_node_of(&self, index: u64) -> PathBuf {
        self.devices.join(format!("tap{index}"))
    }

    pub(crate) fn journals(&self) -> Vec<String> {
        let all = names_in(Path::new(&self.node.state()));
        all.into_iter().filter(|name| Path::new(name).extension().is_none_or(|end| end != "lock")).collect()
    }

    /// The addresses that are leased on the network `net`.
    pub(crate) fn leases(&self) -> Vec<String> {
        let all = names_in(&Path::new(&self.node.leases()).join("net"));
        all.into_iter().filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
    }
}

/// Runs a shell's line in a namespace, and fails with what it complains about.
pub(crate) fn shell(namespace: &Namespace, line: &str, variables: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut command = namespace.command("sh");
    command.args(["-e", "-c", line]).envs(variables.iter().copied()).stdin(Stdio::null());
    let output = command.output().context("start sh")?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

pub(crate) fn with(config: &Value, key: &str, value: Value) -> Value {
    let mut config = config.clone();
    if let Some(config) = config.as_object_mut() {
        config.insert(key.to_owned(), value);
    }
    config
}

/// The node's end of a veth pair, as a result names it.
pub(crate) fn port(result: &Value) -> String {
    let interfaces = result["interfaces"].as_array().cloned().unwrap_or_default();
    let names =
        interfaces.iter().filter(|one| one.get("sandbox").is_none()).filter_map(|one| one["name"].as_str());
    let mut names = names;
    names.rfind(|name| name.starts_with("veth")).unwrap_or_default().to_owned()
}

fn own_devices(node: &Node) -> anyhow::Result<PathBuf> {
    let devices = node.directory().join("dev");
    std::fs::create_dir_all(devices.join("net")).context("create a /dev")?;
    for (name, mode, numbers) in [("null", "666", "1 3"), ("net/tun", "666", "10 200")] {
        let made = Command::new("mknod")
            .arg(devices.join(name))
            .args(["-m", mode, "c"])
            .args(numbers.split(' '))
            .status()
            .context("start mknod")?;
        ensure!(made.success(), "no device {name} can be made: the tests need root");
    }
    Ok(devices)
}

pub(crate) fn script(node: &Node, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = node.directory().join(name);
    // By another process: what another thread forks meanwhile would keep our file open for writing, and the kernel does not
    // execute such a file (ETXTBSY).
    let made = Command::new("sh")
        .args(["-e", "-c", r#"printf '#!/bin/sh\n%s\n' "$2" > "$1"; chmod 755 "$1""#, "sh"])
        .arg(&path)
        .arg(text)
        .status()
        .context("start sh")?;
    ensure!(made.success(), "{} cannot be written", path.display());
    Ok(path)
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
