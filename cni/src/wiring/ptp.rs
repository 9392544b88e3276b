//! Mode `ptp`: a veth pair with routes at both ends and no layer 2 between pods. It must never share a link with another.
//!
//! The node's end has the gateway's address with a full-length prefix and a route to each address of the pod. A container
//! gets what the reference plugin gives it: everything, also its own network, is behind the gateway. A guest may think
//! its network is a link; so the node's end answers ARP for all of it (proxy ARP), and forwards.
//!
//! IPv6 has no proxy for a whole network, only for addresses that are named, and who else is in it is not known here. A
//! guest's IPv6 address must have the prefix length 128 in the guest, with the gateway as a neighbour: with a shorter one
//! it looks for the others of its network on the link, in vain.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::pod_interface::{self, on_node, sysctl_if_there};
use super::routing::{first_host, forward};
use super::rules::{self, Wanted};
use super::shaping::{self, Place};
use super::site::{Call, Site, View, changed, existing, same};
use super::{Wiring, kernel, pod_tap};
use crate::ipam;
use crate::journal::Step;
use crate::netlink::{AddressOptions, Change, Link, Netlink, NewRoute, RouteFilter, Scope, existing_ok};
use crate::protocol::{CniError, CniResult, Code, Config};
use crate::sysctl;

/// This mode's keys.
#[derive(Debug, Deserialize)]
pub(super) struct Ptp {
    #[serde(rename = "ipmasq", default)]
    masquerade: bool,
}

impl Ptp {
    pub(super) fn read(config: &Config) -> Result<Self, CniError> {
        if config.ipam_type().is_none() {
            return Err(CniError::config("ipam", "missing", "mode ptp routes addresses, so it needs some"));
        }
        config.read()
    }

    const fn rules(&self) -> Wanted<'static> {
        Wanted { masquerade: self.masquerade, spoof_check: None }
    }

    /// The node's end: the gateway's addresses, a route to each of the pod's.
    fn host_end(call: &Call, site: &mut Site<'_>, end: &Link, result: &CniResult) -> Result<(), CniError> {
        let name = &end.name;
        if call.settings.tap.wanted {
            sysctl_if_there(&format!("net/ipv4/conf/{name}/proxy_arp"), "1")?;
            // ARP is answered at once; the default is a random wait of up to 0.8 s.
            sysctl_if_there(&format!("net/ipv4/neigh/{name}/proxy_delay"), "0")?;
        }
        // Without a link-local address the node could not ask for the guest's MAC (RFC 4861 7.2.2).
        if !result.ips.iter().any(|ip| ip.address.addr().is_ipv6()) {
            pod_interface::mute_node_end(call, end)?;
        }
        site.host.change(end.index, &Change { up: Some(true), ..Change::default() })?;
        for ip in &result.ips {
            let Some(gateway) = ip.gateway else { continue };
            let options = AddressOptions { no_dad: true, ..AddressOptions::default() };
            site.host.add_address(end.index, gateway.into(), options)?;
            forward(gateway)?;
        }
        for ip in &result.ips {
            let route = NewRoute {
                device: Some(end.index),
                scope: Some(Scope::Link),
                ..NewRoute::new(ip.address.addr().into())
            };
            if !existing_ok(site.host.add_route(&route))? {
                let why = "the node has a route to this very address already";
                return Err(CniError::config("ipam", ip.address.addr(), why));
            }
        }
        Ok(())
    }

    /// A container's routes: the gateway is on the link, everything else behind it.
    fn container_routes(site: &mut Site<'_>, inside: &Link, result: &CniResult) -> Result<(), CniError> {
        for ip in &result.ips {
            let Some(gateway) = ip.gateway else { continue };
            let source = Some(ip.address.addr());
            let device = Some(inside.index);
            let network = NewRoute { device, ..NewRoute::new(ip.address.trunc()) };
            site.inside.delete_route(&network)?;
            let link = NewRoute { device, source, scope: Some(Scope::Link), ..NewRoute::new(gateway.into()) };
            site.inside.add_route(&link)?;
            if ip.address.trunc().prefix_len() < ip.address.max_prefix_len() {
                site.inside.add_route(&NewRoute { gateway: Some(gateway), source, ..network })?;
            }
        }
        Ok(())
    }
}

