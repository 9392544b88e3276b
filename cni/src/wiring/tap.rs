//! Mode `tap`: a tap beside the NIC that the pod already has. It must never change that NIC's name, MAC, addresses, routes.

use serde::Deserialize;

use super::settings::interface_name;
use super::shaping::{self, Place};
use super::site::{Call, Site, View, changed, existing};
use super::{Wiring, pod_tap};
use crate::attachment::kubevirt_interface;
use crate::journal::Step;
use crate::netlink::{Link, Netlink};
use crate::protocol::{CniError, CniResult, Code, Config};
use crate::tap;

/// This mode's keys.
#[derive(Debug, Deserialize)]
pub(super) struct Tap {
    /// The pod's NIC; `None` is found.
    uplink: Option<String>,
}

impl Tap {
    pub(super) fn read(config: &Config) -> Result<Self, CniError> {
        let mode: Self = config.read()?;
        if let Some(name) = &mode.uplink {
            interface_name("uplink", name)?;
        }
        Ok(mode)
    }

    /// The pod's NIC that the VM gets: the one named; the one of the logical network that KubeVirt names; the one that
    /// the plugins before us made; the first network's; the one with the default route.
    fn uplink(&self, call: &Call, inside: &Netlink) -> Result<Link, CniError> {
        if let Some(name) = &self.uplink {
            return inside
                .link(name)?
                .ok_or_else(|| CniError::config("uplink", format!("{name:?}"), "the pod has no such link"));
        }
        let mut names = Vec::new();
        if let Some(logical) = call.config.logical_network()? {
            names.push(kubevirt_interface(&logical));
        }
        if let Some(previous) = call.config.previous()? {
            let inside = previous.interfaces.iter().filter(|interface| interface.sandbox.is_some());
            names.extend(inside.map(|interface| interface.name.clone()));
        }
        names.extend(pod_tap::PRIMARY.map(str::to_owned));
        for name in &names {
            if let Some(link) = inside.link(name)? {
                return Ok(link);
            }
        }
        if let Some(index) = inside.default_route_device()?
            && let Some(link) = inside.link_at(index)?
        {
            return Ok(link);
        }
        Err(CniError::new(
            Code::InvalidConfig,
            format!("no NIC found in the pod to join a tap to: it has none of {}", names.join(", ")),
        )
        .with_details("set \"uplink\", or have this plugin called after the one that makes the NIC"))
    }
}

impl Wiring for Tap {
    fn add(&self, call: &Call, site: &mut Site<'_>) -> Result<CniResult, CniError> {
        let uplink = self.uplink(call, site.inside)?;
        let mtu = call.settings.mtu.unwrap_or(uplink.mtu);
        if mtu > uplink.mtu {
            let why = format!("above {}'s, which is {}", uplink.name, uplink.mtu);
            return Err(CniError::config("mtu", mtu, &why));
        }
        let name = pod_tap::name_beside(&call.settings.tap, &uplink.name);
        let tap = pod_tap::make(call, site, &name, Some(mtu))?;
        pod_tap::join(site, &uplink, &tap, false)?;
        shaping::limit(call, site, Place::Tap { tap: &tap, nic: &uplink, ours: false })?;
        // Multus writes down a status for every interface of a result; a binding's entry must have none.
        Ok(match call.config.previous()? {
            Some(mut previous) => {
                previous.interfaces.push(pod_tap::interface(call, &tap));
                previous
            }
            None => CniResult::default(),
        })
    }

    fn check(&self, call: &Call, view: &View<'_>, _previous: &CniResult) -> Result<(), CniError> {
        let recorded = |wanted: fn(&Step) -> Option<&String>| {
            view.entry
                .steps
                .iter()
                .find_map(wanted)
                .cloned()
                .ok_or_else(|| changed("the record of ADD is not whole"))
        };
        let tap = recorded(|step| if let Step::PodLink { name } = step { Some(name) } else { None })?;
        let nic = recorded(|step| if let Step::PodRedirect { name, .. } = step { Some(name) } else { None })?;
        let nic = existing(view.inside, &nic, "in the pod")?;
        let tap = pod_tap::check(call, view, &tap, Some(&nic))?;
        shaping::check(call, view, Place::Tap { tap: &tap, nic: &nic, ours: false })?;
        let mtu = call.settings.mtu.unwrap_or(nic.mtu);
        super::site::same(&format!("{}'s MTU", tap.name), &tap.mtu, &mtu)
    }

    fn ready(&self, _call: &Call, _host: &Netlink) -> Result<(), CniError> {
        tap::available().map_err(|error| CniError::new(Code::NotAvailable, error.to_string()))
    }
}
