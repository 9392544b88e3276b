//! Mode `vxlan`: the bridge has a VXLAN device as a port, and with it the bridges of other nodes are one (RFC 7348). It
//! must never leave a device behind the last attachment, nor take one that was configured otherwise.

use std::net::IpAddr;

use serde::Deserialize;

use super::{mark, share};
use crate::netlink::{
    Change, Details, FdbEntry, Kind, Link, Netlink, NewLink, PortChange, Vxlan, existing_ok,
};
use crate::protocol::{CniError, Code, MacAddress};
use crate::wiring::pod_interface::sysctl_if_there;
use crate::wiring::settings::interface_name;
use crate::wiring::site::{Call, Site, View, changed, existing, made_link, same};

/// RFC 7348: 24 bits.
const VNIS: std::ops::RangeInclusive<u32> = 1..=0x00ff_ffff;

/// Registered for VXLAN with IANA.
const PORT: u16 = 4789;

/// What a frame grows by: Ethernet, IP, UDP and VXLAN headers, in bytes.
const OVERHEAD_V4: u32 = 50;
const OVERHEAD_V6: u32 = 70;

/// Frames to all stations, and to those not known, go to every peer: the address that stands for them in the
/// forwarding table.
const EVERYBODY: [u8; 6] = [0; 6];

/// The overlay of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overlay {
    vni: u32,
    port: u16,
    local: Option<IpAddr>,
    device: Option<String>,
    group: Option<IpAddr>,
    peers: Vec<IpAddr>,
    learning: bool,
    pub(super) suppress: bool,
    neighbours: Vec<Neighbour>,
}

/// A VM on another node, told in advance.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Neighbour {
    ip: IpAddr,
    mac: MacAddress,
    peer: IpAddr,
}

#[derive(Debug, Deserialize)]
struct Keys {
    vni: Option<u32>,
    port: Option<u16>,
    local: Option<IpAddr>,
    device: Option<String>,
    /// `group` is whom the tap is for.
    #[serde(rename = "multicastgroup")]
    group: Option<IpAddr>,
    #[serde(default)]
    peers: Vec<IpAddr>,
    learning: Option<bool>,
    #[serde(rename = "arpsuppress", default)]
    suppress: bool,
    #[serde(rename = "neighbors", default)]
    neighbours: Vec<Neighbour>,
}

impl Overlay {
    pub(super) fn read(call: &Call) -> Result<Self, CniError> {
        let keys: Keys = call.config.read()?;
        let vni = keys.vni.ok_or_else(|| CniError::config("vni", "missing", "mode vxlan needs one"))?;
        if !VNIS.contains(&vni) {
            return Err(CniError::config("vni", vni, "must be between 1 and 16777215"));
        }
        if keys.port == Some(0) {
            return Err(CniError::config("port", 0, "must be between 1 and 65535"));
        }
        if let Some(group) = keys.group {
            if !group.is_multicast() {
                return Err(CniError::config(
                    "multicastGroup",
                    group,
                    "is no multicast address; nodes are listed in \"peers\"",
                ));
            }
            if !keys.peers.is_empty() {
                return Err(CniError::config("multicastGroup", group, "cannot be together with \"peers\""));
            }
            if keys.device.is_none() && keys.local.is_none() {
                return Err(CniError::config(
                    "multicastGroup",
                    group,
                    "needs \"device\" or \"local\", to join the group there",
                ));
            }
        }
        if let Some(name) = &keys.device {
            interface_name("device", name)?;
        }
        let others = keys.neighbours.iter().map(|neighbour| &neighbour.peer);
        let ends = keys.peers.iter().chain(&keys.local).chain(&keys.group).chain(others);
        if ends.clone().any(IpAddr::is_ipv4) && ends.clone().any(IpAddr::is_ipv6) {
            let shown: Vec<String> = ends.clone().map(ToString::to_string).collect();
            return Err(CniError::config(
                "peers",
                shown.join(", "),
                "IPv4 and IPv6 cannot be mixed in one overlay",
            ));
        }
        if keys.local.is_none() && keys.group.is_none() && ends.clone().any(IpAddr::is_ipv6) {
            return Err(CniError::config(
                "local",
                "missing",
                "between IPv6 nodes each needs its own address here: the kernel takes IPv4 for granted",
            ));
        }
        if let Some(odd) = keys.peers.iter().find(|peer| peer.is_multicast() || peer.is_unspecified()) {
            return Err(CniError::config(
                "peers",
                odd,
                "is no node's address; a multicast address belongs in \"multicastGroup\"",
            ));
        }
        Ok(Self {
            vni,
            port: keys.port.unwrap_or(PORT),
            local: keys.local,
            device: keys.device,
            group: keys.group,
            peers: keys.peers,
            learning: keys.learning.unwrap_or(true),
            suppress: keys.suppress,
            neighbours: keys.neighbours,
        })
    }

