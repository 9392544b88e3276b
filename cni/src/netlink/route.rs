//! Routes of IPv4 and IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::raw::{Attributes, Value, u32_at};
use super::socket::Answer;
use super::{Link, Netlink, NetlinkError, missing_ok};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// `enum rt_scope_t` of include/uapi/linux/rtnetlink.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Universe,
    Site,
    Link,
    Host,
    Nowhere,
    Other(u8),
}

/// What happens to packets of a route; `RTN_*` of include/uapi/linux/rtnetlink.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    Unicast,
    Local,
    Broadcast,
    Anycast,
    Multicast,
    Blackhole,
    Unreachable,
    Prohibit,
    Throw,
    Other(u8),
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// A default route has 0.0.0.0/0 or ::/0.
    pub dst: IpNet,
    /// Of the first hop, where there are several.
    pub gateway: Option<IpAddr>,
    /// Index of the link, likewise.
    pub device: Option<u32>,
    pub table: u32,
    pub scope: Scope,
    pub priority: u32,
    /// Bytes.
    pub mtu: Option<u32>,
    /// Bytes.
    pub advmss: Option<u32>,
    pub onlink: bool,
    /// Address that packets are sent from.
    pub source: Option<IpAddr>,
    pub kind: RouteKind,
    /// Who made it: 2 the kernel, 3 this plugin and `ip route`, 4 an administrator (`RTPROT_*`).
    pub protocol: u8,
}

/// A unicast route to be made, or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRoute {
    pub dst: IpNet,
    /// Of either family: packets of IPv4 may go to a next hop with an IPv6 address (RFC 5549).
    pub gateway: Option<IpAddr>,
    pub device: Option<u32>,
    /// The main table where None.
    pub table: Option<u32>,
    /// Link without a gateway, universe with, where None.
    pub scope: Option<Scope>,
    /// The kernel's where None: 0 for IPv4, 1024 for IPv6.
    pub priority: Option<u32>,
    pub mtu: Option<u32>,
    pub advmss: Option<u32>,
    /// The gateway is on the link though no route says so.
    pub onlink: bool,
    pub source: Option<IpAddr>,
    /// Unicast; or local, to have an address no longer be the namespace's own.
    pub kind: RouteKind,
}

/// Which routes to list. None: all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteFilter {
    pub family: Option<Family>,
    pub table: Option<u32>,
    pub device: Option<u32>,
}

/// `RT_TABLE_MAIN`.
pub const TABLE_MAIN: u32 = 254;
/// `RT_TABLE_LOCAL`: the kernel's own, of the namespace's addresses.
pub const TABLE_LOCAL: u32 = 255;

impl NewRoute {
    pub const fn new(dst: IpNet) -> Self {
        Self {
            dst,
            gateway: None,
            device: None,
            table: None,
            scope: None,
            priority: None,
            mtu: None,
            advmss: None,
            onlink: false,
            source: None,
            kind: RouteKind::Unicast,
        }
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let natural = if self.gateway.is_some() { Scope::Universe } else { Scope::Link };
        let scope = self.scope.unwrap_or(natural);
        let header = &mut message.header;
        header.address_family = family_of(self.dst.addr()).address_family();
        header.destination_prefix_length = self.dst.prefix_len();
        header.protocol = RouteProtocol::Boot;
        header.kind = self.kind.number().into();
        header.scope = scope.number().into();
        if self.onlink {
            header.flags |= RouteFlags::Onlink;
        }
        let table = self.table.unwrap_or(TABLE_MAIN);
        // The header has eight bits for it; the attribute counts where there is one.
        header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(table));
        attributes.push(RouteAttribute::Destination(self.dst.network().into()));
        attributes.extend(self.gateway.map(|gateway| match gateway {
            IpAddr::V6(via) if family_of(self.dst.addr()) == Family::V4 => {
                RouteAttribute::Via(RouteVia::Inet6(via))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => RouteAttribute::Gateway(gateway.into()),
        }));
        attributes.extend(self.device.map(RouteAttribute::Oif));
        attributes.extend(self.priority.map(RouteAttribute::Priority));
        attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        let metrics: Vec<_> = [self.mtu.map(RouteMetric::Mtu), self.advmss.map(RouteMetric::Advmss)]
            .into_iter()
            .flatten()
            .collect();
        if !metrics.is_empty() {
            attributes.push(RouteAttribute::Metrics(metrics));
        }
        message
    }
}

impl Netlink {
    /// The link of the main table's default route with the lowest metric, of IPv4 first.
    pub fn default_route_device(&self) -> Result<Option<u32>, NetlinkError> {
        let routes = self.routes(RouteFilter { table: Some(TABLE_MAIN), ..RouteFilter::default() })?;
        let default =
            routes.iter().filter(|route| route.dst.prefix_len() == 0 && route.kind == RouteKind::Unicast);
        let best = default.min_by_key(|route| (route.dst.addr().is_ipv6(), route.priority));
        Ok(best.and_then(|route| route.device))
    }

    /// The link of that route.
    pub fn default_route_link(&self) -> Result<Option<Link>, NetlinkError> {
        Ok(self.default_route_device()?.map(|index| self.link_at(index)).transpose()?.flatten())
    }

