//! Addresses handed out on this node from configured ranges, as the reference plugin `host-local` does and together
//! with it: both see each other's leases. It must never give an address away that a file of the network names.
//!
//! Where it differs from the reference, on purpose:
//! - networks' own, broadcast and all gateways' addresses of a range set are never given (`range`);
//! - an ADD that fails takes back what it reserved itself, not what the attachment had before;
//! - an empty file, left by who was killed, does not keep its address for ever (`leases`);
//! - DEL needs no valid ranges and makes no folder;
//! - addresses asked for by several channels are not added up: the strongest counts, as everywhere here (`channels`);
//! - a free address is looked for among the leases, not by trying every address.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::leases::{Lease, Leases};
use super::range::{RangeConfig, RangeSet, optional};
use super::resolv_conf;
use super::route_config::RouteConfig;
use crate::protocol::{CniError, CniResult, Code, Dns, Ip, Route, Version};

/// Where leases are if the configuration does not say.
const DATA_DIR: &str = "/var/lib/cni/networks";

/// `ipam`, as far as it is this plugin's. The first four keys are a range of its own, from before there was `ranges`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Section {
    #[serde(deserialize_with = "optional")]
    subnet: Option<ipnet::IpNet>,
    #[serde(rename = "rangestart", deserialize_with = "optional")]
    range_start: Option<IpAddr>,
    #[serde(rename = "rangeend", deserialize_with = "optional")]
    range_end: Option<IpAddr>,
    #[serde(deserialize_with = "optional")]
    gateway: Option<IpAddr>,
    ranges: Vec<Vec<RangeConfig>>,
    routes: Vec<RouteConfig>,
    #[serde(rename = "datadir")]
    data_dir: String,
    #[serde(rename = "resolvconf")]
    resolv_conf: String,
}

/// All that DEL and GC need of `ipam`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Place {
    #[serde(rename = "datadir")]
    data_dir: String,
}

/// An attachment's name within its network.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    pub container: &'a str,
    pub interface: &'a str,
}

/// What can be allocated from, checked.
#[derive(Debug)]
pub struct HostLocal {
    sets: Vec<RangeSet>,
    routes: Vec<Route>,
    resolv_conf: String,
    data_dir: PathBuf,
}

impl Place {
    pub fn data_dir(&self) -> PathBuf {
        data_dir(&self.data_dir)
    }
}

impl HostLocal {
    /// `ip_ranges` are those of `runtimeConfig`, which come first.
    ///
    /// # Errors
    /// Code 7 for ranges that cannot be allocated from.
    pub fn new(
        section: Section,
        ip_ranges: Vec<Vec<RangeConfig>>,
        version: Version,
    ) -> Result<Self, CniError> {
        let inline = section.subnet.map(|subnet| {
            let Section { range_start: start, range_end: end, gateway, .. } = section;
            vec![RangeConfig { subnet: Some(subnet), start, end, gateway }]
        });
        let all = ip_ranges.into_iter().chain(inline).chain(section.ranges);
        let sets: Vec<RangeSet> = all
            .enumerate()
            .map(|(index, ranges)| {
                RangeSet::new(&ranges).map_err(|error| invalid(format!("invalid range set {index}: {error}")))
            })
            .collect::<Result<_, _>>()?;
        if sets.is_empty() {
            return Err(invalid("no IP ranges specified"));
        }
        let of_ipv4 = sets.iter().filter(|set| set.is_ipv4()).count();
        one_of_each_family(of_ipv4, sets.len() - of_ipv4, version)?;
        for (index, set) in sets.iter().enumerate() {
            let behind = index + 1;
            if let Some(other) = sets.iter().skip(behind).position(|other| set.overlaps(other)) {
                return Err(invalid(format!("range set {index} overlaps with {}", behind + other)));
            }
        }
        Ok(Self {
            sets,
            routes: section.routes.into_iter().map(Route::from).collect(),
            resolv_conf: section.resolv_conf,
            data_dir: data_dir(&section.data_dir),
        })
    }

    /// One address of each range set. `requested` are taken by the sets they lie in; each must find one.
    ///
    /// # Errors
    /// Code 999 where no address can be given, as the reference's, with the counts of a set that is full; code 5 for
    /// files. Nothing is reserved then.
    pub fn add(
        &self,
        network: &str,
        holder: Holder<'_>,
        requested: &[IpAddr],
    ) -> Result<CniResult, CniError> {
        let dns = self.resolvers()?;
        let leases = Leases::lock(&self.data_dir, network).map_err(|error| files(&error))?;
        let existing = leases.all().map_err(|error| files(&error))?;
        let taken = existing.iter().map(|lease| lease.address).collect();
        let mut allocation =
            Allocation { leases: &leases, existing: &existing, holder, taken, fresh: Vec::new() };
        match self.allocate(&mut allocation, requested) {
            Ok(ips) => Ok(CniResult { interfaces: Vec::new(), ips, routes: self.routes.clone(), dns }),
            Err(error) => {
                for address in allocation.fresh {
                    let _ = leases.release_address(address);
                }
                Err(error)
            }
        }
    }

