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
    /// The one it shall have where it is made, 1 to `i32::MAX`; the kernel's next where None.
    pub index: Option<u32>,
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
            index: None,
            kind,
        }
    }

    fn message(&self) -> LinkMessage {
        let mut message = common(&self.name, self.mtu, self.mac, self.tx_queue_len, self.namespace);
        message.header.index = self.index.unwrap_or(0);
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
    /// `Exists` when the name is taken in the namespace it would be in; then nothing has changed. The same, or `Refused`
    /// with EBUSY, when the index is: which of them, and whether a link of the socket's namespace counts too, differs
    /// from one kernel to the other. `Refused` with EOPNOTSUPP when the kernel has no such driver.
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

/// What the test machines' kernels lack, byte by byte as include/uapi/linux/if_link.h has it.
#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable as _;

    use super::super::IpvlanMode;
    use super::*;

    fn bytes(new: &NewLink<'_>) -> Vec<u8> {
        let message = new.message();
        let mut bytes = vec![0xa5; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    /// `struct ifinfomsg`, `IFLA_IFNAME` "x0", `IFLA_LINK` 3 if there is one, `IFLA_LINKINFO` as given.
    fn wanted(parent: bool, info: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes.extend([7, 0, 3, 0, b'x', b'0', 0, 0]);
        if parent {
            bytes.extend([8, 0, 5, 0, 3, 0, 0, 0]);
        }
        bytes.extend([u8::try_from(info.len() + 4).unwrap(), 0, 18, 0]);
        bytes.extend(info);
        bytes
    }

    #[test]
    fn ipvlan_has_its_mode_in_16_bits() {
        for (mode, number) in [(IpvlanMode::L2, 0), (IpvlanMode::L3, 1), (IpvlanMode::L3s, 2)] {
            let mut new = NewLink::new("x0", Kind::Ipvlan { mode });
            new.parent = Some(3);
            let info = [&[11, 0, 1, 0][..], b"ipvlan\0\0", &[12, 0, 2, 0, 6, 0, 1, 0, number, 0, 0, 0]];
            assert_eq!(bytes(&new), wanted(true, &info.concat()), "{mode:?}");
        }
    }

    #[test]
    fn vlan_has_its_id_in_16_bits() {
        let mut new = NewLink::new("x0", Kind::Vlan { id: 0x0ffe });
        new.parent = Some(3);
        let info = [&[9, 0, 1, 0][..], b"vlan\0\0\0\0", &[12, 0, 2, 0, 6, 0, 1, 0, 0xfe, 0x0f, 0, 0]];
        assert_eq!(bytes(&new), wanted(true, &info.concat()));
    }

    #[test]
    fn bridge_filters_vlans_from_its_first_moment() {
        let kind = &[&[11, 0, 1, 0][..], b"bridge\0\0"].concat();
        let filtering: &[u8] = &[5, 0, 7, 0, 1, 0, 0, 0];
        let pvid: &[u8] = &[6, 0, 39, 0, 5, 0, 0, 0];
        let rows = [
            (true, Some(5), [kind, &[20, 0, 2, 0][..], filtering, pvid].concat()),
            (true, None, [kind, &[12, 0, 2, 0][..], filtering].concat()),
            (false, None, [kind, &[4, 0, 2, 0][..]].concat()),
        ];
        for (vlan_filtering, default_pvid, info) in rows {
            let new = NewLink::new("x0", Kind::Bridge { vlan_filtering, default_pvid });
            assert_eq!(bytes(&new), wanted(false, &info), "{vlan_filtering} {default_pvid:?}");
        }
    }
}
