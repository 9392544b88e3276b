//! Mode `tap`: a tap beside the NIC that the pod already has. It must never change that NIC's name, MAC, addresses, routes.

use serde::Deserialize;

use super::settings::interface_name;
use super::shaping::{self, Place};
use super::site::{Call, Site, View, changed, existing, same};
use super::{Wiring, kernel, pod_tap};
use crate::attachment::kubevirt_interface;
use crate::journal::Step;
use crate::netlink::{Link, Netlink};
use crate::protocol::{CniError, CniResult, Code, Config};

/// This mode's keys.
#[derive(Debug, Deserialize)]
pub(super) struct Tap {
    /// The pod's NIC; `None` is found.
    uplink: Option<String>,
}

impl Tap {
    pub(super) fn read(config: &Config) -> Result<Self, CniError> {
        if config.ipam_type().is_some() {
            return Err(CniError::config("ipam", "given", "mode tap leaves the NIC's addresses as they are"));
        }
        let mut mode: Self = config.read()?;
        mode.uplink = mode.uplink.filter(|name| !name.is_empty());
        if let Some(name) = &mode.uplink {
            interface_name("uplink", name)?;
        }
        Ok(mode)
    }

    /// The pod's NIC that the VM gets: the one named, one of the [`Clues`], the one with the default route.
    fn uplink(&self, call: &Call, inside: &Netlink) -> Result<Link, CniError> {
        if let Some(name) = &self.uplink {
            return inside
                .link(name)?
                .ok_or_else(|| CniError::config("uplink", format!("{name:?}"), "the pod has no such link"));
        }
        let previous = call.config.previous()?.unwrap_or_default().interfaces;
        let clues = Clues {
            logical: call.config.logical_network()?.map(|logical| kubevirt_interface(&logical)),
            previous: previous
                .into_iter()
                .filter(|made| made.sandbox.is_some())
                .map(|made| made.name)
                .collect(),
            called_for: call.attachment.interface.clone(),
        };
        let mut links = inside.links()?;
        let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
        let chosen = match clues.choose(&names) {
            Some(name) => links.iter().position(|link| link.name == name),
            None => {
                let default = inside.default_route_device()?;
                links.iter().position(|link| Some(link.index) == default)
            }
        };
        if let Some(position) = chosen {
            return Ok(links.swap_remove(position));
        }
        Err(CniError::new(
            Code::InvalidConfig,
            format!("no NIC found in the pod to join a tap to: it has none of {}", clues.names().join(", ")),
        )
        .with_details("set \"uplink\", or have this plugin called after the one that makes the NIC"))
    }
}

/// What tells which NIC of the pod the VM gets.
#[derive(Debug, Default)]
struct Clues {
    /// The NIC of the logical network that KubeVirt names.
    logical: Option<String>,
    /// NICs that the plugins before us made in the pod.
    previous: Vec<String>,
    /// `CNI_IFNAME`.
    called_for: String,
}

impl Clues {
    /// The first that the pod has. OVN-Kubernetes makes `ovn-udn1` in the call for eth0, which then serves only probes of
    /// the kubelet, and lists it behind.
    fn choose(&self, pod: &[&str]) -> Option<&str> {
        let has = |name: &&str| pod.contains(name);
        let logical = self.logical.as_deref().filter(has);
        let primary = || {
            let ours = self.called_for == pod_tap::EVERY_PODS
                || self.previous.iter().any(|name| name == pod_tap::USER_DEFINED);
            Some(pod_tap::USER_DEFINED).filter(|name| ours && has(name))
        };
        logical.or_else(primary).or_else(|| self.others().find(has))
    }

    fn others(&self) -> impl Iterator<Item = &str> {
        let called_for = self.previous.iter().filter(|name| **name == self.called_for);
        called_for.chain(&self.previous).map(String::as_str).chain(pod_tap::PRIMARY)
    }

    /// All that were looked for, each once.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.logical.as_deref().into_iter().chain(self.others()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
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
        let tap = view.recorded(|step| if let Step::PodLink { name } = step { Some(name) } else { None })?;
        let redirect = view.entry.steps.iter().find_map(|step| {
            if let Step::PodRedirect { name, mtu, .. } = step { Some((name, *mtu)) } else { None }
        });
        let (nic, made) = redirect.ok_or_else(|| changed("the record of ADD is not whole"))?;
        let nic = existing(view.inside, nic, "in the pod")?;
        let tap = pod_tap::check(call, view, &tap, Some(&nic))?;
        shaping::check(call, view, Place::Tap { tap: &tap, nic: &nic, ours: false })?;
        // The NIC's is its maker's to change, or of a plugin behind us: KubeVirt tells it to the guest, not the tap's.
        let mtu = made.or(call.settings.mtu).unwrap_or(nic.mtu);
        same(&format!("{}'s MTU", tap.name), &tap.mtu, &mtu)
    }

    fn ready(&self, call: &Call, _host: &Netlink) -> Result<(), CniError> {
        kernel::ready(call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pod's links, what KubeVirt and the plugins before name, `CNI_IFNAME`, the choice.
    type Row<'a> = (&'a [&'a str], Option<&'a str>, &'a [&'a str], &'a str, Option<&'a str>);

    #[test]
    fn nic_is_the_most_certain_one() {
        let rows: &[Row<'_>] = &[
            (&["lo", "eth0"], None, &[], "eth0", Some("eth0")),
            (&["lo", "eth0", "net1"], None, &["net1"], "net1", Some("net1")),
            (&["lo", "eth0", "net1"], None, &["tap7", "net1"], "net1", Some("net1")),
            (&["lo", "eth0", "other"], None, &["gone", "other"], "net1", Some("other")),
            // OVN-Kubernetes: eth0 is infrastructure's where there is a user-defined primary network.
            (&["lo", "eth0", "ovn-udn1"], None, &["eth0", "ovn-udn1"], "eth0", Some("ovn-udn1")),
            (&["lo", "eth0", "ovn-udn1"], None, &["eth0"], "eth0", Some("ovn-udn1")),
            (&["lo", "eth0", "ovn-udn1"], None, &["eth0", "ovn-udn1"], "x", Some("ovn-udn1")),
            (&["lo", "eth0", "ovn-udn1", "net1"], None, &["net1"], "net1", Some("net1")),
            (&["lo", "eth0", "ovn-udn1"], None, &[], "net1", Some("ovn-udn1")),
            // KubeVirt's own word comes before all.
            (&["lo", "eth0", "ovn-udn1", "pod1"], Some("pod1"), &["eth0"], "eth0", Some("pod1")),
            (&["lo", "eth0"], Some("pod1"), &[], "eth0", Some("eth0")),
            (&["lo", "wan"], None, &[], "net1", None),
        ];
        for row in rows {
            let (pod, logical, previous, called_for, choice) = *row;
            let clues = Clues {
                logical: logical.map(str::to_owned),
                previous: previous.iter().map(ToString::to_string).collect(),
                called_for: called_for.to_owned(),
            };
            assert_eq!(clues.choose(pod), choice, "{row:?}");
        }
    }
}
