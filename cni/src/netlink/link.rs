//! Links as the kernel describes them (include/uapi/linux/if_link.h).

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};

use super::kind::{IpvlanMode, MacvlanMode, Vxlan};
use super::raw::{Attributes, Value, u16_at, u32_at};
use super::socket::Answer;
use super::{Netlink, NetlinkError};
use crate::protocol::MacAddress;

/// One link of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// The driver, as `ip -d link` calls it; None for hardware and the loopback.
    pub kind: Option<String>,
    /// `ARPHRD_ETHER` is 1, the loopback's 772.
    pub hardware: u16,
    /// Bytes.
    pub mtu: u32,
    /// Bytes; None where the driver has no limit.
    pub max_mtu: Option<u32>,
    /// None where it has none, or a group's, or zero.
    pub mac: Option<MacAddress>,
    /// Administratively.
    pub up: bool,
    pub carrier: bool,
    pub loopback: bool,
    /// Whether neighbours are asked for and answered (ARP, neighbour discovery); not so on a mute one (`IFF_NOARP`).
    pub arp: bool,
    /// As somebody set it; a bridge's ports hear everything without.
    pub promiscuous: bool,
    pub all_multicast: bool,
    /// Index of the bridge, bond or VRF it is in.
    pub master: Option<u32>,
    /// Index of the link below, or of the veth's other end; where `parent_elsewhere`, in another namespace.
    pub parent: Option<u32>,
    pub parent_elsewhere: bool,
    pub alias: Option<String>,
    /// Frames.
    pub tx_queue_len: u32,
    pub details: Details,
    /// What it is as a port of a bridge.
    pub port: Option<Port>,
}

/// A driver's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Details {
    /// Of a driver without any that matter here.
    Other,
    Bridge {
        vlan_filtering: bool,
        /// 0: none.
        default_pvid: u16,
        stp: bool,
    },
    Veth,
    /// And macvtap: `Link::kind` says which.
    Macvlan {
        mode: Option<MacvlanMode>,
    },
    Ipvlan {
        mode: Option<IpvlanMode>,
    },
    Vxlan {
        settings: Vxlan,
        /// Index of the link that carries it.
        device: Option<u32>,
    },
    Vlan {
        id: u16,
    },
    Tun(Tun),
}

/// A tun or tap device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tun {
    /// A tap, with Ethernet frames, not a tun.
    pub tap: bool,
    pub owner: Option<u32>,
    pub group: Option<u32>,
    pub multi_queue: bool,
    pub persistent: bool,
    pub vnet_hdr: bool,
    /// Whether four bytes of flags and protocol are before each frame.
    pub packet_information: bool,
}

/// Settings of a bridge's port, `IFLA_BRPORT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    pub hairpin: bool,
    pub isolated: bool,
    pub learning: bool,
    pub unicast_flood: bool,
    pub neigh_suppress: bool,
    pub state: PortState,
}

/// `BR_STATE_*` of include/uapi/linux/if_bridge.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    Disabled,
    Listening,
    Learning,
    Forwarding,
    Blocking,
    Other(u8),
}

