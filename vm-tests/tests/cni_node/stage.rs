//! Where stories take place: a node with plugins, and pods on it.

use std::collections::BTreeMap;
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
    story(&mut Stage { node, results: BTreeMap::new() }).unwrap();
}

/// A node, and what stories do with it.
pub(crate) struct Stage {
    pub(crate) node: NodeVm,
    /// What the last ADD for each pod said.
    results: BTreeMap<String, Value>,
}

impl Stage {
    /// One named thing, with its time. It must leave the node as it was.
    pub(crate) fn step(&mut self, name: &str, check: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let before = self.traces()?;
        check(self).with_context(|| format!("step: {name}"))?;
        let after = self.traces()?;
        ensure!(before == after, "{name}: the node had\n{before}and has\n{after}");
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
        let result = self.call("ADD", pod, configuration)?;
        self.results.insert(pod.to_owned(), result.clone());
        Ok(result)
    }

    /// What ADD said.
    pub(crate) fn result(&self, pod: &str) -> Result<Value> {
        self.results.get(pod).cloned().with_context(|| format!("nothing was added for {pod}"))
    }

    /// DEL, after which the pod has no interface but `lo`.
    pub(crate) fn delete(&mut self, pod: &str, configuration: &Value) -> Result<()> {
        self.call("DEL", pod, configuration)?;
        let names = self.node.succeed(&format!("ip netns exec {pod} ls /sys/class/net"))?;
        ensure!(names.trim() == "lo", "{pod} has {names} after DEL");
        Ok(())
    }

    /// A call that succeeds, for a pod.
    pub(crate) fn call(&mut self, command: &str, pod: &str, configuration: &Value) -> Result<Value> {
        let call = call(command, pod, configuration)?;
        self.node.call_succeeds(&call).with_context(|| format!("of {pod}"))
    }

    /// A call that fails; the error.
    pub(crate) fn fails(&mut self, command: &str, pod: &str, configuration: &Value) -> Result<Value> {
        let answer = self.node.call(&call(command, pod, configuration)?)?;
        ensure!(answer.status != 0, "{command} of {pod} succeeded with {configuration}: {}", answer.result);
        Ok(answer.result)
    }

    /// Makes `guest` the guest of a pod's tap.
    pub(crate) fn plug(&mut self, pod: &str, tap: &str, guest: &str, mtu: u16) -> Result<()> {
        self.node.plug(pod, tap, guest, mtu)
    }

    /// Gives a link in a namespace an address of a /24.
    pub(crate) fn address(&mut self, namespace: &str, link: &str, address: &str) -> Result<()> {
        self.node.succeed(&format!("ip -n {namespace} address add {address}/24 dev {link}")).map(drop)
    }

    /// `ping` from a pod. The first echo may take a moment: neighbours are asked for.
    pub(crate) fn reaches(&mut self, pod: &str, address: &str) -> Result<()> {
        self.node.succeed(&format!("ip netns exec {pod} ping -c 1 -w 10 {address}")).map(drop)
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

    /// Names of the node's own links, of pods, and of what is written down of attachments.
    fn traces(&mut self) -> Result<String> {
        self.node.succeed("ls /sys/class/net; ip netns list; ls /run/sluice/cni/*.jsonl 2>/dev/null || true")
    }
}

fn call<'a>(command: &'a str, pod: &'a str, configuration: &'a Value) -> Result<Call<'a>> {
    let plugin = configuration.get("type").and_then(Value::as_str).context("a plugin's name")?;
    Ok(Call { plugin, command, container: pod, pod, interface: INTERFACE, configuration })
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
