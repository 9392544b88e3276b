//! VMs on taps that somebody else made, as in a launcher's pod: QEMU is an ordinary user without capabilities.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vm_tests::lab::{Lab, Namespace, POD_V4, SECOND_POD_V4, SecondPod, Variant, WORLD_LINK_V4, binary};
use vm_tests::tap_guest;
use vm_tests::vm::{Image, Netdev, Options, Vm};

use crate::turn::turn;

/// The user of KubeVirt's QEMU.
const USER: u32 = 107;
const ANOTHER_USER: u32 = 108;
const TAP: &str = "tap0";
const QUEUES: u16 = 2;
const MTU: u16 = 1500;
const MEMORY_MIB: u32 = 256;
/// More than the guests' socket buffers, and less than a guest's memory.
const MIB: u32 = 20;
const PORT: u16 = 9000;
/// For what takes a moment in an emulated guest on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Who makes a pod's tap.
#[derive(Clone, Copy, Debug)]
enum Maker {
    /// `ip`, and a bridge in the pod.
    Hand,
    /// Our plugin in mode `tap`.
    Plugin,
}

#[test]
fn two_vms_on_taps_reach_each_other_and_one_has_several_queues() {
    let _turn = turn();
    for maker in [Maker::Hand, Maker::Plugin] {
        let lab = Lab::new(Variant::DualStack).unwrap();
        let other = other_pod(&lab).unwrap();
        two_vms(&lab, &other, maker).with_context(|| format!("{maker:?}")).unwrap();
    }
}

fn two_vms(lab: &Lab, other: &SecondPod, maker: Maker) -> Result<()> {
    let pods = [(lab.pod(), QUEUES), (other.namespace(), 1)];
    for (pod, queues) in pods {
        match maker {
            Maker::Hand => wire(pod, queues)?,
            Maker::Plugin => call(lab, pod, "ADD", queues)?,
        }
    }
    let mut a = boot(lab, lab.pod(), "a", &options("52:54:00:00:00:0a", QUEUES, USER))?;
    let mut b = boot(lab, other.namespace(), "b", &options("52:54:00:00:00:0b", 1, USER))?;
    for (pod, _) in pods {
        expect_no_privilege(pod)?;
    }
    expect_queues(lab.pod(), &mut a)?;
    for (vm, address) in [(&mut a, POD_V4), (&mut b, SECOND_POD_V4)] {
        vm.succeed(&format!("ip link set eth0 up && ip address add {address}/24 dev eth0"), LIMIT)?;
    }
    a.succeed(&format!("ping -c 3 -w 10 {SECOND_POD_V4}"), LIMIT)?;
    b.succeed(&format!("ping -c 3 -w 10 {POD_V4}"), LIMIT)?;
    transfer(&mut a, &mut b, &SECOND_POD_V4.to_string())?;
    transfer(&mut b, &mut a, &POD_V4.to_string())?;
    if matches!(maker, Maker::Plugin) {
        // While QEMU still has it open, as a runtime may.
        for (pod, queues) in pods {
            call(lab, pod, "DEL", queues)?;
            ensure!(link(pod, TAP)?.is_none(), "{TAP} of {} outlasts DEL", pod.name());
        }
    }
    Ok(())
}

/// Calls our plugin for a pod, as Multus does for a binding's entry.
fn call(lab: &Lab, pod: &Namespace, command: &str, queues: u16) -> Result<()> {
    let configuration = json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "type": "sluice",
        "mode": "tap",
        "multiQueue": queues > 1,
        "stateDir": lab.directory().join("state"),
    });
    let file = lab.directory().join(format!("{}.json", pod.name()));
    std::fs::write(&file, configuration.to_string())?;
    let output = lab
        .world()
        .command(binary("sluice-cni")?)
        .env_clear()
        .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", pod.name()), ("CNI_IFNAME", "net1")])
        .env("CNI_NETNS", pod.path())
        .env("CNI_PATH", lab.directory())
        .stdin(File::open(file)?)
        .output()?;
    ensure!(output.status.success(), "{command}: {output:?}");
    Ok(())
}

/// What stands for a VM where none is needed: one frame of the full MTU each way.
#[test]
fn guest_without_a_machine_reaches_the_world_through_either_kind_of_tap() {
    for queues in [1, QUEUES] {
        let lab = Lab::new(Variant::Ipv4Only).unwrap();
        wire(lab.pod(), queues).unwrap();
        let guest = tap_guest::start(&lab, lab.pod(), TAP, lab.guest(), MTU).unwrap();
        lab.guest().ip(&format!("address add {POD_V4}/24 dev {}\n", tap_guest::NIC)).unwrap();
        let ping = |size: u16| {
            let mut ping = lab.guest().command("ping");
            ping.args(["-c1", "-w5", "-Mdo", &format!("-s{}", size - 28), &WORLD_LINK_V4.to_string()]);
            ping.output().unwrap()
        };
        let output = ping(MTU);
        assert!(output.status.success(), "{queues} queues: {output:?}; {}", guest.log());
        assert!(!ping(MTU + 1).status.success(), "{queues} queues");
    }
}

