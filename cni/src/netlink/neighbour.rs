//! Neighbours: who has an address on a link (ARP, NDP), whom we answer for, and where a bridge or VXLAN sends frames for
//! a station.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::raw::{Attributes, Value, u16_at, u32_at};
use super::route::family_of;
use super::socket::Answer;
use super::{Netlink, NetlinkError, missing_ok};
use crate::protocol::MacAddress;

/// Who has an address, as this namespace knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub device: u32,
    pub ip: IpAddr,
    /// None while it is being asked for.
    pub mac: Option<MacAddress>,
    /// Never asked for again.
    pub permanent: bool,
}

/// An entry of a forwarding table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// All zero: for every station that has no entry of its own (VXLAN).
    pub mac: [u8; 6],
    /// In the table of the bridge the link is a port of, not in the link's own.
    pub on_master: bool,
    /// None: in no VLAN.
    pub vlan: Option<u16>,
    /// The node behind which the station is (VXLAN).
    pub dst: Option<IpAddr>,
    /// Not learnt: it does not age. (`NUD_PERMANENT` or `NUD_NOARP`.)
    pub permanent: bool,
}

impl fmt::Display for FdbEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.mac;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")?;
        if let Some(vlan) = self.vlan {
            write!(formatter, " in VLAN {vlan}")?;
        }
        self.dst.map_or(Ok(()), |dst| write!(formatter, " behind {dst}"))
    }
}

impl Netlink {
    /// Sets who has an address, whatever was known of it before.
    pub fn add_neighbour(
        &self,
        device: u32,
        ip: IpAddr,
        mac: MacAddress,
        permanent: bool,
    ) -> Result<(), NetlinkError> {
        let mut message = question(device, Some(ip));
        message.header.state = if permanent { NeighbourState::Permanent } else { NeighbourState::Reachable };
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
        let what = format_args!("add neighbour {ip} with {mac} to link {device}");
        self.change_with(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, what)
    }

    /// False: it was not known.
    pub fn delete_neighbour(&self, device: u32, ip: IpAddr) -> Result<bool, NetlinkError> {
        let what = format_args!("delete neighbour {ip} of link {device}");
        missing_ok(self.change_with(RouteNetlinkMessage::DelNeighbour(question(device, Some(ip))), 0, what))
    }

    /// Neighbours on a link.
    pub fn neighbours(&self, device: u32) -> Result<Vec<Neighbour>, NetlinkError> {
        let answers = self.dump(
            RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
            format_args!("list neighbours"),
        )?;
        Ok(answers
            .iter()
            .filter_map(read_neighbour)
            .filter(|(neighbour, is_proxy)| neighbour.device == device && !is_proxy)
            .map(|(neighbour, _)| neighbour)
            .collect())
    }

    /// Answers on a link for an address that is elsewhere.
    pub fn add_proxy(&self, device: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        let what = format_args!("add proxy for {ip} to link {device}");
        let message = RouteNetlinkMessage::NewNeighbour(proxy(device, Some(ip)));
        self.change_with(message, NLM_F_CREATE | NLM_F_REPLACE, what)
    }

    /// False: it did not answer for it.
    pub fn delete_proxy(&self, device: u32, ip: IpAddr) -> Result<bool, NetlinkError> {
        let what = format_args!("delete proxy for {ip} of link {device}");
        missing_ok(self.change_with(RouteNetlinkMessage::DelNeighbour(proxy(device, Some(ip))), 0, what))
    }

    /// Addresses that are answered for on a link.
    pub fn proxies(&self, device: u32) -> Result<Vec<IpAddr>, NetlinkError> {
        let message = RouteNetlinkMessage::GetNeighbour(proxy(0, None));
        let answers = self.dump(message, format_args!("list proxies"))?;
        Ok(answers
            .iter()
            .filter_map(read_neighbour)
            .filter(|(neighbour, is_proxy)| neighbour.device == device && *is_proxy)
            .map(|(neighbour, _)| neighbour.ip)
            .collect())
    }

    /// Adds an entry to a forwarding table. The one for all stations without an entry (VXLAN, all zero) may be added
    /// with several nodes.
    ///
    /// # Errors
    ///
    /// `Exists` when the station has one already.
    pub fn fdb_add(&self, device: u32, entry: &FdbEntry) -> Result<(), NetlinkError> {
        let several = entry.mac == [0; 6] || entry.mac[0] & 1 != 0;
        let flags = NLM_F_CREATE | if several { NLM_F_APPEND } else { NLM_F_EXCL };
        let what = format_args!("add {entry} to the forwarding table of link {device}");
        self.change_with(RouteNetlinkMessage::NewNeighbour(forwarding(device, entry)), flags, what)
    }