    pub fn routes(&self, filter: RouteFilter) -> Result<Vec<Route>, NetlinkError> {
        let mut message = RouteMessage::default();
        if let Some(family) = filter.family {
            message.header.address_family = family.address_family();
        }
        let answers = self.dump(RouteNetlinkMessage::GetRoute(message), format_args!("list routes"))?;
        let all = answers.iter().filter_map(read);
        Ok(all
            .filter(|route| filter.table.is_none_or(|table| table == route.table))
            .filter(|route| filter.device.is_none_or(|device| route.device == Some(device)))
            .collect())
    }

    /// Adds a route.
    ///
    /// # Errors
    ///
    /// `Exists` when there is one to the same destination with the same priority in the same table.
    pub fn add_route(&self, new: &NewRoute) -> Result<(), NetlinkError> {
        let what = format_args!("add route to {}", new.dst);
        self.change_with(RouteNetlinkMessage::NewRoute(new.message()), NLM_F_CREATE | NLM_F_EXCL, what)
    }

    /// Removes a route. False: there was none such.
    pub fn delete_route(&self, route: &NewRoute) -> Result<bool, NetlinkError> {
        let mut message = route.message();
        if route.scope.is_none() {
            message.header.scope = Scope::Nowhere.number().into();
        }
        // Whoever made it.
        message.header.protocol = RouteProtocol::Unspec;
        let what = format_args!("delete route to {}", route.dst);
        missing_ok(self.change_with(RouteNetlinkMessage::DelRoute(message), 0, what))
    }
}

/// None for what is not a route of an IP packet.
fn read(answer: &Answer) -> Option<Route> {
    if answer.kind != libc::RTM_NEWROUTE {
        return None;
    }
    let payload = &answer.payload;
    // struct rtmsg: family, lengths of destination and source, type of service, table, protocol, scope, type, flags.
    let [family, prefix_len, _, _, table, protocol, scope, kind] = *payload.first_chunk()?;
    let attributes = Attributes::after(payload, RTMSG);
    let number = |kind| attributes.find(kind).and_then(Value::u32);
    let metrics = attributes.find(libc::RTA_METRICS).map(Value::nested);
    let metric = |kind| metrics.and_then(|metrics| metrics.find(kind)).and_then(Value::u32);
    // struct rtnexthop: length, flags, hops, index; attributes follow.
    let hops = attributes.find(libc::RTA_MULTIPATH);
    let dst = attributes.find(libc::RTA_DST).and_then(Value::ip);
    Some(Route {
        dst: IpNet::new(dst.or_else(|| unspecified(family))?, prefix_len).ok()?,
        gateway: gateway(attributes).or_else(|| gateway(Attributes::after(hops?.0, RTNEXTHOP))),
        device: number(libc::RTA_OIF).or_else(|| u32_at(hops?.0, 4)),
        table: number(libc::RTA_TABLE).unwrap_or_else(|| table.into()),
        scope: Scope::from_number(scope),
        priority: number(libc::RTA_PRIORITY).unwrap_or(0),
        mtu: metric(RTAX_MTU),
        advmss: metric(RTAX_ADVMSS),
        onlink: RouteFlags::from_bits_retain(u32_at(payload, 8)?).contains(RouteFlags::Onlink),
        source: attributes.find(libc::RTA_PREFSRC).and_then(Value::ip),
        kind: RouteKind::from_number(kind),
        protocol,
    })
}

fn gateway(attributes: Attributes<'_>) -> Option<IpAddr> {
    let plain = attributes.find(libc::RTA_GATEWAY).and_then(Value::ip);
    // struct rtvia: family, address.
    plain.or_else(|| attributes.find(libc::RTA_VIA).and_then(|via| Value(via.0.get(2..)?).ip()))
}

/// A default route's destination, which the kernel leaves out.
fn unspecified(family: u8) -> Option<IpAddr> {
    match libc::c_int::from(family) {
        libc::AF_INET => Some(Ipv4Addr::UNSPECIFIED.into()),
        libc::AF_INET6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

pub(super) const fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

impl Family {
    pub(super) const fn address_family(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }
}

impl Scope {
    pub const fn number(self) -> u8 {
        match self {
            Self::Universe => 0,
            Self::Site => 200,
            Self::Link => 253,
            Self::Host => 254,
            Self::Nowhere => 255,
            Self::Other(number) => number,
        }
    }

    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Universe,
            200 => Self::Site,
            253 => Self::Link,
            254 => Self::Host,
            255 => Self::Nowhere,
            other => Self::Other(other),
        }
    }
}

impl RouteKind {
    const fn number(self) -> u8 {
        match self {
            Self::Unicast => 1,
            Self::Local => 2,
            Self::Broadcast => 3,
            Self::Anycast => 4,
            Self::Multicast => 5,
            Self::Blackhole => 6,
            Self::Unreachable => 7,
            Self::Prohibit => 8,
            Self::Throw => 9,
            Self::Other(number) => number,
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Unicast,
            2 => Self::Local,
            3 => Self::Broadcast,
            4 => Self::Anycast,
            5 => Self::Multicast,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            9 => Self::Throw,
            other => Self::Other(other),
        }
    }
}

/// Bytes of `struct rtmsg`.
const RTMSG: usize = 12;
/// Bytes of `struct rtnexthop`.
const RTNEXTHOP: usize = 8;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
