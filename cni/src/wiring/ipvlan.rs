//! Mode `ipvlan`: addresses on a link of the node, under that link's MAC. It must never let a guest's own MAC out.
//!
//! An ipvlan takes packets by their addresses, so a container simply has it. A guest has a MAC of its own, which the
//! network must not see; the pod is its router then. The address stays on the ipvlan, whose driver dispatches by it, but
//! is taken out of the pod's local routing table: packets for it are forwarded to the tap, those of the guest to the
//! ipvlan. Whoever asks for a MAC on either side is answered with the pod's (proxy ARP, proxy NDP).
//!
//! The guest has IPAM's address, the gateway of IPAM or any other as its router, and for IPv6 `fe80::1`.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use serde::Deserialize;

use super::macvlan::Parent;
use super::pod_interface::{self, sysctl_if_there};
use super::routing::{everything, forward};
use super::shaping::{self, Place};
use super::site::{Call, Site, View, changed, in_pod, made_link, same};
use super::{Wiring, kernel, pod_tap};
use crate::ipam;
use crate::journal::Step;
use crate::netlink::{
    AddressOptions, Change, Details, Family, IpvlanMode, Kind, Link, Netlink, NewLink, NewRoute, RouteFilter,
    RouteKind, Rule, Scope, TABLE_LOCAL, existing_ok,
};
use crate::protocol::{CniError, CniResult};

/// The guest's router in IPv6; every tap has it.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Tables of the guests' routes: this and the tap's index, which no other tap of the pod has.
const TABLES: u32 = 0x51_0000;

/// Of the rule that sends what guests send there: before the main table's (32766), behind the local one's (0).
const RULE_PRIORITY: u32 = 1000;

/// The mode with its keys.
#[derive(Debug)]
pub(super) struct Ipvlan {
    parent: Parent,
    mode: IpvlanMode,
}

#[derive(Debug, Deserialize)]
struct Keys {
    #[serde(rename = "ipvlanmode")]
    mode: Option<String>,
}

impl Ipvlan {
    pub(super) fn read(call: &Call) -> Result<Self, CniError> {
        let keys: Keys = call.config.read()?;
        let mode = match keys.mode.as_deref() {
            None | Some("" | "l2") => IpvlanMode::L2,
            Some("l3") => IpvlanMode::L3,
            Some("l3s") => IpvlanMode::L3s,
            Some(other) => {
                return Err(CniError::config("ipvlanMode", format!("{other:?}"), "must be l2, l3 or l3s"));
            }
        };
        let bandwidth = call.config.bandwidth()?.filter(|asked| asked.ingress_rate > 0);
        if mode == IpvlanMode::L3s && !call.settings.tap.wanted {
            let why = "in ipvlanMode l3s a container's packets are handed over above the place where they could wait";
            shaping::refuse(bandwidth, why)?;
        }
        Ok(Self { parent: Parent::read(call)?, mode })
    }

    fn make(&self, call: &Call, site: &mut Site<'_>) -> Result<Link, CniError> {
        let parent = self.parent.link(site.host, Some(site.inside))?;
        let new = NewLink {
            mtu: self.parent.mtu(call, &parent)?.or(Some(parent.mtu)),
            ..NewLink::new(&call.attachment.interface, Kind::Ipvlan { mode: self.mode })
        };
        pod_interface::upon(call, site, &parent, self.parent.is_in_container(), new)
    }

