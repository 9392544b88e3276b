//! Where stories take place: a node with plugins, and pods on it.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vm_tests::vm::{Call, NodeVm};

use crate::turn::turn;

/// The interface every story's plugin makes.
pub(crate) const INTERFACE: &str = "eth0";

/// Runs `story` on a node that has these reference plugins besides ours.
#[expect(clippy::unwrap_used, reason = "a failed story is a failed test")]
pub(crate) fn on_a_node(reference: &[&str], story: impl FnOnce(&mut Stage) -> Result<()>) {
    let _turn = turn();
    let start = Instant::now();
    let node = NodeVm::boot(reference).unwrap();
    eprintln!("{:6.2} s  the node's boot", start.elapsed().as_secs_f32());
    story(&mut Stage { node }).unwrap();
}

/// A node, and what stories do with it.
pub(crate) struct Stage {
    pub(crate) node: NodeVm,
}

impl Stage {
    /// One named thing, with its time. It must leave the node as it was: its links, and the pods' names.
    pub(crate) fn step(&mut self, name: &str, check: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let before = self.links()?;
        check(self).with_context(|| format!("step: {name}"))?;
        let after = self.links()?;
        ensure!(before == after, "{name}: the node's links were\n{before}and are\n{after}");
        eprintln!("{:6.2} s  {name}", start.elapsed().as_secs_f32());
        Ok(())
    }

    /// Makes pods, lets `story` use them, and removes them.
    pub(crate) fn with_pods(
        &mut self,
        pods: &[&str],
        story: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let pods = pods.join(" ");
        self.node.succeed(&format!("for pod in {pods}; do ip netns add $pod; done"))?;
        story(self)?;
        self.node.succeed(&format!("for pod in {pods}; do ip netns delete $pod; done")).map(drop)
    }

    /// ADD of the plugin that `configuration` names, for a pod; the result.
    pub(crate) fn add(&mut self, pod: &str, configuration: &Value) -> Result<Value> {
        self.call("ADD", pod, configuration)
    }

    /// DEL, after which the pod has no interface but `lo`.
    pub(crate) fn delete(&mut self, pod: &str, configuration: &Value) -> Result<()> {
        self.call("DEL", pod, configuration)?;
        let names = self.node.succeed(&format!("ip netns exec {pod} ls /sys/class/net"))?;
        ensure!(names.trim() == "lo", "{pod} has {names} after DEL");
        Ok(())
    }

    fn call(&mut self, command: &str, pod: &str, configuration: &Value) -> Result<Value> {
        let plugin = configuration.get("type").and_then(Value::as_str).context("a plugin's name")?;
        let call = Call { plugin, command, container: pod, pod, interface: INTERFACE, configuration };
        self.node.call_succeeds(&call).with_context(|| format!("of {pod}"))
    }

    /// `ping` from a pod. The first echo may take a moment: neighbours are asked for.
    pub(crate) fn reaches(&mut self, pod: &str, address: &str) -> Result<()> {
        self.node.succeed(&format!("ip netns exec {pod} ping -c 1 -w 5 {address}")).map(drop)
    }

    /// No answer, and not because there is nobody: the caller has shown that others reach it.
    pub(crate) fn does_not_reach(&mut self, pod: &str, address: &str) -> Result<()> {
        let output = self.node.run(&format!("ip netns exec {pod} ping -c 1 -W 1 {address}"))?;
        ensure!(output.status == 1, "ping from {pod} to {address} ended with {output}");
        Ok(())
    }

    /// What the kernel says of a link in `pod`, or of the node's own.
    pub(crate) fn link(&mut self, pod: Option<&str>, name: &str) -> Result<Value> {
        let inside = pod.map(|pod| format!("-n {pod} ")).unwrap_or_default();
        let links = self.node.look(&format!("ip {inside}-j -d link show dev {name}"))?;
        links.get(0).cloned().with_context(|| format!("no link {name}"))
    }

    /// Names of the node's own links.
    fn links(&mut self) -> Result<String> {
        self.node.succeed("ls /sys/class/net; ip netns list")
    }
}

/// A configuration with what every one has, and an address from a fixed list of one.
pub(crate) fn configuration(plugin: &str, address: &str, rest: &Value) -> Value {
    let mut configuration = json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "type": plugin,
        "ipam": { "type": "static", "addresses": [{ "address": format!("{address}/24") }] },
    });
    if let (Some(all), Some(rest)) = (configuration.as_object_mut(), rest.as_object()) {
        all.extend(rest.clone());
    }
    configuration
}