impl Wiring for Ptp {
    fn add(&self, call: &Call, site: &mut Site<'_>) -> Result<CniResult, CniError> {
        let mac = call.config.mac(&call.environment)?;
        let (end, inside) = pod_interface::veth(call, site, call.settings.mtu, mac)?;
        site.journal.will(Step::Lease)?;
        let mut result = ipam::add(&call.config, &call.environment)?.unwrap_or_default();
        for ip in &mut result.ips {
            ip.gateway = Some(gateway(ip.address, ip.gateway)?);
            ip.interface = Some(1);
        }
        Self::host_end(call, site, &end, &result)?;
        rules::install(call, site, self.rules(), &result, &end)?;
        // The routes of IPAM need the gateway's first.
        let addresses = CniResult { routes: Vec::new(), ..result.clone() };
        let tap = pod_interface::finish(call, site, &inside, &addresses)?;
        if tap.is_none() {
            Self::container_routes(site, &inside, &result)?;
            pod_interface::add_routes(site.inside, &inside, &result)?;
        }
        shaping::limit(call, site, Place::veth(&end, &inside, tap.as_ref()))?;
        result.interfaces = vec![on_node(&end), pod_interface::interface(call, &inside)];
        result.interfaces.extend(tap.map(|tap| pod_tap::interface(call, &tap)));
        result.merge_dns(call.config.dns()?);
        Ok(result)
    }

    fn check(&self, call: &Call, view: &View<'_>, previous: &CniResult) -> Result<(), CniError> {
        let end = existing(view.host, &call.attachment.host_link(), "on the node")?;
        same(&format!("whether {} is up", end.name), &end.up, &true)?;
        pod_interface::check_mtu(previous, &end)?;
        let (inside, tap) = pod_interface::check_veth(call, view, previous, &end)?;
        shaping::check(call, view, Place::veth(&end, &inside, tap.as_ref()))?;
        let routes = view.host.routes(RouteFilter { device: Some(end.index), ..RouteFilter::default() })?;
        let addresses = view.host.addresses(Some(end.index))?;
        for ip in &previous.ips {
            let to = ip.address.addr().into();
            if !routes.iter().any(|route| route.dst == to) {
                return Err(changed(format!("the node no longer has its route to {}", ip.address.addr())));
            }
            if let Some(gateway) = ip
                .gateway
                .filter(|gateway| !addresses.iter().any(|address| address.network.addr() == *gateway))
            {
                return Err(changed(format!("{} no longer has the gateway's address {gateway}", end.name)));
            }
        }
        rules::check(call, self.rules(), previous, &end)
    }

    fn ready(&self, call: &Call, _host: &Netlink) -> Result<(), CniError> {
        kernel::ready(call)?;
        rules::ready(self.masquerade, false)?;
        sysctl::read("net/ipv4/ip_forward")
            .map(drop)
            .map_err(|error| CniError::new(Code::NotAvailable, error.to_string()))
    }

    fn leftovers(&self, call: &Call) -> Vec<Step> {
        let shaper = Step::HostShaper { name: call.attachment.shaper() };
        vec![Step::HostLink { name: call.attachment.host_link() }, shaper, Step::Rules]
    }
}

/// IPAM's, or the first host of the network; never the address itself, which the node's end would take from the pod.
fn gateway(address: IpNet, given: Option<IpAddr>) -> Result<IpAddr, CniError> {
    let gateway = given.unwrap_or_else(|| first_host(address));
    let in_network = given.is_some() || address.contains(&gateway);
    if in_network && gateway != address.addr() {
        return Ok(gateway);
    }
    Err(CniError::config("ipam", address, "its network has no other address for the gateway: give one"))
}

#[cfg(test)]
mod tests {
    use super::gateway;

    #[test]
    fn gateway_is_given_or_the_first_other_host() {
        for (address, given, expected) in [
            ("10.8.0.5/24", None, Some("10.8.0.1")),
            ("10.8.0.5/24", Some("10.8.0.9"), Some("10.8.0.9")),
            ("10.8.0.5/24", Some("192.0.2.1"), Some("192.0.2.1")),
            ("10.8.0.4/31", None, Some("10.8.0.5")),
            ("fd00::5/64", None, Some("fd00::1")),
            ("10.8.0.5/32", Some("10.8.0.1"), Some("10.8.0.1")),
            ("10.8.0.1/24", None, None),
            ("10.8.0.5/31", None, None),
            ("10.8.0.5/32", None, None),
            ("255.255.255.255/32", None, None),
            ("fd00::5/128", None, None),
            ("10.8.0.5/24", Some("10.8.0.5"), None),
        ] {
            let parse = |text: &str| text.parse().unwrap();
            let is = gateway(address.parse().unwrap(), given.map(parse));
            assert!(is.as_ref().map_or_else(|error| error.code == 7, |_| true), "{is:?}");
            assert_eq!(is.ok(), expected.map(parse), "{address} {given:?}");
        }
    }
}
