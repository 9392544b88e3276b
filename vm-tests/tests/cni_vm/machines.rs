//! Real VMs: QEMU as KubeVirt runs it opens what our plugin made when Multus called it, one NIC for each mode.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};
use vm_tests::cni::{Multus, Pod, Runtime, Selection};
use vm_tests::lab::Namespace;
use vm_tests::vm::{Additions, Image, Netdev, Options, Program, TapEnd, TapNic, Vm};

use crate::reach::device_node_of;
use crate::stage::{
    INTERFACE, Stage, TAP, UPLINK, address_of, cluster, link, mac_of, merge, mtu_of, node_address,
};

/// The user of KubeVirt's QEMU.
pub(crate) const USER: u32 = 107;
const MEMORY_MIB: u32 = 256;
const QUEUES: u16 = 2;
/// Through each network, once.
const MIB: u32 = 4;
const PORT: u16 = 9000;
/// For what takes a moment in an emulated guest on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// The guest's own `ping` cannot forbid fragments.
const PING: &str = "/bin/ping-of-the-machine";

/// KubeVirt's names for networks: `pod` and 11 digits of the name's SHA-256.
const RED: &str = "podb1f51a511f1";
const ROUTED: &str = "poda45814b0202";
const LAN: &str = "pod094a367b026";
const OVERLAY: &str = "podb4b33d24416";

/// Waits for the tests that have VMs, each of which wants every core.
pub(crate) fn nodes_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn options(user: u32) -> Options {
    Options {
        memory_mib: MEMORY_MIB,
        cpus: 1,
        mac: "52:54:00:00:00:0a".to_owned(),
        user: Some(user),
        ..Options::new(Netdev::None)
    }
}

/// A folder for one QEMU's files, which QEMU's user may write to.
pub(crate) fn folder(stage: &Stage, name: &str) -> Result<PathBuf> {
    let folder = stage.node.directory().join(name);
    std::fs::create_dir(&folder)?;
    std::fs::set_permissions(&folder, Permissions::from_mode(0o1777))?;
    Ok(folder)
}

/// One of a VM's networks: what it has there, and how it is configured.
#[derive(Debug, Clone)]
struct Wire {
    nic: TapNic,
    address: String,
    /// Neighbours are behind a gateway, not on the link.
    routed: bool,
}

/// A pod with the networks of a VM, and the VM once it is booted.
struct Machine<'s> {
    multus: Multus<'s>,
    pod: &'s Namespace,
    wires: Vec<Wire>,
    folder: PathBuf,
    options: Options,
}

#[test]
fn vms_reach_each_other_through_every_mode() {
    let _turn = nodes_turn();
    let stages = cluster(2, 2).unwrap();
    let [first, second] = stages.as_slice() else { unreachable!("two nodes") };
    let mut machines =
        [machine(first, 0, 1).unwrap(), machine(first, 1, 1).unwrap(), machine(second, 0, 2).unwrap()];
    let image = image(first.node.directory()).unwrap();
    let wanted: Vec<(&Namespace, &Path, &Options)> =
        machines.iter().map(|one| (one.pod, one.folder.as_path(), &one.options)).collect();
    let mut vms = Vm::boot_all(&image, &wanted).unwrap();
    for (machine, vm) in machines.iter().zip(&mut vms) {
        expect_no_privilege(machine.pod).unwrap();
        configure(vm, &machine.wires).unwrap();
    }
    let [a, b, c] = &machines;
    let [vm_a, vm_b, vm_c] = vms.as_mut_slice() else { unreachable!("three VMs") };
    expect_queues(a.pod, vm_a).unwrap();
    for (number, (ours, theirs)) in a.wires.iter().zip(&b.wires).enumerate() {
        let both = [(number, ours), (number, theirs)];
        talk(vm_a, vm_b, &both).with_context(|| format!("{ours:?} and {theirs:?}")).unwrap();
    }
    // To the other node there is one way, the overlay: the last of the one's, the second of the other's.
    let overlays = [(a.wires.len() - 1, a.wires.last().unwrap()), (1, &c.wires[1])];
    talk(vm_a, vm_c, &overlays).context("the overlay").unwrap();
    // While QEMU has all of it open, as a runtime may.
    for machine in &mut machines {
        machine.multus.del().unwrap();
        for name in [TAP, RED, ROUTED, LAN, OVERLAY] {
            assert!(link(machine.pod, name).is_err(), "{name} outlasts DEL");
        }
    }
}

