//! A virtual machine: QEMU with a small Linux guest that runs the shell commands it is told.
//!
//! The guest is Debian's cloud kernel and busybox (`image`). It is emulated, because nested KVM is rarely usable where
//! tests run, so its speed says nothing about a real VM's. It must never decide what a test expects.

mod cpio;
mod modules;
mod image;
pub(crate) mod agent;
mod qmp;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;

pub use agent::Output;
pub use image::Image;

use crate::lab::{Child, Namespace, wait_for};
use crate::translator::Cable;
use agent::Agent;
use qmp::Qmp;

/// Emulated boots take 3 s on an idle machine; a loaded one is several times slower.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// QEMU creates its sockets before it does anything else.
const SOCKETS_LIMIT: Duration = Duration::from_secs(20);

/// Name of the NIC in QEMU's command line and monitor.
const NIC: &str = "nic0";

/// What the VM looks like.
#[derive(Debug, Clone)]
pub struct Options {
    pub memory_mib: u32,
    pub cpus: u8,
    pub mac: String,
    pub netdev: Netdev,
}

/// The other end of the guest's NIC.
#[derive(Debug, Clone)]
pub enum Netdev {
    /// Frames over a unix stream socket that the translator listens on.
    Stream(PathBuf),
    /// The guest's memory, shared with the translator that listens on a unix socket.
    VhostUser { socket: PathBuf, pairs: u16 },
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
        Self { memory_mib: 1536, cpus: 2, mac: "52:54:00:12:34:56".to_owned(), netdev }
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
        let console = directory.join("console.log");
        let agent = directory.join("agent.sock");
        let monitor = directory.join("qmp.sock");
        let mut command = namespace.command("qemu-system-x86_64");
        machine(&mut command, image, options);
        devices(&mut command, options, &console, &agent, &monitor);
        let mut qemu = Child::spawn("qemu", command, &directory.join("qemu.log"))?;
        let _ = wait_for(SOCKETS_LIMIT, "QEMU's sockets", || {
            qemu.has_ended() || (agent.exists() && monitor.exists())
        });
        let parts = Agent::connect(&agent).and_then(|agent| Ok((agent, Qmp::connect(&monitor)?)));
        let (agent, mut qmp) =
            parts.with_context(|| format!("QEMU does not start: {}", qemu.log().trim()))?;
        // It was started stopped, so that no byte of the guest is lost before we listen.
        qmp.execute("cont", None)?;
        let mut vm = Self { agent, qmp, qemu, console };
        vm.wait_until_ready()?;
        Ok(vm)
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

    /// Plugs or unplugs the cable: the guest sees its carrier change.
    pub fn set_link(&mut self, up: bool) -> anyhow::Result<()> {
        self.qmp.execute("set_link", Some(serde_json::json!({ "name": NIC, "up": up })))
    }

    /// Presses the reset button and waits until the guest takes commands again.
    pub fn reset(&mut self) -> anyhow::Result<()> {
        self.qmp.execute("system_reset", None)?;
        self.wait_until_ready()
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

fn machine(command: &mut Command, image: &Image, options: &Options) {
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-S"])
        // Without fast `rep movsb`: a kernel that is promised one copies with it, and it is emulated byte by byte.
        .args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,-erms,-fsrm"])
        .args(["-m", &format!("{}M", options.memory_mib), "-smp", &options.cpus.to_string()])
        .arg("-kernel")
        .arg(image.kernel())
        .arg("-initrd")
        .arg(image.initramfs())
        // The emulated timers are slow enough to be found broken; the CPU's random numbers spare a wait for others.
        .args(["-append", "console=ttyS0 loglevel=6 no_timer_check tsc=reliable random.trust_cpu=on"]);
}

fn devices(command: &mut Command, options: &Options, console: &Path, agent: &Path, monitor: &Path) {
    command
        .args(["-chardev", &format!("file,id=console,path={}", console.display())])
        .args(["-serial", "chardev:console"])
        .args(["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", agent.display())])
        .args(["-serial", "chardev:agent"])
        .args(["-qmp", &format!("unix:{},server=on,wait=off", monitor.display())]);
    // No boot from the network: its option ROM costs a second.
    let mut nic = format!("virtio-net-pci,id={NIC},netdev=n0,mac={},romfile=", options.mac);
    match &options.netdev {
        Netdev::Stream(socket) => {
            let path = socket.display();
            let stream = format!("stream,id=n0,server=off,addr.type=unix,addr.path={path},reconnect-ms=200");
            command.args(["-netdev", &stream]);
        }
        Netdev::VhostUser { socket, pairs } => {
            let path = socket.display();
            let memory = format!("memory-backend-memfd,id=memory,size={}M,share=on", options.memory_mib);
            command.args(["-object", &memory, "-machine", "memory-backend=memory"]);
            command.args(["-chardev", &format!("socket,id=cable,path={path},reconnect-ms=200")]);
            command.args(["-netdev", &format!("vhost-user,id=n0,chardev=cable,queues={pairs}")]);
            if *pairs > 1 {
                // A vector for each queue, and two for the device's own changes and its control queue.
                nic.push_str(&format!(",mq=on,vectors={}", 2 * pairs + 2));
            }
        }
    }
    command.args(["-device", &nic]);
}
