//! Which resolvers and search domains the guest is told, and where its queries go.
//!
//! Without `--dns`, `/etc/resolv.conf` decides. A resolver on the pod's loopback (systemd-resolved: 127.0.0.53) is
//! announced as the address that stands for loopback, whose DNS ports then lead to that resolver; without such
//! an address it is skipped. `--dns-forward` takes the place of a family's resolvers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cli::Cli;
use crate::flow::nat::DnsForward;

use super::Surroundings;
use super::addressing::Addressing;
use super::values::Values;

/// The result.
#[derive(Debug, Default)]
pub(super) struct Resolvers {
    pub(super) announced: Vec<IpAddr>,
    pub(super) search: Vec<String>,
    pub(super) dns4: Option<DnsForward<Ipv4Addr>>,
    pub(super) dns6: Option<DnsForward<Ipv6Addr>>,
}

pub(super) fn resolve(
    cli: &Cli,
    around: &Surroundings,
    addressing: &Addressing,
    values: &mut Values,
    warnings: &mut Vec<String>,
) -> Resolvers {
    let forward = values.per_family("--dns-forward", &cli.dns_forward);
    let hosts = dns_hosts(cli, values);
    let of = |v4: bool| {
        around.resolv_conf.nameservers.iter().copied().filter(move |server| server.is_ipv4() == v4)
    };
    let first4 = hosts.0.or_else(|| of(true).find_map(only_v4));
    let first6 = hosts.1.or_else(|| of(false).find_map(only_v6));
    let mut found = Resolvers { search: search(cli, around, values), ..Resolvers::default() };
    found.dns4 = pair(values, forward.v4, first4);
    found.dns6 = pair(values, forward.v6, first6);
    if !cli.dns.is_empty() {
        found.announced = given(cli, values);
        return found;
    }
    found.announced.extend(forward.v4.map(IpAddr::V4));
    found.announced.extend(forward.v6.map(IpAddr::V6));
    for server in &around.resolv_conf.nameservers {
        let (family_is_on, forwarded) = match server {
            IpAddr::V4(_) => (addressing.v4.is_some(), forward.v4.is_some()),
            IpAddr::V6(_) => (addressing.v6.is_some(), forward.v6.is_some()),
        };
        if forwarded {
            continue;
        }
        if !family_is_on {
            warnings.push(format!("resolver {server} is not announced: its family is off"));
            continue;
        }
        let announced =
            if server.is_loopback() { found.through_loopback(*server, addressing) } else { Some(*server) };
        match announced {
            Some(address) if found.announced.contains(&address) => {}
            Some(address) => found.announced.push(address),
            None => warnings.push(format!(
                "resolver {server} is not announced: nothing maps to loopback (--map-host-loopback, --dns-forward)"
            )),
        }
    }
    // A query to the mapped address would otherwise reach exactly 127.0.0.1, which may not be the resolver.
    if let (Some(dns), Some(host)) = (found.dns4.as_mut(), hosts.0) {
        dns.resolver = host;
    }
    if let (Some(dns), Some(host)) = (found.dns6.as_mut(), hosts.1) {
        dns.resolver = host;
    }
    found
}

impl Resolvers {
    /// The address that stands for a resolver on loopback; the first such resolver gets the DNS ports.
    fn through_loopback(&mut self, server: IpAddr, addressing: &Addressing) -> Option<IpAddr> {
        match server {
            IpAddr::V4(resolver) => {
                let seen_by_guest = addressing.nat.map_host_loopback4?;
                self.dns4.get_or_insert(DnsForward { seen_by_guest, resolver });
                Some(seen_by_guest.into())
            }
            IpAddr::V6(resolver) => {
                let seen_by_guest = addressing.nat.map_host_loopback6?;
                self.dns6.get_or_insert(DnsForward { seen_by_guest, resolver });
                Some(seen_by_guest.into())
            }
        }
    }
}

fn pair<A>(values: &mut Values, seen_by_guest: Option<A>, resolver: Option<A>) -> Option<DnsForward<A>> {
    let seen_by_guest = seen_by_guest?;
    if resolver.is_none() {
        let problem = "/etc/resolv.conf has no resolver of this family to forward to; give --dns-host";
        values.fault("--dns-forward", problem);
    }
    Some(DnsForward { seen_by_guest, resolver: resolver? })
}

/// Resolvers to forward to; unlike any other address these may be on loopback.
fn dns_hosts(cli: &Cli, values: &mut Values) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let (mut v4, mut v6) = (None, None);
    for text in &cli.dns_host {
        let flag = "--dns-host";
        let again = match text.parse() {
            Ok(IpAddr::V4(address)) => v4.replace(address).is_some(),
            Ok(IpAddr::V6(address)) => v6.replace(address).is_some(),
            Err(_) => {
                values.fault(flag, format!("`{text}`: expected an IPv4 or IPv6 address"));
                false
            }
        };
        if again {
            values.fault(flag, format!("`{text}`: a second address of the same family"));
        }
    }
    (v4, v6)
}

fn given(cli: &Cli, values: &mut Values) -> Vec<IpAddr> {
    let flag = "--dns";
    let mut announced = Vec::new();
    for text in &cli.dns {
        match text.parse::<IpAddr>() {
            _ if text == "none" && cli.dns.len() == 1 => {}
            _ if text == "none" => values.fault(flag, "`none`: cannot be combined with addresses"),
            Ok(address) if address.is_loopback() => {
                let problem = "the guest cannot reach loopback; use --dns-forward and --dns-host";
                values.fault(flag, format!("`{text}`: {problem}"));
            }
            Ok(address) if address.is_unspecified() || address.is_multicast() => {
                values.fault(flag, format!("`{text}`: expected the address of one resolver"));
            }
            Ok(address) => announced.push(address),
            Err(_) => values.fault(flag, format!("`{text}`: expected an IPv4 or IPv6 address, or `none`")),
        }
    }
    announced
}

fn search(cli: &Cli, around: &Surroundings, values: &mut Values) -> Vec<String> {
    let flag = "--search";
    match cli.search.as_slice() {
        [] => around.resolv_conf.search.clone(),
        [none] if none == "none" => Vec::new(),
        // QEMU's `-netdev passt` puts all of its domains into one argument, with spaces.
        lists => {
            let domains = || lists.iter().flat_map(|list| list.split(' '));
            if domains().any(|domain| domain == "none") {
                values.fault(flag, "`none`: cannot be combined with domains");
            }
            domains().filter_map(|domain| values.domain(flag, domain)).collect()
        }
    }
}

fn only_v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn only_v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}