/// The networks of a pod, attached by Multus: on the first node all, on the other what leads to the first.
fn machine(stage: &Stage, pod: usize, node: usize) -> Result<Machine<'_>> {
    let (queues, host) = if pod == 0 { (QUEUES, 2 * node) } else { (1, 2 * node + 1) };
    let selection = |interface: &str, mode: &str, keys: &Value| Selection {
        config: stage.config(mode, keys),
        interface: Some(interface.to_owned()),
        ..Selection::default()
    };
    let mut cni_args = Map::new();
    cni_args.insert("logicNetworkName".to_owned(), json!("default"));
    let binding = Selection { config: stage.config("tap", &json!({})), cni_args, ..Selection::default() };
    let routed = json!([{ "address": format!("10.22.0.{host}/24") }]);
    let overlay = json!({ "vni": 4097, "device": UPLINK, "peers": [node_address(3 - node)] });
    let mut selections = vec![binding];
    if node == 1 {
        selections.extend([
            selection(RED, "bridge", &json!({ "bridge": "red0", "multiQueue": queues > 1 })),
            selection(ROUTED, "ptp", &json!({ "ipam": { "type": "static", "addresses": routed } })),
            selection(LAN, "macvtap", &json!({ "master": UPLINK })),
        ]);
    }
    selections.push(selection(OVERLAY, "vxlan", &overlay));
    let description = Pod {
        namespace: "vms".to_owned(),
        name: format!("virt-launcher-{pod}"),
        uid: format!("7f3c9d1e-0000-4000-8000-00000000000{pod}"),
        container: format!("c0ffee{pod}"),
        netns: stage.node.netns(pod)?,
    };
    let mut multus =
        Multus::new(Runtime::new(&stage.node), description, &cluster_network(stage), &selections)?;
    let results = multus.add()?;
    let nic = |result: &Value, interface: &str, tap: TapEnd| {
        Ok::<_, anyhow::Error>(TapNic {
            mac: mac_of(result, interface)?,
            mtu: Some(mtu_of(result, interface)?),
            tap,
        })
    };
    let [cluster, _, others @ ..] = results.as_slice() else { anyhow::bail!("{results:?}") };
    let own = TapEnd::Named { name: TAP.to_owned(), queues: 1 };
    let eth0 = link(stage.node.pod(pod)?, INTERFACE)?;
    // The reference plugin says nothing of MTUs.
    let mac = eth0.get("address").and_then(Value::as_str).context("a MAC")?.to_owned();
    ensure!(mac == mac_of(cluster, INTERFACE)?, "{eth0} and {cluster}");
    let mut wires =
        vec![Wire { nic: TapNic { mac, mtu: None, tap: own }, address: address_of(cluster)?, routed: false }];
    let attached = selections.iter().skip(1).zip(others);
    for (selection, result) in attached {
        let interface = selection.interface.as_deref().context("a name")?;
        let tap = interface.replacen("pod", "tap", 1);
        let (tap, network) = match interface {
            RED => (TapEnd::Named { name: tap, queues }, 21),
            LAN => (TapEnd::Node(device_node_of(stage, pod, interface)?.into()), 23),
            ROUTED => (TapEnd::Named { name: tap, queues: 1 }, 22),
            _ => (TapEnd::Named { name: tap, queues: 1 }, 24),
        };
        wires.push(Wire {
            nic: nic(result, interface, tap)?,
            address: format!("10.{network}.0.{host}"),
            routed: interface == ROUTED,
        });
    }
    let more = wires.iter().map(|wire| wire.nic.clone()).collect();
    let cpus = u8::try_from(queues)?;
    let options = Options { more, cpus, ..options(USER) };
    let folder = folder(stage, &format!("vm{pod}"))?;
    Ok(Machine { multus, pod: stage.node.pod(pod)?, wires, folder, options })
}

/// The cluster's own network, the reference plugins'.
fn cluster_network(stage: &Stage) -> Value {
    let mut network = json!({ "cniVersion": "1.0.0", "name": "cluster", "type": "bridge", "bridge": "cbr0" });
    let ipam = json!({ "type": "host-local", "subnet": "10.244.0.0/24", "dataDir": stage.node.leases() });
    merge(&mut network, &json!({ "ipam": ipam }));
    network
}

/// The guest's first file system with the machine's `ping`.
fn image(directory: &Path) -> Result<Image> {
    let found = ["/usr/bin/ping", "/bin/ping"].map(PathBuf::from);
    let file = found.into_iter().find(|file| file.exists()).context("no ping on this machine")?;
    let programs = vec![Program { place: PING.to_owned(), file }];
    Image::build()?.with(&Additions { programs, ..Additions::default() }, directory)
}

