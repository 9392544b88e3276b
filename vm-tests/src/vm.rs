//! A virtual machine: QEMU with a small Linux guest that runs the shell commands it is told.
//!
//! The guest is Debian's cloud kernel and busybox (`image`). It is emulated, because nested KVM is rarely usable where
//! tests run, so its speed says nothing about a real VM's. It must never decide what a test expects.

mod cpio;
mod modules;
mod additions;
mod image;
pub(crate) mod agent;
mod qmp;
mod machine;
mod privilege;
mod hardware;
mod migration;
mod node;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

pub use additions::{Additions, Program};
pub use agent::Output;
pub use image::Image;
pub(crate) use machine::KERNEL_ARGUMENTS;
pub use node::{Answer, Call, NodeVm, PLUGINS, reference_plugin};

use crate::lab::{Child, Namespace, wait_for};
use crate::translator::Cable;
use agent::Agent;
use qmp::Qmp;

/// Emulated boots take 3 s on an idle machine; a loaded one is several times slower.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

const QEMU: &str = "qemu-system-x86_64";

/// QEMU creates its sockets before it does anything else.
const SOCKETS_LIMIT: Duration = Duration::from_secs(20);

/// What the VM looks like.
#[derive(Debug, Clone)]
pub struct Options {
    pub memory_mib: u32,
    /// Memory that may be plugged later, besides.
    pub spare_memory_mib: u32,
    pub cpus: u8,
    pub mac: String,
    /// What the machine says the network's MTU is, in bytes. `None`: it says nothing.
    pub mtu: Option<u16>,
    pub netdev: Netdev,
    /// NICs besides, on taps. For device nodes among them [`Options::user`] is needed.
    pub more: Vec<TapNic>,
    /// Who touches the memory first, and so is charged for it.
    pub first_touch: FirstTouch,
    /// A memory balloon that tells QEMU of pages that the guest does not use; QEMU gives them back.
    pub free_page_reporting: bool,
    /// The user and group QEMU runs as, without capabilities, as in a launcher's container. `None`: as who starts it.
    pub user: Option<u32>,
    /// More words for the guest's kernel.
    pub kernel_arguments: &'static str,
}

/// One more NIC.
#[derive(Debug, Clone)]
pub struct TapNic {
    pub mac: String,
    /// What the machine says the network's MTU is, in bytes. `None`: it says nothing.
    pub mtu: Option<u16>,
    pub tap: TapEnd,
}

/// What a NIC's frames go to.
#[derive(Debug, Clone)]
pub enum TapEnd {
    /// A tap as [`Netdev::Tap`] has it.
    Named { name: String, queues: u16 },
    /// The device node of a macvtap, which QEMU's user opens before it becomes QEMU.
    Node(PathBuf),
}

/// Who is charged for the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstTouch {
    /// Whoever comes first to each page: a CPU of the guest, or the translator with a packet.
    Whoever,
    /// QEMU, before the guest starts.
    Qemu,
}

/// The other end of the guest's NIC.
#[derive(Debug, Clone)]
pub enum Netdev {
    /// Frames over a unix stream socket that the translator listens on.
    Stream(PathBuf),
    /// The guest's memory, shared with the translator that listens on a unix socket.
    VhostUser { socket: PathBuf, pairs: u16 },
    /// A tap that exists in the namespace QEMU starts in, and as many of its queues in each direction.
    Tap { name: String, queues: u16 },
    /// No NIC.
    None,
}

impl Netdev {
    /// The end for a translator that listens at `socket` for `cable`.
    pub fn of(cable: Cable, socket: &Path) -> Self {
        let socket = socket.to_owned();
        match cable {
            Cable::Stream => Self::Stream(socket),
            Cable::VhostUser => Self::VhostUser { socket, pairs: 1 },
        }
    }
}

impl Options {
    /// One NIC on `netdev`; memory that holds the streams of the throughput tests.
    pub fn new(netdev: Netdev) -> Self {
        Self {
            memory_mib: 1536,
            spare_memory_mib: 0,
            cpus: 2,
            mac: "52:54:00:12:34:56".to_owned(),
            mtu: None,
            netdev,
            more: Vec::new(),
            first_touch: FirstTouch::Whoever,
            free_page_reporting: false,
            user: None,
            kernel_arguments: "",
        }
    }
}