    pub(super) fn bridge_name(&self) -> String {
        format!("vxbr{}", self.vni)
    }

    fn device_name(&self) -> String {
        format!("vxlan{}", self.vni)
    }

    /// What VMs may send at once: what the link beneath carries, less the outer headers.
    pub(super) fn mtu(&self, call: &Call, host: &Netlink) -> Result<u32, CniError> {
        let beneath = self.beneath(host)?;
        let overhead = if self.is_v6() { OVERHEAD_V6 } else { OVERHEAD_V4 };
        let most = beneath.mtu.saturating_sub(overhead);
        match call.settings.mtu {
            Some(mtu) if mtu > most => Err(CniError::config(
                "mtu",
                mtu,
                &format!(
                    "above {most}, which is {}'s {} less {overhead} of outer headers",
                    beneath.name, beneath.mtu
                ),
            )),
            Some(mtu) => Ok(mtu),
            None => Ok(most),
        }
    }

    fn is_v6(&self) -> bool {
        self.peers.iter().chain(&self.local).chain(&self.group).any(IpAddr::is_ipv6)
    }

    /// The link that outer packets leave by.
    fn beneath(&self, host: &Netlink) -> Result<Link, CniError> {
        if let Some(name) = &self.device {
            let why = "the node has no such link";
            return host.link(name)?.ok_or_else(|| CniError::config("device", format!("{name:?}"), why));
        }
        if let Some(local) = self.local {
            let address = host.addresses(None)?.into_iter().find(|address| address.network.addr() == local);
            let address = address
                .ok_or_else(|| CniError::config("local", local, "the node has no link with this address"))?;
            return host.link_at(address.index)?.ok_or_else(|| missing(local));
        }
        host.default_route_link()?.ok_or_else(|| {
            CniError::config("device", "missing", "the node has no default route to take the link from")
        })
    }

