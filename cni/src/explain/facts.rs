//! What is there, as it was found: two namespaces, journals, rules, device nodes. It must never say what any of it means.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;

use crate::attachment::Attachment;
use crate::journal::{Entry, Step};
use crate::netlink::{Address, FdbEntry, Link, Route, RouteKind, TABLE_MAIN, Tbf, Vlan};
use crate::nft::Mark;

/// All that one trace is made from.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) pod: View,
    pub(super) node: View,
    /// Attachments that were made in this pod.
    pub(super) records: Vec<Record>,
    /// `None`: they could not be read.
    pub(super) marks: Option<Vec<Mark>>,
    /// Device nodes of macvtaps, by the link's index.
    pub(super) devices: BTreeMap<u32, Device>,
    /// Whom QEMU runs as, user and group.
    pub(super) user: u32,
}

/// One network namespace. Where a map lacks a link, that link was of no interest.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    pub(super) routes: Vec<Route>,
    /// Where all frames that come in by a link go, by index.
    pub(super) redirects: BTreeMap<u32, Vec<u32>>,
    pub(super) limits: BTreeMap<u32, Tbf>,
    pub(super) vlans: BTreeMap<u32, Vec<Vlan>>,
    /// Entries of forwarding tables for a bridge's port, or of a VXLAN device.
    pub(super) stations: BTreeMap<u32, Vec<FdbEntry>>,
    /// By path below /proc/sys; what the kernel lacks is missing.
    pub(super) settings: BTreeMap<String, String>,
}

/// What a journal says of an attachment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) attachment: Attachment,
    pub(super) mode: String,
    pub(super) netns: PathBuf,
    pub(super) steps: Vec<Step>,
    pub(super) done: bool,
    pub(super) pod: Pod,
}

/// What became of the namespace that an attachment was made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Pod {
    Alive,
    Gone,
    /// It cannot be seen from here.
    Unknown,
}

/// A character device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Record {
    /// `None` for a journal that was not begun.
    pub(super) fn of(entry: Entry, pod: Pod) -> Option<Self> {
        let header = entry.header?;
        Some(Self {
            id: header.attachment.id(),
            attachment: header.attachment,
            mode: header.mode,
            netns: header.netns,
            steps: entry.steps,
            done: entry.done,
            pod,
        })
    }

    /// The tap that was made beside the pod's NIC.
    pub(super) fn tap(&self) -> Option<&str> {
        let own = ["macvlan", "macvtap"].contains(&self.mode.as_str());
        let of_nic = |name: &str| name == self.attachment.interface && self.mode != "none";
        let mut made = self
            .steps
            .iter()
            .filter_map(|step| if let Step::PodLink { name } = step { Some(name.as_str()) } else { None });
        made.find(|name| !own && !of_nic(name))
    }

    /// The NIC in the pod that the VM's frames pass.
    pub(super) fn nic(&self) -> Option<&str> {
        let redirected = self.steps.iter().find_map(|step| {
            if let Step::PodRedirect { name, .. } = step { Some(name.as_str()) } else { None }
        });
        match self.mode.as_str() {
            "tap" => redirected,
            "none" | "passt" => None,
            _ => Some(&self.attachment.interface),
        }
    }
}

impl View {
    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub(super) fn at(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    pub(super) fn redirects(&self, link: &Link) -> &[u32] {
        self.redirects.get(&link.index).map_or(&[], Vec::as_slice)
    }

    pub(super) fn stations(&self, link: &Link) -> &[FdbEntry] {
        self.stations.get(&link.index).map_or(&[], Vec::as_slice)
    }

    pub(super) fn vlans(&self, link: &Link) -> &[Vlan] {
        self.vlans.get(&link.index).map_or(&[], Vec::as_slice)
    }

    /// Those of a link that are good beyond it.
    pub(super) fn addresses(&self, link: &Link) -> impl Iterator<Item = &Address> {
        self.addresses
            .iter()
            .filter(|address| address.index == link.index && !is_link_local(address.network.addr()))
    }

    pub(super) fn setting(&self, path: &str) -> Option<&str> {
        self.settings.get(path).map(String::as_str)
    }

    /// The main table's route for packets to `address`: longest prefix, then lowest metric.
    pub(super) fn route(&self, address: IpAddr) -> Option<&Route> {
        let fits = |route: &&Route| {
            route.table == TABLE_MAIN && route.kind == RouteKind::Unicast && route.dst.contains(&address)
        };
        let cost = |route: &&Route| (u8::MAX - route.dst.prefix_len(), route.priority);
        self.routes.iter().filter(fits).min_by_key(cost)
    }

    /// Whether answers must take the way that questions came by (RFC 3704 2.2); the stricter of two settings counts.
    pub(super) fn is_strict(&self, link: &Link) -> bool {
        let mode = |name: &str| {
            self.setting(&format!("net/ipv4/conf/{name}/rp_filter")).and_then(|mode| mode.parse().ok())
        };
        mode("all").unwrap_or(0).max(mode(&link.name).unwrap_or(0)) == STRICT
    }

    /// Whether packets of the family are forwarded; `None`: the kernel has no such family.
    pub(super) fn forwards(&self, v4: bool) -> Option<bool> {
        self.setting(forwarding(v4)).map(|value| value != "0")
    }
}

/// The setting that lets a namespace forward.
pub(super) const fn forwarding(v4: bool) -> &'static str {
    if v4 { "net/ipv4/ip_forward" } else { "net/ipv6/conf/all/forwarding" }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        // Clusters use those of IPv4 as gateways (169.254.1.1).
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Of `rp_filter`: 0 none, 1 strict, 2 loose.
const STRICT: u8 = 1;
