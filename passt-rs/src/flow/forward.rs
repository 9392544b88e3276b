//! Port-forward rules: which host ports listen, where, and which guest port each one reaches.
//!
//! Reads passt's port grammar and never opens a socket. A spec is `none`, or `[ADDR[%IF]/]ITEMS`: items are
//! comma-separated `all`, `FIRST[-LAST][:TOFIRST[-TOLAST]]`, or `~FIRST[-LAST]` which takes ports away
//! again. A list of exclusions alone starts from `all`, and `all` is every port outside the range the kernel
//! hands out to clients (`net.ipv4.ip_local_port_range`): listening there would take ports from connections
//! that leave the pod.
//!
//! Deviations from passt: `auto`, `all:ADDR` and a target address are refused, and a host port that two specs
//! send to different guest ports is a fault instead of a warning.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// One listening place and the ports it forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Address to listen on; `None` is every address of both families.
    pub bind: Option<IpAddr>,
    /// Interface to listen on; `None` is every interface.
    pub interface: Option<String>,
    pub ports: PortMap,
    /// Ports somebody else holds, or that we may not bind, are left out instead of failing the start:
    /// whoever wrote `all` did not name them.
    pub best_effort: bool,
}

/// Guest port of each host port.
#[derive(Clone, PartialEq, Eq)]
pub struct PortMap {
    /// Indexed by host port; 0 is "not forwarded".
    guest: Box<[u16]>,
}

/// What is wrong with a spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{piece}`: {problem}")]
pub struct SpecError {
    /// The part of the spec that is wrong, as it was written.
    pub piece: String,
    pub problem: Problem,
}

/// The kinds of wrong specs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("expected `none`, `all` or a list of ports such as `22,8000-8010:80-90,~8005`")]
    Empty,
    #[error("not an IPv4 or IPv6 address")]
    Address,
    #[error("not an interface name (1 to 15 characters)")]
    Interface,
    #[error("not a port (1 to 65535)")]
    Port,
    #[error("port 0 cannot be forwarded; ports are 1 to 65535")]
    Zero,
    #[error("the range ends before it begins; write the smaller port first")]
    Reversed,
    #[error("{host} host ports cannot map to {guest} guest ports; both ranges need the same length")]
    Length { host: u32, guest: u32 },
    #[error("an exclusion takes no `:`; it names host ports only")]
    MappedExclusion,
    #[error("`none` cannot be combined with other ports")]
    NoneWithOthers,
    #[error("not supported yet")]
    Unsupported,
    #[error("the exclusions leave no port to forward")]
    NothingLeft,
    #[error("host port {host} is already forwarded to guest port {earlier}, this would make it {later}")]
    Conflict { host: u16, earlier: u16, later: u16 },
    #[error("host port {host} is already forwarded by another rule whose address overlaps this one's")]
    Overlap { host: u16 },
}

/// Reads every spec given for one protocol; all faults of all specs are returned together.
pub fn parse(specs: &[String], ephemeral: &RangeInclusive<u16>) -> Result<Vec<Rule>, Vec<SpecError>> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut errors = Vec::new();
    for spec in specs {
        if spec == "none" {
            if specs.iter().any(|other| other != "none") {
                errors.push(Problem::NoneWithOthers.at(spec));
            }
            continue;
        }
        match parse_spec(spec, ephemeral) {
            Ok(rule) => match add(&mut rules, rule) {
                Ok(()) => {}
                Err(problem) => errors.push(problem.at(spec)),
            },
            Err(mut faults) => errors.append(&mut faults),
        }
    }
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}

