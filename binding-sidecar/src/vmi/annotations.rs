//! `sluice.dev/...` annotations of a VMI: what its spec has no field for. It must never overlook one: a misspelled key or
//! name is a fault, as nobody finds out otherwise.
//!
//! `sluice.dev/KEY` is for all our NICs, `sluice.dev/KEY.INTERFACE` for one, and wins there. Interfaces' names have no dots.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::names::ANNOTATIONS;
use crate::nic::{LogLevel, Tuning};

use super::fault::{Faults, Quoted};

/// All of a VMI's.
#[derive(Debug, Default)]
pub(super) struct Annotations {
    of_all: Values,
    of_one: HashMap<String, Values>,
    pub(super) metrics_address: Option<SocketAddr>,
}

/// What can be said of one NIC.
#[derive(Debug, Default)]
struct Values {
    mtu: Option<u16>,
    dns: Option<Vec<IpAddr>>,
    dns_search: Option<Vec<String>>,
    host_loopback: Option<Loopback>,
    log_level: Option<LogLevel>,
    flows_max: Option<u32>,
}

type Loopback = (Option<Ipv4Addr>, Option<Ipv6Addr>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Mtu,
    Dns,
    DnsSearch,
    MapHostLoopback,
    LogLevel,
    FlowsMax,
    MetricsAddress,
}

impl Annotations {
    /// `bound`: names of the VMI's interfaces that have a binding. That may be ours under another name, whose interfaces
    /// another sidecar reads.
    pub(super) fn read(
        annotations: &BTreeMap<String, String>,
        bound: &HashSet<&str>,
        faults: &mut Faults,
    ) -> Self {
        let mut found = Self::default();
        let bound = Bound { shown: shown(bound), names: bound };
        for (annotation, value) in annotations {
            if let Some(rest) = annotation.strip_prefix(ANNOTATIONS)
                && let Err(problem) = found.read_one(rest, value, &bound)
            {
                faults.add(format_args!("metadata.annotations {}", Quoted(annotation)), problem);
            }
        }
        found
    }

    fn read_one(&mut self, rest: &str, value: &str, bound: &Bound<'_>) -> Result<(), String> {
        let (key, interface) = match rest.split_once('.') {
            None => (rest, None),
            Some((key, interface)) => (key, Some(interface)),
        };
        let Some(key) = Key::ALL.into_iter().find(|known| known.name() == key) else {
            let known: Vec<&str> = Key::ALL.into_iter().map(Key::name).collect();
            return Err(format!("unknown, expected one of {}", known.join(", ")));
        };
        let is_good = match (interface, key) {
            (Some(_), Key::MetricsAddress) => {
                return Err("is of the whole VMI, expected it without an interface's name".to_owned());
            }
            (Some(interface), _) if !bound.names.contains(interface) => {
                let Bound { shown, names: _ } = bound;
                return Err(format!(
                    "{} is no interface with a binding, of which there are {shown}",
                    Quoted(interface)
                ));
            }
            (Some(interface), _) => self.of_one.entry(interface.to_owned()).or_default().set(key, value),
            (None, Key::MetricsAddress) => {
                self.metrics_address = value.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
                self.metrics_address.is_some()
            }
            (None, _) => self.of_all.set(key, value),
        };
        if is_good { Ok(()) } else { Err(format!("{}, expected {}", Quoted(value), key.expected())) }
    }

    fn of<T>(&self, interface: &str, value: impl Fn(&Values) -> Option<T>) -> Option<T> {
        self.of_one.get(interface).and_then(&value).or_else(|| value(&self.of_all))
    }

    /// Bytes.
    pub(super) fn mtu(&self, interface: &str) -> Option<u16> {
        self.of(interface, |values| values.mtu)
    }

    pub(super) fn tuning(&self, interface: &str) -> Tuning {
        let (v4, v6) = self.of(interface, |values| values.host_loopback).unwrap_or_default();
        Tuning {
            dns: self.of(interface, |values| values.dns.clone()).unwrap_or_default(),
            dns_search: self.of(interface, |values| values.dns_search.clone()).unwrap_or_default(),
            host_loopback_v4: v4,
            host_loopback_v6: v6,
            log_level: self.of(interface, |values| values.log_level).unwrap_or_default(),
            flows_max: self.of(interface, |values| values.flows_max),
        }
    }
}

