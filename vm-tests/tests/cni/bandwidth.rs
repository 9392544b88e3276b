//! Limits of bandwidth: frames of VMs and containers held to them, what the kernel has of them, CHECK, removal.
#![expect(clippy::indexing_slicing, reason = "keys of JSON values are set by index")]

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value, json};
use vm_tests::cni::{Attachment, Failure, Multus, Network, Node, Pod, Runtime, Selection};
use vm_tests::lab::{Child, Namespace, binary};
use vm_tests::tap_guest;
use vm_tests::traffic::drive;

use crate::look::look;
use crate::ours;

/// Bits a second, and bits.
const RATE: u64 = 20_000_000;
const BURST: u64 = 400_000;

/// What a connection may have of its limit: headers count too, and a burst comes before.
const SHARE: std::ops::RangeInclusive<f64> = 0.7..=1.3;

const SECONDS: &str = "1.5";

const SERVER: &str = "10.7.0.1";
const CLIENT: &str = "10.7.0.2";

const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

/// One way to attach a VM or a container, with something at [`SERVER`] beyond.
#[derive(Debug, Clone, Copy)]
struct Way {
    mode: &'static str,
    vm: bool,
    /// What a packet towards the pod waits at, and one from it.
    to_pod: Device,
    from_pod: Device,
}

/// A device that holds frames back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Device {
    Pod(&'static str),
    /// The veth's end on the node.
    NodeEnd,
    NodeShaper,
    PodShaper,
}

const WAYS: [Way; 7] = [
    Way { mode: "tap", vm: true, to_pod: Device::Pod("tap0"), from_pod: Device::Pod("eth0") },
    Way { mode: "bridge", vm: true, to_pod: Device::Pod("tap0"), from_pod: Device::Pod("eth0") },
    Way { mode: "ptp", vm: true, to_pod: Device::Pod("tap0"), from_pod: Device::Pod("eth0") },
    Way { mode: "macvtap", vm: true, to_pod: Device::PodShaper, from_pod: Device::Pod("eth0") },
    Way { mode: "bridge", vm: false, to_pod: Device::NodeEnd, from_pod: Device::NodeShaper },
    Way { mode: "ptp", vm: false, to_pod: Device::NodeEnd, from_pod: Device::NodeShaper },
    Way { mode: "macvlan", vm: false, to_pod: Device::PodShaper, from_pod: Device::Pod("eth0") },
];

impl Way {
    fn what(self) -> String {
        format!("mode {}, {}", self.mode, if self.vm { "VM" } else { "container" })
    }

    /// A node with what the mode needs to be there already.
    fn node(self) -> anyhow::Result<Node> {
        let node = ours::node(2)?;
        match self.mode {
            "tap" => {
                let pod = node.pod(0)?.name();
                node.host()?.ip(&format!(
                    "link add world0 type veth peer name eth0 netns {pod}\n\
                     address add {SERVER}/24 dev world0\nlink set world0 up\n"
                ))?;
                node.pod(0)?.ip("link set eth0 up\n")?;
            }
            "macvtap" | "macvlan" => {
                node.uplink("up0", 1500)?;
                node.outside()?.ip(&format!("address add {SERVER}/24 dev far0\n"))?;
            }
            _ => {}
        }
        Ok(node)
    }

    fn network(self, node: &Node) -> anyhow::Result<Network> {
        let mut config = json!({
            "cniVersion": "1.1.0", "name": "net", "type": ours::TYPE, "mode": self.mode, "stateDir": node.state(),
            "capabilities": { "bandwidth": true },
        });
        let ipam = json!({ "type": "static", "addresses": [{ "address": format!("{CLIENT}/24"), "gateway": SERVER }] });
        match self.mode {
            "bridge" | "ptp" => {
                config["tap"] = json!(self.vm);
                config["isGateway"] = json!(true);
                config["ipam"] = ipam;
            }
            "macvlan" => {
                config["master"] = json!("up0");
                config["ipam"] = ipam;
            }
            "macvtap" => config["master"] = json!("up0"),
            _ => {}
        }
        Network::parse(&config)
    }

    /// Where [`SERVER`] is.
    fn world(self, node: &Node) -> anyhow::Result<&Namespace> {
        if self.mode.starts_with("macv") { node.outside() } else { node.host() }
    }
}