/// A running VM. It ends with the value, or with the thread that started it.
#[derive(Debug)]
pub struct Vm {
    agent: Agent,
    qmp: Qmp,
    qemu: Child,
    console: PathBuf,
}

impl Vm {
    /// Starts QEMU in `namespace` and waits until the guest takes commands. Sockets and logs go to `directory`.
    pub fn boot(
        namespace: &Namespace,
        directory: &Path,
        image: &Image,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let mut vm = Self::start(namespace, directory, image, options, None)?;
        // It was started stopped, so that no byte of the guest is lost before we listen.
        vm.resume()?;
        vm.wait_until_ready()?;
        Ok(vm)
    }

    /// Boots several at once, each as [`Vm::boot`] does.
    pub fn boot_all(image: &Image, wanted: &[(&Namespace, &Path, &Options)]) -> anyhow::Result<Vec<Self>> {
        let mut vms = Vec::new();
        for (namespace, directory, options) in wanted {
            let mut vm = Self::start(namespace, directory, image, options, None)?;
            vm.resume()?;
            vms.push(vm);
        }
        for vm in &mut vms {
            vm.wait_until_ready()?;
        }
        Ok(vms)
    }

    /// Starts QEMU with its CPUs stopped; `incoming` is where it waits for another's guest.
    fn start(
        namespace: &Namespace,
        directory: &Path,
        image: &Image,
        options: &Options,
        incoming: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let console = directory.join("console.log");
        let agent = directory.join("agent.sock");
        let monitor = directory.join("qmp.sock");
        for socket in [&agent, &monitor] {
            let _ = std::fs::remove_file(socket); // of a QEMU that was killed, or not there
        }
        let (mut command, image) = match options.user {
            None => {
                anyhow::ensure!(machine::nodes(options).is_empty(), "device nodes are opened by a user");
                (namespace.command(QEMU), image.clone())
            }
            // What this machine's user may read, another may not.
            Some(user) => {
                let devices = machine::nodes(options);
                (privilege::command(namespace, user, &devices, QEMU)?, image.copy_to(directory)?)
            }
        };
        machine::machine(&mut command, &image, options);
        machine::devices(&mut command, options, &console, &agent, &monitor);
        if let Some(socket) = incoming {
            command.args(["-incoming", &migration::address(socket)]);
        }
        let mut qemu = Child::spawn("qemu", command, &directory.join("qemu.log"))?;
        let connect = || Agent::connect(&agent).and_then(|agent| Ok((agent, Qmp::connect(&monitor)?)));
        // A socket is there a moment before it listens.
        let mut parts = connect();
        let _ = wait_for(SOCKETS_LIMIT, "QEMU's sockets", || {
            if parts.is_err() {
                parts = connect();
            }
            parts.is_ok() || qemu.has_ended()
        });
        let (agent, qmp) = parts.with_context(|| format!("QEMU does not start: {}", qemu.log().trim()))?;
        Ok(Self { agent, qmp, qemu, console })
    }

    /// Runs a shell command in the guest; past `limit` the guest kills it.
    pub fn run(&mut self, command: &str, limit: Duration) -> anyhow::Result<Output> {
        self.agent
            .run(command, limit)
            .with_context(|| self.context(&format!("running `{command}` in the guest")))
    }

    /// Like [`Vm::run`], for commands that must succeed; what they printed.
    pub fn succeed(&mut self, command: &str, limit: Duration) -> anyhow::Result<String> {
        let output = self.run(command, limit)?;
        anyhow::ensure!(output.status == 0, "`{command}` in the guest ended with {output}");
        Ok(output.text)
    }

    /// Runs a shell command in the guest again and again until it succeeds; what it printed then.
    pub fn succeed_within(&mut self, command: &str, limit: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let output = self.run(command, limit)?;
            if output.status == 0 {
                return Ok(output.text);
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "for {limit:?} `{command}` in the guest ended with {output}"
            );
        }
    }

    /// What the guest's kernel printed.
    pub fn console(&self) -> &Path {
        &self.console
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        self.agent.wait_until_ready(BOOT_LIMIT).with_context(|| self.context("booting the guest"))
    }

    fn context(&self, doing: &str) -> String {
        let complaint = self.qemu.log();
        let separator = if complaint.is_empty() { "" } else { ": " };
        format!("{doing} (console: {}){separator}{}", self.console.display(), complaint.trim())
    }
}
