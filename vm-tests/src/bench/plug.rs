//! Guests for a translator that listens on a vhost-user socket: a kernel namespace behind vhost-cable, or a VM.
//! Both get the pod's addresses by hand, so that what is measured does not depend on how a translator hands them out.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::lab::{Child, Lab, POD_V4, WORLD_LINK_V4, binary, wait_for};
use crate::vm::{Image, Netdev, Options, Vm};

/// How long a socket, or the handshake over it, may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(15);

/// Beyond what a command of the traffic tool takes by itself; emulated.
const TRAFFIC_LIMIT: Duration = Duration::from_secs(60);

/// The traffic tool's name in the VM.
const TRAFFIC: &str = "traffic";

/// Where a translator in this lab listens.
pub(super) fn socket(lab: &Lab) -> PathBuf {
    lab.directory().join("guest.sock")
}

/// Makes a tap in the guest's namespace whose other end is the translator's socket.
pub(super) fn connect_cable(lab: &Lab, translator: &mut Child) -> anyhow::Result<Child> {
    let socket = wait_for_socket(lab, translator)?;
    // What router advertisements would set is set below.
    lab.guest().sysctl("net/ipv6/conf/default/accept_ra", "0")?;
    let mut command = lab.guest().command(binary("vhost-cable")?);
    // The socket's file is there before it listens: the cable tries again.
    command.arg("--reconnect").arg("--socket").arg(socket);
    command.args(["--tap", "tap0", "--mtu", &lab.variant().mtu().to_string()]);
    let mut cable = lab.spawn("cable", command)?;
    cable.wait_for_line(LIMIT, "connected").with_context(|| translator.log())?;
    lab.guest().ip(&lab.variant().pod_configuration("tap0"))?;
    Ok(cable)
}

/// Boots a VM whose NIC is behind the translator's socket, with the traffic tool's servers in it.
pub(super) fn boot_vm(lab: &Lab, translator: &mut Child) -> anyhow::Result<Vm> {
    let socket = wait_for_socket(lab, translator)?;
    let image = Image::build()?.with_program(TRAFFIC, &binary("traffic")?, lab.directory())?;
    let netdev = Netdev::VhostUser { socket, pairs: 1 };
    // One processor, so that the translator has another to itself where there are but two.
    let options = Options { memory_mib: 768, cpus: 1, ..Options::new(netdev) };
    let mut vm = Vm::boot(lab.pod(), lab.directory(), &image, &options)?;
    let mtu = lab.variant().mtu();
    vm.succeed(
        &format!(
            "ip link set eth0 mtu {mtu} up && ip address add {POD_V4}/24 dev eth0 &&\n\
             ip route add default via {WORLD_LINK_V4}"
        ),
        LIMIT,
    )?;
    vm.succeed(&format!("{TRAFFIC} serve >/tmp/serve.log 2>&1 &"), LIMIT)?;
    vm.succeed_within("grep ready /tmp/serve.log", LIMIT)?;
    Ok(vm)
}

/// Runs a command of the traffic tool in the VM; its result.
pub(super) fn run_traffic(vm: &mut Vm, line: &str) -> anyhow::Result<Value> {
    let text = vm.succeed(&format!("{TRAFFIC} {line}"), TRAFFIC_LIMIT)?;
    serde_json::from_str(text.trim()).with_context(|| format!("result of traffic {line}: {text}"))
}

fn wait_for_socket(lab: &Lab, translator: &mut Child) -> anyhow::Result<PathBuf> {
    let socket = socket(lab);
    wait_for(LIMIT, "the translator's socket", || socket.exists() || translator.has_ended())
        .with_context(|| translator.log())?;
    anyhow::ensure!(!translator.has_ended(), "it ended: {}", translator.log().trim());
    Ok(socket)
}
