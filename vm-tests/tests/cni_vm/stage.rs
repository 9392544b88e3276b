//! Where it happens: nodes on one underlay, pods on them, and for each pod a namespace that is the guest of its tap.

use std::net::IpAddr;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};
use vm_tests::cni::{Attachment, Network, Node, Runtime};
use vm_tests::lab::{Child, Namespace, binary, wait_for};
use vm_tests::tap_guest;

/// What configurations call our plugin.
pub(crate) const TYPE: &str = "sluice";
/// The pod's interface, and the tap beside it.
pub(crate) const INTERFACE: &str = "eth0";
pub(crate) const TAP: &str = "tap0";
/// The guest's NIC.
pub(crate) const NIC: &str = tap_guest::NIC;
pub(crate) const MTU: u16 = 1500;
/// The node's link to other nodes, and to the outside.
pub(crate) const UPLINK: &str = "up0";
/// What a veth and a bridge let pass above the MTU: they leave room for a VLAN's tag.
pub(crate) const SLACK: u16 = 4;
/// For what takes a moment on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A node with our plugin.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) node: Node,
    pods: usize,
}

impl Stage {
    /// With this many pods, and as many guests.
    pub(crate) fn new(pods: usize) -> Result<Self> {
        let node = Node::new(2 * pods)?;
        node.install(TYPE, &binary("sluice-cni")?)?;
        for (_, namespace) in node.namespaces() {
            // Addresses are usable at once: what is tested is not who else has them.
            for scope in ["all", "default"] {
                namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            }
        }
        Ok(Self { node, pods })
    }

    pub(crate) fn guest(&self, number: usize) -> Result<&Namespace> {
        self.node.pod(self.pods + number)
    }

    /// Our plugin in a mode, with more keys.
    pub(crate) fn config(&self, mode: &str, more: &Value) -> Value {
        let mut config = json!({
            "cniVersion": "1.1.0", "name": format!("{mode}-network"), "type": TYPE, "mode": mode,
            "stateDir": self.node.state(),
        });
        merge(&mut config, more);
        config
    }

    /// ADD of a network for a pod's first interface; the result.
    pub(crate) fn add(&self, pod: usize, config: &Value) -> Result<Value> {
        self.add_with(pod, config, &[])
    }

    /// The same with what the runtime says by capabilities.
    pub(crate) fn add_with(
        &self,
        pod: usize,
        config: &Value,
        capabilities: &[(&str, Value)],
    ) -> Result<Value> {
        let mut attachment = self.attachment(pod, config)?;
        for (name, value) in capabilities {
            attachment = attachment.with_capability(name, value.clone());
        }
        let added = Runtime::new(&self.node).add(&Network::parse(config)?, &attachment);
        added.with_context(|| format!("ADD for pod {pod} of {config}"))
    }

    pub(crate) fn delete(&self, pod: usize, config: &Value) -> Result<()> {
        Runtime::new(&self.node).del(&Network::parse(config)?, &self.attachment(pod, config)?)
    }

    /// An entry of mode `tap` has no interface of its own: Multus numbers it.
    fn attachment(&self, pod: usize, config: &Value) -> Result<Attachment> {
        let beside = config.get("mode").is_some_and(|mode| mode == "tap");
        let interface = if beside { "net1" } else { INTERFACE };
        Ok(Attachment::new(&format!("vm{pod}"), interface, &self.node.netns(pod)?))
    }

    /// Puts the guest on the pod's tap, with the MAC of the pod's interface as KubeVirt does.
    pub(crate) fn plug(&self, pod: usize, result: &Value, mtu: u16) -> Result<Child> {
        self.plug_as(pod, &mac_of(result, INTERFACE)?, TAP, mtu)
    }

    pub(crate) fn plug_as(&self, pod: usize, mac: &str, tap: &str, mtu: u16) -> Result<Child> {
        let guest = self.guest(pod)?;
        let child = tap_guest::start_in(self.node.directory(), self.node.pod(pod)?, tap, guest, mtu)?;
        guest.ip(&format!("link set {NIC} address {mac}\n"))?;
        Ok(child)
    }

    /// Gives the guest addresses with their prefix length.
    pub(crate) fn address(&self, pod: usize, addresses: &[&str]) -> Result<()> {
        let lines: String = addresses.iter().map(|one| format!("address add {one} dev {NIC}\n")).collect();
        self.guest(pod)?.ip(&lines)
    }

    pub(crate) fn reaches(&self, from: usize, to: &str) -> Result<()> {
        reaches(self.guest(from)?, to)
    }

    /// No answer, and not because there is nobody: the caller has shown that others get one.
    pub(crate) fn does_not_reach(&self, from: usize, to: &str) -> Result<()> {
        does_not_reach(self.guest(from)?, to)
    }
}

/// Nodes that reach each other by [`UPLINK`], with addresses 192.0.2.1, 192.0.2.2 and so on.
pub(crate) fn cluster(nodes: usize, pods: usize) -> Result<Vec<Stage>> {
    let stages = (0..nodes).map(|_| Stage::new(pods)).collect::<Result<Vec<_>>>()?;
    let first = stages.first().context("a cluster has nodes")?;
    let switch = first.node.outside()?;
    switch.ip("link add switch type bridge\nlink set switch up\n")?;
    for (number, stage) in (1..).zip(&stages) {
        let host = stage.node.host()?;
        switch.ip(&format!(
            "link add port{number} type veth peer name {UPLINK} netns {}\n\
             link set port{number} master switch\nlink set port{number} up\n",
            host.name()
        ))?;
        host.ip(&format!("link set {UPLINK} up\naddress add {}/24 dev {UPLINK}\n", node_address(number)))?;
    }
    Ok(stages)
}