    fn allocate(&self, allocation: &mut Allocation<'_>, requested: &[IpAddr]) -> Result<Vec<Ip>, CniError> {
        let mut requested: Vec<IpAddr> = requested.iter().map(IpAddr::to_canonical).collect();
        let mut seen = BTreeSet::new();
        requested.retain(|address| seen.insert(*address));
        let mut ips = Vec::with_capacity(self.sets.len());
        for (index, set) in self.sets.iter().enumerate() {
            let wanted = requested.iter().position(|address| set.range_of(*address).is_some());
            let ip = match wanted.map(|position| requested.remove(position)) {
                Some(address) => allocation.take(set, index, address),
                None => allocation.next(set, index),
            };
            ips.push(ip.map_err(|mut error| {
                error.msg = format!("failed to allocate for range {index}: {}", error.msg);
                error
            })?);
        }
        if requested.is_empty() {
            return Ok(ips);
        }
        let left: Vec<String> = requested.iter().map(IpAddr::to_string).collect();
        Err(CniError::internal(format!("failed to allocate all requested IPs: {}", left.join(" "))))
    }

    /// # Errors
    /// Code 999 if the attachment has no address here. Which one does not matter, as for the reference.
    pub fn check(&self, network: &str, holder: Holder<'_>) -> Result<(), CniError> {
        let leases = Leases::lock_existing(&self.data_dir, network).map_err(|error| files(&error))?;
        let all =
            leases.map_or_else(|| Ok(Vec::new()), |leases| leases.all()).map_err(|error| files(&error))?;
        if all.iter().any(|lease| holder.has(lease)) {
            return Ok(());
        }
        let text = format!("host-local: Failed to find address added by container {}", holder.container);
        Err(CniError::internal(text)
            .with_details(format!("interface {}, network {network}", holder.interface)))
    }

    /// # Errors
    /// Code 50 where an ADD would find no address or could not write it down, which is tried.
    pub fn status(&self, network: &str) -> Result<(), CniError> {
        self.resolvers().map_err(|error| unavailable("host-local: resolvConf", error))?;
        let existing = Leases::lock(&self.data_dir, network)
            .and_then(|leases| leases.try_writing().and_then(|()| leases.all()))
            .map_err(|error| unavailable("host-local: dataDir", error))?;
        let taken = existing.iter().filter(|lease| !lease.is_leftover()).map(|lease| lease.address).collect();
        match self.sets.iter().find(|set| is_full(set.usage(&taken))) {
            Some(set) => Err(exhausted(set, &taken).with_code(Code::NotAvailable)),
            None => Ok(()),
        }
    }

    fn resolvers(&self) -> Result<Dns, CniError> {
        if self.resolv_conf.is_empty() {
            return Ok(Dns::default());
        }
        let text = std::fs::read_to_string(&self.resolv_conf)
            .map_err(|error| CniError::io(format!("ipam.resolvConf {}", self.resolv_conf), error))?;
        Ok(resolv_conf::parse(&text))
    }
}

/// One ADD's work on the leases.
struct Allocation<'a> {
    leases: &'a Leases,
    existing: &'a [Lease],
    holder: Holder<'a>,
    taken: BTreeSet<IpAddr>,
    /// Reserved by this ADD.
    fresh: Vec<IpAddr>,
}

