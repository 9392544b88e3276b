//! VLANs of a bridge and its ports, where it filters by them.

use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkExtentMask, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::link::IFINFOMSG;
use super::raw::{Attributes, u16_at, u32_at};
use super::{Netlink, NetlinkError, missing_ok};

/// A VLAN whose frames pass a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// 1 to 4094.
    pub id: u16,
    /// Frames that come in without a tag are in it.
    pub pvid: bool,
    /// Frames of it leave without a tag.
    pub untagged: bool,
}

/// VLANs `first` to `last` of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewVlan {
    pub first: u16,
    pub last: u16,
    pub pvid: bool,
    pub untagged: bool,
    /// The link is the bridge, and the VLANs are for what it receives itself.
    pub on_bridge_itself: bool,
}

impl NewVlan {
    /// VLANs whose frames keep their tags.
    pub const fn tagged(first: u16, last: u16) -> Self {
        Self { first, last, pvid: false, untagged: false, on_bridge_itself: false }
    }

    fn message(&self, index: u32) -> LinkMessage {
        let mut flags = BridgeVlanInfoFlags::empty();
        flags.set(BridgeVlanInfoFlags::Pvid, self.pvid);
        flags.set(BridgeVlanInfoFlags::Untagged, self.untagged);
        let mut attributes = Vec::new();
        if self.on_bridge_itself {
            attributes.push(AfSpecBridge::Flags(BridgeFlag::LowerDev));
        }
        if self.first == self.last {
            attributes.push(vlan(self.first, flags));
        } else {
            attributes.push(vlan(self.first, flags | BridgeVlanInfoFlags::RangeBegin));
            attributes.push(vlan(self.last, flags | BridgeVlanInfoFlags::RangeEnd));
        }
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        message.header.index = index;
        message.attributes.push(LinkAttribute::AfSpecBridge(attributes));
        message
    }
}

impl Netlink {
    /// VLANs of a port, or of a bridge itself. A bridge that does not filter has its default one.
    pub fn vlans(&self, index: u32) -> Result<Vec<Vlan>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::BrvlanCompressed]));
        let answers = self.dump(RouteNetlinkMessage::GetLink(message), format_args!("list VLANs"))?;
        Ok(answers
            .iter()
            .filter(|answer| answer.kind == libc::RTM_NEWLINK && u32_at(&answer.payload, 4) == Some(index))
            .flat_map(|answer| read(&answer.payload))
            .collect())
    }

    pub fn add_vlan(&self, index: u32, vlan: &NewVlan) -> Result<(), NetlinkError> {
        let what = format_args!("add VLANs {} to {} to port {index}", vlan.first, vlan.last);
        self.change_with(RouteNetlinkMessage::SetLink(vlan.message(index)), 0, what)
    }

    /// False: the port had none of them, or is gone itself.
    pub fn delete_vlan(&self, index: u32, vlan: &NewVlan) -> Result<bool, NetlinkError> {
        let what = format_args!("delete VLANs {} to {} of port {index}", vlan.first, vlan.last);
        missing_ok(self.change_with(RouteNetlinkMessage::DelLink(vlan.message(index)), 0, what))
    }
}

fn vlan(id: u16, flags: BridgeVlanInfoFlags) -> AfSpecBridge {
    AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid: id })
}

/// Ranges written out.
fn read(payload: &[u8]) -> Vec<Vlan> {
    let mut vlans = Vec::new();
    let Some(spec) = Attributes::after(payload, IFINFOMSG).find(libc::IFLA_AF_SPEC) else {
        return vlans;
    };
    let mut first = None;
    for (_, value) in spec.nested().filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO) {
        // struct bridge_vlan_info: flags, id.
        let (Some(flags), Some(id)) = (u16_at(value.0, 0), u16_at(value.0, 2)) else {
            continue;
        };
        let flags = BridgeVlanInfoFlags::from_bits_retain(flags);
        if flags.contains(BridgeVlanInfoFlags::RangeBegin) {
            first = Some(id);
            continue;
        }
        let begin =
            if flags.contains(BridgeVlanInfoFlags::RangeEnd) { first.take().unwrap_or(id) } else { id };
        vlans.extend((begin..=id).map(|id| Vlan {
            id,
            pvid: flags.contains(BridgeVlanInfoFlags::Pvid),
            untagged: flags.contains(BridgeVlanInfoFlags::Untagged),
        }));
    }
    vlans
}

const IFLA_BRIDGE_VLAN_INFO: u16 = 2;

/// What the test machines' kernels lack, byte by byte as include/uapi/linux/if_bridge.h has it.
#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable as _;

    use super::*;

    /// `struct ifinfomsg` of family `AF_BRIDGE` and link 3, `IFLA_AF_SPEC` as given.
    fn bytes(spec: &[u8]) -> Vec<u8> {
        let mut bytes = vec![7, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend([u8::try_from(spec.len() + 4).unwrap(), 0, 26, 0]);
        bytes.extend(spec);
        bytes
    }

    #[test]
    fn one_and_range_and_the_bridges_own_are_asked_for() {
        let plain = NewVlan { first: 100, last: 100, pvid: false, untagged: false, on_bridge_itself: false };
        let rows = [
            (plain, vec![8, 0, 2, 0, 0, 0, 100, 0]),
            (NewVlan { last: 103, ..plain }, vec![8, 0, 2, 0, 8, 0, 100, 0, 8, 0, 2, 0, 16, 0, 103, 0]),
            (
                NewVlan { pvid: true, untagged: true, on_bridge_itself: true, ..plain },
                vec![6, 0, 0, 0, 2, 0, 0, 0, 8, 0, 2, 0, 6, 0, 100, 0],
            ),
        ];
        for (vlan, spec) in rows {
            let message = vlan.message(3);
            let mut written = vec![0xa5; message.buffer_len()];
            message.emit(&mut written);
            assert_eq!(written, bytes(&spec), "{vlan:?}");
        }
    }

    #[test]
    fn ranges_are_written_out() {
        let spec = [8, 0, 2, 0, 6, 0, 1, 0, 8, 0, 2, 0, 8, 0, 10, 0, 8, 0, 2, 0, 16, 0, 12, 0];
        let tagged = |id| Vlan { id, pvid: false, untagged: false };
        let first = Vlan { id: 1, pvid: true, untagged: true };
        assert_eq!(read(&bytes(&spec)), [first, tagged(10), tagged(11), tagged(12)]);
    }

    #[test]
    fn answer_that_is_cut_off_is_read_as_far_as_it_goes() {
        let whole = bytes(&[8, 0, 2, 0, 6, 0, 1, 0, 8, 0, 2, 0, 0, 0, 5, 0]);
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).len() < 2, "{length}");
        }
        assert_eq!(read(&whole).len(), 2);
    }
}
