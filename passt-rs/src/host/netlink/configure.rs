//! Gives a link in the guest's namespace its addresses and routes, for guests that run no DHCP client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::socket::{Netlink, NetlinkError, Request};

/// What a link is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkSetup {
    /// Hardware address; `None` leaves the one it has.
    pub mac: Option<[u8; 6]>,
    /// `None` leaves the one it has.
    pub mtu_bytes: Option<u32>,
    pub v4: Option<LinkAddress<Ipv4Addr>>,
    pub v6: Option<LinkAddress<Ipv6Addr>>,
}

/// One family's address and default gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkAddress<A> {
    pub address: A,
    pub prefix_len: u8,
    /// Reached through a route of its own when it lies outside the prefix.
    pub gateway: Option<A>,
}

/// Configures `name` in the calling thread's network namespace and brings it up, and loopback with it.
pub fn configure(name: &str, setup: &LinkSetup) -> Result<(), NetlinkError> {
    let netlink = Netlink::open()?;
    let index = index_of(&netlink, name)?;
    netlink.change(set_link(LOOPBACK_INDEX, Vec::new()), Request::SetLink)?;
    let mut attributes = Vec::new();
    attributes.extend(setup.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    attributes.extend(setup.mtu_bytes.map(LinkAttribute::Mtu));
    netlink.change(set_link(index, attributes), Request::SetLink)?;
    if let Some(v4) = setup.v4 {
        add_family(&netlink, index, v4.address.into(), v4.prefix_len, v4.gateway.map(IpAddr::V4))?;
    }
    if let Some(v6) = setup.v6 {
        add_family(&netlink, index, v6.address.into(), v6.prefix_len, v6.gateway.map(IpAddr::V6))?;
    }
    Ok(())
}

fn add_family(
    netlink: &Netlink,
    index: u32,
    address: IpAddr,
    prefix_len: u8,
    gateway: Option<IpAddr>,
) -> Result<(), NetlinkError> {
    netlink.change(add_address(index, address, prefix_len), Request::AddAddress)?;
    let Some(gateway) = gateway else { return Ok(()) };
    let on_link = ipnet::IpNet::new(address, prefix_len).is_ok_and(|prefix| prefix.contains(&gateway));
    let link_local = matches!(gateway, IpAddr::V6(gateway) if gateway.is_unicast_link_local());
    if !on_link && !link_local {
        netlink.change(add_route(index, Route::OnLink(gateway)), Request::AddRoute)?;
    }
    netlink.change(add_route(index, Route::Default(gateway)), Request::AddRoute)
}

fn index_of(netlink: &Netlink, name: &str) -> Result<u32, NetlinkError> {
    let links = netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    links
        .into_iter()
        .find_map(|link| {
            let RouteNetlinkMessage::NewLink(link) = link else { return None };
            link.attributes.contains(&LinkAttribute::IfName(name.to_owned())).then_some(link.header.index)
        })
        .ok_or_else(|| NetlinkError::NoInterface(name.to_owned()))
}

fn set_link(index: u32, attributes: Vec<LinkAttribute>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = attributes;
    RouteNetlinkMessage::SetLink(message)
}

fn add_address(index: u32, address: IpAddr, prefix_len: u8) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.family = family(address);
    message.header.prefix_len = prefix_len;
    // Nobody else is on the cable; a tentative address would refuse the guest's first connections.
    if address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    RouteNetlinkMessage::NewAddress(message)
}

fn add_route(index: u32, route: Route) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(index));
    match route {
        Route::OnLink(to) => {
            message.header.address_family = family(to);
            message.header.scope = RouteScope::Link;
            message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
            message.attributes.push(RouteAttribute::Destination(RouteAddress::from(to)));
        }
        Route::Default(gateway) => {
            message.header.address_family = family(gateway);
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
        }
    }
    RouteNetlinkMessage::NewRoute(message)
}

#[derive(Clone, Copy)]
enum Route {
    /// To one address, straight on the link.
    OnLink(IpAddr),
    /// To everything else, through this address.
    Default(IpAddr),
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Loopback is the first interface of every network namespace.
const LOOPBACK_INDEX: u32 = 1;
