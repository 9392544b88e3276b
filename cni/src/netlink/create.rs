//! New links, each whole in one message: there is never one without its name, MAC or namespace, for others to see.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::{Kind, Netlink, NetlinkError};
use crate::protocol::MacAddress;

/// A link to be made.
#[derive(Clone, Debug)]
pub struct NewLink<'a> {
    /// 1 to 15 bytes.
    pub name: String,
    /// Bytes; the driver's where None.
    pub mtu: Option<u32>,
    /// Random where None.
    pub mac: Option<MacAddress>,
    pub up: bool,
    /// Frames.
    pub tx_queue_len: Option<u32>,
    /// Where it is made; the socket's namespace where None.
    pub namespace: Option<BorrowedFd<'a>>,
    /// Index of the link below, in the socket's namespace.
    pub parent: Option<u32>,
    /// Index of a bridge it is a port of from the beginning; in the same namespace as the new link.
    pub master: Option<u32>,
    pub kind: Kind<'a>,
}

/// The other end of a veth pair. It is down: the kernel makes it first, and it cannot be up alone.
#[derive(Clone, Debug)]
pub struct Peer<'a> {
    pub name: String,
    pub mtu: Option<u32>,
    pub mac: Option<MacAddress>,
    pub tx_queue_len: Option<u32>,
    /// Where it is made; where the first end is made, if None.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl<'a> NewLink<'a> {
    /// A link that is down, and for the rest as the kernel makes it.
    pub fn new(name: impl Into<String>, kind: Kind<'a>) -> Self {
        Self {
            name: name.into(),
            mtu: None,
            mac: None,
            up: false,
            tx_queue_len: None,
            namespace: None,
            parent: None,
            master: None,
            kind,
        }
    }

    fn message(&self) -> LinkMessage {
        let mut message = common(&self.name, self.mtu, self.mac, self.tx_queue_len, self.namespace);
        if self.up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        let attributes = &mut message.attributes;
        let parent_is_setting = matches!(self.kind, Kind::Vxlan(_));
        if let Some(parent) = self.parent.filter(|_| !parent_is_setting) {
            attributes.push(LinkAttribute::Link(parent));
        }
        attributes.extend(self.master.map(LinkAttribute::Controller));
        attributes.push(LinkAttribute::LinkInfo(self.kind.info(self.parent)));
        message
    }
}

impl<'a> Peer<'a> {
    /// An end in the namespace given, and for the rest as the kernel makes it.
    pub fn new(name: impl Into<String>, namespace: Option<BorrowedFd<'a>>) -> Self {
        Self { name: name.into(), mtu: None, mac: None, tx_queue_len: None, namespace }
    }

    /// `VETH_INFO_PEER`: a whole message of a link inside an attribute.
    pub(super) fn data(&self) -> InfoData {
        let message = common(&self.name, self.mtu, self.mac, self.tx_queue_len, self.namespace);
        InfoData::Veth(InfoVeth::Peer(message))
    }
}

impl Netlink {
    /// Makes a link.
    ///
    /// # Errors
    ///
    /// `Exists` when the name is taken in the namespace it would be in; then nothing has changed. `Refused` with
    /// EOPNOTSUPP when the kernel has no such driver.
    pub fn create(&self, new: &NewLink<'_>) -> Result<(), NetlinkError> {
        self.change_with(
            RouteNetlinkMessage::NewLink(new.message()),
            NLM_F_CREATE | NLM_F_EXCL,
            format_args!("create {} link {}", new.kind.name(), new.name),
        )
    }

    /// Turns VLAN filtering of a bridge on or off.
    pub fn set_vlan_filtering(&self, bridge: u32, vlan_filtering: bool) -> Result<(), NetlinkError> {
        let what = format_args!("set VLAN filtering of bridge {bridge} to {vlan_filtering}");
        self.set_bridge(bridge, InfoBridge::VlanFiltering(vlan_filtering), what)
    }

    /// Sets the VLAN that untagged frames of a bridge's new ports are in; 0 for none.
    pub fn set_default_pvid(&self, bridge: u32, vlan: u16) -> Result<(), NetlinkError> {
        let what = format_args!("set the default VLAN of bridge {bridge} to {vlan}");
        self.set_bridge(bridge, InfoBridge::VlanDefaultPvid(vlan), what)
    }

    fn set_bridge(
        &self,
        bridge: u32,
        setting: InfoBridge,
        what: std::fmt::Arguments<'_>,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = bridge;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![setting])),
        ]));
        self.change_with(RouteNetlinkMessage::NewLink(message), 0, what)
    }
}

fn common(
    name: &str,
    mtu: Option<u32>,
    mac: Option<MacAddress>,
    tx_queue_len: Option<u32>,
    namespace: Option<BorrowedFd<'_>>,
) -> LinkMessage {
    let mut message = LinkMessage::default();
    let attributes = &mut message.attributes;
    attributes.push(LinkAttribute::IfName(name.to_owned()));
    attributes.extend(mtu.map(LinkAttribute::Mtu));
    attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
    attributes.extend(tx_queue_len.map(LinkAttribute::TxQueueLen));
    attributes.extend(namespace.map(|namespace| LinkAttribute::NetNsFd(namespace.as_raw_fd())));
    message
}
