//! Addresses that the configuration or the runtime names, as the reference plugin `static` takes them. It must never
//! keep anything: who uses an address is not its business.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::host_local::one_of_each_family;
use super::range::optional;
use super::route_config::{DnsConfig, RouteConfig};
use crate::protocol::{Channel, CniError, CniResult, Code, Ip, Version, Wished};

/// `ipam`, as far as it is this plugin's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Section {
    addresses: Vec<Address>,
    routes: Vec<RouteConfig>,
    dns: DnsConfig,
}

/// An entry of `ipam.addresses`. The address is read only if it counts: others may replace all of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    address: String,
    #[serde(deserialize_with = "optional")]
    gateway: Option<IpAddr>,
}

/// What the runtime asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes<'a> {
    /// Those of `CNI_ARGS` come behind the configuration's addresses, all others replace them.
    pub ips: Option<&'a Wished>,
    /// `GATEWAY` in `CNI_ARGS`: for the addresses from there in whose prefix they lie.
    pub gateways: &'a [String],
}

/// # Errors
/// Code 7 for a text that is no address with a prefix length, or no gateway; code 4 if it comes from `CNI_ARGS`.
pub fn add(section: Section, wishes: Wishes<'_>, version: Version) -> Result<CniResult, CniError> {
    let ips = addresses(section.addresses, wishes)?;
    let of_ipv4 = ips.iter().filter(|ip| ip.address.addr().is_ipv4()).count();
    one_of_each_family(of_ipv4, ips.len() - of_ipv4, version)?;
    Ok(CniResult {
        interfaces: Vec::new(),
        ips,
        routes: section.routes.into_iter().map(Into::into).collect(),
        dns: section.dns.into(),
    })
}

/// # Errors
/// As `add`, and code 999 if an address has another gateway than the previous result says. One that is not in it is no
/// fault: plugins behind may have changed it.
pub fn check(section: Section, wishes: Wishes<'_>, previous: Option<&CniResult>) -> Result<(), CniError> {
    let ours = addresses(section.addresses, wishes)?;
    let previous =
        previous.ok_or_else(|| CniError::new(Code::InvalidConfig, "Required prevResult missing"))?;
    for ip in ours.iter().filter(|ip| ip.gateway.is_some()) {
        let theirs = previous.ips.iter().find(|other| other.address.addr() == ip.address.addr());
        if let Some(theirs) = theirs.filter(|other| other.gateway != ip.gateway) {
            let text = format!("static: Failed to match addr {}", theirs.address.addr());
            return Err(CniError::internal(text).with_details(format!(
                "configured with gateway {}, previous result has {}",
                display(ip.gateway),
                display(theirs.gateway)
            )));
        }
    }
    Ok(())
}

fn addresses(configured: Vec<Address>, wishes: Wishes<'_>) -> Result<Vec<Ip>, CniError> {
    let asked = wishes.ips.map_or_else(<&[String]>::default, |wished| &wished.texts);
    if wishes.ips.is_some_and(|wished| wished.channel != Channel::Arguments) {
        return asked
            .iter()
            .map(|text| {
                let refused =
                    || format!("an entry in the 'ips' field is NOT in CIDR notation, got: '{text}'");
                prefix(text)
                    .map(|address| ip(address, None))
                    .ok_or_else(|| CniError::new(Code::InvalidConfig, refused()))
            })
            .collect();
    }
    let environment = from_environment(asked, wishes.gateways)?;
    let mut ips = Vec::with_capacity(configured.len() + environment.len());
    for Address { address, gateway } in configured {
        let refused = || format!("the 'address' field is expected to be in CIDR notation, got: '{address}'");
        let prefix = prefix(&address).ok_or_else(|| CniError::new(Code::InvalidConfig, refused()))?;
        ips.push(ip(prefix, gateway));
    }
    ips.extend(environment);
    Ok(ips)
}

fn from_environment(asked: &[String], gateways: &[String]) -> Result<Vec<Ip>, CniError> {
    let mut ips = Vec::new();
    for text in asked {
        let refused =
            || format!("CNI_ARGS: the 'ip' field is expected to be in CIDR notation, got: '{text}'");
        let prefix = prefix(text).ok_or_else(|| CniError::new(Code::InvalidEnvironment, refused()))?;
        ips.push(ip(prefix, None));
    }
    for text in gateways {
        let gateway: IpAddr = text.parse().map_err(|_| {
            CniError::new(Code::InvalidEnvironment, format!("CNI_ARGS: invalid gateway address: {text}"))
        })?;
        for ip in ips.iter_mut().filter(|ip| ip.address.contains(&gateway)) {
            ip.gateway = Some(gateway);
        }
    }
    Ok(ips)
}

const fn ip(address: IpNet, gateway: Option<IpAddr>) -> Ip {
    Ip { address, gateway, interface: None }
}

fn prefix(text: &str) -> Option<IpNet> {
    text.parse().ok()
}

fn display(gateway: Option<IpAddr>) -> String {
    gateway.map_or_else(|| "none".to_owned(), |gateway| gateway.to_string())
}
