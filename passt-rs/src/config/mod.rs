//! What this process will do, resolved: the command line, and what it leaves to the pod's own network.
//!
//! The only module that reads the environment. A [`Config`] never changes after it is made; making one gathers
//! every fault instead of stopping at the first.

mod addressing;
mod dhcp;
mod dns;
mod resolv_conf;
mod summary;
mod surroundings;
mod values;

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use crate::answer::{Network, Services};
use crate::cli::{Cli, Fault};
use crate::flow::forward::{self, Rule};
use crate::flow::nat::Nat;
use crate::host::netlink::LinkSetup;
use crate::relay::{Budget, Limits};
use crate::wire::Mac;
use addressing::Addressing;
use values::Values;

pub use resolv_conf::ResolvConf;
pub use surroundings::Surroundings;

/// Everything, resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the guest is told.
    pub network: Network,
    pub nat: Nat,
    /// The guest's hardware address, where it is known before the guest speaks.
    pub guest_mac: Option<Mac>,
    /// Flows of all kinds that there may be; `None` leaves the relay's own limit.
    pub flows_max: Option<usize>,
    /// Memory of all flows' sockets in the kernel, about; `None` leaves each socket to the kernel.
    pub socket_memory_bytes: Option<u64>,
    pub tcp_forward: Vec<Rule>,
    pub udp_forward: Vec<Rule>,
    pub transport: Transport,
    pub outbound: Outbound,
    pub protocols: Protocols,
    /// Bind to addresses the pod does not have.
    pub freebind: bool,
    pub control: Option<PathBuf>,
    /// Where TCP connections are written down for who is started after us.
    pub flows: Option<FlowsFile>,
    pub pcap: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    /// Quit when the guest's end closes.
    pub one_off: bool,
    pub foreground: bool,
    pub log: Log,
    pub run_as: Option<RunAs>,
    /// What was skipped and why, for the log.
    pub warnings: Vec<String>,
}

/// Where TCP connections are written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowsFile {
    pub path: PathBuf,
    /// On the command line; then it has to be there.
    pub asked_for: bool,
}

/// The guest's end of the cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Length-prefixed frames on a Unix socket that we listen on.
    Stream {
        socket: PathBuf,
    },
    /// The same on a connected descriptor we inherited.
    StreamFd(RawFd),
    /// vhost-user on a Unix socket that we listen on.
    VhostUser {
        socket: PathBuf,
    },
    /// The same on a connected descriptor we inherited.
    VhostUserFd(RawFd),
    Tap(Tap),
}

/// A tap in a guest's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Process id, name or path; see [`crate::host::netlink::namespace::open`].
    pub netns: String,
    pub ifname: String,
    /// Hardware address of the tap; `None` leaves the kernel's choice.
    pub mac: Option<Mac>,
    /// What to give the tap, with `--config-net`.
    pub config_net: Option<LinkSetup>,
}

/// What outgoing sockets are bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbound {
    pub address4: Option<std::net::Ipv4Addr>,
    pub address6: Option<std::net::Ipv6Addr>,
    pub interface4: Option<String>,
    pub interface6: Option<String>,
}

/// Which protocols are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    pub tcp: bool,
    pub udp: bool,
    pub icmp: bool,
}

/// Where the log goes, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub verbosity: Verbosity,
    /// `None` is standard error.
    pub file: Option<PathBuf>,
    /// Size at which the file drops its older half.
    pub size_bytes: u64,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    Quiet,
    Normal,
    Debug,
    Trace,
}

/// Whom to become when started as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
}

