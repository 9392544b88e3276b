//! Who is compared: ways to carry a guest's traffic through a pod, each in a lab of its own.
//! A contender knows how to start, not what will be measured.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::{plug, plugin_calls, wire};
use crate::lab::{Child, Lab, Namespace, POD_V4, SERVER_V4, Variant, binary, wait_for};
use crate::traffic::{Role, drive};
use crate::vm::Vm;

/// The guest's and the pod's end of the veth of contenders that have no tap: what KubeVirt's masquerade uses.
const GUEST_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GUEST_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);

/// Ports forwarded to the guest; the traffic tool's roles are among them.
const PORTS: &str = "5001-5020";

/// How long a contender may take until the first byte gets through both ways.
const START_LIMIT: Duration = Duration::from_secs(15);

/// Descriptors a translator may have in a pod, unless a probe says otherwise.
pub(super) const DESCRIPTOR_LIMIT: u64 = 20_000;

/// A translator's guest, and the wire between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Guest {
    /// This machine's kernel, on the translator's own tap.
    Tap,
    /// This machine's kernel, on a tap that vhost-cable connects to a vhost-user socket.
    Cable,
    /// An emulated machine whose QEMU connects to a vhost-user socket.
    Vm,
}

/// A way to carry the guest's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contender {
    /// The pod's kernel forwards and translates addresses.
    KernelNat,
    /// `traffic relay`.
    Relay,
    /// passt, on a tap as pasta.
    Peer(Guest),
    Ours(Guest),
    /// A lab for a sidecar, which carries nothing for a guest.
    Sidecar,
    /// A lab for a CNI plugin's calls, likewise.
    Plugin(Maker),
    /// No translator: the guest is on the pod's network itself.
    Wired(Wire),
}

/// Whose CNI plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Maker {
    /// Debian's containernetworking-plugins.
    Reference,
    Ours,
}

/// How frames get from the pod's NIC to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wire {
    /// Not at all: the pod itself is the guest, at its end of the veth pair.
    Veth,
    /// A bridge in the pod with the NIC and a tap, as KubeVirt's bridge binding makes it.
    Bridge,
    /// Mode `tap` of our CNI plugin.
    Redirect,
}

/// The translators' binaries.
#[derive(Debug)]
pub(super) struct Programs<'a> {
    pub(super) peer: &'a Path,
    pub(super) ours: &'a Path,
}

/// A contender at work between servers in the guest and in the world.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) lab: Lab,
    /// Where the guest finds the servers of the world.
    pub(super) outbound: IpAddr,
    /// Where the world finds the servers of the guest.
    pub(super) inbound: IpAddr,
    /// What runs in the pod; nothing for the kernel's path.
    pub(super) process: Option<Child>,
    /// passt-rs, for a sidecar that starts it.
    pub(super) translator: PathBuf,
    /// Resident memory before the first connection, in MiB.
    pub(super) resident_mib_at_start: Option<f64>,
    /// Whose plugin is called.
    maker: Option<Maker>,
    /// Where the guest's programs run, unless it is a VM.
    guest: Namespace,
    /// The guest, if it is not a namespace.
    vm: Option<RefCell<Vm>>,
    /// Servers, and the cable.
    _others: Vec<Child>,
}

