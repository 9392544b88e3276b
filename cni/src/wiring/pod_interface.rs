//! The interface that the runtime named, in the pod: made as one end of a veth pair, and given the addresses of IPAM. It
//! must never touch an interface that another made.
//!
//! For a container it is used as it is. For a VM a tap stands beside it and takes all its frames (`pod_tap`): then the
//! addresses are the guest's, written on the interface for those who look them up there (KubeVirt shows them), and the
//! interface is mute. It has no ARP, no IPv6 link-local address and no routes, so that not one frame of the pod's own
//! leaves with the guest's MAC. A VM that migrates here is announced by its own first frames and not before.

use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::pod_tap;
use super::site::{Call, Site, View, changed, existing, in_pod, made_link, same};
use crate::journal::Step;
use crate::netlink::{
    AddressOptions, Change, Kind, Link, Netlink, NetlinkError, NewLink, NewRoute, Peer, Route, RouteFilter,
    Scope, existing_ok,
};
use crate::protocol::{CniError, CniResult, Interface, MacAddress};
use crate::sysctl::{self, SysctlError};

/// As long as the reference plugins wait for duplicate address detection.
const SETTLING: Duration = Duration::from_secs(10);

/// Detection takes about a second.
const SETTLING_INTERVAL: Duration = Duration::from_millis(20);

