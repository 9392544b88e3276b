//! Who is compared: four ways to carry a guest's traffic through a pod, each in a lab of its own.
//! A contender knows how to start, not what will be measured.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::lab::{Child, Lab, Namespace, POD_V4, SERVER_V4, Variant, binary, wait_for};
use crate::traffic::{Role, drive};

/// The guest's and the pod's end of the veth of contenders that have no tap: what KubeVirt's masquerade uses.
const GUEST_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GUEST_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);

/// Ports forwarded to the guest; the traffic tool's roles are among them.
const PORTS: &str = "5001-5020";

/// How long a contender may take until the first byte gets through both ways.
const START_LIMIT: Duration = Duration::from_secs(15);

/// Descriptors a translator may have in a pod, unless a probe says otherwise.
pub(super) const DESCRIPTOR_LIMIT: u64 = 20_000;

/// A way to carry the guest's traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Contender {
    /// The pod's kernel forwards and translates addresses.
    KernelNat,
    /// `traffic relay`.
    Relay,
    /// passt, as pasta on a tap.
    Peer(PathBuf),
    /// passt-rs on a tap.
    Ours(PathBuf),
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
    /// Resident memory before the first connection, in MiB.
    pub(super) resident_mib_at_start: Option<f64>,
    _servers: [Child; 2],
}

impl Contender {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::KernelNat => "kernel NAT",
            Self::Relay => "plain relay",
            Self::Peer(_) => "passt",
            Self::Ours(_) => "passt-rs",
        }
    }

    /// Builds a lab whose pod network and guest have this MTU, and starts there.
    pub(super) fn start(&self, mtu: u32) -> anyhow::Result<Running> {
        let lab = Lab::new(Variant::Mtu(mtu))?;
        let world_servers = drive::serve(&lab, lab.world(), &lab.servers())?;
        let guest_servers = drive::serve(&lab, lab.guest(), &[])?;
        let (outbound, process) = match self {
            Self::KernelNat => {
                connect_guest_by_veth(&lab, mtu)?;
                translate_in_kernel(lab.pod())?;
                (SERVER_V4, None)
            }
            Self::Relay => {
                connect_guest_by_veth(&lab, mtu)?;
                (GUEST_GATEWAY_V4, Some(start_relay(&lab)?))
            }
            Self::Peer(path) => {
                (SERVER_V4, Some(start_translator(&lab, path, "pasta", mtu, &["--runas", "0"])?))
            }
            Self::Ours(path) => (SERVER_V4, Some(start_translator(&lab, path, "passt-rs", mtu, &[])?)),
        };
        let mut running = Running {
            lab,
            outbound: outbound.into(),
            inbound: POD_V4.into(),
            process,
            resident_mib_at_start: None,
            _servers: [world_servers, guest_servers],
        };
        running.wait_until_it_carries()?;
        Ok(running)
    }
}

impl Running {
    fn wait_until_it_carries(&mut self) -> anyhow::Result<()> {
        if let (Some(process), true) = (&mut self.process, self.outbound == IpAddr::V4(SERVER_V4)) {
            let guest = self.lab.guest();
            let mut ended = false;
            wait_for(START_LIMIT, "an address and a route in the guest", || {
                ended = process.has_ended();
                ended || has_default_route(guest)
            })?;
            anyhow::ensure!(!ended, "it ended: {}", process.log().trim());
        }
        if let Some(process) = &self.process {
            self.resident_mib_at_start = Some(super::process::resident_mib(process.pid())?);
        }
        for (namespace, address) in [(self.lab.guest(), self.outbound), (self.lab.world(), self.inbound)] {
            let port = Role::OneShot.port();
            let mut last = Ok(serde_json::Value::Null);
            let waited = wait_for(START_LIMIT, "a connection", || {
                last = drive::run(namespace, &format!("crr --count 1 --connect {address}:{port}"));
                last.is_ok()
            });
            last.and(Ok(()))
                .and(waited)
                .with_context(|| format!("no connection to {address} gets through"))?;
        }
        Ok(())
    }
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

/// Starts passt-rs, or passt under the name that makes it use a tap.
fn start_translator(lab: &Lab, path: &Path, name: &str, mtu: u32, more: &[&str]) -> anyhow::Result<Child> {
    let path = path.canonicalize().with_context(|| format!("no program {}", path.display()))?;
    // passt looks at the name it was started by.
    let named = lab.directory().join(name);
    std::os::unix::fs::symlink(path, &named).context("give it its name")?;
    let mut command = limited(lab.pod(), &named, Some(DESCRIPTOR_LIMIT));
    command.args(["-f", "-I", "tap0", "--config-net", "--no-map-gw"]);
    command.args(["-m", &mtu.to_string(), "-t", PORTS, "-u", PORTS]);
    command.arg("--netns").arg(lab.guest().path());
    command.args(more);
    lab.spawn(name, command)
}

/// A command in `namespace` with this limit of descriptors.
fn limited(namespace: &Namespace, program: &Path, descriptors: Option<u64>) -> Command {
    let Some(descriptors) = descriptors else { return namespace.command(program) };
    // prlimit replaces itself, so the process id stays.
    let mut command = namespace.command("prlimit");
    command.arg(format!("--nofile={descriptors}:{descriptors}")).arg(program);
    command
}
