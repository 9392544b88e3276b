//! `sluice explain` on real attachments: every hop is there, nothing is wrong; one thing is broken, and that is found.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;
use vm_tests::cni::{Attachment, Call, Network, Node, Outcome, Runtime};
use vm_tests::lab::{Child, binary, wait_for};
use vm_tests::tap_guest;

use crate::ours;

const CONTAINER: &str = "c0ffee00c0ffee";
const MAC: &str = "02:00:00:00:00:05";
const LIMIT: Duration = Duration::from_secs(10);

/// A pod with one attachment, and somebody who has its tap open.
struct Wired {
    node: Node,
    netns: String,
    config: Value,
    result: Value,
    guest: Option<Child>,
}

/// What a mode needs beside its configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A tap beside a NIC that another plugin made.
    Tap,
    Bridge,
    Ptp,
    Vxlan,
    Macvtap,
    Passt,
}

impl Mode {
    fn config(self, node: &Node) -> Value {
        let mut config = json!({
            "cniVersion": "1.1.0", "name": "net", "type": ours::TYPE, "stateDir": node.state(),
            "capabilities": { "mac": true },
        });
        let ipam = |subnet: &str| json!({ "type": "host-local", "dataDir": node.leases(), "subnet": subnet });
        let keys = match self {
            Self::Tap => json!({ "mode": "tap" }),
            Self::Bridge => json!({
                "mode": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true,
                "macspoofchk": true, "ipam": ipam("10.7.0.0/24"),
            }),
            Self::Ptp => json!({ "mode": "ptp", "ipMasq": true, "ipam": ipam("10.8.0.0/24") }),
            Self::Vxlan => json!({
                "mode": "vxlan", "vni": 42, "device": "up0", "local": "192.0.2.1", "peers": ["192.0.2.2", "192.0.2.3"],
            }),
            Self::Macvtap => json!({ "mode": "macvtap", "master": "up0" }),
            Self::Passt => json!({ "mode": "passt" }),
        };
        if let (Some(config), Some(keys)) = (config.as_object_mut(), keys.as_object()) {
            config.extend(keys.clone());
        }
        config
    }

    const fn has_tap(self) -> bool {
        !matches!(self, Self::Macvtap | Self::Passt)
    }

    fn wire(self) -> Result<Wired> {
        let node = ours::node(1)?;
        node.uplink("up0", 1500)?;
        node.host()?.ip("address add 192.0.2.1/24 dev up0\n")?;
        // The guest says nothing of itself.
        node.outside()?.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        let netns = node.netns(0)?;
        if self == Self::Tap {
            node.host()?.ip(&format!(
                "link add veth0 type veth peer name eth0 netns {0}\nlink set veth0 up\n",
                node.pod(0)?.name()
            ))?;
            node.pod(0)?.ip("link set eth0 up\n")?;
        }
        let config = self.config(&node);
        let network = Network::parse(&config)?;
        let mut attachment = Attachment::new(CONTAINER, "eth0", &netns);
        if !matches!(self, Self::Tap | Self::Passt) {
            attachment = attachment.with_capability("mac", json!(MAC));
        }
        let result = Runtime::new(&node).add(&network, &attachment)?;
        let guest = self.has_tap().then(|| open(&node)).transpose()?;
        Ok(Wired { node, netns, config, result, guest })
    }
}

/// What QEMU would do with the tap; its guest is outside, where nobody else is, with a MAC of its own.
fn open(node: &Node) -> Result<Child> {
    let mut command = node.pod(0)?.command(binary("tap-guest")?);
    command.arg("tap0").arg(node.outside()?.path()).arg("1400");
    let mut child = Child::spawn("tap-guest", command, &node.directory().join("tap-guest.log"))?;
    child.wait_for_line(LIMIT, tap_guest::READY)?;
    Ok(child)
}

impl Wired {
    fn explain(&self, arguments: &[&str]) -> Result<Outcome> {
        explain(&self.node, arguments)
    }

    fn json(&self) -> Result<Value> {
        let outcome = self.explain(&["--netns", &self.netns, "--json"])?;
        serde_json::from_str(&outcome.stdout).with_context(|| format!("{outcome}"))
    }