    /// The pod becomes the guest's router.
    fn route_guest(
        &self,
        call: &Call,
        site: &mut Site<'_>,
        link: &Link,
        result: &CniResult,
    ) -> Result<Link, CniError> {
        let name = pod_tap::name_beside(&call.settings.tap, &link.name);
        let tap = pod_tap::make(call, site, &name, Some(link.mtu))?;
        in_pod(site.pod, || prepare(&link.name, &tap.name, result))??;
        site.inside.change(link.index, &Change { up: Some(true), ..Change::default() })?;
        let table = table(&tap);
        site.journal.will(Step::PodRules { table })?;
        for ip in &result.ips {
            let address = ip.address.addr();
            // Of link scope the address is no sender for the tap's questions, which the guest, whose own it is, would not
            // answer: they have none then, as probes of RFC 5227.
            let quiet = AddressOptions {
                no_dad: true,
                no_prefix_route: true,
                scope: Some(Scope::Link),
                ..AddressOptions::default()
            };
            site.inside.add_address(link.index, ip.address, quiet)?;
            let host: IpNet = address.into();
            site.inside.delete_route(&NewRoute {
                device: Some(link.index),
                table: Some(TABLE_LOCAL),
                scope: Some(Scope::Nowhere),
                kind: RouteKind::Local,
                ..NewRoute::new(host)
            })?;
            site.inside.add_route(&NewRoute { device: Some(tap.index), ..NewRoute::new(host) })?;
            self.answer_for(site.inside, link, &tap, address, ip.gateway)?;
            self.leave_by(site.inside, link, table, ip.address, ip.gateway)?;
        }
        for family in families(result) {
            existing_ok(site.inside.add_rule(&rule(&tap, table, family)))?;
        }
        Ok(tap)
    }

    /// IPv6 has no proxy for all: each address is named. The guest's is asked for on the ipvlan, its gateway on the tap.
    fn answer_for(
        &self,
        inside: &Netlink,
        link: &Link,
        tap: &Link,
        address: IpAddr,
        gateway: Option<IpAddr>,
    ) -> Result<(), CniError> {
        if address.is_ipv4() {
            return Ok(());
        }
        let router = Ipv6Net::new_assert(ROUTER, 64).into();
        let options = AddressOptions { no_dad: true, ..AddressOptions::default() };
        existing_ok(inside.add_address(tap.index, router, options))?;
        if self.mode == IpvlanMode::L2 {
            existing_ok(inside.add_proxy(link.index, address))?;
        }
        if let Some(gateway) = gateway {
            existing_ok(inside.add_proxy(tap.index, gateway))?;
        }
        Ok(())
    }

    /// The guest's own table: its network on the ipvlan, everything else behind the gateway there. In the modes of layer 3
    /// there is no next hop: the node routes.
    fn leave_by(
        &self,
        inside: &Netlink,
        link: &Link,
        table: u32,
        address: IpNet,
        gateway: Option<IpAddr>,
    ) -> Result<(), CniError> {
        let by_link = |dst| NewRoute { device: Some(link.index), table: Some(table), ..NewRoute::new(dst) };
        existing_ok(inside.add_route(&by_link(address.trunc())))?;
        let everything = by_link(everything(address.addr()));
        match gateway {
            Some(gateway) if self.mode == IpvlanMode::L2 => {
                existing_ok(inside.add_route(&NewRoute {
                    gateway: Some(gateway),
                    onlink: true,
                    ..everything
                }))?;
            }
            None if self.mode == IpvlanMode::L2 => {}
            _ => {
                existing_ok(inside.add_route(&everything))?;
            }
        }
        Ok(())
    }
}

impl Wiring for Ipvlan {
    fn add(&self, call: &Call, site: &mut Site<'_>) -> Result<CniResult, CniError> {
        // Those of the plugins before, which only an ADD is told.
        let given = call.config.previous()?.filter(|_| call.config.ipam_type().is_none());
        if call.config.ipam_type().is_none() && given.as_ref().is_none_or(|given| given.ips.is_empty()) {
            let why = "an ipvlan takes packets by their addresses, so it needs some";
            return Err(CniError::config("ipam", "missing", why));
        }
        let link = self.make(call, site)?;
        let mut result = if let Some(given) = given {
            CniResult { interfaces: Vec::new(), ..given }
        } else {
            site.journal.will(Step::Lease)?;
            ipam::add(&call.config, &call.environment)?.unwrap_or_default()
        };
        for ip in &mut result.ips {
            ip.interface = Some(0);
        }
        let tap = if call.settings.tap.wanted {
            Some(self.route_guest(call, site, &link, &result)?)
        } else {
            pod_interface::finish(call, site, &link, &result)?
        };
        shaping::limit(call, site, place(&link, tap.as_ref()))?;
        result.interfaces = vec![pod_interface::interface(call, &made_link(site.inside, &link.name)?)];
        result.interfaces.extend(tap.map(|tap| pod_tap::interface(call, &tap)));
        result.merge_dns(call.config.dns()?);
        Ok(result)
    }

