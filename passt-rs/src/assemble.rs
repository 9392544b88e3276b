//! From a resolved configuration to a relay: opens everything while we still may, then hands it over.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use anyhow::{Context, bail};
use rustix::io::Errno;
use tracing::{info, warn};

use crate::capture::Capture;
use crate::config::{Config, FlowsFile, RunAs, Tap as TapConfig, Transport};
use crate::control::Control;
use crate::flow::Key;
use crate::flow::forward::Rule;
use crate::guest::{Stream, Tap, VhostUser};
use crate::host::netlink::{self, namespace};
use crate::host::outbound::Outbound;
use crate::host::{echo, signals, tcp, udp, unix};
use crate::ledger::Ledger;
use crate::relay::{Limits, Listening, Opened, Proto, Protocols, Settings};
use crate::sandbox::{self, PidFile};

/// MTU of a cable on which none is announced: what a guest takes by itself.
const MTU_DEFAULT: u16 = 1500;
/// One of so many descriptors may be a listening socket of `all`; the others are for connections.
const LISTENING_SHARE: usize = 2;
/// One of so many flows may be UDP or echo.
const DATAGRAM_SHARE: usize = 2;

/// Files to remove at the end.
#[derive(Debug, Default)]
pub struct Leftovers {
    files: Vec<PathBuf>,
    /// libvirt 11.3 neither ends a passt with `--vhost-user` nor cleans up after it.
    pid_file: Option<PidFile>,
}

impl Leftovers {
    pub fn with_pid_file(pid_file: Option<PidFile>) -> Self {
        Self { files: Vec::new(), pid_file }
    }

    pub fn pid_file(&self) -> Option<&PidFile> {
        self.pid_file.as_ref()
    }

