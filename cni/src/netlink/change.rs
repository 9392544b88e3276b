//! Changes of links that exist, and their removal.

use std::fmt;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::{Netlink, NetlinkError, missing_ok};
use crate::protocol::MacAddress;

/// What to change of a link. None leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct Change<'a> {
    pub name: Option<String>,
    /// Bytes.
    pub mtu: Option<u32>,
    pub mac: Option<MacAddress>,
    pub up: Option<bool>,
    /// Index of a bridge, or `Some(None)` to leave it.
    pub master: Option<Option<u32>>,
    /// Moves it; its index and everything else then are the other namespace's.
    pub namespace: Option<BorrowedFd<'a>>,
    /// The index in that namespace; EBUSY where another link has it. Else the kernel may choose another than it had.
    /// Linux before 5.13 chooses all the same.
    pub new_index: Option<u32>,
    /// Up to 255 bytes; empty to remove it.
    pub alias: Option<String>,
    /// Frames.
    pub tx_queue_len: Option<u32>,
    pub promiscuous: Option<bool>,
    pub all_multicast: Option<bool>,
    /// What links are told together by (`IFLA_GROUP`); the kernel's default is 0.
    pub group: Option<u32>,
    /// `Some(false)`: it resolves no addresses and joins no groups (`IFF_NOARP`).
    pub arp: Option<bool>,
}

/// What to change of a bridge's port. None leaves it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortChange {
    pub hairpin: Option<bool>,
    pub isolated: Option<bool>,
    pub learning: Option<bool>,
    pub unicast_flood: Option<bool>,
    pub neigh_suppress: Option<bool>,
}

/// As in an error: only what is to be changed.
impl fmt::Display for Change<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            self.name.as_ref().map(|name| format!("name {name}")),
            self.mtu.map(|mtu| format!("MTU {mtu}")),
            self.mac.map(|mac| format!("MAC {mac}")),
            self.up.map(|up| if up { "up" } else { "down" }.to_owned()),
            self.master.map(|master| {
                master.map_or_else(|| "no bridge".to_owned(), |index| format!("bridge {index}"))
            }),
            self.namespace.map(|_| "another namespace".to_owned()),
            self.new_index.map(|index| format!("index {index}")),
            self.alias.as_ref().map(|alias| format!("alias {alias:?}")),
            self.tx_queue_len.map(|length| format!("queue of {length}")),
            self.promiscuous.map(|on| format!("promiscuous {on}")),
            self.all_multicast.map(|on| format!("all multicast {on}")),
            self.group.map(|group| format!("group {group}")),
            self.arp.map(|on| format!("ARP {on}")),
        ];
        list(formatter, words)
    }
}

impl fmt::Display for PortChange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            self.hairpin.map(|on| format!("hairpin {on}")),
            self.isolated.map(|on| format!("isolated {on}")),
            self.learning.map(|on| format!("learning {on}")),
            self.unicast_flood.map(|on| format!("unicast flood {on}")),
            self.neigh_suppress.map(|on| format!("neighbour suppression {on}")),
        ];
        list(formatter, words)
    }
}

fn list<const N: usize>(formatter: &mut fmt::Formatter<'_>, words: [Option<String>; N]) -> fmt::Result {
    let words: Vec<_> = words.into_iter().flatten().collect();
    formatter.write_str(&words.join(", "))
}

impl Netlink {
    /// Changes a link. The kernel makes one change after the other: when it refuses one, others may have been made.
    pub fn change(&self, index: u32, change: &Change<'_>) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        let header = &mut message.header;
        header.index = index;
        let flags = [
            (change.up, LinkFlags::Up),
            (change.promiscuous, LinkFlags::Promisc),
            (change.all_multicast, LinkFlags::Allmulti),
            (change.arp.map(|arp| !arp), LinkFlags::Noarp),
        ];
        for (wanted, flag) in flags {
            if let Some(wanted) = wanted {
                header.change_mask |= flag;
                header.flags.set(flag, wanted);
            }
        }
        let attributes = &mut message.attributes;
        attributes.extend(change.name.clone().map(LinkAttribute::IfName));
        attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
        attributes.extend(change.master.map(|master| LinkAttribute::Controller(master.unwrap_or(0))));
        attributes.extend(change.namespace.map(|namespace| LinkAttribute::NetNsFd(namespace.as_raw_fd())));
        let new_index = change.new_index.and_then(|index| i32::try_from(index).ok());
        attributes.extend(new_index.map(LinkAttribute::NewIfIndex));
        attributes.extend(change.alias.clone().map(LinkAttribute::IfAlias));
        attributes.extend(change.tx_queue_len.map(LinkAttribute::TxQueueLen));
        attributes.extend(change.group.map(LinkAttribute::Group));
        self.change_with(
            RouteNetlinkMessage::SetLink(message),
            0,
            format_args!("set link {index} to {change}"),
        )
    }

    /// Changes a port of a bridge; all of it or nothing.
    pub fn set_port(&self, index: u32, change: &PortChange) -> Result<(), NetlinkError> {
        let settings = [
            change.hairpin.map(InfoBridgePort::HairpinMode),
            change.isolated.map(InfoBridgePort::Isolated),
            change.learning.map(InfoBridgePort::Learning),
            change.unicast_flood.map(InfoBridgePort::UnicastFlood),
            change.neigh_suppress.map(InfoBridgePort::NeighSupress),
        ];
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(settings.into_iter().flatten().collect())),
        ]));
        // RTM_SETLINK does not look at a port's settings.
        self.change_with(
            RouteNetlinkMessage::NewLink(message),
            0,
            format_args!("set port {index} to {change}"),
        )
    }

    /// Removes a link. False: there was none.
    pub fn delete(&self, name: &str) -> Result<bool, NetlinkError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Ok(false);
        }
        self.delete_by(0, Some(LinkAttribute::IfName(name.to_owned())), format_args!("delete link {name}"))
    }

    /// Removes links, by index; those that are not there are passed over. The kernel waits for whoever may still read them
    /// (`rcu_barrier`, 10 to 30 ms): once for all that one message removes, not once for each. That message names a group:
    /// the links are put into `group` first, which must be no other link's, and not 0.
    pub fn delete_together(&self, links: &[u32], group: u32) -> Result<(), NetlinkError> {
        let one_by_one = |links: &[u32]| {
            let results = links
                .iter()
                .map(|link| self.delete_by(*link, None, format_args!("delete link {link}")).map(drop));
            results.fold(Ok(()), Result::and)
        };
        if links.len() < 2 {
            return one_by_one(links);
        }
        for link in links {
            missing_ok(self.change(*link, &Change { group: Some(group), ..Change::default() }))?;
        }
        let what = format_args!("delete links of group {group}");
        let gone = self.delete_by(0, Some(LinkAttribute::Group(group)), what);
        // Of a group with one link that cannot be removed, the kernel removes none.
        gone.map(drop).or_else(|_| one_by_one(links))
    }

    fn delete_by(
        &self,
        index: u32,
        attribute: Option<LinkAttribute>,
        what: fmt::Arguments<'_>,
    ) -> Result<bool, NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.extend(attribute);
        missing_ok(self.change_with(RouteNetlinkMessage::DelLink(message), 0, what))
    }
}