impl Rule {
    /// Whether the kernel would refuse a port of one rule because the other listens on it.
    fn shares_place(&self, other: &Self) -> bool {
        fn shares<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
            one.is_none() || other.is_none() || one == other
        }
        shares(self.bind.as_ref(), other.bind.as_ref())
            && shares(self.interface.as_ref(), other.interface.as_ref())
    }

    fn same_place(&self, other: &Self) -> bool {
        self.bind == other.bind && self.interface == other.interface
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bind {
            Some(IpAddr::V4(address)) => write!(f, "{address}")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]")?,
            None => f.write_str("*")?,
        }
        if let Some(interface) = &self.interface {
            write!(f, "%{interface}")?;
        }
        write!(f, " {}", self.ports)
    }
}

impl PortMap {
    /// Forwards nothing.
    pub fn new() -> Self {
        Self { guest: vec![0; PORTS].into_boxed_slice() }
    }

    /// The guest port that `host` reaches.
    pub fn guest_port(&self, host: u16) -> Option<u16> {
        self.guest.get(usize::from(host)).copied().filter(|guest| *guest != 0)
    }

    /// Host port and guest port of everything forwarded, by rising host port.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        (0..=u16::MAX).zip(self.guest.iter().copied()).filter(|(_, guest)| *guest != 0)
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    fn insert(&mut self, host: u16, guest: u16) -> Result<(), Problem> {
        match self.guest_port(host) {
            Some(earlier) if earlier != guest => Err(Problem::Conflict { host, earlier, later: guest }),
            _ => {
                self.set(host, guest);
                Ok(())
            }
        }
    }

    fn set(&mut self, host: u16, guest: u16) {
        if let Some(place) = self.guest.get_mut(usize::from(host)) {
            *place = guest;
        }
    }
}

impl Default for PortMap {
    fn default() -> Self {
        Self::new()
    }
}

/// The grammar's own form, ranges joined: `22,8000-8010:80-90`.
impl fmt::Display for PortMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ports = self.iter().peekable();
        let mut separator = "";
        while let Some((first, to_first)) = ports.next() {
            let (mut last, mut to_last) = (first, to_first);
            while let Some(next) = ports.next_if(|(host, guest)| {
                Some(*host) == last.checked_add(1) && Some(*guest) == to_last.checked_add(1)
            }) {
                (last, to_last) = next;
            }
            write!(f, "{separator}{}", Range { first, last })?;
            if first != to_first {
                write!(f, ":{}", Range { first: to_first, last: to_last })?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for PortMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortMap({self})")
    }
}

impl Problem {
    fn at(self, piece: &str) -> SpecError {
        SpecError { piece: piece.to_owned(), problem: self }
    }
}

/// Adds a rule, without the ports that one at the same place has already.
fn add(rules: &mut Vec<Rule>, mut rule: Rule) -> Result<(), Problem> {
    let mut redundant = Vec::new();
    for earlier in rules.iter().filter(|earlier| earlier.shares_place(&rule)) {
        for (host, guest) in rule.ports.iter() {
            match earlier.ports.guest_port(host) {
                None => {}
                Some(before) if before != guest => {
                    return Err(Problem::Conflict { host, earlier: before, later: guest });
                }
                Some(_) if earlier.same_place(&rule) => redundant.push(host),
                Some(_) => return Err(Problem::Overlap { host }),
            }
        }
    }
    for host in redundant {
        rule.ports.set(host, 0);
    }
    if !rule.ports.is_empty() {
        rules.push(rule);
    }
    Ok(())
}

fn parse_spec(spec: &str, ephemeral: &RangeInclusive<u16>) -> Result<Rule, Vec<SpecError>> {
    let mut errors = Vec::new();
    let (mut bind, mut interface) = (None, None);
    let items = match spec.split_once('/') {
        None => spec,
        Some((place, items)) => {
            match parse_place(place) {
                Ok(place) => (bind, interface) = place,
                Err(error) => errors.push(error),
            }
            items
        }
    };
    match parse_items(items, ephemeral) {
        Ok((ports, best_effort)) if errors.is_empty() => Ok(Rule { bind, interface, ports, best_effort }),
        Ok(_) => Err(errors),
        Err(mut more) => {
            errors.append(&mut more);
            Err(errors)
        }
    }
}

