//! From ADD until the VM's first frame nothing leaves by its attachment: whoever migrates here is announced by itself, not
//! by a pod's kernel that has the same MAC and is too early.
#![expect(clippy::indexing_slicing, reason = "keys of JSON values are set by index")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vm_tests::cni::{Attachment, Network, Node, Runtime};
use vm_tests::lab::{Namespace, wait_for};
use vm_tests::tap_guest;

use crate::ears::{Ears, Heard};
use crate::look::look;
use crate::ours;

/// The kernel's timers of a link that came up: by its second router solicitation (RFC 4861 6.3.7: 4 s after the first)
/// it has also reported its groups, twice.
const SOLICITATIONS: usize = 2;
const LIMIT: Duration = Duration::from_secs(60);

/// One way to attach a VM.
#[derive(Debug, Clone, Copy)]
struct Way {
    what: &'static str,
    mode: &'static str,
    addresses: &'static [(&'static str, &'static str)],
    /// The node must ask for the guest's MAC, and so has an address to ask from at its end.
    node_speaks: bool,
    /// The bridge, where there is one.
    bridge: Option<&'static str>,
}

const V4: (&str, &str) = ("10.7.0.2/24", "10.7.0.1");
const V6: (&str, &str) = ("fd00:7::2/64", "fd00:7::1");

const WAYS: [Way; 6] = [
    Way { what: "tap", mode: "tap", addresses: &[], node_speaks: false, bridge: None },
    Way { what: "bridge", mode: "bridge", addresses: &[V4, V6], node_speaks: false, bridge: Some("br0") },
    Way { what: "vxlan", mode: "vxlan", addresses: &[V4, V6], node_speaks: false, bridge: Some("br0") },
    Way { what: "ptp", mode: "ptp", addresses: &[V4], node_speaks: false, bridge: None },
    Way { what: "ptp, both families", mode: "ptp", addresses: &[V4, V6], node_speaks: true, bridge: None },
    Way { what: "macvtap", mode: "macvtap", addresses: &[], node_speaks: false, bridge: None },
];

impl Way {
    fn node(self) -> anyhow::Result<Node> {
        let node = ours::node(2)?;
        // The guest says nothing before it is told to.
        node.pod(1)?.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        // Routers report groups that others are not in.
        node.host()?.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        node.pod(0)?.sysctl("net/ipv6/conf/default/forwarding", "1")?;
        match self.mode {
            // What another plugin made is as it is: only what ADD adds is looked at.
            "tap" => {
                let (host, pod) = (node.host()?, node.pod(0)?);
                host.ip(&format!("link add world0 type veth peer name eth0 netns {}\n", pod.name()))?;
                host.sysctl("net/ipv6/conf/world0/disable_ipv6", "1")?;
                pod.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1")?;
                host.ip("link set world0 up\n")?;
                pod.ip("address add 10.7.0.2/24 dev eth0\nlink set eth0 up\n")?;
            }
            "macvtap" | "vxlan" => {
                node.uplink("up0", 1500)?;
                node.host()?.ip("address add 192.0.2.1/24 dev up0\n")?;
            }
            _ => {}
        }
        Ok(node)
    }

    fn network(self, node: &Node) -> anyhow::Result<Network> {
        let mut config = json!({
            "cniVersion": "1.1.0", "name": "net", "type": ours::TYPE, "mode": self.mode, "stateDir": node.state(),
        });
        if !self.addresses.is_empty() {
            let addresses: Vec<Value> = self
                .addresses
                .iter()
                .map(|(address, gateway)| json!({ "address": address, "gateway": gateway }))
                .collect();
            config["ipam"] = json!({ "type": "static", "addresses": addresses });
            config["isDefaultGateway"] = json!(self.mode == "bridge");
        }
        match self.mode {
            "bridge" => config["bridge"] = json!("br0"),
            "vxlan" => {
                config["bridge"] = json!("br0");
                config["vni"] = json!(7);
                config["local"] = json!("192.0.2.1");
                config["peers"] = json!(["192.0.2.2"]);
            }
            "macvtap" => config["master"] = json!("up0"),
            _ => {}
        }
        Network::parse(&config)
    }
}

/// A namespace, who listens there, and its links by index.
struct Place<'n> {
    namespace: &'n Namespace,
    ears: Ears,
}

impl<'n> Place<'n> {
    fn new(namespace: &'n Namespace) -> anyhow::Result<Self> {
        Ok(Self { namespace, ears: Ears::of(namespace)? })
    }

    fn links(&self) -> anyhow::Result<BTreeMap<u32, (String, String)>> {
        let links = look(self.namespace, "ip -j link show")?;
        let text =
            |link: &Value, key: &str| link.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let all = links.as_array().into_iter().flatten();
        Ok(all
            .filter_map(|link| {
                let index = u32::try_from(link.get("ifindex")?.as_u64()?).ok()?;
                Some((index, (text(link, "ifname"), text(link, "address"))))
            })
            .collect())
    }

    /// MAC addresses of links that are called like this.
    fn macs(&self, names: &[&str]) -> anyhow::Result<Vec<String>> {
        let links = self.links()?;
        let wanted =
            links.into_values().filter(|(name, _)| names.iter().any(|wanted| name.starts_with(wanted)));
        Ok(wanted.map(|(_, mac)| mac).collect())
    }