impl Allocation<'_> {
    fn take(&mut self, set: &RangeSet, index: usize, address: IpAddr) -> Result<Ip, CniError> {
        if set.is_gateway(address) {
            return Err(CniError::internal(format!("requested ip {address} is subnet's gateway")));
        }
        match set.range_of(address) {
            Some(range) if !set.reserves(address) && self.reserve(address, index)? => Ok(Ip {
                address: range.with_prefix(address),
                gateway: Some(range.gateway()),
                interface: None,
            }),
            _ => Err(CniError::internal(format!(
                "requested IP address {address} is not available in range set {set}"
            ))),
        }
    }

    fn next(&mut self, set: &RangeSet, index: usize) -> Result<Ip, CniError> {
        let mut theirs = self.existing.iter().filter(|lease| self.holder.has(lease));
        if let Some(lease) = theirs.find(|lease| set.range_of(lease.address).is_some()) {
            let (address, container) = (lease.address, self.holder.container);
            return Err(CniError::internal(format!(
                "{address} has been allocated to {container}, duplicate allocation is not allowed"
            )));
        }
        let last = self.leases.last(index);
        let mut leftovers_too = false;
        loop {
            let Some((address, range)) = set.next_free(last, &self.taken) else {
                if leftovers_too {
                    return Err(exhausted(set, &self.taken));
                }
                leftovers_too = true;
                for lease in self.existing.iter().filter(|lease| lease.is_leftover()) {
                    self.taken.remove(&lease.address);
                }
                continue;
            };
            if self.reserve(address, index)? {
                return Ok(Ip {
                    address: range.with_prefix(address),
                    gateway: Some(range.gateway()),
                    interface: None,
                });
            }
        }
    }

    /// Whatever the answer, the address is taken from now on.
    fn reserve(&mut self, address: IpAddr, index: usize) -> Result<bool, CniError> {
        self.taken.insert(address);
        let Holder { container, interface } = self.holder;
        let reserved =
            self.leases.reserve(address, container, interface, index).map_err(|error| files(&error))?;
        if reserved {
            self.fresh.push(address);
        }
        Ok(reserved)
    }
}

impl Holder<'_> {
    fn has(self, lease: &Lease) -> bool {
        lease.owner.is(self.container, self.interface) || lease.owner.is_container(self.container)
    }
}

/// Gives back what the attachment has. Files of old plugins, without an interface, go if there are no others: they may
/// be another interface's.
///
/// # Errors
/// Code 5 for files that cannot be removed; the others are gone.
pub fn delete(data_dir: &Path, network: &str, holder: Holder<'_>) -> Result<(), CniError> {
    let Some(leases) = Leases::lock_existing(data_dir, network).map_err(|error| files(&error))? else {
        return Ok(());
    };
    let all = leases.all().map_err(|error| files(&error))?;
    let exact = all.iter().any(|lease| lease.owner.is(holder.container, holder.interface));
    release(
        &leases,
        all.iter().filter(|lease| {
            if exact {
                lease.owner.is(holder.container, holder.interface)
            } else {
                lease.owner.is_container(holder.container)
            }
        }),
    )
}

/// Gives back what belongs to attachments of this network that are not in `valid` (container, interface).
///
/// # Errors
/// Code 5 for files that cannot be removed; the others are gone.
pub fn gc(data_dir: &Path, network: &str, valid: &[(String, String)]) -> Result<(), CniError> {
    let Some(leases) = Leases::lock_existing(data_dir, network).map_err(|error| files(&error))? else {
        return Ok(());
    };
    let all = leases.all().map_err(|error| files(&error))?;
    let lives =
        |lease: &Lease| valid.iter().any(|(container, interface)| Holder { container, interface }.has(lease));
    release(&leases, all.iter().filter(|lease| lease.has_owner() && !lives(lease)))
}

fn release<'a>(leases: &Leases, stale: impl Iterator<Item = &'a Lease>) -> Result<(), CniError> {
    let failures: Vec<String> =
        stale.filter_map(|lease| leases.release(lease).err()).map(|error| error.to_string()).collect();
    if failures.is_empty() { Ok(()) } else { Err(CniError::io("host-local", failures.join("; "))) }
}

/// Results of 0.1.0 and 0.2.0 have one address of each family.
pub(super) fn one_of_each_family(ipv4: usize, ipv6: usize, version: Version) -> Result<(), CniError> {
    if (ipv4 > 1 || ipv6 > 1) && version < Version::V0_3_0 {
        return Err(invalid(format!(
            "CNI version {version} does not support more than 1 address per family"
        )));
    }
    Ok(())
}

fn exhausted(set: &RangeSet, taken: &BTreeSet<IpAddr>) -> CniError {
    let (all, used) = set.usage(taken);
    CniError::internal(format!("no IP addresses available in range set: {set}"))
        .with_details(format!("{used} of {all} addresses are in use"))
}

const fn is_full((all, used): (u128, u128)) -> bool {
    used >= all
}

fn data_dir(configured: &str) -> PathBuf {
    PathBuf::from(if configured.is_empty() { DATA_DIR } else { configured })
}

fn invalid(text: impl Into<String>) -> CniError {
    CniError::new(Code::InvalidConfig, text)
}

fn files(error: &io::Error) -> CniError {
    CniError::io("host-local", error)
}

fn unavailable(what: &str, error: impl std::fmt::Display) -> CniError {
    CniError::new(Code::NotAvailable, format!("{what}: {error}"))
}