    /// Makes sockets belong to whom we are about to become, so that they can be replaced and used by that user.
    pub fn give_to(&self, identity: Option<RunAs>) {
        let Some(RunAs { uid, gid }) = identity else { return };
        for path in &self.files {
            if let Err(error) = std::os::unix::fs::chown(path, Some(uid), Some(gid)) {
                warn!("{}: cannot be given to user {uid}: {error}", path.display());
            }
        }
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        if let Some(pid_file) = &self.pid_file {
            pid_file.remove();
        }
        for path in &self.files {
            // The folder may not be ours to change any more; then the next start replaces the socket.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What a relay needs to know.
pub fn settings(config: &Config) -> anyhow::Result<Settings> {
    let mut secret = [0; 16];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut secret)).context("/dev/urandom")?;
    let outbound = &config.outbound;
    Ok(Settings {
        network: config.network.clone(),
        nat: config.nat.clone(),
        mtu: config.network.mtu.unwrap_or(MTU_DEFAULT),
        protocols: Protocols {
            tcp: config.protocols.tcp,
            udp: config.protocols.udp,
            icmp: config.protocols.icmp,
        },
        outbound: Outbound {
            v4: outbound.address4,
            v6: outbound.address6,
            if4: outbound.interface4.clone(),
            if6: outbound.interface6.clone(),
            freebind: config.freebind,
        },
        limits: limits(config.flows_max, config.socket_memory_bytes, descriptor_limit()),
        guest_mac: config.guest_mac,
        one_off: config.one_off,
        secret,
    })
}

/// What is used up first limits: the flows there may be, or a descriptor for each of them.
fn limits(flows_max: Option<usize>, socket_memory_bytes: Option<u64>, descriptors: usize) -> Limits {
    let limits = Limits::default();
    let limits = socket_memory_bytes.map_or(limits, |bytes| limits.within(bytes));
    let flows = flows_max.unwrap_or(limits.flows);
    Limits { flows, datagram_flows: (flows.min(descriptors) / DATAGRAM_SHARE).max(1), ..limits }
}

/// Files of ours that are open.
#[derive(Debug, Default)]
pub struct Files {
    capture: Option<Capture>,
    control: Option<Control>,
    ledger: Option<(Ledger, Vec<Key>)>,
}

/// Opens the files the command line names.
pub fn files(config: &Config, leftovers: &mut Leftovers) -> anyhow::Result<Files> {
    let capture = config
        .pcap
        .as_deref()
        .map(|path| Capture::create(path).with_context(|| format!("--pcap {}", path.display())));
    if let Some(path) = &config.pcap {
        info!("--pcap: every frame is written to {}, which may grow without limit", path.display());
    }
    let control = config.control.as_deref().map(|path| {
        let control = Control::listen(path).with_context(|| format!("--control {}", path.display()))?;
        leftovers.files.push(path.to_owned());
        anyhow::Ok(control)
    });
    let ledger = match &config.flows {
        Some(flows) => ledger(flows, leftovers)?,
        None => None,
    };
    Ok(Files { capture: capture.transpose()?, control: control.transpose()?, ledger })
}

/// Opens the file of connections. One that nobody asked for may be missing: the folder may be closed to us.
fn ledger(flows: &FlowsFile, leftovers: &mut Leftovers) -> anyhow::Result<Option<(Ledger, Vec<Key>)>> {
    match Ledger::open(&flows.path, Limits::default().flows) {
        Ok((ledger, lost)) => {
            leftovers.files.push(flows.path.clone());
            if !lost.is_empty() {
                info!("{} connections of a process before this one are to be reset", lost.len());
            }
            Ok(Some((ledger, lost)))
        }
        Err(error) if flows.asked_for => {
            Err(error).with_context(|| format!("--flows-path {}", flows.path.display()))
        }
        Err(error) => {
            warn!(
                "{}: {error}; after a crash the guest will not be told of its connections",
                flows.path.display()
            );
            Ok(None)
        }
    }
}

/// Opens what is the same for every transport and needs no file.
pub fn open(config: &Config, files: Files) -> anyhow::Result<Opened> {
    // First, so that whoever reads in the log that we are up may already end us in order.
    let stop = signals::termination().context("signals")?;
    if config.protocols.icmp
        && let Err(error) = echo::available()
    {
        warn!("the guest cannot ping: {error}");
    }
    Ok(Opened {
        listening: listen(config)?,
        capture: files.capture,
        control: files.control,
        ledger: files.ledger,
        stop: Some(stop),
    })
}

/// The stream transport of `transport`.
pub fn stream(transport: &Transport, leftovers: &mut Leftovers) -> anyhow::Result<Stream> {
    match at_socket(transport, leftovers)? {
        AtSocket::Listening(listener) => Ok(Stream::listen(listener)?),
        AtSocket::Connected(connection) => Ok(Stream::connected(connection)?),
    }
}

/// The vhost-user transport of `transport`.
pub fn vhost_user(transport: &Transport, leftovers: &mut Leftovers) -> anyhow::Result<VhostUser> {
    match at_socket(transport, leftovers)? {
        AtSocket::Listening(listener) => Ok(VhostUser::listen(listener)?),
        AtSocket::Connected(connection) => Ok(VhostUser::connected(connection)?),
    }
}

/// Where QEMU is met.
enum AtSocket {
    Listening(UnixListener),
    Connected(UnixStream),
}

fn at_socket(transport: &Transport, leftovers: &mut Leftovers) -> anyhow::Result<AtSocket> {
    match transport {
        Transport::Stream { socket } | Transport::VhostUser { socket } => {
            let listener = unix::listen(socket).with_context(|| format!("--socket {}", socket.display()))?;
            leftovers.files.push(socket.clone());
            info!("waiting for the guest at {}", socket.display());
            Ok(AtSocket::Listening(listener))
        }
        Transport::StreamFd(fd) | Transport::VhostUserFd(fd) => {
            let own = sandbox::adopt(*fd).with_context(|| format!("--fd {fd}"))?;
            Ok(AtSocket::Connected(UnixStream::from(own)))
        }
        Transport::Tap(tap) => bail!("--netns {}: the tap is opened before privileges go", tap.netns),
    }
}

/// Creates the tap in the guest's namespace and, if asked to, configures it there.
pub fn tap(config: &TapConfig) -> anyhow::Result<Tap> {
    let netns = namespace::open(&config.netns).with_context(|| format!("--netns {}", config.netns))?;
    let made = namespace::inside(netns.as_fd(), || -> anyhow::Result<Tap> {
        let tap = Tap::open(&config.ifname)?;
        if let Some(setup) = &config.config_net {
            netlink::configure(&config.ifname, setup)
                .with_context(|| format!("--config-net {}", config.ifname))?;
        } else if let Some(mac) = config.mac {
            let setup = netlink::LinkSetup { mac: Some(mac.0), ..netlink::LinkSetup::default() };
            netlink::configure(&config.ifname, &setup).with_context(|| format!("--ns-mac-addr {mac}"))?;
        }
        Ok(tap)
    });
    made.with_context(|| format!("--netns {}", config.netns))?
}

/// Binds every forwarded port.
fn listen(config: &Config) -> anyhow::Result<Vec<Listening>> {
    let limit = descriptor_limit();
    let shares = [&config.tcp_forward, &config.udp_forward];
    let shares = shares.iter().filter(|rules| rules.iter().any(|rule| rule.best_effort)).count();
    let budget = limit / LISTENING_SHARE / shares.max(1);
    let mut listening = Vec::new();
    for (flag, rules, protocol) in
        [("--tcp-ports", &config.tcp_forward, Proto::Tcp), ("--udp-ports", &config.udp_forward, Proto::Udp)]
    {
        let wanted: usize = rules.iter().map(|rule| rule.ports.iter().count()).sum();
        let before = listening.len();
        for rule in rules {
            let place = place(config, rule);
            listen_rule(flag, rule, place, protocol, before + budget, &mut listening)?;
        }
        let bound = listening.len() - before;
        if bound < wanted {
            warn!(
                "{flag}: {bound} of {wanted} ports are forwarded; the others are taken, not permitted, or beyond \
                 the limit of {limit} descriptors: raise RLIMIT_NOFILE (ulimit -n) for more"
            );
        } else if wanted > 0 {
            info!("{flag}: {bound} ports are forwarded");
        }
    }
    Ok(listening)
}

fn listen_rule(
    flag: &str,
    rule: &Rule,
    place: (IpAddr, bool),
    protocol: Proto,
    budget: usize,
    listening: &mut Vec<Listening>,
) -> anyhow::Result<()> {
    for (port, guest_port) in rule.ports.iter() {
        if rule.best_effort && listening.len() >= budget {
            return Ok(());
        }
        match listen_port(rule, place, protocol, port, guest_port) {
            Ok(listener) => listening.push(listener),
            Err(Errno::MFILE | Errno::NFILE) if rule.best_effort => return Ok(()),
            Err(_) if rule.best_effort => {}
            Err(error @ (Errno::MFILE | Errno::NFILE)) => bail!(
                "{flag}: port {port}: {error}; {} ports are bound, raise RLIMIT_NOFILE (ulimit -n) for more",
                listening.len()
            ),
            Err(error) => bail!("{flag}: port {port}: {error}"),
        }
    }
    Ok(())
}

/// The address to listen on, and whether only for IPv6 if it is one of IPv6: the rule's, or every address of the
/// families the guest has. Who accepts for a guest that cannot be reached could only reset.
fn place(config: &Config, rule: &Rule) -> (IpAddr, bool) {
    let network = &config.network;
    match (rule.bind, network.v4, network.v6) {
        (Some(address), ..) => (address, true),
        (None, Some(_), None) => (Ipv4Addr::UNSPECIFIED.into(), true),
        (None, None, Some(_)) => (Ipv6Addr::UNSPECIFIED.into(), true),
        (None, None, None) | (None, Some(_), Some(_)) => (Ipv6Addr::UNSPECIFIED.into(), false),
    }
}

/// One port: both families at once where the kernel has IPv6.
fn listen_port(
    rule: &Rule,
    (address, v6_only): (IpAddr, bool),
    protocol: Proto,
    port: u16,
    guest_port: u16,
) -> Result<Listening, Errno> {
    let device = rule.interface.as_deref();
    let on = |address: IpAddr| {
        let address = SocketAddr::new(address, port);
        let socket = match protocol {
            Proto::Tcp => tcp::listen(&address, v6_only, device)?,
            Proto::Udp => udp::listen(address, v6_only, device)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?,
        };
        Ok(Listening { protocol, socket, guest_port, device: rule.interface.clone() })
    };
    match on(address) {
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) if !v6_only => on(Ipv4Addr::UNSPECIFIED.into()),
        bound => bound,
    }
}

fn descriptor_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_flows_there_may_be_or_of_the_descriptors_are_for_datagrams() {
        for (flows_max, descriptors, flows, datagram_flows) in [
            (None, 20_000, 131_072, 10_000),
            (None, 1 << 20, 131_072, 65_536),
            (Some(1000), 20_000, 1000, 500),
            (Some(40_000), 20_000, 40_000, 10_000),
            (Some(1), 20_000, 1, 1),
        ] {
            let limits = limits(flows_max, None, descriptors);
            assert_eq!((limits.flows, limits.datagram_flows), (flows, datagram_flows));
        }
    }

    #[test]
    fn memory_for_sockets_leaves_the_number_of_flows_as_it_is() {
        let expected = Limits { flows: 1000, datagram_flows: 500, ..Limits::default().within(32 << 20) };
        assert_eq!(limits(Some(1000), Some(32 << 20), 20_000), expected);
    }
}