fn parse_place(place: &str) -> Result<(Option<IpAddr>, Option<String>), SpecError> {
    let (address, interface) = match place.split_once('%') {
        None => (place, None),
        Some((address, interface)) => (address, Some(interface)),
    };
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let bind = match bare {
        "" if interface.is_some() => None,
        _ => Some(bare.parse().map_err(|_| Problem::Address.at(address))?),
    };
    match interface {
        Some(name) if !(1..=15).contains(&name.len()) => Err(Problem::Interface.at(place)),
        _ => Ok((bind, interface.map(str::to_owned))),
    }
}

/// The ports of a list, and whether they were named one by one (false) or by leaving some out (true).
fn parse_items(list: &str, ephemeral: &RangeInclusive<u16>) -> Result<(PortMap, bool), Vec<SpecError>> {
    let mut ports = PortMap::new();
    let mut exclusions: Vec<Range> = Vec::new();
    let mut errors = Vec::new();
    let mut everything = list.split(',').all(|item| item.starts_with('~'));
    for item in list.split(',') {
        let outcome = match item.strip_prefix('~') {
            Some(range) if range.contains(':') => Err(Problem::MappedExclusion.at(item)),
            Some(range) => Range::parse(range).map(|range| exclusions.push(range)),
            None if item == "all" => {
                everything = true;
                Ok(())
            }
            None => add_item(&mut ports, item),
        };
        errors.extend(outcome.err());
    }
    if everything {
        for port in (1..=u16::MAX).filter(|port| !ephemeral.contains(port)) {
            if let Err(problem) = ports.insert(port, port) {
                errors.push(problem.at(list));
                break;
            }
        }
    }
    for port in exclusions.iter().flat_map(|range| range.first..=range.last) {
        ports.set(port, 0);
    }
    if errors.is_empty() && ports.is_empty() {
        errors.push(Problem::NothingLeft.at(list));
    }
    if errors.is_empty() { Ok((ports, everything)) } else { Err(errors) }
}

fn add_item(ports: &mut PortMap, item: &str) -> Result<(), SpecError> {
    let (host, guest) = match item.split_once(':') {
        _ if item.is_empty() => return Err(Problem::Empty.at(item)),
        _ if item == "none" => return Err(Problem::NoneWithOthers.at(item)),
        _ if item == "auto" || item.starts_with("all:") => return Err(Problem::Unsupported.at(item)),
        None => (Range::parse(item)?, None),
        Some((host, guest)) => (Range::parse(host)?, Some(Range::parse(guest)?)),
    };
    let guest = guest.unwrap_or(host);
    if host.len() != guest.len() {
        return Err(Problem::Length { host: host.len(), guest: guest.len() }.at(item));
    }
    for (host, guest) in (host.first..=host.last).zip(guest.first..=guest.last) {
        ports.insert(host, guest).map_err(|problem| problem.at(item))?;
    }
    Ok(())
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy)]
struct Range {
    first: u16,
    last: u16,
}

impl Range {
    fn parse(text: &str) -> Result<Self, SpecError> {
        let (first, last) = match text.split_once('-') {
            None => (parse_port(text, text)?, None),
            Some((first, last)) => (parse_port(first, text)?, Some(parse_port(last, text)?)),
        };
        let last = last.unwrap_or(first);
        if last < first { Err(Problem::Reversed.at(text)) } else { Ok(Self { first, last }) }
    }

    fn len(self) -> u32 {
        u32::from(self.last).saturating_sub(u32::from(self.first)) + 1
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

fn parse_port(text: &str, piece: &str) -> Result<u16, SpecError> {
    // `parse` alone would take a leading `+`.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(0) => Err(Problem::Zero.at(piece)),
        Ok(port) if digits => Ok(port),
        _ => Err(Problem::Port.at(piece)),
    }
}

/// One entry for each 16-bit port number.
const PORTS: usize = 1 << 16;

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