impl Config {
    /// Resolves a command line, or says everything that is wrong with it.
    pub fn resolve(cli: &Cli, around: &Surroundings) -> Result<Self, Vec<Fault>> {
        let mut values = Values::default();
        for flag in cli.unsupported.given() {
            values.fault(flag, "not supported yet");
        }
        let mut warnings = without_effect(cli, &mut values);
        let protocols = Protocols { tcp: !cli.no_tcp, udp: !cli.no_udp, icmp: !cli.no_icmp };
        let addressing = Addressing::resolve(cli, around, &mut values, &mut warnings);
        let resolvers = dns::resolve(cli, around, &addressing, &mut values, &mut warnings);
        let ndp = protocols.icmp && !cli.no_ndp;
        let network = Network {
            our_mac: addressing.our_mac,
            mtu: addressing.mtu,
            v4: addressing.v4,
            v6: addressing.v6,
            dns: resolvers.announced,
            search: resolvers.search,
            hostname: values.name("--hostname", &cli.hostname),
            fqdn: values.name("--fqdn", &cli.fqdn),
            extras: dhcp::extras(cli, addressing.v4.is_some() && !cli.no_dhcp, &mut values, &mut warnings),
            services: Services {
                dhcp: !cli.no_dhcp,
                dhcpv6: !cli.no_dhcpv6,
                ndp,
                ra: ndp && !cli.no_ra,
                announce_dns: !cli.no_dhcp_dns,
                announce_search: !cli.no_dhcp_search,
            },
        };
        let outbound = values.per_family("--outbound", &cli.outbound);
        let transport = transport(cli, around, &addressing, &mut values);
        let config = Self {
            nat: Nat { dns4: resolvers.dns4, dns6: resolvers.dns6, ..addressing.nat.clone() },
            guest_mac: values.mac("--guest-mac", &cli.guest_mac),
            flows_max: flows_max(cli, &mut values),
            socket_memory_bytes: values.number(
                "--socket-memory",
                &cli.socket_memory,
                Budget::MIN_BYTES..=Budget::MAX_BYTES,
            ),
            tcp_forward: ports(&mut values, ("--tcp-ports", &cli.tcp_ports), around, &network, protocols.tcp),
            udp_forward: ports(&mut values, ("--udp-ports", &cli.udp_ports), around, &network, protocols.udp),
            flows: flows_file(cli, &transport, &mut values),
            transport,
            outbound: Outbound {
                address4: outbound.v4,
                address6: outbound.v6,
                interface4: values.interface("--outbound-if4", &cli.outbound_if4),
                interface6: values.interface("--outbound-if6", &cli.outbound_if6),
            },
            protocols,
            freebind: cli.freebind,
            control: values.path("--control", &cli.control),
            pcap: values.path("--pcap", &cli.pcap),
            pid_file: values.path("--pid", &cli.pid),
            // On a descriptor that was connected for us nobody can come back.
            one_off: cli.one_off || !cli.fd.is_empty(),
            foreground: cli.foreground,
            log: log(cli, &mut values),
            run_as: run_as(cli, &mut values),
            network,
            warnings,
        };
        values.finish().map(|()| config)
    }
}

/// The rules of one protocol; none when it is not carried, but they must be right all the same.
fn ports(
    values: &mut Values,
    (flag, specs): (&str, &[String]),
    around: &Surroundings,
    network: &Network,
    carried: bool,
) -> Vec<Rule> {
    match forward::parse(specs, &around.ephemeral_ports) {
        Ok(rules) => {
            for address in rules.iter().filter_map(|rule| rule.bind) {
                let (family, off) = match address {
                    IpAddr::V4(_) => ("IPv4", network.v4.is_none() && network.v6.is_some()),
                    IpAddr::V6(_) => ("IPv6", network.v6.is_none() && network.v4.is_some()),
                };
                if off {
                    values
                        .fault(flag, format!("`{address}`: {family} is off, the guest has no such address"));
                }
            }
            if carried { rules } else { Vec::new() }
        }
        Err(errors) => {
            for error in errors {
                values.fault(flag, error.to_string());
            }
            Vec::new()
        }
    }
}

fn transport(cli: &Cli, around: &Surroundings, addressing: &Addressing, values: &mut Values) -> Transport {
    let socket_flag = if cli.socket_path.is_empty() { "--socket" } else { "--socket-path" };
    let socket = values.socket_path(socket_flag, &[cli.socket.as_slice(), &cli.socket_path].concat());
    let fd = values.descriptor("--fd", &cli.fd);
    let netns = values.once("--netns", &cli.netns).map(str::to_owned);
    let ifname = values.interface("--ns-ifname", &cli.ns_ifname);
    let mac = values.mac("--ns-mac-addr", &cli.ns_mac_addr);
    let given = [(socket_flag, socket.is_some()), ("--fd", fd.is_some()), ("--netns", netns.is_some())];
    let mut given = given.iter().filter(|(_, given)| *given).map(|(flag, _)| *flag);
    if let (Some(first), Some(second)) = (given.next(), given.next()) {
        values.fault(second, format!("cannot be combined with {first}; the guest has one end"));
    }
    if cli.vhost_user && netns.is_some() {
        values.fault("--netns", "cannot be combined with --vhost-user; the guest has one end");
    }
    let of_a_tap = [
        ("--netns-only", cli.netns_only),
        ("--no-netns-quit", cli.no_netns_quit),
        ("--ns-ifname", ifname.is_some()),
        ("--ns-mac-addr", mac.is_some()),
        ("--config-net", cli.config_net),
    ];
    for (flag, _) in of_a_tap.iter().filter(|(_, given)| *given && netns.is_none()) {
        values.fault(*flag, "needs --netns: without it there is no tap");
    }
    match (netns, fd) {
        (Some(netns), _) => Transport::Tap(Tap {
            netns,
            ifname: ifname.or_else(|| around.uplink_name()).unwrap_or_else(|| "tap0".to_owned()),
            mac,
            config_net: cli.config_net.then(|| addressing.link_setup(mac)),
        }),
        (None, Some(fd)) if cli.vhost_user => Transport::VhostUserFd(fd),
        (None, Some(fd)) => Transport::StreamFd(fd),
        (None, None) => {
            let socket = socket.unwrap_or_else(|| around.free_socket.clone());
            if cli.vhost_user { Transport::VhostUser { socket } } else { Transport::Stream { socket } }
        }
    }
}

