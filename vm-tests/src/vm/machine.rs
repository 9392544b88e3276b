//! The machine as QEMU's command line says it.

use std::path::Path;
use std::process::Command;

use super::{FirstTouch, Image, Netdev, Options};

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
            let tap = format!("tap,id={NETDEV},ifname={name},script=no,downscript=no,vhost=off");
            // A tap with one queue is another kind than one with many of which one is used.
            let queues = if *queues > 1 { format!(",queues={queues}") } else { String::new() };
            command.args(["-netdev", &format!("{tap}{queues}")]);
        }
        Netdev::None => {}
    }
    if !matches!(options.netdev, Netdev::None) {
        command.args(["-device", &nic(options).to_string()]);
    }
    if options.free_page_reporting {
        command.args(["-device", "virtio-balloon-pci,free-page-reporting=on"]);
    }
}

/// The NIC, as `-device` and `device_add` both take it.
pub(super) fn nic(options: &Options) -> serde_json::Value {
    // No boot from the network: its option ROM costs a second.
    let mut nic = serde_json::json!({
        "driver": "virtio-net-pci",
        "id": NIC,
        "bus": PORT,
        "netdev": NETDEV,
        "mac": options.mac,
        "romfile": "",
    });
    if let (Some(mtu), Some(fields)) = (options.mtu, nic.as_object_mut()) {
        fields.insert("host_mtu".to_owned(), mtu.into());
    }
    if let (
        Netdev::VhostUser { pairs: pairs @ 2.., .. } | Netdev::Tap { queues: pairs @ 2.., .. },
        Some(fields),
    ) = (&options.netdev, nic.as_object_mut())
    {
        fields.insert("mq".to_owned(), true.into());
        // A vector for each queue, and two for the device's own changes and its control queue.
        fields.insert("vectors".to_owned(), (2 * pairs + 2).into());
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