    /// Ids of what is wrong.
    fn wrong(&self) -> Result<Vec<String>> {
        let json = self.json()?;
        let of = |value: &Value| value["wrong"].as_array().cloned().unwrap_or_default();
        let traces = json["traces"].as_array().cloned().unwrap_or_default();
        let all = of(&json).into_iter().chain(traces.iter().flat_map(of));
        Ok(all.map(|finding| finding["id"].as_str().unwrap_or_default().to_owned()).collect())
    }

    fn hops(&self, way: &str) -> Result<Vec<String>> {
        let json = self.json()?;
        let hops = json["traces"][0][way].as_array().cloned().unwrap_or_default();
        Ok(hops.iter().map(|hop| hop["name"].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// The node's end of the pod's NIC.
    fn end(&self) -> String {
        let interfaces = self.result["interfaces"].as_array().cloned().unwrap_or_default();
        let names = interfaces.iter().filter_map(|interface| interface["name"].as_str());
        names
            .filter(|name| name.starts_with("veth"))
            .map(str::to_owned)
            .next()
            .unwrap_or_else(|| "veth0".to_owned())
    }
}

/// Device nodes are the machine's: they do not go with the namespaces.
impl Drop for Wired {
    fn drop(&mut self) {
        let call = Call::new("DEL").container(CONTAINER).interface("eth0").netns(&self.netns);
        let call = call.path(&self.node.plugins()).config(&self.config);
        let removed = ours::plugin().and_then(|plugin| plugin.run(&self.node, &call));
        if let Err(error) = removed {
            eprintln!("DEL: {error:#}");
        }
    }
}

fn explain(node: &Node, arguments: &[&str]) -> Result<Outcome> {
    let started = std::time::Instant::now();
    let output = node
        .host()?
        .command(ours::plugin()?.program())
        .args(["explain", "--state-dir", &node.state()])
        .args(arguments)
        .output()
        .context("start sluice explain")?;
    Ok(Outcome {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    })
}

/// Hops of a mode out and back; END is the veth on the node.
fn expect_hops(wired: &Wired, mode: &str, out: &str, back: &str) -> Result<()> {
    let before = wired.node.snapshot(&[])?;
    let named = |hops: &str| hops.replace("END", &wired.end());
    ensure!(wired.hops("out")?.join(" ") == named(out), "{mode}: {:#}", wired.json()?);
    ensure!(wired.hops("back")?.join(" ") == named(back), "{mode}: {:#}", wired.json()?);
    for arguments in [["--netns", wired.netns.as_str()], ["--container", &CONTAINER[..6]]] {
        let outcome = wired.explain(&arguments)?;
        ensure!(outcome.status.code() == Some(0), "{mode}: {outcome}");
        ensure!(outcome.stdout.contains(&format!("mode {mode}\n")), "{mode}: {outcome}");
        ensure!(outcome.stdout.ends_with("nothing is wrong\n"), "{mode}: {outcome}");
    }
    // Looking has changed nothing.
    wired.node.comes_back_to(&before, &[], &[]).with_context(|| mode.to_owned())
}

#[test]
fn every_hop_of_each_mode_is_named_and_nothing_is_wrong() -> Result<()> {
    for (name, mode, out, back) in [
        ("tap", Mode::Tap, "tap0 eth0 END routing", "END eth0 tap0"),
        ("bridge", Mode::Bridge, "tap0 eth0 END br0 routing default", "10.7.0.2 br0 END eth0 tap0"),
        ("ptp", Mode::Ptp, "tap0 eth0 END routing default", "10.8.0.2 END eth0 tap0"),
        ("vxlan", Mode::Vxlan, "tap0 eth0 END vxbr42 vxlan42", "vxbr42 END eth0 tap0"),
        ("passt", Mode::Passt, "pod's sockets", "pod's sockets"),
    ] {
        expect_hops(&mode.wire().context(name)?, name, out, back)?;
    }
    Ok(())
}

#[test]
fn macvtap_is_followed_from_its_device_to_its_parent() -> Result<()> {
    let wired = Mode::Macvtap.wire()?;
    let device = wired.hops("out")?.first().cloned().context("a device node")?;
    ensure!(device.starts_with("/dev/tap"), "{device}");
    expect_hops(&wired, "macvtap", &format!("{device} eth0 up0"), "up0 eth0")?;
    for (commands, id) in
        [(format!("chown 0 {device}"), "device-user"), ("ip link set up0 down".to_owned(), "link-down")]
    {
        expect_found(&wired, false, &commands, id)?;
    }
    Ok(())
}

/// What is learnt is forgotten after five minutes; peers are not learnt.
#[test]
fn peers_do_not_age() -> Result<()> {
    let wired = Mode::Vxlan.wire()?;
    let table = wired.node.host()?.command("bridge").args(["fdb", "show", "dev", "vxlan42"]).output()?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    for peer in ["192.0.2.2", "192.0.2.3"] {
        let line = table.lines().find(|line| line.contains(&format!("dst {peer} ")));
        ensure!(line.is_some_and(|line| line.contains("permanent")), "{peer}:\n{table}");
    }
    Ok(())
}

/// What is done, on the node or in the pod, in lines of `ip`, `tc`, `bridge`, `sysctl` or a shell; END is the veth
/// on the node.
const BREAKS: [(Mode, bool, &str, &str); 18] = [
    (Mode::Tap, true, "tc qdisc del dev tap0 ingress", "redirect-missing"),
    (Mode::Tap, true, "tc qdisc del dev eth0 ingress", "redirect-missing"),
    (Mode::Tap, true, "ip link set tap0 down", "link-down"),
    (Mode::Tap, true, "ip link set eth0 mtu 1400", "mtu-narrows"),
    (Mode::Tap, true, "ip link del tap0", "link-missing"),
    (Mode::Bridge, false, "ip link set END down", "link-down"),
    (Mode::Bridge, false, "ip link set END nomaster", "port-removed"),
    (Mode::Bridge, false, "ip link set END mtu 1400", "mtu-narrows"),
    (Mode::Bridge, false, "bridge link set dev END state 0", "port-blocked"),
    (Mode::Bridge, false, "sysctl -w net.ipv4.ip_forward=0", "forwarding-off"),
    (Mode::Bridge, false, "nft flush ruleset", "rules-missing"),
    (Mode::Ptp, false, "ip route del 10.8.0.2", "route-missing"),
    (Mode::Ptp, false, "sysctl -w net.ipv4.conf.END.proxy_arp=0", "proxy-arp-off"),
    (Mode::Ptp, false, "ip route del 10.8.0.2; sysctl -w net.ipv4.conf.END.rp_filter=1", "rp-filter"),
    (
        Mode::Vxlan,
        false,
        "bridge fdb del 00:00:00:00:00:00 dev vxlan42 dst 192.0.2.2; bridge fdb del 00:00:00:00:00:00 dev vxlan42 dst 192.0.2.3",
        "vxlan-alone",
    ),
    (Mode::Vxlan, false, "ip link set up0 mtu 1400", "vxlan-mtu"),
    (Mode::Vxlan, false, "ip link del vxlan42", "link-missing"),
    (Mode::Passt, true, "sysctl -w net.ipv4.ip_unprivileged_port_start=1024", "translator-ports"),
];

#[test]
fn what_is_broken_is_found() -> Result<()> {
    for (mode, in_pod, commands, id) in BREAKS {
        expect_found(&mode.wire().context(commands)?, in_pod, commands, id)?;
    }
    Ok(())
}

fn expect_found(wired: &Wired, in_pod: bool, commands: &str, id: &str) -> Result<()> {
    let namespace = if in_pod { wired.node.pod(0)? } else { wired.node.host()? };
    let commands = commands.replace("END", &wired.end());
    let done = namespace.command("sh").args(["-e", "-c", &commands]).output().context("start a shell")?;
    ensure!(done.status.success(), "{commands}: {}", String::from_utf8_lossy(&done.stderr));
    wait_for(LIMIT, id, || wired.wrong().is_ok_and(|wrong| wrong.iter().any(|one| one == id)))
        .with_context(|| format!("{commands}: {:?}", wired.wrong()))?;
    let outcome = wired.explain(&["--netns", &wired.netns])?;
    ensure!(outcome.status.code() == Some(1), "{commands}: {outcome}");
    Ok(())
}

#[test]
fn tap_that_nobody_has_open_is_found() -> Result<()> {
    let mut wired = Mode::Bridge.wire()?;
    drop(wired.guest.take());
    wait_for(LIMIT, "the tap's end", || wired.wrong().is_ok_and(|wrong| wrong == ["tap-closed"]))
        .with_context(|| format!("{:?}", wired.wrong()))
}

#[test]
fn tap_of_another_user_is_found() -> Result<()> {
    let wired = Mode::Bridge.wire()?;
    let outcome = wired.explain(&["--netns", &wired.netns, "--user", "1000"])?;
    ensure!(
        outcome.stdout.contains("tap0 (pod): made for user 107; QEMU, which runs as 1000, is refused"),
        "{outcome}"
    );
    Ok(())
}

/// The guest's frames have its NIC's MAC, which is not the one that the port lets in.
#[test]
fn frames_of_another_mac_are_counted() -> Result<()> {
    let wired = Mode::Bridge.wire()?;
    let guest = wired.node.outside()?;
    guest.ip(&format!("address add 10.7.0.2/24 dev {}\n", tap_guest::NIC))?;
    wait_for(LIMIT, "a frame that is dropped", || {
        // An ARP request is enough.
        let _ = guest.command("ping").args(["-c", "1", "-W", "1", "10.7.0.1"]).output();
        wired.wrong().is_ok_and(|wrong| wrong == ["mac-refused"])
    })
    .with_context(|| format!("{:?}", wired.wrong()))?;
    let outcome = wired.explain(&["--container", CONTAINER, "--tap", "tap0"])?;
    ensure!(
        outcome.stdout.contains(&format!("dropped: the guest sends from another MAC than {MAC}")),
        "{outcome}"
    );
    Ok(())
}

#[test]
fn attachments_are_listed_and_those_without_a_pod_are_wrong() -> Result<()> {
    let node = ours::node(0)?;
    let outcome = explain(&node, &[])?;
    ensure!(outcome.status.code() == Some(0), "{outcome}");
    ensure!(outcome.stdout.starts_with("no attachments are written down\n"), "{outcome}");

    let wired = Mode::Bridge.wire()?;
    let outcome = wired.explain(&[])?;
    ensure!(outcome.status.code() == Some(0), "{outcome}");
    let row: Vec<&str> = outcome.stdout.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    ensure!(row == [&CONTAINER[..13], "eth0", "net", "bridge", "alive", &wired.netns], "{outcome}");

    // As a runtime does that forgets DEL.
    let path = wired.node.pod(0)?.path();
    let umount = wired.node.host()?.command("umount").arg("--lazy").arg(&path).output()?;
    ensure!(umount.status.success(), "{}", String::from_utf8_lossy(&umount.stderr));
    for arguments in [&[][..], &["--container", CONTAINER]] {
        let outcome = wired.explain(arguments)?;
        ensure!(outcome.status.code() == Some(1), "{outcome}");
        ensure!(
            outcome.stdout.contains(&format!("its pod's namespace {} is gone", wired.netns)),
            "{outcome}"
        );
    }
    Ok(())
}

#[test]
fn questions_without_an_answer_end_with_2() -> Result<()> {
    let wired = Mode::Bridge.wire()?;
    for (arguments, said) in [
        (&["--netns", "/no/such/file"][..], "--netns: there is no /no/such/file"),
        (&["--netns", "/proc/self/ns/mnt"], "is no network namespace"),
        (&["--container", "decaf"], "--container decaf: no such attachment"),
        (&["--netns", &wired.netns, "--tap", "tap7"], "--tap tap7: the pod has no such tap; it has tap0"),
        (&["--netns", &wired.netns, "--container", CONTAINER], "cannot be used with"),
        (&["--tap", "tap0"], "required arguments were not provided"),
        (&["--nonsense"], "unexpected argument"),
    ] {
        let outcome = wired.explain(arguments)?;
        ensure!(outcome.status.code() == Some(2), "{arguments:?}: {outcome}");
        ensure!(outcome.stdout.is_empty() && outcome.stderr.contains(said), "{arguments:?}: {outcome}");
    }
    Ok(())
}

/// The harness's call and a person's are told apart by the arguments alone.
#[test]
fn a_runtimes_variables_do_not_keep_a_person_from_asking() -> Result<()> {
    let node = ours::node(0)?;
    let mut command = node.host()?.command(ours::plugin()?.program());
    let output =
        command.env("CNI_COMMAND", "ADD").args(["explain", "--state-dir", &node.state()]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