/// The tap's queues, QEMU's, QEMU's user, and what the kernel says.
#[test]
fn qemu_is_refused_a_tap_of_another_user_or_of_another_kind() {
    let cases = [
        (1, 1, ANOTHER_USER, "Operation not permitted"),
        (QUEUES, 1, USER, "Invalid argument"),
        (1, QUEUES, USER, "Invalid argument"),
    ];
    let _turn = turn();
    for (queues, wanted, user, expected) in cases {
        let lab = Lab::new(Variant::Ipv4Only).unwrap();
        wire(lab.pod(), queues).unwrap();
        let error = boot(&lab, lab.pod(), "a", &options("52:54:00:00:00:0a", wanted, user)).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(TAP) && error.contains(expected), "{queues}, {wanted}, {user}: {error}");
    }
}

/// A second pod, on one bridge with the first.
fn other_pod(lab: &Lab) -> Result<SecondPod> {
    let pod = SecondPod::new(lab)?;
    lab.world().ip(
        "link add br0 type bridge\nlink set pod0 master br0\nlink set pod1 master br0\nlink set br0 up\n",
    )?;
    Ok(pod)
}

/// A tap for QEMU, on a bridge with the pod's interface, whose addresses are the guest's from now on.
fn wire(pod: &Namespace, queues: u16) -> Result<()> {
    let multi_queue = if queues > 1 { "multi_queue" } else { "" };
    pod.ip(&format!(
        "tuntap add {TAP} mode tap user {USER} group {USER} vnet_hdr {multi_queue}\n\
         address flush dev eth0\n\
         link add wire type bridge\n\
         link set eth0 master wire\n\
         link set {TAP} master wire\n\
         link set {TAP} up\n\
         link set wire up\n"
    ))
}

fn options(mac: &str, queues: u16, user: u32) -> Options {
    Options {
        memory_mib: MEMORY_MIB,
        cpus: u8::try_from(queues).unwrap_or(u8::MAX),
        mac: mac.to_owned(),
        user: Some(user),
        ..Options::new(Netdev::Tap { name: TAP.to_owned(), queues })
    }
}

fn boot(lab: &Lab, pod: &Namespace, name: &str, options: &Options) -> Result<Vm> {
    Vm::boot(pod, &folder(lab, name)?, &Image::build()?, options)
}

/// A folder for one QEMU's files, which QEMU's user may write to.
fn folder(lab: &Lab, name: &str) -> Result<PathBuf> {
    let folder = lab.directory().join(name);
    std::fs::create_dir(&folder)?;
    std::fs::set_permissions(&folder, Permissions::from_mode(0o1777))?;
    Ok(folder)
}

/// QEMU in `pod` is the user, has no capability and can get none.
fn expect_no_privilege(pod: &Namespace) -> Result<()> {
    let processes = pod.processes();
    let (pid, _) = processes.iter().find(|(_, name)| name.starts_with("qemu")).context("QEMU")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.map(str::trim).with_context(|| format!("no {key} in {status}"))
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        ensure!(value(set)? == "0000000000000000", "{set} {}", value(set)?);
    }
    for ids in ["Uid:", "Gid:"] {
        ensure!(value(ids)?.split_whitespace().all(|id| id == USER.to_string()), "{ids} {}", value(ids)?);
    }
    ensure!(value("Groups:")?.is_empty() && value("NoNewPrivs:")? == "1", "{status}");
    Ok(())
}

/// QEMU has opened every queue of the tap, and the guest uses as many.
fn expect_queues(pod: &Namespace, vm: &mut Vm) -> Result<()> {
    let link = link(pod, TAP)?.context(TAP)?;
    let opened = link.pointer("/linkinfo/info_data/numqueues");
    ensure!(opened == Some(&json!(QUEUES)), "{link}");
    let used = vm.succeed("ls /sys/class/net/eth0/queues", LIMIT)?;
    let mut expected: Vec<String> = (0..QUEUES).map(|queue| format!("rx-{queue}")).collect();
    expected.extend((0..QUEUES).map(|queue| format!("tx-{queue}")));
    ensure!(used.split_whitespace().eq(expected.iter().map(String::as_str)), "{used}");
    Ok(())
}

/// What the kernel says of a link; `None` where there is none.
fn link(pod: &Namespace, name: &str) -> Result<Option<Value>> {
    let output = pod.command("ip").args(["-j", "-d", "link", "show"]).output()?;
    let links: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    Ok(links.into_iter().find(|link| link.get("ifname").is_some_and(|is| is == name)))
}

/// What `from` sends to `address` of `to` arrives whole.
fn transfer(from: &mut Vm, to: &mut Vm, address: &str) -> Result<()> {
    to.succeed(
        &format!(
            "rm -f /run/end && mkfifo /run/end && \
             (nc -l -p {PORT} >/tmp/received; md5sum </tmp/received >/run/end) </dev/null >/dev/null 2>&1 &"
        ),
        LIMIT,
    )?;
    to.succeed_within(&format!("netstat -ltn | grep :{PORT}"), LIMIT)?;
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