impl Contender {
    /// Unlike any other's.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KernelNat => "kernel NAT",
            Self::Relay => "plain relay",
            Self::Peer(Guest::Tap) => "passt",
            Self::Peer(Guest::Cable) => "passt, vhost-user",
            Self::Peer(Guest::Vm) => "passt, VM",
            Self::Ours(Guest::Tap) => "passt-rs",
            Self::Ours(Guest::Cable) => "passt-rs, vhost-user",
            Self::Ours(Guest::Vm) => "passt-rs, VM",
            Self::Sidecar => "sidecar",
            Self::Plugin(Maker::Reference) => "reference plugin",
            Self::Plugin(Maker::Ours) => "sluice-cni",
            Self::Wired(Wire::Veth) => "pod on its veth",
            Self::Wired(Wire::Bridge) => "bridge in the pod",
            Self::Wired(Wire::Redirect) => "mode tap",
        }
    }

    /// For a heading or a target beside numbers of ours.
    pub(super) fn short_name(self) -> &'static str {
        match self {
            Self::KernelNat => "kernel",
            Self::Relay => "relay",
            Self::Peer(_) => "passt",
            Self::Ours(Guest::Tap) => "tap",
            Self::Ours(Guest::Cable) => "vhost-user",
            Self::Ours(Guest::Vm) => "VM",
            Self::Sidecar => "sidecar",
            Self::Plugin(Maker::Reference) => "reference",
            Self::Plugin(Maker::Ours) => "ours",
            Self::Wired(Wire::Veth) => "veth",
            Self::Wired(Wire::Bridge) => "bridge",
            Self::Wired(Wire::Redirect) => "tap",
        }
    }

    /// Whether its guest keeps processors busy even when nothing is asked of it.
    pub(super) fn is_emulated(self) -> bool {
        matches!(self, Self::Peer(Guest::Vm) | Self::Ours(Guest::Vm))
    }

    /// What makes it impossible to start, as far as can be seen without starting.
    pub(super) fn lacks(self, programs: &Programs<'_>) -> Option<&'static str> {
        match self {
            Self::Peer(Guest::Cable | Guest::Vm) if !knows_vhost_user(programs.peer) => {
                Some("has no --vhost-user")
            }
            Self::Plugin(Maker::Reference) if !Path::new(plugin_calls::REFERENCE).exists() => {
                Some("not installed")
            }
            Self::KernelNat
            | Self::Relay
            | Self::Peer(_)
            | Self::Ours(_)
            | Self::Sidecar
            | Self::Plugin(_)
            | Self::Wired(_) => None,
        }
    }

    /// Builds a lab whose pod network and guest have this MTU, and starts there.
    pub(super) fn start(self, programs: &Programs<'_>, mtu: u32) -> anyhow::Result<Running> {
        let lab = Lab::new(Variant::Mtu(mtu))?;
        let carries = !matches!(self, Self::Sidecar | Self::Plugin(_));
        // The pod itself is the guest of a wire that is none.
        let guest = if self == Self::Wired(Wire::Veth) { lab.pod() } else { lab.guest() }.clone();
        let mut others = Vec::new();
        if carries {
            others.push(drive::serve(&lab, lab.world(), &lab.servers())?);
        }
        if carries && !self.is_emulated() {
            others.push(drive::serve(&lab, &guest, &[])?);
        }
        let mut outbound = SERVER_V4;
        let mut vm = None;
        let process = match self {
            Self::KernelNat => {
                connect_guest_by_veth(&lab, mtu)?;
                translate_in_kernel(lab.pod())?;
                None
            }
            Self::Relay => {
                connect_guest_by_veth(&lab, mtu)?;
                outbound = GUEST_GATEWAY_V4;
                Some(start_relay(&lab)?)
            }
            Self::Peer(guest) | Self::Ours(guest) => {
                let mut process = self.start_translator(&lab, programs, guest, mtu)?;
                match guest {
                    Guest::Tap => wait_for_route(&lab, &mut process)?,
                    Guest::Cable => others.push(plug::connect_cable(&lab, &mut process)?),
                    Guest::Vm => vm = Some(RefCell::new(plug::boot_vm(&lab, &mut process)?)),
                }
                Some(process)
            }
            Self::Wired(wire) => {
                others.extend(wire::connect(&lab, wire, mtu)?);
                None
            }
            Self::Sidecar | Self::Plugin(_) => None,
        };
        let resident_mib_at_start =
            process.as_ref().map(|process| super::process::resident_mib(process.pid())).transpose()?;
        let running = Running {
            lab,
            outbound: outbound.into(),
            inbound: POD_V4.into(),
            process,
            translator: programs.ours.to_owned(),
            resident_mib_at_start,
            maker: if let Self::Plugin(maker) = self { Some(maker) } else { None },
            guest,
            vm,
            _others: others,
        };
        if carries {
            running.wait_until_it_carries()?;
        }
        Ok(running)
    }

    /// Starts passt-rs, or passt, the latter under the name that makes it use a tap, or not.
    fn start_translator(
        self,
        lab: &Lab,
        programs: &Programs<'_>,
        guest: Guest,
        mtu: u32,
    ) -> anyhow::Result<Child> {
        let (path, name) = match (self, guest) {
            (Self::Peer(_), Guest::Tap) => (programs.peer, "pasta"),
            (Self::Peer(_), Guest::Cable | Guest::Vm) => (programs.peer, "passt"),
            (
                Self::Ours(_)
                | Self::KernelNat
                | Self::Relay
                | Self::Sidecar
                | Self::Plugin(_)
                | Self::Wired(_),
                _,
            ) => (programs.ours, "passt-rs"),
        };
        let path = path.canonicalize().with_context(|| format!("no program {}", path.display()))?;
        // passt looks at the name it was started by.
        let named = lab.directory().join(name);
        std::os::unix::fs::symlink(path, &named).context("give it its name")?;
        let mut command = limited(lab.pod(), &named, Some(DESCRIPTOR_LIMIT));
        command.args(["-f", "--no-map-gw", "-m", &mtu.to_string(), "-t", PORTS, "-u", PORTS]);
        match guest {
            Guest::Tap => {
                command.args(["-I", "tap0", "--config-net", "--netns"]).arg(lab.guest().path());
                if matches!(self, Self::Peer(_)) {
                    // Another user may not enter the guest's namespace.
                    command.args(["--runas", "0"]);
                }
            }
            Guest::Cable | Guest::Vm => {
                command.args(["--vhost-user", "-s"]).arg(plug::socket(lab));
            }
        }
        lab.spawn(name, command)
    }
}