fn attachment(node: &Node, limited: bool) -> anyhow::Result<Attachment> {
    let attachment = Attachment::new("c0ffee", "eth0", &node.netns(0)?);
    let limits = json!({
        "ingressRate": RATE, "ingressBurst": BURST, "egressRate": RATE / 2, "egressBurst": BURST,
    });
    Ok(if limited { attachment.with_capability("bandwidth", limits) } else { attachment })
}

/// The client's namespace: the container's, or that of a guest plugged into the tap.
fn client<'n>(node: &'n Node, way: Way, result: &Value) -> anyhow::Result<(&'n Namespace, Option<Child>)> {
    let pod = node.pod(0)?;
    if !way.vm {
        return Ok((pod, None));
    }
    let guest = node.pod(1)?;
    let tap = if way.mode == "macvtap" {
        let link = look(pod, "ip -j link show dev eth0")?;
        format!("/dev/tap{}", link.pointer("/0/ifindex").context("an index")?)
    } else {
        "tap0".to_owned()
    };
    let child = tap_guest::start_in(node.directory(), pod, &tap, guest, 1500)?;
    if way.mode == "macvtap" {
        let mac = result.pointer("/interfaces/0/mac").and_then(Value::as_str).context("a MAC")?;
        guest.ip(&format!("link set eth0 address {mac}\n"))?;
    }
    guest.ip(&format!("address add {CLIENT}/24 dev eth0\n"))?;
    Ok((guest, Some(child)))
}

/// Bits a second of one TCP connection, from the client's end and to it.
fn throughput(node: &Node, way: Way, result: &Value) -> anyhow::Result<[f64; 2]> {
    let mut command = way.world(node)?.command(binary("traffic")?);
    command.args(["serve", "--bind", SERVER]);
    let mut server = Child::spawn("serve", command, &node.directory().join("serve.log"))?;
    server.wait_for_line(LIMIT, "ready")?;
    let (client, _guest) = client(node, way, result)?;
    let run = |direction: &str, port: u16| {
        let line = format!("stream --connect {SERVER}:{port} --direction {direction} --seconds {SECONDS}");
        drive::number(&drive::run(client, &line)?, "bits_per_second")
    };
    Ok([run("out", 5001)?, run("in", 5002)?])
}

/// Where a device is and what it is called.
fn find(node: &Node, device: Device) -> anyhow::Result<(&Namespace, String)> {
    let named = |namespace, command: &str, beginning: &str| {
        let links = look(namespace, command)?;
        let mut names =
            links.as_array().into_iter().flatten().filter_map(|link| link.get("ifname")?.as_str());
        let name = names.find(|name| name.starts_with(beginning)).map(str::to_owned);
        anyhow::Ok((namespace, name.with_context(|| format!("no {beginning}: {links}"))?))
    };
    match device {
        Device::Pod(name) => Ok((node.pod(0)?, name.to_owned())),
        Device::NodeEnd => named(node.host()?, "ip -j link show type veth", "veth"),
        Device::NodeShaper => named(node.host()?, "ip -j link show type ifb", "ifb"),
        Device::PodShaper => named(node.pod(0)?, "ip -j link show type ifb", "ifb"),
    }
}

fn expect_limit(node: &Node, device: Device, rate: u64, burst: u64) -> anyhow::Result<()> {
    let (namespace, name) = find(node, device)?;
    let seen = look(namespace, &format!("tc -j qdisc show dev {name} root"))?;
    let number =
        |key: &str| seen.pointer(&format!("/0/options/{key}")).and_then(Value::as_u64).unwrap_or_default();
    let kind = seen.pointer("/0/kind").and_then(Value::as_str);
    // tc counts bursts in whole microseconds.
    let near = number("burst").abs_diff(burst / 8) <= 8;
    ensure!(kind == Some("tbf") && number("rate") == rate / 8 && near, "{name}: {seen}");
    Ok(())
}