    /// Frames of which `wrong` says so, of the link's name and the frame.
    fn frames(&mut self, wrong: impl Fn(&str, &Heard) -> bool) -> anyhow::Result<Vec<String>> {
        let links = self.links()?;
        let name = |heard: &Heard| links.get(&heard.link).map_or("?", |(name, _)| name).to_owned();
        let heard = self.ears.heard()?;
        let wrong = heard.iter().filter(|heard| wrong(&name(heard), heard));
        Ok(wrong.map(|heard| format!("{} {heard:02x?}", name(heard))).collect())
    }
}

/// A link in the pod that came up after ADD and speaks as kernels do has said all it says by itself.
fn outlast_the_kernel(pod: &mut Place<'_>) -> anyhow::Result<()> {
    pod.namespace.ip("link add witness0 type veth peer name witness1\nlink set witness1 up\n")?;
    // A router asks for none.
    pod.namespace.sysctl("net/ipv6/conf/witness0/forwarding", "0")?;
    pod.namespace.ip("link set witness0 up\n")?;
    let said = |name: &str, heard: &Heard| name == "witness0" && heard.left && heard.asks_for_routers();
    let mut outcome = Ok(());
    wait_for(LIMIT, "a kernel that asks for routers twice", || {
        let count = pod.frames(said).map(|frames| frames.len());
        let enough = count.as_ref().map_or(true, |count| *count >= SOLICITATIONS);
        outcome = count.map(drop);
        enough
    })?;
    outcome
}

/// All of it, for one mode.
fn stays_quiet_until_the_guest_speaks(way: Way) -> anyhow::Result<()> {
    let node = way.node()?;
    let network = way.network(&node)?;
    let attachment = Attachment::new("c0ffee", "eth0", &node.netns(0)?);
    let mut host = Place::new(node.host()?)?;
    let mut outside = Place::new(node.outside()?)?;
    let mut pod = Place::new(node.pod(0)?)?;
    let mut runtime = Runtime::new(&node);
    runtime.add(&network, &attachment)?;
    outlast_the_kernel(&mut pod)?;

    let mut ours = pod.macs(&["eth0", "tap0"])?;
    if !way.node_speaks {
        ours.extend(host.macs(&["veth"])?);
    }
    for place in [&mut host, &mut outside, &mut pod] {
        let spoken = place.frames(|_, heard| ours.contains(&heard.source()))?;
        ensure!(spoken.is_empty(), "our links speak: {spoken:#?}");
    }
    let out_of_pod =
        host.frames(|name, heard| (name.starts_with("veth") || name == "world0") && !heard.left)?;
    ensure!(out_of_pod.is_empty(), "out of the pod: {out_of_pod:#?}");
    let in_pod =
        pod.frames(|name, heard| (name == "eth0" && heard.left) || (name == "tap0" && !heard.left))?;
    ensure!(in_pod.is_empty(), "from the pod: {in_pod:#?}");
    if way.bridge.is_none() && !way.node_speaks {
        let to_guest = pod.frames(|name, _| name == "tap0")?;
        ensure!(to_guest.is_empty(), "to the guest: {to_guest:#?}");
    }

    let tap = match way.mode {
        "macvtap" => {
            let links = pod.links()?;
            let index = links.iter().find(|(_, (name, _))| name == "eth0").map(|(index, _)| *index);
            format!("/dev/tap{}", index.context("the macvtap")?)
        }
        _ => "tap0".to_owned(),
    };
    let guest = node.pod(1)?;
    let _guest = tap_guest::start_in(node.directory(), pod.namespace, &tap, guest, 1400)?;
    if let ("macvtap", Some(mac)) = (way.mode, pod.macs(&["eth0"])?.first()) {
        guest.ip(&format!("link set eth0 address {mac}\n"))?;
    }
    let mac = Place::new(guest)?.macs(&["eth0"])?.pop().context("the guest's NIC")?;
    let known = |host: &Place<'_>| -> anyhow::Result<bool> {
        let Some(bridge) = way.bridge else { return Ok(false) };
        let table = look(host.namespace, &format!("bridge -j fdb show br {bridge} dynamic"))?;
        Ok(table.to_string().contains(&mac))
    };
    ensure!(!known(&host)?, "{mac} is known before its guest spoke");
    guest.ip("address add 10.7.0.2/24 dev eth0\n")?;
    // It asks for an address that nobody has: by a frame to all.
    let mut ping = guest.command("ping");
    ping.args(["-c1", "-W1", "10.7.0.99"]).stdout(std::process::Stdio::null());
    let mut ping = ping.spawn()?;
    let beyond = if way.mode == "macvtap" { &mut outside } else { &mut host };
    let mut seen = Vec::new();
    wait_for(LIMIT, "the guest's first frame", || {
        seen = beyond.frames(|_, heard| !heard.left && heard.source() == mac).unwrap_or_default();
        !seen.is_empty()
    })?;
    ping.wait()?;
    ensure!(way.bridge.is_none() || known(&host)?, "{mac} is not known though its guest spoke");
    runtime.del(&network, &attachment)
}

#[test]
fn nothing_leaves_before_the_guests_first_frame() {
    std::thread::scope(|scope| {
        let all = WAYS.map(|way| (way, scope.spawn(move || stays_quiet_until_the_guest_speaks(way))));
        for (way, test) in all {
            match test.join() {
                Ok(outcome) => outcome.with_context(|| way.what).unwrap(),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
}
