//! Mode `macvtap`: a NIC for a VM on a link of the node, which QEMU opens by a device node. It must never be made where the
//! node's number is another pod's.
//!
//! The device node of a macvtap is `/dev/tap<index>`, index being the link's. Indices of pods' namespaces repeat each
//! other. A link of our own is made in the pod at once, with an index that was drawn for it (`index`). One of the device
//! plugin for KubeVirt (`macvtap.network.kubevirt.io`), which comes here by `deviceID`, is on the node, where no two links
//! have one index, and is moved with it. A move waits for every processor to let go of the link; making one does not.

pub(super) mod device_node;
mod index;
mod device_plugin;

use std::os::fd::AsFd as _;

use serde::Deserialize;

use super::macvlan::{self, Parent};
use super::pod_interface::{self, refuse_taken};
use super::shaping::{self, Place};
use super::site::{Call, Site, View, in_pod, made_link, same};
use super::{Wiring, kernel};
use crate::journal::Step;
use crate::netlink::{Change, Kind, Link, Netlink, NewLink};
use crate::protocol::{CniError, CniResult, Code};

/// Frames that may wait to be sent: what the kernel gives Ethernet. A macvtap made without lets none wait.
const TX_QUEUE_LENGTH: u32 = 1000;

/// The mode with its keys.
#[derive(Debug)]
pub(super) struct Macvtap {
    parent: Parent,
    promiscuous: bool,
}

#[derive(Debug, Deserialize)]
struct Keys {
    #[serde(rename = "promiscmode", default)]
    promiscuous: bool,
}

impl Macvtap {
    pub(super) fn read(call: &Call) -> Result<Self, CniError> {
        let keys: Keys = call.config.read()?;
        let parent = Parent::read(call)?;
        if call.config.ipam_type().is_some() {
            let why = "a guest on a macvtap gets its address from its network; the pod has no part in it";
            return Err(CniError::config("ipam", "given", why));
        }
        if parent.is_in_container() {
            return Err(CniError::config(
                "linkInContainer",
                true,
                "a macvtap's master is a link of the node",
            ));
        }
        Ok(Self { parent, promiscuous: keys.promiscuous })
    }

    /// The device plugin's link, on the node.
    fn on_node(&self, call: &Call, site: &Site<'_>, device: &str) -> Result<Link, CniError> {
        let name = device_plugin::link_name(device);
        // Not ours before it is moved: the device plugin makes it anew for the next pod, under the same name.
        let link = site.host.link(&name)?.ok_or_else(|| {
            let why =
                format!("the node has no link {name}, which macvtap's device plugin makes for this device");
            CniError::config("deviceID", format!("{device:?}"), &why)
        })?;
        let parent = link.parent.filter(|_| !link.parent_elsewhere);
        if let Some(parent) = parent.map(|index| site.host.link_at(index)).transpose()?.flatten() {
            self.parent.mtu(call, &parent)?;
        }
        Ok(link)
    }

    /// A link of our own, in the pod.
    fn make(&self, call: &Call, site: &mut Site<'_>) -> Result<Link, CniError> {
        let parent = self.parent.link(site.host, None)?;
        let new = NewLink {
            mtu: Some(self.parent.mtu(call, &parent)?.unwrap_or(parent.mtu)),
            tx_queue_len: Some(TX_QUEUE_LENGTH),
            index: Some(index::choose(site)?),
            ..NewLink::new(&call.attachment.interface, Kind::Macvtap { mode: self.parent.mode })
        };
        pod_interface::upon(call, site, &parent, false, new)
    }

    /// Takes a link of the node into the pod with its index. All that the kernel may refuse is set before: of a change it
    /// makes one part after the other, and this one first.
    fn take_in(call: &Call, site: &mut Site<'_>, link: &Link) -> Result<Link, CniError> {
        let name = &call.attachment.interface;
        let ready = Change {
            mtu: call.settings.mtu,
            mac: call.config.mac(&call.environment)?,
            alias: Some(call.alias()),
            ..Change::default()
        };
        site.host.change(link.index, &ready)?;
        // It arrives as it is called here, and is renamed there.
        for name in [&link.name, name] {
            site.journal.will(Step::PodLink { name: name.clone() })?;
        }
        let moved = Change {
            name: Some(name.clone()),
            namespace: Some(site.pod.as_fd()),
            new_index: Some(link.index),
            ..Change::default()
        };
        site.host.change(link.index, &moved).map_err(|error| match error.errno() {
            Some(libc::EBUSY) => CniError::new(Code::TryAgainLater, error.to_string()),
            _ => error.into(),
        })?;
        let inside = made_link(site.inside, name)?;
        if inside.index == link.index { Ok(inside) } else { Err(device_node::taken(inside.index)) }
    }
}

impl Wiring for Macvtap {
    fn add(&self, call: &Call, site: &mut Site<'_>) -> Result<CniResult, CniError> {
        let name = &call.attachment.interface;
        refuse_taken(site.inside, name)?;
        let link = match call.config.device_id()? {
            Some(device) => {
                let link = self.on_node(call, site, &device)?;
                Self::take_in(call, site, &link)?
            }
            None => self.make(call, site)?,
        };
        in_pod(site.pod, || {
            pod_interface::sysctl_if_there(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")
        })??;
        let ready = Change {
            // Not as it is made: in mode passthru the kernel gives it the MAC of the link beneath then, whatever is asked for.
            mac: call.config.mac(&call.environment)?,
            // Which groups the guest is in is not told to the link, which would keep all from it that it did not join:
            // without this no neighbour finds a guest by IPv6.
            all_multicast: Some(true),
            promiscuous: self.promiscuous.then_some(true),
            ..Change::default()
        };
        site.inside.change(link.index, &ready)?;
        // Not before: of a link in mode passthru that learns it when it is up, the one beneath keeps hearing all groups.
        site.inside.change(link.index, &Change { up: Some(true), ..Change::default() })?;
        shaping::limit(call, site, Place::PodNic(&link))?;
        let tap = &call.settings.tap;
        device_node::provide(site, &link, tap.owner, tap.group)?;
        let link = made_link(site.inside, name)?;
        let mut result = call.config.previous()?.unwrap_or_default();
        result.interfaces.push(pod_interface::interface(call, &link));
        Ok(result)
    }

    fn check(&self, call: &Call, view: &View<'_>, previous: &CniResult) -> Result<(), CniError> {
        let link = pod_interface::check_link(call, view, previous, "macvtap")?;
        let name = &link.name;
        same(&format!("whether {name} takes multicasts of all groups"), &link.all_multicast, &true)?;
        if self.promiscuous {
            same(&format!("{name}'s promiscMode"), &link.promiscuous, &true)?;
        }
        if call.config.device_id()?.is_none() {
            macvlan::check_parent(&self.parent, view, &link)?;
        }
        shaping::check(call, view, Place::PodNic(&link))?;
        device_node::check(view, &link, call.settings.tap.owner, call.settings.tap.group)
    }

    fn ready(&self, call: &Call, host: &Netlink) -> Result<(), CniError> {
        kernel::ready(call)?;
        if call.config.device_id()?.is_some() { Ok(()) } else { macvlan::ready(&self.parent, host) }
    }
}
