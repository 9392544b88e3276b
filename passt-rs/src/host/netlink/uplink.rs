//! What the pod has: for each family the interface that leads out, its address and its default gateway.
//!
//! Prefix and gateway are taken as they are: a /32 with a gateway outside it (Calico: 169.254.1.1) and an
//! IPv6 gateway that is link-local are ordinary pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::socket::{Netlink, NetlinkError};

/// The pod's way out, per family; a family without a usable address is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    pub v4: Option<Uplink<Ipv4Addr>>,
    pub v6: Option<Uplink<Ipv6Addr>>,
    /// Every address of the namespace, on whatever interface and of whatever scope.
    pub own: Vec<IpAddr>,
}

/// One family's way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink<A> {
    /// Index of the interface.
    pub index: u32,
    /// Name of the interface.
    pub name: String,
    pub mtu_bytes: u32,
    /// The first address of global scope.
    pub address: A,
    pub prefix_len: u8,
    /// Next hop of the default route; `None` when there is none, or when it leads straight to the link.
    pub gateway: Option<A>,
    /// There is a default route through this interface, by a gateway or straight to the link.
    pub has_default_route: bool,
}

impl Pod {
    /// Reads the calling thread's network namespace.
    ///
    /// The interface is the named one, else the one with the best default route of the family, else the
    /// first that is up and has an address.
    pub fn read(interface: Option<&str>) -> Result<Self, NetlinkError> {
        let netlink = Netlink::open()?;
        let links = links(&netlink)?;
        let wanted = match interface {
            None => None,
            Some(name) => Some(
                links
                    .iter()
                    .find(|link| link.name == name)
                    .ok_or_else(|| NetlinkError::NoInterface(name.to_owned()))?
                    .index,
            ),
        };
        let addresses = addresses(&netlink)?;
        let defaults = default_routes(&netlink)?;
        Ok(Self {
            v4: uplink(&links, &addresses, &defaults, wanted, only_v4),
            v6: uplink(&links, &addresses, &defaults, wanted, only_v6),
            own: addresses.iter().map(|address| address.address).collect(),
        })
    }
}

struct Link {
    index: u32,
    name: String,
    mtu_bytes: u32,
    usable: bool,
}

struct Address {
    index: u32,
    address: IpAddr,
    prefix_len: u8,
    /// The guest may take it over: global, and not one of those that IPv6 is about to replace.
    for_guest: bool,
}

struct DefaultRoute {
    index: u32,
    family: AddressFamily,
    metric: u32,
    gateway: Option<IpAddr>,
}

fn uplink<A: Copy>(
    links: &[Link],
    addresses: &[Address],
    defaults: &[DefaultRoute],
    wanted: Option<u32>,
    pick: fn(IpAddr) -> Option<A>,
) -> Option<Uplink<A>> {
    let own = |index: u32| {
        addresses
            .iter()
            .filter(move |address| address.for_guest && address.index == index)
            .find_map(|address| Some((pick(address.address)?, address.prefix_len)))
    };
    let family = if pick(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).is_some() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let best = |index: Option<u32>| {
        defaults
            .iter()
            .filter(|route| route.family == family && index.is_none_or(|index| route.index == index))
            .min_by_key(|route| route.metric)
    };
    let index = wanted.or_else(|| best(None).map(|route| route.index)).or_else(|| {
        links.iter().find(|link| link.usable && own(link.index).is_some()).map(|link| link.index)
    })?;
    let link = links.iter().find(|link| link.index == index)?;
    let (address, prefix_len) = own(index)?;
    Some(Uplink {
        index,
        name: link.name.clone(),
        mtu_bytes: link.mtu_bytes,
        address,
        prefix_len,
        gateway: best(Some(index)).and_then(|route| route.gateway).and_then(pick),
        has_default_route: best(Some(index)).is_some(),
    })
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

fn links(netlink: &Netlink) -> Result<Vec<Link>, NetlinkError> {
    let answers = netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(answers.into_iter().filter_map(link).collect())
}

fn link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu_bytes: 0,
        usable: flags.contains(LinkFlags::Up) && !flags.contains(LinkFlags::Loopback),
    };
    for attribute in message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name = name;
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu_bytes = mtu;
        }
    }
    Some(link)
}

fn addresses(netlink: &Netlink) -> Result<Vec<Address>, NetlinkError> {
    let answers = netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(answers.into_iter().filter_map(address).collect())
}

fn address(message: RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let (mut local, mut address) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in message.attributes {
        if let AddressAttribute::Local(found) = attribute {
            local = Some(found);
        } else if let AddressAttribute::Address(found) = attribute {
            address = Some(found);
        } else if let AddressAttribute::Flags(found) = attribute {
            flags = found;
        }
    }
    // On a point-to-point link `Address` is the peer and `Local` is ours; IPv6 may have `Address` alone.
    let address = local.or(address)?;
    let secondary_v6 = address.is_ipv6() && flags.contains(AddressFlags::Secondary);
    let leaving = flags.intersects(AddressFlags::Deprecated | AddressFlags::Dadfailed);
    Some(Address {
        index: message.header.index,
        address,
        prefix_len: message.header.prefix_len,
        for_guest: message.header.scope == AddressScope::Universe && !secondary_v6 && !leaving,
    })
}

fn default_routes(netlink: &Netlink) -> Result<Vec<DefaultRoute>, NetlinkError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        let answers = netlink.dump(RouteNetlinkMessage::GetRoute(query))?;
        found.extend(answers.into_iter().filter_map(default_route));
    }
    Ok(found)
}

fn default_route(message: RouteNetlinkMessage) -> Option<DefaultRoute> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = message.header;
    if header.destination_prefix_length != 0
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.kind != RouteType::Unicast
    {
        return None;
    }
    let mut hop = Hop::default();
    let mut metric = 0;
    for attribute in message.attributes {
        if let RouteAttribute::Priority(value) = attribute {
            metric = value;
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            hop = hops.into_iter().next().map(Hop::from).unwrap_or_default();
        } else {
            hop.note(attribute);
        }
    }
    Some(DefaultRoute { index: hop.index?, family: header.address_family, metric, gateway: hop.gateway })
}

#[derive(Default)]
struct Hop {
    index: Option<u32>,
    gateway: Option<IpAddr>,
}

impl Hop {
    fn note(&mut self, attribute: RouteAttribute) {
        if let RouteAttribute::Oif(index) = attribute {
            self.index = Some(index);
        } else if let RouteAttribute::Gateway(RouteAddress::Inet(gateway))
        | RouteAttribute::Via(RouteVia::Inet(gateway)) = attribute
        {
            self.gateway = Some(gateway.into());
        } else if let RouteAttribute::Gateway(RouteAddress::Inet6(gateway))
        | RouteAttribute::Via(RouteVia::Inet6(gateway)) = attribute
        {
            self.gateway = Some(gateway.into());
        }
    }
}

/// Of several next hops the first: the guest has one gateway.
impl From<RouteNextHop> for Hop {
    fn from(next: RouteNextHop) -> Self {
        let mut hop = Self::default();
        for attribute in next.attributes {
            hop.note(attribute);
        }
        Self { index: Some(next.interface_index), ..hop }
    }
}