    fn check(&self, call: &Call, view: &View<'_>, previous: &CniResult) -> Result<(), CniError> {
        let link = pod_interface::check_link(call, view, previous, "ipvlan")?;
        let beneath =
            self.parent.link(view.host, Some(view.inside)).map_err(|error| changed(error.to_string()))?;
        same(&format!("the link beneath {}", link.name), &link.parent, &Some(beneath.index))?;
        pod_interface::no_wider(&link, &beneath)?;
        let Details::Ipvlan { mode } = link.details else {
            return Err(changed(format!("{} is no ipvlan", link.name)));
        };
        same(&format!("{}'s ipvlanMode", link.name), &mode, &Some(self.mode))?;
        if !call.settings.tap.wanted {
            shaping::check(call, view, place(&link, None))?;
            return pod_interface::check_routes(view, &link, previous);
        }
        let name = pod_tap::name_beside(&call.settings.tap, &link.name);
        let tap = pod_tap::check(call, view, &name, None)?;
        shaping::check(call, view, place(&link, Some(&tap)))?;
        let routes = view.inside.routes(RouteFilter { device: Some(tap.index), ..RouteFilter::default() })?;
        for ip in &previous.ips {
            let to = ip.address.addr().into();
            if !routes.iter().any(|route| route.dst == to && route.kind == RouteKind::Unicast) {
                return Err(changed(format!("{} is no longer routed to {name}", ip.address.addr())));
            }
        }
        for family in families(previous) {
            if !view.inside.rules(family)?.contains(&rule(&tap, table(&tap), family)) {
                return Err(changed(format!("what comes from {name} no longer has its routes")));
            }
        }
        Ok(())
    }

    fn ready(&self, call: &Call, host: &Netlink) -> Result<(), CniError> {
        kernel::ready(call)?;
        super::macvlan::ready(&self.parent, host)
    }
}

/// Where packets leave: what the pod forwards to a guest by the tap, what it forwards for it by the ipvlan.
fn place<'a>(link: &'a Link, tap: Option<&'a Link>) -> Place<'a> {
    tap.map_or(Place::PodNic(link), |tap| Place::Tap { tap, nic: link, ours: true })
}

/// What the pod's kernel is to do for the guest.
fn prepare(link: &str, tap: &str, result: &CniResult) -> Result<(), CniError> {
    for name in [link, tap] {
        sysctl_if_there(&format!("net/ipv4/conf/{name}/proxy_arp"), "1")?;
        // Answered at once; the default is a random wait of up to 0.8 s.
        sysctl_if_there(&format!("net/ipv4/neigh/{name}/proxy_delay"), "0")?;
        // Answers come by the ipvlan, though the pod's own default route may be another's (RFC 3704: loose).
        sysctl_if_there(&format!("net/ipv4/conf/{name}/rp_filter"), "2")?;
        sysctl_if_there(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
        sysctl_if_there(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")?;
        sysctl_if_there(&format!("net/ipv6/conf/{name}/proxy_ndp"), "1")?;
        sysctl_if_there(&format!("net/ipv6/neigh/{name}/proxy_delay"), "0")?;
    }
    result.ips.iter().try_for_each(|ip| forward(ip.address.addr()))
}

fn table(tap: &Link) -> u32 {
    TABLES.wrapping_add(tap.index)
}

fn rule(tap: &Link, table: u32, family: Family) -> Rule {
    Rule {
        family,
        priority: RULE_PRIORITY,
        table,
        from: None,
        to: None,
        incoming: Some(tap.name.clone()),
        outgoing: None,
        mark: None,
    }
}

fn families(result: &CniResult) -> impl Iterator<Item = Family> {
    let has = |v4: bool| result.ips.iter().any(move |ip| ip.address.addr().is_ipv4() == v4);
    [(Family::V4, has(true)), (Family::V6, has(false))]
        .into_iter()
        .filter_map(|(family, has)| has.then_some(family))
}