/// Makes the veth pair: the node's end and the pod's, both down.
pub(super) fn veth(
    call: &Call,
    site: &mut Site<'_>,
    mtu: Option<u32>,
    mac: Option<MacAddress>,
) -> Result<(Link, Link), CniError> {
    let name = call.attachment.host_link();
    let inside = &call.attachment.interface;
    refuse_taken(site.inside, inside)?;
    site.journal.will(Step::HostLink { name: name.clone() })?;
    let peer = Peer { mtu, mac, ..Peer::new(inside, Some(site.pod.as_fd())) };
    match site.host.create(&NewLink { mtu, ..NewLink::new(&name, Kind::Veth { peer }) }) {
        Ok(()) => {}
        Err(NetlinkError::Exists { .. }) => {
            site.journal.retract()?;
            return Err(CniError::internal(format!(
                "link {name} of this very attachment is on the node, or {inside} in the pod; DEL comes before another ADD"
            )));
        }
        Err(error) => return Err(error.into()),
    }
    // Nobody speaks IPv6 at this end unless the mode says so.
    sysctl_if_there(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
    Ok((made_link(site.host, &name)?, made_link(site.inside, inside)?))
}

/// Makes the interface on another link, `beneath`: one of the node or, with `in_pod`, of the pod. It is down.
pub(super) fn upon(
    call: &Call,
    site: &mut Site<'_>,
    beneath: &Link,
    in_pod: bool,
    new: NewLink<'_>,
) -> Result<Link, CniError> {
    let (name, kind) = (new.name.clone(), new.kind.name());
    refuse_taken(site.inside, &name)?;
    site.journal.will(Step::PodLink { name: name.clone() })?;
    let new = NewLink { parent: Some(beneath.index), ..new };
    let made = if in_pod {
        site.inside.create(&new)
    } else {
        site.host.create(&NewLink { namespace: Some(site.pod.as_fd()), ..new })
    };
    if matches!(made, Err(NetlinkError::Exists { .. })) {
        site.journal.retract()?;
    }
    made.map_err(|error| CniError::internal(format!("making {kind} {name} on {}: {error}", beneath.name)))?;
    let link = made_link(site.inside, &name)?;
    site.inside.change(link.index, &Change { alias: Some(call.alias()), ..Change::default() })?;
    Ok(link)
}

/// Takes IPv6 from the node's end of a VM's veth pair, before it comes up: there is nothing for it to say, but a node that
/// forwards would report its multicast groups to the guest, even without an address. For a container it stays as the
/// reference plugins make it.
pub(super) fn mute_node_end(call: &Call, end: &Link) -> Result<(), CniError> {
    if call.settings.tap.wanted {
        sysctl_if_there(&format!("net/ipv6/conf/{}/disable_ipv6", end.name), "1")?;
    }
    Ok(())
}

/// A link of this name in the pod is another's.
pub(super) fn refuse_taken(inside: &Netlink, name: &str) -> Result<(), CniError> {
    if inside.link(name)?.is_none() {
        return Ok(());
    }
    Err(CniError::internal(format!("CNI_IFNAME {name}: the pod has an interface of this name already")))
}

/// Gives the interface what IPAM answered, and a VM its tap. The tap, if there is one.
pub(super) fn finish(
    call: &Call,
    site: &mut Site<'_>,
    link: &Link,
    addresses: &CniResult,
) -> Result<Option<Link>, CniError> {
    if call.settings.tap.wanted {
        return finish_for_guest(call, site, link, addresses).map(Some);
    }
    let name = &link.name;
    let has_v6 = addresses.ips.iter().any(|ip| ip.address.addr().is_ipv6());
    in_pod(site.pod, || {
        // Neighbours hear of a new owner of the address.
        sysctl_if_there(&format!("net/ipv4/conf/{name}/arp_notify"), "1")?;
        if has_v6 {
            sysctl_if_there(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")?;
            sysctl_if_there(&format!("net/ipv6/conf/{name}/ndisc_notify"), "1")?;
            sysctl_if_there(&format!("net/ipv6/conf/{name}/keep_addr_on_down"), "1")?;
        }
        Ok::<_, CniError>(())
    })??;
    let detect = call.settings.detect_duplicates;
    let options = AddressOptions { no_dad: !detect, ..AddressOptions::default() };
    // Before the link is up: the kernel tells neighbours of what it has at that moment.
    for ip in &addresses.ips {
        site.inside.add_address(link.index, ip.address, options)?;
    }
    site.inside.change(link.index, &Change { up: Some(true), ..Change::default() })?;
    if detect {
        settle(site.inside, link)?;
    }
    add_routes(site.inside, link, addresses)?;
    Ok(None)
}

/// Waits until nobody else is found to have the link's addresses.
fn settle(inside: &Netlink, link: &Link) -> Result<(), CniError> {
    let deadline = Instant::now() + SETTLING;
    loop {
        let addresses = inside.addresses(Some(link.index))?;
        if let Some(address) = addresses.iter().find(|address| address.duplicate) {
            let network = address.network;
            return Err(CniError::internal(format!("{}: another station has {network} already", link.name)));
        }
        if !addresses.iter().any(|address| address.tentative) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(CniError::internal(format!(
                "{}: addresses were still being looked for on the network after {SETTLING:?}",
                link.name
            )));
        }
        thread::sleep(SETTLING_INTERVAL);
    }
}

/// The routes that IPAM asks for.
pub(super) fn add_routes(inside: &Netlink, link: &Link, result: &CniResult) -> Result<(), CniError> {
    routes(result).iter().try_for_each(|route| add_route(inside, link, route))
}

fn finish_for_guest(
    call: &Call,
    site: &mut Site<'_>,
    link: &Link,
    addresses: &CniResult,
) -> Result<Link, CniError> {
    let name = &link.name;
    in_pod(site.pod, || {
        sysctl_if_there(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
        sysctl_if_there(&format!("net/ipv6/conf/{name}/addr_gen_mode"), "1")?; // none
        // A router is in groups that it reports. MLDv2 would report that it left them, too; version 1 says nothing of a
        // group that it never reported (RFC 2710 4).
        sysctl_if_there(&format!("net/ipv6/conf/{name}/force_mld_version"), "1")?;
        sysctl_if_there(&format!("net/ipv6/conf/{name}/forwarding"), "0")?;
        sysctl_if_there(&format!("net/ipv4/conf/{name}/arp_notify"), "0")?;
        if addresses.ips.iter().any(|ip| ip.address.addr().is_ipv4()) {
            hide_from_neighbours()
        } else {
            Ok(())
        }
    })??;
    let mute = Change { arp: Some(false), ..Change::default() };
    site.inside.change(link.index, &mute)?;
    let options = AddressOptions { no_dad: true, no_prefix_route: true, ..AddressOptions::default() };
    for ip in &addresses.ips {
        site.inside.add_address(link.index, ip.address, options)?;
    }
    let tap = pod_tap::make(call, site, &pod_tap::name_beside(&call.settings.tap, name), Some(link.mtu))?;
    pod_tap::join(site, link, &tap, true)?;
    site.inside.change(link.index, &Change { up: Some(true), ..Change::default() })?;
    Ok(tap)
}

/// The guest's address is one of the pod's own to its kernel, which would answer ARP for it on each of the pod's other
/// NICs: with 1, a NIC answers for the addresses that it has itself. Stricter values are left.
fn hide_from_neighbours() -> Result<(), CniError> {
    const PATH: &str = "net/ipv4/conf/all/arp_ignore";
    if sysctl::read(PATH)? == "0" { Ok(sysctl::write(PATH, "1")?) } else { Ok(()) }
}

/// Routes as they are set: without a gateway of their own they take the address's.
fn routes(result: &CniResult) -> Vec<NewRoute> {
    result
        .routes
        .iter()
        .map(|route| {
            let of_family = |address: &IpNet| address.addr().is_ipv4() == route.dst.addr().is_ipv4();
            let from_address =
                || result.ips.iter().find(|ip| of_family(&ip.address)).and_then(|ip| ip.gateway);
            NewRoute {
                gateway: route.gw.or_else(from_address),
                mtu: route.mtu,
                advmss: route.advmss,
                priority: route.priority,
                table: route.table,
                scope: route.scope.map(Scope::from_number),
                ..NewRoute::new(route.dst)
            }
        })
        .collect()
}

fn add_route(inside: &Netlink, link: &Link, route: &NewRoute) -> Result<(), CniError> {
    // Two addresses of one family may come with the same route.
    existing_ok(inside.add_route(&NewRoute { device: Some(link.index), ..route.clone() }))?;
    Ok(())
}

/// CHECK of one end of a veth pair, whose other end `end` is on the node, and of what is beside it: the tap of a VM,
/// which is returned too, the routes of a container.
pub(super) fn check_veth(
    call: &Call,
    view: &View<'_>,
    previous: &CniResult,
    end: &Link,
) -> Result<(Link, Option<Link>), CniError> {
    let link = check_link(call, view, previous, "veth")?;
    same(&format!("the other end of {}", link.name), &link.parent, &Some(end.index))?;
    no_wider(&link, end)?;
    if !call.settings.tap.wanted {
        check_routes(view, &link, previous)?;
        return Ok((link, None));
    }
    let tap = pod_tap::name_beside(&call.settings.tap, &link.name);
    let tap = pod_tap::check(call, view, &tap, Some(&link))?;
    // All three were made alike. Of these two nobody but us has a part.
    same(&format!("{}'s MTU", tap.name), &tap.mtu, &end.mtu)?;
    Ok((link, Some(tap)))
}

/// CHECK of the interface's MTU: a plugin behind us in the list may have changed it, and the reference plugin `tuning` says
/// nothing of that in its result. But a frame that does not fit through `next`, where it goes from there, is lost.
pub(super) fn no_wider(link: &Link, next: &Link) -> Result<(), CniError> {
    if link.mtu <= next.mtu {
        return Ok(());
    }
    let (name, mtu) = (&link.name, link.mtu);
    Err(changed(format!("{name}'s MTU is {mtu}, above {}'s, which is {}", next.name, next.mtu)))
}

/// CHECK of the interface: what it is called, its MAC, its addresses.
pub(super) fn check_link(
    call: &Call,
    view: &View<'_>,
    previous: &CniResult,
    kind: &str,
) -> Result<Link, CniError> {
    let name = &call.attachment.interface;
    let link = existing(view.inside, name, "in the pod")?;
    same(&format!("{name}'s kind"), &link.kind.as_deref(), &Some(kind))?;
    same(&format!("whether {name} is up"), &link.up, &true)?;
    let in_pod = |interface: &&Interface| interface.sandbox.is_some() && interface.name == *name;
    let made = previous.interfaces.iter().find(in_pod);
    let made = made.ok_or_else(|| changed(format!("prevResult does not name {name}")))?;
    if let Some(mac) = &made.mac {
        let is = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        same(&format!("{name}'s MAC"), &is.to_lowercase(), &mac.to_lowercase())?;
    }
    let index = previous.interfaces.iter().position(|interface| in_pod(&interface));
    let addresses = view.inside.addresses(Some(link.index))?;
    for ip in previous.ips.iter().filter(|ip| ip.interface == index) {
        if !addresses.iter().any(|address| address.network == ip.address) {
            return Err(changed(format!("{name} no longer has the address {}", ip.address)));
        }
    }
    Ok(link)
}

/// CHECK of a container's routes.
pub(super) fn check_routes(view: &View<'_>, link: &Link, previous: &CniResult) -> Result<(), CniError> {
    let name = &link.name;
    let present = view.inside.routes(RouteFilter { device: Some(link.index), ..RouteFilter::default() })?;
    for route in routes(previous) {
        let there = |other: &Route| {
            other.dst == route.dst
                && route.gateway.is_none_or(|gateway: IpAddr| other.gateway == Some(gateway))
                && route.table.is_none_or(|table| other.table == table)
        };
        if !present.iter().any(there) {
            return Err(changed(format!("{name} no longer has the route to {}", route.dst)));
        }
    }
    Ok(())
}

/// CHECK of a link of the node: the MTU that its result says.
pub(super) fn check_mtu(previous: &CniResult, link: &Link) -> Result<(), CniError> {
    let made = previous.interfaces.iter().find(|made| made.sandbox.is_none() && made.name == link.name);
    let mtu = made.and_then(|made| made.mtu);
    mtu.map_or(Ok(()), |mtu| same(&format!("{}'s MTU", link.name), &link.mtu, &mtu))
}

/// The interface in a result.
pub(super) fn interface(call: &Call, link: &Link) -> Interface {
    Interface { sandbox: call.sandbox(), ..on_node(link) }
}

/// A link of the node in a result.
pub(super) fn on_node(link: &Link) -> Interface {
    Interface {
        name: link.name.clone(),
        mac: link.mac.map(|mac| mac.to_string()),
        mtu: Some(link.mtu),
        ..Interface::default()
    }
}

/// Writes what a kernel without IPv6 does not have, nor a link whose MTU is too small for it. Where settings cannot be
/// written (a read-only /proc/sys) what relies on them is not made.
pub(super) fn sysctl_if_there(path: &str, value: &str) -> Result<(), CniError> {
    match sysctl::write(path, value) {
        Err(SysctlError::NotFound(path)) => {
            tracing::debug!(path, "this kernel has no such setting");
            Ok(())
        }
        written => Ok(written?),
    }
}