impl Values {
    /// Whether the value is one of those allowed.
    fn set(&mut self, key: Key, value: &str) -> bool {
        match key {
            Key::Mtu => {
                self.mtu = number(value).filter(|mtu| (MTU_MIN..=MTU_MAX).contains(mtu));
                self.mtu.is_some()
            }
            Key::Dns => {
                self.dns = list(value, |text| text.parse().ok().filter(|address| is_resolver(*address)));
                self.dns.is_some()
            }
            Key::DnsSearch => {
                self.dns_search = list(value, domain);
                self.dns_search.is_some()
            }
            Key::MapHostLoopback => {
                self.host_loopback = loopback(value);
                self.host_loopback.is_some()
            }
            Key::LogLevel => {
                self.log_level = match value {
                    "warn" => Some(LogLevel::Warn),
                    "info" => Some(LogLevel::Info),
                    "debug" => Some(LogLevel::Debug),
                    "trace" => Some(LogLevel::Trace),
                    _ => None,
                };
                self.log_level.is_some()
            }
            Key::FlowsMax => {
                self.flows_max = number(value).filter(|most| (1..=FLOWS_MAX).contains(most));
                self.flows_max.is_some()
            }
            // Not of a NIC.
            Key::MetricsAddress => false,
        }
    }
}

/// What follows [`ANNOTATIONS`] in the annotations that we know.
pub fn annotation_keys() -> [&'static str; 7] {
    Key::ALL.map(Key::name)
}

impl Key {
    const ALL: [Self; 7] = [
        Self::Mtu,
        Self::Dns,
        Self::DnsSearch,
        Self::MapHostLoopback,
        Self::LogLevel,
        Self::FlowsMax,
        Self::MetricsAddress,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Mtu => "mtu",
            Self::Dns => "dns",
            Self::DnsSearch => "dns-search",
            Self::MapHostLoopback => "map-host-loopback",
            Self::LogLevel => "log-level",
            Self::FlowsMax => "flows-max",
            Self::MetricsAddress => "metrics-address",
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Mtu => "68 to 65520",
            Self::Dns => "addresses of resolvers, separated by commas, none on loopback",
            Self::DnsSearch => "domains, separated by commas",
            Self::MapHostLoopback => {
                "one IPv4 address, one IPv6 address, or both separated by a comma, none of them special"
            }
            Self::LogLevel => "warn, info, debug or trace",
            Self::FlowsMax => "1 to 131072",
            Self::MetricsAddress => "an address and a port such as 0.0.0.0:9187 or [::]:9187",
        }
    }
}

/// Names of the interfaces that are served by us.
struct Bound<'a> {
    names: &'a HashSet<&'a str>,
    /// Made once, and short, however many there are.
    shown: String,
}

fn shown(ours: &HashSet<&str>) -> String {
    let mut names: Vec<&str> = ours.iter().copied().collect();
    names.sort_unstable();
    let mut shown: Vec<String> = names.iter().take(SHOWN_MAX).map(|name| Quoted(name).to_string()).collect();
    match names.len() {
        0 => shown.push("none here".to_owned()),
        1..=SHOWN_MAX => {}
        _ => shown.push("more".to_owned()),
    }
    shown.join(", ")
}

/// Whether an address can name one station: neither loopback, unspecified, a group, nor IPv4 inside IPv6.
pub(super) fn is_station(address: IpAddr) -> bool {
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    is_resolver(address) && !mapped && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// A guest's own loopback has no resolver of the pod's.
fn is_resolver(address: IpAddr) -> bool {
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// Digits only: `parse` alone would take a leading `+`.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// All items, if all are good; spaces around commas are.
fn list<T>(text: &str, item: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split(',').map(|text| item(text.trim_matches(' '))).collect()
}

/// A domain (RFC 1035 2.3.4), without the dot at its end.
fn domain(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(inner);
    // passt-rs takes this word for no domains at all.
    let is_good = name.len() <= 253 && name.split('.').all(label) && name != "none";
    is_good.then(|| name.to_owned())
}

fn loopback(text: &str) -> Option<Loopback> {
    let mut found = (None, None);
    for address in list(text, |text| text.parse().ok())? {
        let again = match address {
            _ if !is_station(address) => return None,
            IpAddr::V4(address) => found.0.replace(address).is_some(),
            IpAddr::V6(address) => found.1.replace(address).is_some(),
        };
        if again {
            return None;
        }
    }
    Some(found)
}

/// RFC 791 3.2: every link carries this much.
pub(super) const MTU_MIN: u16 = 68;
/// passt-rs's, passt's and QEMU's largest.
pub(super) const MTU_MAX: u16 = 65520;
/// passt-rs's.
const FLOWS_MAX: u32 = 131_072;
/// Few VMs have more NICs.
const SHOWN_MAX: usize = 8;
