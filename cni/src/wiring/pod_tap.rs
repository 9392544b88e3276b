//! The tap that QEMU opens: made in the pod, and joined to a NIC there by traffic control.
//!
//! Redirection (u32 and mirred at ingress, both ways) instead of a bridge: nothing learns addresses, the NIC keeps name,
//! MAC, addresses and routes, so whoever made it finds it unchanged, and frames are taken before the pod's own network
//! stack sees them. It must never touch the NIC but for its ingress.

use std::io;

use super::settings::TapSettings;
use super::site::{Call, Site, View, changed, existing, in_pod, made_link, same};
use crate::journal::Step;
use crate::netlink::{Change, Details, Link, existing_ok};
use crate::protocol::{CniError, Code, Interface, with_source};
use crate::sysctl;
use crate::tap::{self, NewTap, TapError, label};

/// What KubeVirt calls the tap of a VM's first network.
const PRIMARY_TAP: &str = "tap0";

/// Made for every pod, for its first network.
pub(super) const EVERY_PODS: &str = "eth0";

/// Of OVN-Kubernetes, for a primary network that the user defined.
pub(super) const USER_DEFINED: &str = "ovn-udn1";

/// NICs of first networks.
pub(super) const PRIMARY: [&str; 2] = [USER_DEFINED, EVERY_PODS];

/// What the tap beside the pod's link `nic` is called.
///
/// KubeVirt looks for `tap0` for a first network and else for `tap` with the rest of the pod's link's name behind its
/// first three characters (`pod37a8eec1ce1` has `tap37a8eec1ce1`).
pub(super) fn name_beside(settings: &TapSettings, nic: &str) -> String {
    if let Some(name) = &settings.name {
        return name.clone();
    }
    if PRIMARY.contains(&nic) {
        return PRIMARY_TAP.to_owned();
    }
    match nic.get(3..) {
        Some(rest) if !rest.is_empty() => format!("tap{rest}"),
        _ => format!("tap{nic}"),
    }
}

/// Makes the tap, up and with this MTU.
pub(super) fn make(call: &Call, site: &mut Site<'_>, name: &str, mtu: Option<u32>) -> Result<Link, CniError> {
    if site.inside.link(name)?.is_some() {
        return Err(taken(name));
    }
    site.journal.will(Step::PodLink { name: name.to_owned() })?;
    let settings = &call.settings.tap;
    let wanted = NewTap {
        name: name.to_owned(),
        owner: Some(settings.owner),
        group: Some(settings.group),
        multi_queue: settings.multi_queue,
        vnet_hdr: true,
    };
    match in_pod(site.pod, || create(settings, &wanted))? {
        Ok(()) => {}
        Err(TapError::Exists(_)) => {
            site.journal.retract()?;
            return Err(taken(name));
        }
        Err(error @ (TapError::NoDevice | TapError::Open(_))) => {
            return Err(CniError::new(Code::NotAvailable, error.to_string()));
        }
        Err(TapError::Label { label, source }) if source.kind() == io::ErrorKind::InvalidInput => {
            let why = format!("the kernel's policy has no such label ({source})");
            return Err(CniError::config("selinuxContext", format!("{label:?}"), &why));
        }
        Err(error) => return Err(CniError::internal(format!("making tap {name}: {}", with_source(&error)))),
    }
    let link = made_link(site.inside, name)?;
    // The pod's kernel has nothing to say to the guest: no router solicitations, no multicast reports.
    let quiet = in_pod(site.pod, || sysctl::write(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1"))?;
    if let Err(error) = quiet {
        tracing::debug!(%error, "IPv6 is off in the pod, or its settings cannot be written");
    }
    site.inside.change(
        link.index,
        &Change { mtu, alias: Some(call.alias()), up: Some(true), ..Change::default() },
    )?;
    made_link(site.inside, name)
}

/// With the label asked for, where labels mean something.
fn create(settings: &TapSettings, new: &NewTap) -> Result<(), TapError> {
    let Some(wanted) = &settings.selinux_context else { return tap::create(new) };
    if label::is_enabled() {
        return label::create(new, wanted);
    }
    tracing::info!(selinux_context = wanted, "without effect: SELinux is not enabled on this node");
    tap::create(new)
}

/// Takes every frame that reaches `nic` to `tap`, and every frame of `tap` out by `nic`.
pub(super) fn join(site: &mut Site<'_>, nic: &Link, tap: &Link, ours: bool) -> Result<(), CniError> {
    if let Some(other) = site.inside.redirects(nic.index)?.first() {
        let other = site.inside.link_at(*other)?.map_or_else(|| "another link".to_owned(), |link| link.name);
        return Err(CniError::config(
            "uplink",
            &nic.name,
            &format!("its frames already go to {other}; one NIC has one VM"),
        ));
    }
    if !ours {
        let ingress = !site.inside.has_ingress(nic.index)?;
        let (name, tap, mtu) = (nic.name.clone(), tap.name.clone(), Some(tap.mtu));
        site.journal.will(Step::PodRedirect { name, tap, ingress, mtu })?;
    }
    // First what comes from the guest: until the NIC is redirected the pod's stack still has it.
    for (from, to) in [(tap, nic), (nic, tap)] {
        existing_ok(site.inside.add_ingress(from.index))?;
        site.inside.redirect_all(from.index, to.index)?;
    }
    Ok(())
}

/// CHECK of [`make`] and [`join`].
pub(super) fn check(call: &Call, view: &View<'_>, name: &str, nic: Option<&Link>) -> Result<Link, CniError> {
    let link = existing(view.inside, name, "in the pod")?;
    let settings = &call.settings.tap;
    let Details::Tun(tun) = &link.details else {
        return Err(changed(format!("link {name} in the pod is no tap")));
    };
    same(&format!("{name}'s owner"), &tun.owner, &Some(settings.owner))?;
    same(&format!("{name}'s group"), &tun.group, &Some(settings.group))?;
    same(&format!("{name}'s multiQueue"), &tun.multi_queue, &settings.multi_queue)?;
    same(&format!("whether {name} is up"), &link.up, &true)?;
    let Some(nic) = nic else { return Ok(link) };
    for (from, to) in [(&link, nic), (nic, &link)] {
        if view.inside.redirects(from.index)? != [to.index] {
            return Err(changed(format!("frames of {} no longer go to {}", from.name, to.name)));
        }
    }
    Ok(link)
}

/// The tap in a result.
pub(super) fn interface(call: &Call, tap: &Link) -> Interface {
    Interface {
        name: tap.name.clone(),
        mac: tap.mac.map(|mac| mac.to_string()),
        mtu: Some(tap.mtu),
        sandbox: call.sandbox(),
        ..Interface::default()
    }
}

fn taken(name: &str) -> CniError {
    CniError::config("tapName", name, "the pod has a link of this name already")
}