fn configure(vm: &mut Vm, wires: &[Wire]) -> Result<()> {
    let mut script = "set -e\n".to_owned();
    for (number, wire) in wires.iter().enumerate() {
        let (address, length) = (&wire.address, if wire.routed { 32 } else { 24 });
        script.push_str(&format!(
            "grep -q {} /sys/class/net/eth{number}/address\n\
             ip link set eth{number} up\nip address add {address}/{length} dev eth{number}\n",
            wire.nic.mac
        ));
        if wire.routed {
            script.push_str(&format!(
                "ip route add 10.22.0.1 dev eth{number}\nip route add 10.22.0.0/24 via 10.22.0.1\n"
            ));
        }
    }
    vm.succeed(&script, LIMIT).map(drop)
}

/// Echoes both ways, at the MTU's edge, by IPv6 without any configuration, and a stream. `ends` are the number of the
/// NIC and what it is on, of each VM.
fn talk(a: &mut Vm, b: &mut Vm, ends: &[(usize, &Wire); 2]) -> Result<()> {
    let [(ours, here), (_, there)] = ends;
    let mtu = a.succeed(&format!("cat /sys/class/net/eth{ours}/mtu"), LIMIT)?;
    let mtu: u16 = mtu.trim().parse()?;
    ensure!(here.nic.mtu.is_none_or(|wanted| wanted == mtu), "the guest's MTU is {mtu}: {here:?}");
    let address = &there.address;
    let fits = mtu - 28;
    let mut script = format!(
        "set -e\nuntil {PING} -c 2 -i 0.2 -w 5 {address}; do :; done\n\
         {PING} -c 1 -w 20 -M do -s {fits} {address}\n! {PING} -c 1 -W 1 -M do -s {} {address}\n",
        fits + 1
    );
    if !here.routed {
        script.push_str(&format!("{PING} -c 1 -w 20 {}%eth{ours}\n", link_local(&there.nic.mac)?));
    }
    a.succeed(&script, LIMIT)?;
    b.succeed(&format!("{PING} -c 1 -w 20 {}", here.address), LIMIT)?;
    transfer(a, b, address)
}

/// The address that a guest makes of its MAC (RFC 4291 appendix A).
fn link_local(mac: &str) -> Result<String> {
    let bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    let [a, b, c, d, e, f] = bytes.as_slice() else { anyhow::bail!("{mac} is no MAC") };
    Ok(format!("fe80::{:02x}{b:02x}:{c:02x}ff:fe{d:02x}:{e:02x}{f:02x}", a ^ 2))
}

/// What `from` sends to `address` of `to` arrives whole.
fn transfer(from: &mut Vm, to: &mut Vm, address: &str) -> Result<()> {
    to.succeed(
        &format!(
            "rm -f /run/end && mkfifo /run/end && \
             (nc -l -p {PORT} >/tmp/received; md5sum </tmp/received >/run/end) </dev/null >/dev/null 2>&1 &\n\
             until netstat -ltn | grep :{PORT}; do :; done"
        ),
        LIMIT,
    )?;
    let sent = from.succeed(
        &format!(
            "head -c {MIB}m /dev/urandom >/tmp/stream && \
             nc {address} {PORT} -e cat /tmp/stream && md5sum </tmp/stream"
        ),
        LIMIT,
    )?;
    let received = to.succeed("cat /run/end", LIMIT)?;
    ensure!(sent == received, "{sent} was sent to {address}, {received} received");
    Ok(())
}

/// QEMU in `pod` is the user, has no capability and can get none.
fn expect_no_privilege(pod: &Namespace) -> Result<()> {
    let processes = pod.processes();
    let (pid, _) = processes.iter().find(|(_, name)| name.starts_with("qemu")).context("QEMU")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let user = USER.to_string();
    let none = "0000000000000000";
    let wanted = [
        ("CapInh:", none),
        ("CapPrm:", none),
        ("CapEff:", none),
        ("CapBnd:", none),
        ("CapAmb:", none),
        ("NoNewPrivs:", "1"),
        ("Uid:", &user),
        ("Gid:", &user),
    ];
    for (key, wanted) in wanted {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| key.to_owned())?;
        ensure!(line.split_whitespace().all(|word| word == wanted), "{key} {line}");
    }
    Ok(())
}

/// QEMU has opened every queue of the bridge's tap, and the guest uses as many.
fn expect_queues(pod: &Namespace, vm: &mut Vm) -> Result<()> {
    let tap = link(pod, &RED.replacen("pod", "tap", 1))?;
    ensure!(tap.pointer("/linkinfo/info_data/numqueues") == Some(&json!(QUEUES)), "{tap}");
    let used = vm.succeed("ls /sys/class/net/eth1/queues", LIMIT)?;
    for kind in ["rx", "tx"] {
        for queue in 0..QUEUES {
            let name = format!("{kind}-{queue}");
            ensure!(used.split_whitespace().any(|used| used == name), "{used}");
        }
    }
    Ok(())
}
