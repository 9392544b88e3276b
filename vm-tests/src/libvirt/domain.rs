//! One guest as libvirt sees it: its XML, its life from `create` to `destroy`, and commands inside it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::{END_LIMIT, Libvirt};
use crate::lab::wait_for;
use crate::vm::KERNEL_ARGUMENTS;
use crate::vm::agent::Agent;

/// Emulated boots take 3 s on an idle machine; a loaded one is several times slower.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// The TCP port of the pod that leads to the guest.
pub const FORWARDED_PORT: u16 = 8080;

pub(super) const NAME: &str = "guest";

/// The guest's NIC, by who starts the translator and how the two talk.
#[derive(Debug, Clone)]
pub enum Interface {
    /// libvirt starts passt; frames over a unix stream socket.
    User,
    /// libvirt starts passt as a vhost-user back-end.
    VhostUserPasst,
    /// The back-end listens on this socket already.
    VhostUser(PathBuf),
}

/// A guest that takes commands.
#[derive(Debug)]
pub struct Domain<'libvirt, 'lab> {
    libvirt: &'libvirt Libvirt<'lab>,
    name: String,
    agent: Agent,
}

impl<'libvirt, 'lab> Domain<'libvirt, 'lab> {
    /// Starts a guest and waits until it takes commands.
    pub fn create(libvirt: &'libvirt Libvirt<'lab>, interface: &Interface) -> anyhow::Result<Self> {
        let description = libvirt.folder.join("guest.xml");
        std::fs::write(&description, xml(libvirt, interface)).context("write the domain's description")?;
        // Paused, so that no byte of the guest is lost before we listen.
        libvirt.virsh(["create".as_ref(), "--paused".as_ref(), description.as_os_str()])?;
        Self::boot(libvirt, NAME)
    }

    /// Starts a guest that is defined already (`launcher`), and waits until it takes commands.
    pub fn start(libvirt: &'libvirt Libvirt<'lab>, name: &str) -> anyhow::Result<Self> {
        libvirt.virsh(["start", "--paused", name])?;
        Self::boot(libvirt, name)
    }

    fn boot(libvirt: &'libvirt Libvirt<'lab>, name: &str) -> anyhow::Result<Self> {
        let mut domain = Self { libvirt, name: name.to_owned(), agent: connect(libvirt)? };
        domain.resume()?;
        domain.agent.wait_until_ready(BOOT_LIMIT).with_context(|| {
            format!("booting the guest (console: {})", libvirt.files_of_guests().console.display())
        })?;
        Ok(domain)
    }

    /// Runs a shell command in the guest that must succeed; what it printed.
    pub fn succeed(&mut self, command: &str, limit: Duration) -> anyhow::Result<String> {
        let output =
            self.agent.run(command, limit).with_context(|| format!("running `{command}` in the guest"))?;
        anyhow::ensure!(output.status == 0, "`{command}` in the guest ended with {output}");
        Ok(output.text)
    }

    /// Runs a shell command in the guest again and again until it succeeds; what it printed then.
    pub fn succeed_within(&mut self, command: &str, limit: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.succeed(command, limit) {
                Err(_) if Instant::now() < deadline => {}
                outcome => return outcome,
            }
        }
    }

    pub fn suspend(&mut self) -> anyhow::Result<()> {
        self.libvirt.virsh(["suspend", &self.name])?;
        self.expect_state("paused")
    }

    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.libvirt.virsh(["resume", &self.name])?;
        self.expect_state("running")
    }

    /// Writes the guest to a file, which ends it.
    pub fn save(self) -> anyhow::Result<Saved<'libvirt, 'lab>> {
        let file = self.libvirt.folder.join("saved");
        self.libvirt.virsh(["save".as_ref(), self.name.as_ref(), file.as_os_str()])?;
        Ok(Saved { libvirt: self.libvirt, name: self.name, file })
    }

    pub fn destroy(self) -> anyhow::Result<()> {
        self.libvirt.virsh(["destroy", &self.name])?;
        Ok(())
    }

    fn expect_state(&self, wanted: &str) -> anyhow::Result<()> {
        let state = self.libvirt.virsh(["domstate", &self.name])?;
        anyhow::ensure!(state == wanted, "the domain is {state}, not {wanted}");
        Ok(())
    }
}

/// A guest in a file.
#[derive(Debug)]
pub struct Saved<'libvirt, 'lab> {
    libvirt: &'libvirt Libvirt<'lab>,
    name: String,
    file: PathBuf,
}

impl<'libvirt, 'lab> Saved<'libvirt, 'lab> {
    /// Goes on where the guest was.
    pub fn restore(self) -> anyhow::Result<Domain<'libvirt, 'lab>> {
        self.libvirt.virsh(["restore".as_ref(), self.file.as_os_str()])?;
        let domain = Domain { libvirt: self.libvirt, name: self.name, agent: connect(self.libvirt)? };
        domain.expect_state("running")?;
        Ok(domain)
    }
}

fn connect(libvirt: &Libvirt<'_>) -> anyhow::Result<Agent> {
    let socket = libvirt.files_of_guests().agent;
    wait_for(END_LIMIT, "the guest's second serial port", || socket.exists())?;
    Agent::connect(&socket)
}

/// What `vm` tells QEMU, in libvirt's words. Memory is shared with a back-end, as in every KubeVirt VM with one.
fn xml(libvirt: &Libvirt<'_>, interface: &Interface) -> String {
    let files = libvirt.files_of_guests();
    format!(
        "<domain type='qemu'>
  <name>{NAME}</name>
  <memory unit='MiB'>512</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initramfs}</initrd>
    <cmdline>{KERNEL_ARGUMENTS}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <devices>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{console}'/><target port='0'/></serial>
    <serial type='unix'><source mode='bind' path='{agent}'/><target port='1'/></serial>
    <memballoon model='none'/>
{interface}
  </devices>
</domain>
",
        kernel = files.kernel.display(),
        initramfs = files.initramfs.display(),
        console = files.console.display(),
        agent = files.agent.display(),
        interface = interface_xml(libvirt, interface),
    )
}

fn interface_xml(libvirt: &Libvirt<'_>, interface: &Interface) -> String {
    let passt = format!(
        "<backend type='passt' logFile='{}'/><source dev='eth0'/>\
         <portForward proto='tcp'><range start='{FORWARDED_PORT}'/></portForward>",
        libvirt.translator_log().display()
    );
    let (kind, source) = match interface {
        Interface::User => ("user", passt),
        Interface::VhostUserPasst => ("vhostuser", passt),
        Interface::VhostUser(socket) => (
            "vhostuser",
            format!(
                "<source type='unix' path='{}' mode='client'><reconnect enabled='yes' timeout='1'/></source>",
                socket.display()
            ),
        ),
    };
    // No boot from the network: its option ROM costs a second.
    format!(
        "    <interface type='{kind}'><mac address='52:54:00:12:34:56'/>{source}<model type='virtio'/>\
         <rom enabled='no'/></interface>"
    )
}