    /// False: there was no such entry. (Of a VXLAN's station with other nodes than this, the kernel says it was there.)
    pub fn fdb_delete(&self, device: u32, entry: &FdbEntry) -> Result<bool, NetlinkError> {
        let what = format_args!("delete {entry} of the forwarding table of link {device}");
        missing_ok(self.change_with(RouteNetlinkMessage::DelNeighbour(forwarding(device, entry)), 0, what))
    }

    /// Entries of a link: of its own table, and of the bridge's for this port.
    pub fn fdb(&self, device: u32) -> Result<Vec<FdbEntry>, NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        let answers =
            self.dump(RouteNetlinkMessage::GetNeighbour(message), format_args!("list forwarding tables"))?;
        Ok(answers.iter().filter_map(|answer| read_forwarding(answer, device)).collect())
    }
}

fn question(device: u32, ip: Option<IpAddr>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = device;
    if let Some(ip) = ip {
        message.header.family = family_of(ip).address_family();
        message.attributes.push(NeighbourAttribute::Destination(ip.into()));
    }
    message
}

fn proxy(device: u32, ip: Option<IpAddr>) -> NeighbourMessage {
    let mut message = question(device, ip);
    message.header.flags = NeighbourFlags::Proxy;
    message
}

fn forwarding(device: u32, entry: &FdbEntry) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    let header = &mut message.header;
    header.family = AddressFamily::Bridge;
    header.ifindex = device;
    header.flags = if entry.on_master { NeighbourFlags::Controller } else { NeighbourFlags::Own };
    // As `bridge fdb add` does: a permanent entry of a bridge is one of its own addresses, whose frames go up, not to
    // the port; one behind a port that does not age is NOARP.
    header.state = match (entry.permanent, entry.on_master) {
        (true, true) => NeighbourState::Noarp,
        (true, false) => NeighbourState::Permanent,
        (false, _) => NeighbourState::Reachable,
    };
    let attributes = &mut message.attributes;
    attributes.push(NeighbourAttribute::LinkLayerAddress(entry.mac.to_vec()));
    attributes.extend(entry.vlan.map(NeighbourAttribute::Vlan));
    attributes.extend(entry.dst.map(|dst| NeighbourAttribute::Destination(dst.into())));
    message
}

/// None for what has no address. Whether it is a proxy comes with it.
fn read_neighbour(answer: &Answer) -> Option<(Neighbour, bool)> {
    let Entry { device, state, flags, attributes } = Entry::read(answer)?;
    let mac = attributes.find(libc::NDA_LLADDR).and_then(Value::mac);
    let neighbour = Neighbour {
        device,
        ip: attributes.find(libc::NDA_DST)?.ip()?,
        mac: mac.and_then(|mac| MacAddress::try_from(mac).ok()),
        permanent: state & libc::NUD_PERMANENT != 0,
    };
    Some((neighbour, flags.contains(NeighbourFlags::Proxy)))
}

fn read_forwarding(answer: &Answer, device: u32) -> Option<FdbEntry> {
    let entry = Entry::read(answer).filter(|entry| entry.device == device)?;
    let attributes = entry.attributes;
    Some(FdbEntry {
        mac: attributes.find(libc::NDA_LLADDR)?.mac()?,
        // An entry of the link's own table says so.
        on_master: attributes.find(libc::NDA_MASTER).is_some() && !entry.flags.contains(NeighbourFlags::Own),
        vlan: attributes.find(libc::NDA_VLAN).and_then(Value::u16),
        dst: attributes.find(libc::NDA_DST).and_then(Value::ip),
        permanent: entry.state & (libc::NUD_PERMANENT | libc::NUD_NOARP) != 0,
    })
}

/// `struct ndmsg` (include/uapi/linux/neighbour.h), and what follows.
struct Entry<'a> {
    device: u32,
    state: u16,
    flags: NeighbourFlags,
    attributes: Attributes<'a>,
}

impl<'a> Entry<'a> {
    fn read(answer: &'a Answer) -> Option<Self> {
        if answer.kind != libc::RTM_NEWNEIGH {
            return None;
        }
        let payload = &answer.payload;
        Some(Self {
            device: u32_at(payload, 4)?,
            state: u16_at(payload, 8)?,
            flags: NeighbourFlags::from_bits_retain(*payload.get(10)?),
            attributes: Attributes::after(payload, NDMSG),
        })
    }
}

/// Bytes of `struct ndmsg`.
const NDMSG: usize = 12;
