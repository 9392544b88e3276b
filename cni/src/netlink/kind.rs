//! What a link is: the drivers this plugin makes links of, with their settings.

use std::net::IpAddr;

use netlink_packet_core::DefaultNla;
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoMacVtap, InfoVlan, InfoVxlan, IpVlanMode,
    LinkInfo, MacVlanMode,
};

use super::create::Peer;

/// The driver of a new link.
#[derive(Clone, Debug)]
pub enum Kind<'a> {
    Bridge {
        vlan_filtering: bool,
        /// The VLAN that untagged frames of a new port are in; 0 for none. The kernel's is 1.
        default_pvid: Option<u16>,
    },
    Veth {
        peer: Peer<'a>,
    },
    /// Over the link's parent.
    Macvlan {
        mode: MacvlanMode,
        /// How many broadcasts may wait to be copied; the kernel's is 1000. One queue for all links of a parent.
        broadcast_queue: Option<u32>,
    },
    Macvtap {
        mode: MacvlanMode,
    },
    Ipvlan {
        mode: IpvlanMode,
    },
    /// The link's parent is the one that carries it (`dev`).
    Vxlan(Vxlan),
    Ifb,
    /// 802.1Q, over the link's parent.
    Vlan {
        id: u16,
    },
}

/// `enum macvlan_mode` of include/uapi/linux/if_link.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacvlanMode {
    Private,
    Vepa,
    Bridge,
    Passthru,
    Source,
}

/// `enum ipvlan_mode` of include/uapi/linux/if_link.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpvlanMode {
    L2,
    L3,
    L3s,
}

/// RFC 7348.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// 24 bits.
    pub vni: u32,
    /// UDP, of all nodes.
    pub port: u16,
    /// Address frames are sent from.
    pub local: Option<IpAddr>,
    /// Where frames for stations that are not in the forwarding table go: a multicast group, or a node.
    pub remote: Option<IpAddr>,
    pub learning: bool,
    /// Whether it answers ARP and neighbour solicitations from its own neighbour entries.
    pub proxy: bool,
    /// Of the outer packets; 0: the kernel chooses (1 for a multicast group, the route's for a node).
    pub ttl: u8,
}

impl Kind<'_> {
    /// As `ip link` prints it and the kernel calls it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Bridge { .. } => "bridge",
            Self::Veth { .. } => "veth",
            Self::Macvlan { .. } => "macvlan",
            Self::Macvtap { .. } => "macvtap",
            Self::Ipvlan { .. } => "ipvlan",
            Self::Vxlan(_) => "vxlan",
            Self::Ifb => "ifb",
            Self::Vlan { .. } => "vlan",
        }
    }

    /// `IFLA_LINKINFO`. `parent` is for the one driver that has it among its own settings.
    pub(super) fn info(&self, parent: Option<u32>) -> Vec<LinkInfo> {
        let mut info = vec![LinkInfo::Kind(InfoKind::from(self.name()))];
        info.extend(self.data(parent).map(LinkInfo::Data));
        info
    }

    fn data(&self, parent: Option<u32>) -> Option<InfoData> {
        Some(match self {
            Self::Bridge { vlan_filtering, default_pvid } => {
                // A kernel without bridge VLANs refuses even to leave them off.
                let mut data = Vec::new();
                data.extend(vlan_filtering.then_some(InfoBridge::VlanFiltering(true)));
                data.extend(default_pvid.map(InfoBridge::VlanDefaultPvid));
                InfoData::Bridge(data)
            }
            Self::Veth { peer } => peer.data(),
            Self::Macvlan { mode, broadcast_queue } => {
                let mut data = vec![InfoMacVlan::Mode(mode.value())];
                data.extend(broadcast_queue.map(InfoMacVlan::BcQueueLen));
                InfoData::MacVlan(data)
            }
            Self::Macvtap { mode } => InfoData::MacVtap(vec![InfoMacVtap::Mode(mode.value())]),
            Self::Ipvlan { mode } => InfoData::IpVlan(vec![InfoIpVlan::Mode(match mode {
                IpvlanMode::L2 => IpVlanMode::L2,
                IpvlanMode::L3 => IpVlanMode::L3,
                IpvlanMode::L3s => IpVlanMode::L3S,
            })]),
            Self::Vxlan(vxlan) => InfoData::Vxlan(vxlan.data(parent)),
            Self::Ifb => return None,
            Self::Vlan { id } => InfoData::Vlan(vec![InfoVlan::Id(*id)]),
        })
    }
}

impl MacvlanMode {
    const fn value(self) -> MacVlanMode {
        match self {
            Self::Private => MacVlanMode::Private,
            Self::Vepa => MacVlanMode::Vepa,
            Self::Bridge => MacVlanMode::Bridge,
            Self::Passthru => MacVlanMode::Passthrough,
            Self::Source => MacVlanMode::Source,
        }
    }

    pub(super) const fn from_value(value: u32) -> Option<Self> {
        Some(match value {
            1 => Self::Private,
            2 => Self::Vepa,
            4 => Self::Bridge,
            8 => Self::Passthru,
            16 => Self::Source,
            _ => return None,
        })
    }
}

impl IpvlanMode {
    pub(super) const fn from_value(value: u16) -> Option<Self> {
        Some(match value {
            0 => Self::L2,
            1 => Self::L3,
            2 => Self::L3s,
            _ => return None,
        })
    }
}

impl Vxlan {
    fn data(&self, parent: Option<u32>) -> Vec<InfoVxlan> {
        let mut data = vec![
            InfoVxlan::Id(self.vni),
            // Without it, the kernel would use its own port of before RFC 7348.
            InfoVxlan::Other(DefaultNla::new(IFLA_VXLAN_PORT, self.port.to_be_bytes().to_vec())),
            InfoVxlan::Learning(self.learning),
            InfoVxlan::Proxy(self.proxy),
        ];
        data.extend(parent.map(InfoVxlan::Link));
        data.extend(self.local.map(|address| match address {
            IpAddr::V4(address) => InfoVxlan::Local(address),
            IpAddr::V6(address) => InfoVxlan::Local6(address),
        }));
        data.extend(self.remote.map(|address| match address {
            IpAddr::V4(address) => InfoVxlan::Group(address),
            IpAddr::V6(address) => InfoVxlan::Group6(address),
        }));
        if self.ttl != 0 {
            data.push(InfoVxlan::Ttl(self.ttl));
        }
        data
    }
}

/// Big endian, unlike most.
const IFLA_VXLAN_PORT: u16 = 15;