#[test]
fn frames_keep_to_the_limits() -> anyhow::Result<()> {
    for way in WAYS {
        let measured = || {
            let node = way.node()?;
            let (network, attachment) = (way.network(&node)?, attachment(&node, true)?);
            let mut runtime = Runtime::new(&node);
            let result = runtime.add(&network, &attachment)?;
            let [out, into] = throughput(&node, way, &result)?;
            runtime.del(&network, &attachment)?;
            anyhow::Ok([("from the pod", out, RATE / 2), ("to the pod", into, RATE)])
        };
        for (direction, is, limit) in measured().with_context(|| way.what())? {
            #[expect(clippy::cast_precision_loss, reason = "a limit has fewer than 53 significant bits")]
            let share = is / limit as f64;
            eprintln!("{}, {direction}: {share:.2} of the limit", way.what());
            ensure!(SHARE.contains(&share), "{}, {direction}: {share:.2} of the limit", way.what());
        }
    }
    Ok(())
}

/// What the test above measures is the limit, not the machine.
#[test]
fn frames_without_limits_are_faster() -> anyhow::Result<()> {
    for way in WAYS {
        let node = way.node()?;
        let (network, attachment) = (way.network(&node)?, attachment(&node, false)?);
        let result = Runtime::new(&node).add(&network, &attachment)?;
        let least = throughput(&node, way, &result)?.into_iter().fold(f64::INFINITY, f64::min);
        ensure!(least > 60e6, "{}: {least} bits per second", way.what());
    }
    Ok(())
}

#[test]
fn limits_are_where_frames_leave_and_go_with_the_attachment() -> anyhow::Result<()> {
    for way in WAYS {
        let checked = || {
            let node = way.node()?;
            let (network, attachment) = (way.network(&node)?, attachment(&node, true)?);
            let mut runtime = Runtime::new(&node);
            // The first time leaves the bridge.
            runtime.add(&network, &attachment)?;
            runtime.del(&network, &attachment)?;
            let before = node.snapshot(&[])?;
            runtime.add(&network, &attachment)?;
            expect_limit(&node, way.to_pod, RATE, BURST)?;
            expect_limit(&node, way.from_pod, RATE / 2, BURST)?;
            runtime.check(&network, &attachment)?;
            runtime.del(&network, &attachment)?;
            node.comes_back_to(&before, &[], &[])
        };
        checked().with_context(|| way.what())?;
    }
    Ok(())
}

/// Without a runtime's DEL, once the pod is gone.
#[test]
fn delaying_device_on_the_node_is_swept_after_its_pod() -> anyhow::Result<()> {
    let way = WAYS.into_iter().find(|way| way.from_pod == Device::NodeShaper).context("such a way")?;
    let node = way.node()?;
    let (network, gone) = (way.network(&node)?, attachment(&node, true)?);
    Runtime::new(&node).add(&network, &gone)?;
    let (_, shaper) = find(&node, Device::NodeShaper)?;
    // The runtime takes the name away, and the kernel the veth with the namespace, which this process still holds.
    let (pod, host) = (node.pod(0)?.path(), node.host()?);
    look(host, &format!("umount -l {}", pod.display()))?;
    std::fs::remove_file(&pod)?;
    let (_, end) = find(&node, Device::NodeEnd)?;
    host.ip(&format!("link delete {end}\n"))?;
    let other = Attachment { netns: node.netns(1)?, container: "beef".to_owned(), ..gone };
    Runtime::new(&node).add(&network, &other)?;
    let links = look(host, "ip -j link show")?.to_string();
    ensure!(!links.contains(&shaper), "{shaper} is still there: {links}");
    Ok(())
}

#[test]
fn check_sees_every_limit_that_was_changed() -> anyhow::Result<()> {
    for way in WAYS {
        for device in [way.to_pod, way.from_pod] {
            let mut tampering = vec![
                "tc qdisc replace dev {} root tbf rate 1mbit burst 50000 latency 25ms",
                "tc qdisc replace dev {} root tbf rate 20mbit burst 20000 latency 25ms",
                "tc qdisc del dev {} root",
            ];
            if matches!(device, Device::NodeShaper | Device::PodShaper) {
                tampering.extend(["ip link set {} down", "ip link delete {}"]);
            }
            for change in tampering {
                let refused = || {
                    let node = way.node()?;
                    let (network, attachment) = (way.network(&node)?, attachment(&node, true)?);
                    let mut runtime = Runtime::new(&node);
                    runtime.add(&network, &attachment)?;
                    let (namespace, name) = find(&node, device)?;
                    look(namespace, &change.replace("{}", &name))?;
                    let error = runtime.check(&network, &attachment).err().context("CHECK saw nothing")?;
                    let failure = Failure::of(&error)?;
                    ensure!(failure.code >= 100 && failure.msg.contains(&name), "{failure}");
                    runtime.del(&network, &attachment)
                };
                refused().with_context(|| format!("{}, {device:?}, {change}", way.what()))?;
            }
        }
    }
    Ok(())
}