impl Running {
    pub(super) fn maker(&self) -> Option<Maker> {
        self.maker
    }

    /// Runs a command of the traffic tool in the guest; its result.
    pub(super) fn run_in_guest(&self, line: &str) -> anyhow::Result<Value> {
        match &self.vm {
            Some(vm) => plug::run_traffic(&mut *vm.try_borrow_mut()?, line),
            None => drive::run(&self.guest, line),
        }
    }

    pub(super) fn run_in_world(&self, line: &str) -> anyhow::Result<Value> {
        drive::run(self.lab.world(), line)
    }

    /// Runs a shell command in the guest; what it printed.
    pub(super) fn shell_in_vm(&self, line: &str, limit: Duration) -> anyhow::Result<String> {
        let vm = self.vm.as_ref().context("the guest is not a VM")?;
        vm.try_borrow_mut()?.succeed(line, limit)
    }

    fn wait_until_it_carries(&self) -> anyhow::Result<()> {
        let try_from = |is_guest: bool, address: IpAddr| {
            let at = SocketAddr::new(address, Role::OneShot.port());
            let line = format!("crr --count 1 --connect {at}");
            let mut last = Ok(Value::Null);
            let waited = wait_for(START_LIMIT, "a connection", || {
                last = if is_guest { self.run_in_guest(&line) } else { self.run_in_world(&line) };
                last.is_ok()
            });
            last.and(Ok(())).and(waited).with_context(|| format!("no connection to {address} gets through"))
        };
        try_from(true, self.outbound)?;
        try_from(false, self.inbound)
    }
}

fn knows_vhost_user(program: &Path) -> bool {
    // passt writes its help to either, by version.
    let output = Command::new(program).arg("--help").output();
    let knows = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("--vhost-user");
    output.is_ok_and(|output| knows(&output.stdout) || knows(&output.stderr))
}

/// A translator on a tap gives the guest's kernel its addresses itself.
fn wait_for_route(lab: &Lab, process: &mut Child) -> anyhow::Result<()> {
    let mut ended = false;
    wait_for(START_LIMIT, "an address and a route in the guest", || {
        ended = process.has_ended();
        ended || has_default_route(lab.guest())
    })?;
    anyhow::ensure!(!ended, "it ended: {}", process.log().trim());
    Ok(())
}

fn has_default_route(namespace: &Namespace) -> bool {
    let output = namespace.command("ip").args(["-4", "route", "show", "default"]).output();
    output.is_ok_and(|output| !output.stdout.is_empty())
}

fn connect_guest_by_veth(lab: &Lab, mtu: u32) -> anyhow::Result<()> {
    lab.pod().ip(&format!(
        "link add vm0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {guest}\n\
         address add {GUEST_GATEWAY_V4}/24 dev vm0\n\
         link set vm0 up\n",
        guest = lab.guest().name(),
    ))?;
    lab.guest().ip(&format!(
        "address add {GUEST_V4}/24 dev eth0\n\
         link set eth0 up\n\
         route add default via {GUEST_GATEWAY_V4}\n"
    ))
}

fn translate_in_kernel(pod: &Namespace) -> anyhow::Result<()> {
    pod.sysctl("net/ipv4/ip_forward", "1")?;
    pod.nft(&format!(
        "table ip nat {{
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                iifname eth0 tcp dport {PORTS} dnat to {GUEST_V4}
                iifname eth0 udp dport {PORTS} dnat to {GUEST_V4}
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                oifname eth0 ip saddr {GUEST_V4} masquerade
            }}
        }}
        "
    ))
}

fn start_relay(lab: &Lab) -> anyhow::Result<Child> {
    let mut command = limited(lab.pod(), &binary("traffic")?, None);
    command.arg("relay");
    for port in Role::TCP.map(Role::port) {
        for (listen, connect) in [(GUEST_GATEWAY_V4, SERVER_V4), (POD_V4, GUEST_V4)] {
            let mut map = String::new();
            let _ = write!(map, "{listen}:{port}={connect}:{port}");
            command.args(["--map", &map]);
        }
    }
    let mut relay = lab.spawn("relay", command)?;
    relay.wait_for_line(START_LIMIT, "ready")?;
    Ok(relay)
}

/// A command in `namespace` with this limit of descriptors.
fn limited(namespace: &Namespace, program: &Path, descriptors: Option<u64>) -> Command {
    let Some(descriptors) = descriptors else { return namespace.command(program) };
    // prlimit replaces itself, so the process id stays.
    let mut command = namespace.command("prlimit");
    command.arg(format!("--nofile={descriptors}:{descriptors}")).arg(program);
    command
}