impl Netlink {
    /// The link of a name.
    pub fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        // No link's name has more; the kernel would refuse the question.
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Ok(None);
        }
        let mut message = question();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one(message, format_args!("read link {name}"))
    }

    pub fn link_at(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        // No link has the number 0, and the kernel refuses the question; a redirection to a link that is gone has it.
        if index == 0 {
            return Ok(None);
        }
        let mut message = question();
        message.header.index = index;
        self.one(message, format_args!("read link {index}"))
    }

    /// All links of the namespace.
    pub fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let answers = self.dump(RouteNetlinkMessage::GetLink(question()), format_args!("list links"))?;
        Ok(answers.iter().filter_map(parse).collect())
    }

    fn one(&self, message: LinkMessage, what: std::fmt::Arguments<'_>) -> Result<Option<Link>, NetlinkError> {
        match self.ask(RouteNetlinkMessage::GetLink(message), 0, what) {
            Ok(answers) => Ok(answers.iter().find_map(parse)),
            Err(NetlinkError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn question() -> LinkMessage {
    let mut message = LinkMessage::default();
    // Counters are most of an answer, and nobody here reads them.
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

/// None for what is not a link.
fn parse(answer: &Answer) -> Option<Link> {
    if answer.kind != libc::RTM_NEWLINK {
        return None;
    }
    parse_payload(&answer.payload)
}

fn parse_payload(payload: &[u8]) -> Option<Link> {
    // struct ifinfomsg: family, padding, hardware, index, flags, change.
    let flags = u32_at(payload, 8)?;
    let has = |flag: libc::c_int| flags & flag.cast_unsigned() != 0;
    let attributes = Attributes::after(payload, IFINFOMSG);
    let find = |kind| attributes.find(kind);
    let number = |kind| find(kind).and_then(Value::u32);
    let info = find(libc::IFLA_LINKINFO).map(Value::nested);
    let kind = info.and_then(|info| info.find(libc::IFLA_INFO_KIND)).map(Value::text);
    let data = info.and_then(|info| info.find(libc::IFLA_INFO_DATA)).map(Value::nested);
    Some(Link {
        index: u32_at(payload, 4)?,
        name: find(libc::IFLA_IFNAME)?.text(),
        hardware: u16_at(payload, 2)?,
        mtu: number(libc::IFLA_MTU).unwrap_or(0),
        max_mtu: number(libc::IFLA_MAX_MTU).filter(|limit| *limit != 0),
        mac: find(libc::IFLA_ADDRESS).and_then(Value::mac).and_then(|mac| MacAddress::try_from(mac).ok()),
        up: has(libc::IFF_UP),
        carrier: find(libc::IFLA_CARRIER).is_some_and(Value::flag),
        loopback: has(libc::IFF_LOOPBACK),
        arp: !has(libc::IFF_NOARP),
        promiscuous: has(libc::IFF_PROMISC),
        all_multicast: has(libc::IFF_ALLMULTI),
        master: number(libc::IFLA_MASTER),
        // A tunnel without a link below has zero.
        parent: number(libc::IFLA_LINK).filter(|index| *index != 0),
        parent_elsewhere: find(libc::IFLA_LINK_NETNSID).is_some(),
        alias: find(libc::IFLA_IFALIAS).map(Value::text),
        tx_queue_len: number(libc::IFLA_TXQLEN).unwrap_or(0),
        details: details(kind.as_deref(), data),
        port: info.and_then(port),
        kind,
    })
}

fn details(kind: Option<&str>, data: Option<Attributes<'_>>) -> Details {
    match (kind, data) {
        (Some("veth"), _) => Details::Veth,
        (Some("bridge"), Some(data)) => Details::Bridge {
            vlan_filtering: data.find(IFLA_BR_VLAN_FILTERING).is_some_and(Value::flag),
            default_pvid: data.find(IFLA_BR_VLAN_DEFAULT_PVID).and_then(Value::u16).unwrap_or(0),
            stp: data.find(IFLA_BR_STP_STATE).and_then(Value::u32).is_some_and(|state| state != 0),
        },
        (Some("macvlan" | "macvtap"), Some(data)) => Details::Macvlan {
            mode: data.find(IFLA_MACVLAN_MODE).and_then(Value::u32).and_then(MacvlanMode::from_value),
        },
        (Some("ipvlan"), Some(data)) => Details::Ipvlan {
            mode: data.find(IFLA_IPVLAN_MODE).and_then(Value::u16).and_then(IpvlanMode::from_value),
        },
        (Some("vlan"), Some(data)) => {
            Details::Vlan { id: data.find(IFLA_VLAN_ID).and_then(Value::u16).unwrap_or(0) }
        }
        (Some("vxlan"), Some(data)) => vxlan(data),
        (Some("tun"), Some(data)) => Details::Tun(tun(data)),
        _ => Details::Other,
    }
}

fn vxlan(data: Attributes<'_>) -> Details {
    let flag = |kind| data.find(kind).is_some_and(Value::flag);
    let address = |v4, v6| data.find(v4).or_else(|| data.find(v6)).and_then(Value::ip);
    let settings = Vxlan {
        vni: data.find(IFLA_VXLAN_ID).and_then(Value::u32).unwrap_or(0),
        port: data.find(IFLA_VXLAN_PORT).and_then(Value::u16_big_endian).unwrap_or(0),
        local: address(IFLA_VXLAN_LOCAL, IFLA_VXLAN_LOCAL6),
        remote: address(IFLA_VXLAN_GROUP, IFLA_VXLAN_GROUP6),
        learning: flag(IFLA_VXLAN_LEARNING),
        proxy: flag(IFLA_VXLAN_PROXY),
        ttl: data.find(IFLA_VXLAN_TTL).and_then(Value::u8).unwrap_or(0),
    };
    Details::Vxlan {
        settings,
        device: data.find(IFLA_VXLAN_LINK).and_then(Value::u32).filter(|link| *link != 0),
    }
}

fn tun(data: Attributes<'_>) -> Tun {
    let flag = |kind| data.find(kind).is_some_and(Value::flag);
    let number = |kind| data.find(kind).and_then(Value::u32);
    Tun {
        tap: data.find(IFLA_TUN_TYPE).and_then(Value::u8) == Some(IFF_TAP),
        owner: number(IFLA_TUN_OWNER),
        group: number(IFLA_TUN_GROUP),
        multi_queue: flag(IFLA_TUN_MULTI_QUEUE),
        persistent: flag(IFLA_TUN_PERSIST),
        vnet_hdr: flag(IFLA_TUN_VNET_HDR),
        packet_information: flag(IFLA_TUN_PI),
    }
}

fn port(info: Attributes<'_>) -> Option<Port> {
    if info.find(libc::IFLA_INFO_SLAVE_KIND)?.text() != "bridge" {
        return None;
    }
    let data = info.find(libc::IFLA_INFO_SLAVE_DATA)?.nested();
    let flag = |kind| data.find(kind).is_some_and(Value::flag);
    Some(Port {
        hairpin: flag(IFLA_BRPORT_MODE),
        isolated: flag(IFLA_BRPORT_ISOLATED),
        learning: flag(IFLA_BRPORT_LEARNING),
        unicast_flood: flag(IFLA_BRPORT_UNICAST_FLOOD),
        neigh_suppress: flag(IFLA_BRPORT_NEIGH_SUPPRESS),
        state: match data.find(IFLA_BRPORT_STATE).and_then(Value::u8)? {
            0 => PortState::Disabled,
            1 => PortState::Listening,
            2 => PortState::Learning,
            3 => PortState::Forwarding,
            4 => PortState::Blocking,
            other => PortState::Other(other),
        },
    })
}

/// Bytes of `struct ifinfomsg`.
pub(super) const IFINFOMSG: usize = 16;

const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;

const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_NEIGH_SUPPRESS: u16 = 32;
const IFLA_BRPORT_ISOLATED: u16 = 33;

const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_GROUP: u16 = 2;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_TTL: u16 = 5;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PROXY: u16 = 11;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_GROUP6: u16 = 16;
const IFLA_VXLAN_LOCAL6: u16 = 17;

const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_PI: u16 = 4;
const IFLA_TUN_VNET_HDR: u16 = 5;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;

/// include/uapi/linux/if_tun.h.
const IFF_TAP: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// Link 9, up, with an attribute of a kernel to come and one of an impossible length for its type.
    fn message(kind: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 1, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(attribute(0x3ff, &[1, 2, 3]));
        bytes.extend(attribute(libc::IFLA_MTU, &[1]));
        bytes.extend(attribute(libc::IFLA_IFNAME, b"x0\0"));
        let info = [attribute(libc::IFLA_INFO_KIND, kind.as_bytes()), attribute(libc::IFLA_INFO_DATA, data)];
        bytes.extend(attribute(libc::IFLA_LINKINFO, &info.concat()));
        bytes
    }

    #[test]
    fn drivers_the_test_machines_lack_are_read() {
        let rows = [
            ("ipvlan", attribute(1, &[0, 0]), Details::Ipvlan { mode: Some(IpvlanMode::L2) }),
            ("ipvlan", attribute(1, &[1, 0]), Details::Ipvlan { mode: Some(IpvlanMode::L3) }),
            ("ipvlan", attribute(1, &[2, 0]), Details::Ipvlan { mode: Some(IpvlanMode::L3s) }),
            ("ipvlan", attribute(1, &[9, 0]), Details::Ipvlan { mode: None }),
            ("vlan", attribute(1, &[100, 0]), Details::Vlan { id: 100 }),
            (
                "bridge",
                [attribute(7, &[1]), attribute(39, &[5, 0])].concat(),
                Details::Bridge { vlan_filtering: true, default_pvid: 5, stp: false },
            ),
            ("of-the-future", attribute(1, &[1]), Details::Other),
        ];
        for (kind, data, wanted) in rows {
            let link = parse_payload(&message(kind, &data)).unwrap();
            assert_eq!(link.details, wanted, "{kind}");
            assert_eq!((link.index, link.name.as_str(), link.up, link.mtu), (9, "x0", true, 0));
        }
    }

    #[test]
    fn message_that_is_cut_off_is_a_link_only_with_its_name() {
        let whole = message("tun", &[5, 0, 4, 0, 1]);
        for length in 0..whole.len() {
            let link = parse_payload(&whole[..length]);
            assert!(link.is_none_or(|link| link.name == "x0"), "{length}");
        }
    }
}