/// The file that connections are written down in: as asked for, or beside a socket that a guest can come back to.
fn flows_file(cli: &Cli, transport: &Transport, values: &mut Values) -> Option<FlowsFile> {
    match (values.path("--flows-path", &cli.flows_path), transport) {
        (Some(path), _) if path == Path::new("none") => None,
        (Some(path), _) => Some(FlowsFile { path, asked_for: true }),
        (None, Transport::Stream { socket } | Transport::VhostUser { socket }) => {
            let mut path = socket.clone().into_os_string();
            path.push(".flows");
            Some(FlowsFile { path: path.into(), asked_for: false })
        }
        (None, Transport::StreamFd(_) | Transport::VhostUserFd(_) | Transport::Tap(_)) => None,
    }
}

/// Flags that change nothing here, as what they change in passt is not built or not needed: checked as passt checks
/// them, and said in the log, so that nobody takes acceptance for effect.
fn without_effect(cli: &Cli, values: &mut Values) -> Vec<String> {
    let mut warnings = Vec::new();
    let repair =
        values.socket_path("--repair-path", &cli.repair_path).filter(|path| path != Path::new("none"));
    let of_a_migration = [
        ("--repair-path", repair.is_some()),
        ("--migrate-exit", cli.migrate_exit),
        ("--migrate-no-linger", cli.migrate_no_linger),
    ];
    for (flag, _) in of_a_migration.iter().filter(|(_, given)| *given) {
        if cli.vhost_user {
            warnings.push(format!(
                "{flag} has no effect: connections do not move with a migrating guest yet, they are reset"
            ));
        } else {
            values.fault(
                *flag,
                "needs --vhost-user: a guest on another transport cannot take its connections along",
            );
        }
    }
    if cli.stderr {
        warnings.push("--stderr has no effect: without --log-file the log goes there anyway".to_owned());
    }
    warnings
}

fn flows_max(cli: &Cli, values: &mut Values) -> Option<usize> {
    let most = u64::try_from(Limits::default().flows).unwrap_or(u64::MAX);
    values.number("--flows-max", &cli.flows_max, 1..=most).and_then(|most| usize::try_from(most).ok())
}

fn log(cli: &Cli, values: &mut Values) -> Log {
    if cli.quiet && (cli.debug || cli.trace) {
        values.fault("--quiet", "contradicts --debug and --trace");
    }
    let verbosity = match (cli.trace, cli.debug, cli.quiet) {
        (true, _, _) => Verbosity::Trace,
        (_, true, _) => Verbosity::Debug,
        (_, _, true) => Verbosity::Quiet,
        (false, false, false) => Verbosity::Normal,
    };
    let size = values.number("--log-size", &cli.log_size, LOG_SIZE_MIN_BYTES..=u64::from(u32::MAX));
    Log {
        verbosity,
        file: values.path("--log-file", &cli.log_file),
        size_bytes: size.unwrap_or(LOG_SIZE_BYTES),
    }
}

fn run_as(cli: &Cli, values: &mut Values) -> Option<RunAs> {
    let text = values.once("--runas", &cli.runas)?;
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    match (uid.parse(), gid.parse()) {
        // The largest number is "no change" to the kernel.
        (Ok(uid), Ok(gid)) if uid != u32::MAX && gid != u32::MAX => Some(RunAs { uid, gid }),
        _ => {
            values.fault("--runas", format!("`{text}`: expected numbers, UID or UID:GID"));
            None
        }
    }
}

/// Log size unless told otherwise, as passt's.
const LOG_SIZE_BYTES: u64 = 1 << 20;
/// The newest half must hold more than the start's own lines.
const LOG_SIZE_MIN_BYTES: u64 = 4096;

#[cfg(test)]
mod tests;