    /// Makes the VXLAN device a port of `bridge`, and tells it of its peers.
    ///
    /// The caller holds the lock of the network's shared links.
    pub(super) fn ensure(&self, site: &mut Site<'_>, bridge: &Link) -> Result<(), CniError> {
        let name = self.device_name();
        let ours = share(site, &name)?;
        let host = site.host;
        let link = match host.link(&name)? {
            Some(link) => {
                self.same_as(&link).map_err(|why| CniError::config("vni", self.vni, &why))?;
                if link.master.is_some_and(|master| master != bridge.index) {
                    let why = format!("{name} is on the node already, as a port of another bridge");
                    return Err(CniError::config("vni", self.vni, &why));
                }
                link
            }
            None => {
                let parent = (self.device.is_some() || self.group.is_some())
                    .then(|| self.beneath(host))
                    .transpose()?;
                let new = NewLink {
                    mtu: Some(bridge.mtu),
                    parent: parent.map(|parent| parent.index),
                    ..NewLink::new(&name, Kind::Vxlan(self.settings()))
                };
                existing_ok(host.create(&new))?;
                // It has nothing of its own to say, and what it said would reach every peer.
                sysctl_if_there(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")?;
                made_link(host, &name)?
            }
        };
        if ours {
            mark(host, &link)?;
        }
        host.change(
            link.index,
            &Change { master: Some(Some(bridge.index)), up: Some(true), ..Change::default() },
        )?;
        if self.suppress {
            host.set_port(link.index, &PortChange { neigh_suppress: Some(true), ..PortChange::default() })?;
        }
        let own = addresses(host)?;
        if ours {
            self.forget_former_peers(host, &link)?;
        }
        for peer in self.peers.iter().filter(|peer| !own.contains(peer)) {
            existing_ok(host.fdb_add(link.index, &entry(EVERYBODY, false, Some(*peer))))?;
        }
        for neighbour in self.neighbours.iter().filter(|neighbour| !own.contains(&neighbour.peer)) {
            let mac = neighbour.mac.octets();
            existing_ok(host.fdb_add(link.index, &entry(mac, false, Some(neighbour.peer))))?;
            existing_ok(host.fdb_add(link.index, &entry(mac, true, None)))?;
            if self.suppress {
                existing_ok(host.add_neighbour(bridge.index, neighbour.ip, neighbour.mac, true))?;
            }
        }
        Ok(())
    }

    /// Nodes that the configuration no longer has.
    fn forget_former_peers(&self, host: &Netlink, link: &Link) -> Result<(), CniError> {
        let is_former = |entry: &FdbEntry| {
            entry.mac == EVERYBODY
                && entry.dst.is_some_and(|dst| Some(dst) != self.group && !self.peers.contains(&dst))
        };
        for former in host.fdb(link.index)?.iter().filter(|entry| is_former(entry)) {
            host.fdb_delete(link.index, former)?;
        }
        Ok(())
    }

    /// CHECK of [`Overlay::ensure`].
    pub(super) fn check(&self, view: &View<'_>, bridge: &Link) -> Result<(), CniError> {
        let link = existing(view.host, &self.device_name(), "on the node")?;
        self.same_as(&link).map_err(changed)?;
        same(&format!("whether {} is up", link.name), &link.up, &true)?;
        same(&format!("{}'s bridge", link.name), &link.master, &Some(bridge.index))?;
        let table = view.host.fdb(link.index)?;
        let ours = addresses(view.host)?;
        for peer in self.peers.iter().filter(|peer| !ours.contains(peer)) {
            let is_peer = |entry: &&FdbEntry| entry.mac == EVERYBODY && entry.dst == Some(*peer);
            if !table.iter().find(is_peer).is_some_and(|entry| entry.permanent) {
                return Err(changed(format!("{} no longer sends to peer {peer}", link.name)));
            }
        }
        Ok(())
    }

    /// STATUS: the link beneath carries packets, the local address is ours.
    pub(super) fn ready(&self, host: &Netlink) -> Result<(), CniError> {
        if let Some(there) = host.link(&self.device_name())? {
            self.same_as(&there).map_err(|why| CniError::new(Code::NotAvailable, why))?;
        }
        let link = self.beneath(host).map_err(|error| error.with_code(Code::NotAvailable))?;
        if link.up && link.carrier {
            return Ok(());
        }
        let why = format!("{} is down or has no carrier: other nodes are not reached", link.name);
        Err(CniError::new(Code::LimitedConnectivity, why))
    }

    fn settings(&self) -> Vxlan {
        Vxlan {
            vni: self.vni,
            port: self.port,
            local: self.local,
            remote: self.group,
            learning: self.learning,
            proxy: false,
            ttl: 0,
        }
    }

    fn same_as(&self, link: &Link) -> Result<(), String> {
        let Details::Vxlan { settings, .. } = &link.details else {
            return Err(format!("{} is on the node, but it is no VXLAN device", link.name));
        };
        let differs = |key: &str, is: String, wanted: String| {
            Err(format!("{} is on the node already, with {key} {is} instead of {wanted}", link.name))
        };
        if settings.vni != self.vni {
            return differs("vni", settings.vni.to_string(), self.vni.to_string());
        }
        if settings.port != self.port {
            return differs("port", settings.port.to_string(), self.port.to_string());
        }
        if self.local.is_some() && settings.local != self.local {
            return differs("local", format!("{:?}", settings.local), format!("{:?}", self.local));
        }
        if settings.learning != self.learning {
            return differs("learning", settings.learning.to_string(), self.learning.to_string());
        }
        if settings.remote != self.group {
            return differs("multicastGroup", format!("{:?}", settings.remote), format!("{:?}", self.group));
        }
        Ok(())
    }
}

/// The node's own addresses: one configuration serves all nodes, so each finds itself among the peers. What it sent to
/// itself would come back from the overlay, and be learnt there.
fn addresses(host: &Netlink) -> Result<Vec<IpAddr>, CniError> {
    Ok(host.addresses(None)?.into_iter().map(|address| address.network.addr()).collect())
}

fn entry(mac: [u8; 6], on_master: bool, dst: Option<IpAddr>) -> FdbEntry {
    // What is not permanent is forgotten after five minutes, also while it is in use.
    FdbEntry { mac, on_master, vlan: None, dst, permanent: true }
}

fn missing(local: IpAddr) -> CniError {
    CniError::config("local", local, "the link with this address was removed a moment ago")
}