/// Counted from 1.
pub(crate) fn node_address(number: usize) -> String {
    format!("192.0.2.{number}")
}

pub(crate) fn merge(config: &mut Value, more: &Value) {
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
}

/// The MAC that a result says an interface in the pod has.
pub(crate) fn mac_of(result: &Value, interface: &str) -> Result<String> {
    let value = inside(result, interface)?.get("mac").and_then(Value::as_str);
    value.map(str::to_owned).with_context(|| format!("no MAC of {interface} in {result}"))
}

pub(crate) fn mtu_of(result: &Value, interface: &str) -> Result<u16> {
    let value = inside(result, interface)?.get("mtu").and_then(Value::as_u64);
    let value = value.and_then(|mtu| u16::try_from(mtu).ok());
    value.with_context(|| format!("no MTU of {interface} in {result}"))
}

fn inside<'a>(result: &'a Value, interface: &str) -> Result<&'a Map<String, Value>> {
    let all = result.get("interfaces").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut found = all
        .iter()
        .filter_map(Value::as_object)
        .filter(|one| one.get("sandbox").is_some() && one.get("name").is_some_and(|name| name == interface));
    found.next().with_context(|| format!("no interface {interface} in the pod: {result}"))
}

/// The first address of a result, without its length.
pub(crate) fn address_of(result: &Value) -> Result<String> {
    let address = result.pointer("/ips/0/address").and_then(Value::as_str);
    let (address, _) = address.and_then(|text| text.split_once('/')).context("an address")?;
    Ok(address.to_owned())
}

/// What the kernel says of a link.
pub(crate) fn link(namespace: &Namespace, name: &str) -> Result<Value> {
    let output = namespace.command("ip").args(["-j", "-d", "link", "show", "dev", name]).output()?;
    ensure!(output.status.success(), "link {name}: {output:?}");
    let links: Value = serde_json::from_slice(&output.stdout)?;
    links.get(0).cloned().with_context(|| format!("no link {name}"))
}

/// One echo is answered; the first may be lost while neighbours are asked for.
pub(crate) fn reaches(from: &Namespace, to: &str) -> Result<()> {
    let output = ping(from, &["-c1", "-i0.2", "-w10"], to)?;
    ensure!(output.status.success(), "{} does not reach {to}: {output:?}", from.name());
    Ok(())
}

pub(crate) fn does_not_reach(from: &Namespace, to: &str) -> Result<()> {
    let output = ping(from, &["-c2", "-i0.2", "-W1"], to)?;
    ensure!(output.status.code() == Some(1), "{} reaches {to}: {output:?}", from.name());
    Ok(())
}

/// An echo in one packet of `size` bytes, IP header and all.
pub(crate) fn ping_of_size(from: &Namespace, to: &str, size: u16) -> Result<bool> {
    let headers = if to.parse::<IpAddr>()?.is_ipv4() { 20 + 8 } else { 40 + 8 };
    let size = format!("-s{}", size.saturating_sub(headers));
    Ok(ping(from, &["-c2", "-i0.2", "-W1", "-Mdo", &size], to)?.status.success())
}

fn ping(from: &Namespace, options: &[&str], to: &str) -> Result<Output> {
    from.command("ping").args(options).arg(to).output().context("ping")
}

/// Counts, from now on, packets that reach a node and that `matching` holds for.
pub(crate) fn count(namespace: &Namespace, matching: &str) -> Result<()> {
    namespace.nft(&format!(
        "table ip seen {{\nchain packets {{\ntype filter hook prerouting priority -310\n{matching} counter\n}}\n}}\n"
    ))
}

/// What [`count`] has counted.
pub(crate) fn counted(namespace: &Namespace) -> Result<u64> {
    let output = namespace.command("nft").args(["-j", "list", "table", "ip", "seen"]).output()?;
    let listed: Value = serde_json::from_slice(&output.stdout).context("what nft lists")?;
    let items = listed.get("nftables").and_then(Value::as_array).cloned().unwrap_or_default();
    let expressions = items.iter().filter_map(|item| item.pointer("/rule/expr")?.as_array()).flatten();
    let mut packets = expressions.filter_map(|one| one.pointer("/counter/packets")?.as_u64());
    packets.next().with_context(|| format!("no counter in {listed}"))
}

/// Echo requests that a namespace's own kernel has got.
pub(crate) fn echoes(namespace: &Namespace) -> Result<u64> {
    let output = namespace.command("cat").arg("/proc/net/snmp").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Icmp:"));
    let (names, values) = lines.next().zip(lines.next()).context("ICMP's counters")?;
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = pairs.find(|(name, _)| *name == "InEchos").context("InEchos")?;
    Ok(value.parse()?)
}

/// Waits until `condition` holds without an error.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(LIMIT, what, || condition().unwrap_or(false))
}
