//! The machine as QEMU's command line says it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::privilege::FIRST_DESCRIPTOR;
use super::{FirstTouch, Image, Netdev, Options, TapEnd};

/// Names of the NIC, its other end and where it is plugged, in QEMU's command line and monitor.
pub(super) const NIC: &str = "nic0";
pub(super) const NETDEV: &str = "n0";
pub(super) const CABLE: &str = "cable";
pub(super) const PORT: &str = "port0";

/// How long QEMU waits before it connects again to a translator that went.
pub(super) const RECONNECT_MS: u32 = 200;

/// Modules of memory that may be plugged.
const MEMORY_SLOTS: u8 = 4;

/// The emulated timers are slow enough to be found broken; the CPU's random numbers spare a wait for others.
pub(crate) const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 loglevel=6 no_timer_check tsc=reliable random.trust_cpu=on";

pub(super) fn machine(command: &mut Command, image: &Image, options: &Options) {
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-S"])
        // Without fast `rep movsb`: a kernel that is promised one copies with it, and it is emulated byte by byte.
        .args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,-erms,-fsrm"])
        .args(["-m", &memory(options), "-smp", &options.cpus.to_string()])
        .arg("-kernel")
        .arg(image.kernel())
        .arg("-initrd")
        .arg(image.initramfs())
        .args(["-append", &format!("{KERNEL_ARGUMENTS} {}", options.kernel_arguments)]);
}

pub(super) fn devices(
    command: &mut Command,
    options: &Options,
    console: &Path,
    agent: &Path,
    monitor: &Path,
) {
    command
        .args(["-chardev", &format!("file,id=console,path={}", console.display())])
        .args(["-serial", "chardev:console"])
        .args(["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", agent.display())])
        .args(["-serial", "chardev:agent"])
        .args(["-qmp", &format!("unix:{},server=on,wait=off", monitor.display())]);
    // Behind a port of its own, as KubeVirt has it: on the root bus of a q35 nothing is plugged while it runs.
    command.args(["-device", &format!("pcie-root-port,id={PORT},chassis=1")]);
    match &options.netdev {
        Netdev::Stream(socket) => {
            let path = socket.display();
            let stream = format!(
                "stream,id={NETDEV},server=off,addr.type=unix,addr.path={path},reconnect-ms={RECONNECT_MS}"
            );
            command.args(["-netdev", &stream]);
        }
        Netdev::VhostUser { socket, pairs } => {
            let path = socket.display();
            let prealloc = match options.first_touch {
                FirstTouch::Whoever => "off",
                FirstTouch::Qemu => "on",
            };
            let memory = format!(
                "memory-backend-memfd,id=memory,size={}M,share=on,prealloc={prealloc}",
                options.memory_mib
            );
            command.args(["-object", &memory, "-machine", "memory-backend=memory"]);
            let cable = format!("socket,id={CABLE},path={path},reconnect-ms={RECONNECT_MS}");
            command.args(["-chardev", &cable]);
            command.args(["-netdev", &format!("vhost-user,id={NETDEV},chardev={CABLE},queues={pairs}")]);
        }
        Netdev::Tap { name, queues } => {
            command.args(["-netdev", &tap(NETDEV, name, *queues)]);
        }
        Netdev::None => {}
    }
    if !matches!(options.netdev, Netdev::None) {
        command.args(["-device", &nic(options).to_string()]);
    }
    more_nics(command, options);
    if options.free_page_reporting {
        command.args(["-device", "virtio-balloon-pci,free-page-reporting=on"]);
    }
}

/// The device nodes that QEMU is to find open.
pub(super) fn nodes(options: &Options) -> Vec<&PathBuf> {
    let taps = options.more.iter().map(|nic| &nic.tap);
    taps.filter_map(|tap| if let TapEnd::Node(path) = tap { Some(path) } else { None }).collect()
}

/// Those besides the first, in the order in which the guest numbers them.
fn more_nics(command: &mut Command, options: &Options) {
    let mut descriptors = FIRST_DESCRIPTOR..;
    for (number, wanted) in (1..).zip(&options.more) {
        let [netdev, port, id] = ["n", "port", "nic"].map(|kind| format!("{kind}{number}"));
        let (end, queues) = match &wanted.tap {
            TapEnd::Named { name, queues } => (tap(&netdev, name, *queues), *queues),
            TapEnd::Node(_) => {
                let descriptor = descriptors.next().unwrap_or_default();
                (format!("tap,id={netdev},fd={descriptor},vhost=off"), 1)
            }
        };
        let device = virtio_nic(&id, &port, &netdev, &wanted.mac, wanted.mtu, queues);
        command
            .args(["-device", &format!("pcie-root-port,id={port},chassis={}", number + 1)])
            .args(["-netdev", &end])
            .args(["-device", &device.to_string()]);
    }
}

fn tap(id: &str, name: &str, queues: u16) -> String {
    let tap = format!("tap,id={id},ifname={name},script=no,downscript=no,vhost=off");
    // A tap with one queue is another kind than one with many of which one is used.
    if queues > 1 { format!("{tap},queues={queues}") } else { tap }
}

/// The NIC, as `-device` and `device_add` both take it.
pub(super) fn nic(options: &Options) -> serde_json::Value {
    let queues = match &options.netdev {
        Netdev::VhostUser { pairs: queues, .. } | Netdev::Tap { queues, .. } => *queues,
        Netdev::Stream(_) | Netdev::None => 1,
    };
    virtio_nic(NIC, PORT, NETDEV, &options.mac, options.mtu, queues)
}

fn virtio_nic(
    id: &str,
    port: &str,
    netdev: &str,
    mac: &str,
    mtu: Option<u16>,
    queues: u16,
) -> serde_json::Value {
    // No boot from the network: its option ROM costs a second.
    let mut nic = serde_json::json!({
        "driver": "virtio-net-pci",
        "id": id,
        "bus": port,
        "netdev": netdev,
        "mac": mac,
        "romfile": "",
    });
    if let Some(fields) = nic.as_object_mut() {
        if let Some(mtu) = mtu {
            fields.insert("host_mtu".to_owned(), mtu.into());
        }
        if queues > 1 {
            fields.insert("mq".to_owned(), true.into());
            // A vector for each queue, and two for the device's own changes and its control queue.
            fields.insert("vectors".to_owned(), (2 * queues + 2).into());
        }
    }
    nic
}

fn memory(options: &Options) -> String {
    let now = options.memory_mib;
    match options.spare_memory_mib {
        0 => format!("{now}M"),
        spare => format!("{now}M,slots={MEMORY_SLOTS},maxmem={}M", now + spare),
    }
}