#[test]
fn limits_that_cannot_be_kept_are_refused_by_name() -> anyhow::Result<()> {
    let limits = json!({ "egressRate": RATE, "egressBurst": BURST });
    let small = json!({ "ingressRate": RATE, "ingressBurst": 8 * 1000 });
    let shaped = "tc qdisc add dev eth0 root tbf rate 1mbit burst 50000 latency 25ms";
    for (mode, limits, before, expected) in [
        ("none", &limits, None, "egressRate 20000000: mode none has no traffic to limit"),
        ("passt", &limits, None, "egressRate 20000000: the VM's traffic leaves by the pod's own interface"),
        ("tap", &small, None, "ingressBurst 8000: a frame of the link's MTU needs 12144 bits"),
        ("tap", &limits, Some(shaped), "uplink eth0: the NIC has a queueing discipline (tbf) already"),
    ] {
        let way = Way { mode, ..WAYS[0] };
        let node = Way { mode: "tap", ..way }.node()?;
        if let Some(command) = before {
            look(node.pod(0)?, command)?;
        }
        let attachment = attachment(&node, false)?.with_capability("bandwidth", limits.clone());
        let picture = node.snapshot(&[])?;
        let error = Runtime::new(&node).add(&way.network(&node)?, &attachment).err().context(expected)?;
        let failure = Failure::of(&error)?;
        ensure!(failure.code == 7 && failure.msg.contains(expected), "{failure}");
        node.comes_back_to(&picture, &[], &[]).context(expected)?;
    }
    Ok(())
}

/// The limits of the pod's annotation reach the binding's entry; those of a list come with the result before.
#[test]
fn limits_come_through_multus_and_through_a_chain() -> anyhow::Result<()> {
    let limits =
        json!({ "ingressRate": RATE, "ingressBurst": BURST, "egressRate": RATE / 2, "egressBurst": BURST });
    let binding = |node: &Node| json!({ "type": ours::TYPE, "stateDir": node.state(), "capabilities": { "bandwidth": true } });
    let bridge = |node: &Node| {
        json!({
            "type": "bridge", "bridge": "cbr0", "isGateway": true,
            "ipam": { "type": "host-local", "subnet": "10.244.0.0/24", "dataDir": node.leases() },
        })
    };
    let expect = |node: &Node| {
        expect_limit(node, Device::Pod("tap0"), RATE, BURST)?;
        expect_limit(node, Device::Pod("eth0"), RATE / 2, BURST)
    };

    let node = ours::node(1)?;
    let list = json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [bridge(&node), binding(&node)] });
    let (network, attachment) = (Network::parse(&list)?, attachment(&node, true)?);
    let mut runtime = Runtime::new(&node);
    runtime.add(&network, &attachment)?;
    expect(&node)?;
    runtime.check(&network, &attachment)?;
    runtime.del(&network, &attachment)?;

    let node = ours::node(1)?;
    let pod = Pod {
        namespace: "vms".to_owned(),
        name: "virt-launcher-vm-x7k2p".to_owned(),
        uid: "7f3c9d1e-0000-4000-8000-000000000001".to_owned(),
        container: "c0ffee".to_owned(),
        netns: node.netns(0)?,
    };
    let cluster = json!({ "cniVersion": "1.0.0", "name": "cluster", "plugins": [bridge(&node)] });
    let mut config = binding(&node);
    config["cniVersion"] = json!("1.0.0");
    config["name"] = json!("sluice");
    let capabilities = Map::from_iter([("bandwidth".to_owned(), limits)]);
    let selection = Selection { config, capabilities, ..Selection::default() };
    let mut multus = Multus::new(Runtime::new(&node), pod, &cluster, &[selection])?;
    multus.add()?;
    expect(&node)?;
    multus.check()?;
    multus.del()
}
