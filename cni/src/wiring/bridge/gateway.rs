//! The bridge as the network's gateway: its address, forwarding, masquerading. It must never take an address away unless
//! `forceAddress` says so.

use std::net::IpAddr;

use ipnet::IpNet;

use super::options::Options;
use crate::netlink::{AddressOptions, Change, Kind, Link, Netlink, NewLink, NewVlan, Peer, existing_ok};
use crate::protocol::{CniError, CniResult, Route};
use crate::wiring::pod_interface::sysctl_if_there;
use crate::wiring::routing::{everything, first_host, forward};
use crate::wiring::settings::interface_name;
use crate::wiring::site::{Site, View, changed, made_link};

/// Completes what IPAM answered with gateways and routes, and makes the node forward.
pub(super) fn prepare(
    options: &Options,
    site: &Site<'_>,
    bridge: &Link,
    result: &mut CniResult,
) -> Result<(), CniError> {
    if options.is_gateway {
        for ip in &mut result.ips {
            ip.gateway = Some(ip.gateway.unwrap_or_else(|| first_host(ip.address)));
        }
        let device = interface(options, site.host, bridge)?;
        for ip in &result.ips {
            if let Some(gateway) = ip.gateway {
                let address = with_prefix(gateway, ip.address);
                if gateway.is_ipv6() {
                    // Off since the bridge was made for a network without a gateway.
                    sysctl_if_there(&format!("net/ipv6/conf/{}/disable_ipv6", device.name), "0")?;
                }
                assign(site.host, &device, address, options.force_address)?;
                forward(gateway)?;
            }
        }
    }
    if options.is_default_gateway {
        for ip in &result.ips {
            let everything = everything(ip.address.addr());
            if !result.routes.iter().any(|route| route.dst == everything) {
                result.routes.push(Route { gw: ip.gateway, ..Route::to(everything) });
            }
        }
    }
    Ok(())
}

/// CHECK of the bridge's addresses.
pub(super) fn check(
    options: &Options,
    view: &View<'_>,
    bridge: &Link,
    previous: &CniResult,
) -> Result<(), CniError> {
    if !options.is_gateway {
        return Ok(());
    }
    let name = device_name(options, bridge)?;
    let device = view.host.link(&name)?.ok_or_else(|| changed(format!("{name} is gone")))?;
    let addresses = view.host.addresses(Some(device.index))?;
    for ip in &previous.ips {
        let wanted = ip.gateway.map(|gateway| with_prefix(gateway, ip.address));
        if let Some(wanted) =
            wanted.filter(|wanted| !addresses.iter().any(|address| address.network == *wanted))
        {
            return Err(changed(format!("{name} no longer has the gateway's address {wanted}")));
        }
    }
    Ok(())
}

/// What has the gateway's address: the bridge; or, where ports are of a VLAN, a veth pair whose other end is a port of
/// that VLAN, as with the reference plugin. It is the network's and stays, as the bridge does.
fn interface(options: &Options, host: &Netlink, bridge: &Link) -> Result<Link, CniError> {
    let Some(vlan) = options.vlans.as_ref().and_then(|vlans| vlans.untagged) else {
        return Ok(bridge.clone());
    };
    let name = device_name(options, bridge)?;
    let port = format!("veth{:04}{:07x}", vlan, bridge.index);
    let peer = Peer { mtu: Some(bridge.mtu), ..Peer::new(&port, None) };
    let pair = NewLink { up: true, mtu: Some(bridge.mtu), ..NewLink::new(&name, Kind::Veth { peer }) };
    // Also where it is there: an ADD that made it may have been killed before the rest.
    existing_ok(host.create(&pair))?;
    let end = made_link(host, &name)?;
    let Some(port) = host.link(&port)?.filter(|port| port.parent == Some(end.index)) else {
        let why =
            format!("a link {name} is on the node, and it is not the one that this plugin makes for a VLAN");
        return Err(CniError::config("vlan", vlan, &why));
    };
    host.change(
        port.index,
        &Change { master: Some(Some(bridge.index)), up: Some(true), ..Change::default() },
    )?;
    host.add_vlan(port.index, &NewVlan { pvid: true, untagged: true, ..NewVlan::tagged(vlan, vlan) })?;
    for other in host.vlans(port.index)?.iter().filter(|other| other.id != vlan) {
        host.delete_vlan(port.index, &NewVlan::tagged(other.id, other.id))?;
    }
    Ok(end)
}

fn device_name(options: &Options, bridge: &Link) -> Result<String, CniError> {
    let Some(vlan) = options.vlans.as_ref().and_then(|vlans| vlans.untagged) else {
        return Ok(bridge.name.clone());
    };
    let name = format!("{}.{vlan}", bridge.name);
    interface_name("bridge", &name)?;
    Ok(name)
}

fn assign(host: &Netlink, device: &Link, address: IpNet, force: bool) -> Result<(), CniError> {
    for other in host.addresses(Some(device.index))? {
        let other = other.network;
        let same_family = other.addr().is_ipv4() == address.addr().is_ipv4();
        let in_the_way = match (other, address) {
            _ if other == address => return Ok(()),
            (IpNet::V4(_), IpNet::V4(_)) => true,
            // A link may be in several IPv6 networks, as long as they are several.
            (IpNet::V6(_), IpNet::V6(_)) => {
                other.contains(&address.network()) || address.contains(&other.network())
            }
            _ => false,
        };
        if !same_family || !in_the_way {
            continue;
        }
        if !force {
            let why = format!(
                "already has an IP address different from {address}: {other} (forceAddress replaces it)"
            );
            return Err(CniError::config("bridge", &device.name, &why));
        }
        host.delete_address(device.index, other)?;
    }
    let options = AddressOptions { no_dad: true, ..AddressOptions::default() };
    existing_ok(host.add_address(device.index, address, options))?;
    Ok(())
}

fn with_prefix(gateway: IpAddr, beside: IpNet) -> IpNet {
    IpNet::new(gateway, beside.prefix_len()).unwrap_or_else(|_| gateway.into())
}
