//! Mode `macvlan`: a second NIC on a link of the node, for containers. It must never be offered to a VM: a macvlan takes
//! frames for its own MAC alone, and there is no tap at it (mode `macvtap` has one).

use serde::Deserialize;

use super::pod_interface;
use super::settings::interface_name;
use super::shaping::{self, Place};
use super::site::{Call, Site, View, changed, made_link, same};
use super::{Wiring, kernel};
use crate::ipam;
use crate::journal::Step;
use crate::netlink::{Details, Kind, Link, MacvlanMode, Netlink, NewLink};
use crate::protocol::{CniError, CniResult, Code};

/// This mode's keys, which mode `macvtap` shares.
#[derive(Debug)]
pub(super) struct Macvlan {
    parent: Parent,
    /// Longest queue of broadcasts, in frames.
    broadcast_queue: Option<u32>,
}

/// The link of the node beneath, and how its NICs see each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    /// `None`: the one with the default route.
    name: Option<String>,
    pub(super) mode: MacvlanMode,
    in_container: bool,
}

#[derive(Debug, Deserialize)]
struct Keys {
    master: Option<String>,
    #[serde(rename = "macvlanmode")]
    mode: Option<String>,
    #[serde(rename = "linkincontainer", default)]
    in_container: bool,
    #[serde(rename = "bcqueuelen")]
    broadcast_queue: Option<u32>,
}

impl Parent {
    pub(super) fn read(call: &Call) -> Result<Self, CniError> {
        let keys: Keys = call.config.read()?;
        let mode = match keys.mode.as_deref() {
            None | Some("" | "bridge") => MacvlanMode::Bridge,
            Some("private") => MacvlanMode::Private,
            Some("vepa") => MacvlanMode::Vepa,
            Some("passthru") => MacvlanMode::Passthru,
            Some(other) => {
                let why = "must be bridge, private, vepa or passthru";
                return Err(CniError::config("macvlanMode", format!("{other:?}"), why));
            }
        };
        let name = keys.master.filter(|name| !name.is_empty());
        if let Some(name) = &name {
            interface_name("master", name)?;
        }
        if keys.in_container && name.is_none() {
            return Err(CniError::config(
                "linkInContainer",
                true,
                "the pod's link must be named with \"master\"",
            ));
        }
        Ok(Self { name, mode, in_container: keys.in_container })
    }

    /// The link, where it is looked for.
    pub(super) fn link(&self, host: &Netlink, inside: Option<&Netlink>) -> Result<Link, CniError> {
        let (netlink, place) = match inside {
            Some(inside) if self.in_container => (inside, "the pod"),
            _ => (host, "the node"),
        };
        let Some(name) = &self.name else {
            return netlink.default_route_link()?.ok_or_else(|| {
                CniError::config("master", "missing", "the node has no default route to take the link from")
            });
        };
        let link = netlink.link(name)?;
        link.ok_or_else(|| {
            CniError::config("master", format!("{name:?}"), &format!("{place} has no such link"))
        })
    }

    /// The MTU asked for, if the link beneath can carry it.
    pub(super) fn mtu(&self, call: &Call, link: &Link) -> Result<Option<u32>, CniError> {
        match call.settings.mtu {
            Some(mtu) if mtu > link.mtu => Err(CniError::config(
                "mtu",
                mtu,
                &format!("invalid MTU {mtu}, must be [0, master MTU({})]", link.mtu),
            )),
            mtu => Ok(mtu),
        }
    }

    pub(super) const fn is_in_container(&self) -> bool {
        self.in_container
    }
}

impl Macvlan {
    pub(super) fn read(call: &Call) -> Result<Self, CniError> {
        let keys: Keys = call.config.read()?;
        Ok(Self { parent: Parent::read(call)?, broadcast_queue: keys.broadcast_queue })
    }
}

impl Wiring for Macvlan {
    fn add(&self, call: &Call, site: &mut Site<'_>) -> Result<CniResult, CniError> {
        let parent = self.parent.link(site.host, Some(site.inside))?;
        let name = &call.attachment.interface;
        let mac = call.config.mac(&call.environment)?;
        let kind = Kind::Macvlan { mode: self.parent.mode, broadcast_queue: self.broadcast_queue };
        let new = NewLink {
            mac,
            mtu: self.parent.mtu(call, &parent)?.or(Some(parent.mtu)),
            ..NewLink::new(name, kind)
        };
        let link = pod_interface::upon(call, site, &parent, self.parent.in_container, new)?;
        let mut result = CniResult::default();
        if call.config.ipam_type().is_some() {
            site.journal.will(Step::Lease)?;
            result = ipam::add(&call.config, &call.environment)?.unwrap_or_default();
        }
        for ip in &mut result.ips {
            ip.interface = Some(0);
        }
        pod_interface::finish(call, site, &link, &result)?;
        shaping::limit(call, site, Place::PodNic(&link))?;
        result.interfaces = vec![pod_interface::interface(call, &made_link(site.inside, name)?)];
        result.merge_dns(call.config.dns()?);
        Ok(result)
    }

    fn check(&self, call: &Call, view: &View<'_>, previous: &CniResult) -> Result<(), CniError> {
        let link = pod_interface::check_link(call, view, previous, "macvlan")?;
        pod_interface::check_routes(view, &link, previous)?;
        shaping::check(call, view, Place::PodNic(&link))?;
        check_parent(&self.parent, view, &link)
    }

    fn ready(&self, call: &Call, host: &Netlink) -> Result<(), CniError> {
        kernel::ready(call)?;
        ready(&self.parent, host)
    }
}

/// CHECK of the link beneath and of the mode.
pub(super) fn check_parent(parent: &Parent, view: &View<'_>, link: &Link) -> Result<(), CniError> {
    let beneath = parent.link(view.host, Some(view.inside)).map_err(|error| changed(error.to_string()))?;
    same(&format!("the link beneath {}", link.name), &link.parent, &Some(beneath.index))?;
    pod_interface::no_wider(link, &beneath)?;
    let Details::Macvlan { mode } = &link.details else {
        return Err(changed(format!("{} is no macvlan", link.name)));
    };
    same(&format!("{}'s macvlanMode", link.name), mode, &Some(parent.mode))
}

/// STATUS: the link beneath is there.
pub(super) fn ready(parent: &Parent, host: &Netlink) -> Result<(), CniError> {
    if parent.in_container {
        return Ok(());
    }
    let link = parent.link(host, None).map_err(|error| error.with_code(Code::NotAvailable))?;
    if link.up && link.carrier {
        return Ok(());
    }
    let why = format!("{} is down or has no carrier: what is on it reaches nobody", link.name);
    Err(CniError::new(Code::LimitedConnectivity, why))
}
