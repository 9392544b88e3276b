//! What a person at the machine can do while the guest runs: buttons, cables, NICs and memory.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::machine::{CABLE, NETDEV, NIC, RECONNECT_MS};
use super::{Netdev, Options, Vm, machine};

/// The kernel takes the guest's memory back first.
const KILLED_LIMIT: Duration = Duration::from_secs(10);

impl Vm {
    /// Plugs or unplugs the cable: the guest sees its carrier change.
    pub fn set_link(&mut self, up: bool) -> anyhow::Result<()> {
        self.qmp.execute("set_link", Some(json!({ "name": NIC, "up": up }))).map(drop)
    }

    /// Presses the reset button and waits until the guest takes commands again.
    pub fn reset(&mut self) -> anyhow::Result<()> {
        self.qmp.execute("system_reset", None)?;
        self.wait_until_ready()
    }

    /// Stops the CPUs; nothing in the guest notices, but for the time.
    pub fn suspend(&mut self) -> anyhow::Result<()> {
        self.qmp.execute("stop", None).map(drop)
    }

    /// Lets the CPUs run again.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.qmp.execute("cont", None).map(drop)
    }

    /// Ends QEMU as a crash would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.qemu.signal(Signal::KILL)?;
        self.qemu.wait(KILLED_LIMIT).map(drop)
    }

    /// Takes the NIC out with its cable, and waits until the guest has let it go.
    pub fn unplug_nic(&mut self) -> anyhow::Result<()> {
        self.qmp.execute("device_del", Some(json!({ "id": NIC })))?;
        self.qmp.wait_for_event("DEVICE_DELETED", "device", NIC)?;
        // The chardev goes with it.
        self.qmp.execute("netdev_del", Some(json!({ "id": NETDEV }))).map(drop)
    }

    /// Puts a NIC in, on a vhost-user cable that leads to `socket`.
    pub fn plug_nic(&mut self, options: &Options) -> anyhow::Result<()> {
        let Netdev::VhostUser { socket, pairs } = &options.netdev else {
            anyhow::bail!("only a vhost-user NIC is plugged while the guest runs");
        };
        let cable = json!({
            "id": CABLE,
            "backend": { "type": "socket", "data": {
                "addr": { "type": "unix", "data": { "path": socket } },
                "server": false,
                "reconnect-ms": RECONNECT_MS,
            } },
        });
        self.qmp.execute("chardev-add", Some(cable))?;
        let netdev = json!({ "type": "vhost-user", "id": NETDEV, "chardev": CABLE, "queues": pairs });
        self.qmp.execute("netdev_add", Some(netdev))?;
        self.qmp.execute("device_add", Some(machine::nic(options))).map(drop)
    }

    /// Plugs `mib` of memory, shared as the rest is, under a name of its own.
    pub fn plug_memory(&mut self, name: &str, mib: u32) -> anyhow::Result<()> {
        let backend = json!({
            "qom-type": "memory-backend-memfd",
            "id": backend_name(name),
            "size": u64::from(mib) << 20,
            "share": true,
        });
        self.qmp.execute("object-add", Some(backend))?;
        let module = json!({ "driver": "pc-dimm", "id": name, "memdev": backend_name(name) });
        self.qmp.execute("device_add", Some(module)).map(drop)
    }

    /// Takes memory out, and waits until the guest has let it go.
    pub fn unplug_memory(&mut self, name: &str) -> anyhow::Result<()> {
        self.qmp.execute("device_del", Some(json!({ "id": name })))?;
        self.qmp.wait_for_event("DEVICE_DELETED", "device", name)?;
        self.qmp.execute("object-del", Some(json!({ "id": backend_name(name) }))).map(drop)
    }
}

/// What has the bytes of the module `name`.
fn backend_name(name: &str) -> String {
    format!("{name}-bytes")
}
