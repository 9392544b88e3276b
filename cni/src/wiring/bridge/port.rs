//! A port of the bridge: what it lets through. It must never touch another port.

use super::options::{Options, Vlans};
use crate::netlink::{Change, Details, Link, NewVlan, PortChange};
use crate::protocol::{CniError, CniResult, Config};
use crate::wiring::site::{Site, View, changed, same};

/// The answer of the plugin before us, whose link on the node is to be the port; `None` where we make one.
///
/// # Errors
/// Code 7 for `ipam` beside it: whoever made the pod's interface gave it its addresses, which are in the answer already.
pub(super) fn given_by(config: &Config) -> Result<Option<CniResult>, CniError> {
    let previous = config.previous()?;
    if previous.is_some() && config.ipam_type().is_some() {
        let why =
            "the port is of the interface in prevResult, and so are the addresses; its plugin may ask IPAM";
        return Err(CniError::config("ipam", "given", why));
    }
    Ok(previous)
}

/// Makes `port` a port of `bridge`, up, with all that the configuration asks of it.
pub(super) fn enslave(
    options: &Options,
    site: &mut Site<'_>,
    bridge: &Link,
    port: &Link,
) -> Result<(), CniError> {
    if options.promiscuous && !bridge.promiscuous {
        site.host.change(bridge.index, &Change { promiscuous: Some(true), ..Change::default() })?;
    }
    // All that is asked of a port before a frame passes it: it comes up last.
    site.host.change(port.index, &Change { master: Some(Some(bridge.index)), ..Change::default() })?;
    let change = PortChange {
        hairpin: options.hairpin.then_some(true),
        isolated: options.isolated.then_some(true),
        learning: options.learning,
        ..PortChange::default()
    };
    if change != PortChange::default() {
        site.host.set_port(port.index, &change)?;
    }
    if let Some(vlans) = &options.vlans {
        for wanted in vlans.wanted() {
            site.host.add_vlan(port.index, &wanted)?;
        }
        if let Some(default) = given(bridge).filter(|default| !vlans.has(*default)) {
            site.host.delete_vlan(port.index, &NewVlan::tagged(default, default))?;
        }
    }
    Ok(site.host.change(port.index, &Change { up: Some(true), ..Change::default() })?)
}

/// CHECK of [`enslave`].
pub(super) fn check(options: &Options, view: &View<'_>, bridge: &Link, port: &Link) -> Result<(), CniError> {
    let name = &port.name;
    same(&format!("whether {name} is up"), &port.up, &true)?;
    if port.master != Some(bridge.index) {
        return Err(changed(format!("{name} is no longer a port of bridge {}", bridge.name)));
    }
    let state = port.port.as_ref().ok_or_else(|| changed(format!("{name} is no longer a bridge's port")))?;
    same(&format!("{name}'s hairpinMode"), &state.hairpin, &options.hairpin)?;
    same(&format!("{name}'s portIsolation"), &state.isolated, &options.isolated)?;
    same(&format!("{name}'s learning"), &state.learning, &options.learning.unwrap_or(true))?;
    let Some(vlans) = &options.vlans else { return Ok(()) };
    let is = view.host.vlans(port.index)?;
    for wanted in vlans.wanted() {
        for id in wanted.first..=wanted.last {
            let there = is.iter().find(|vlan| vlan.id == id);
            let there = there.ok_or_else(|| changed(format!("{name} no longer has VLAN {id}")))?;
            same(&format!("whether VLAN {id} is {name}'s untagged one"), &there.pvid, &wanted.pvid)?;
        }
    }
    if let Some(default) = given(bridge).filter(|default| !vlans.has(*default))
        && is.iter().any(|vlan| vlan.id == default)
    {
        return Err(changed(format!("{name} has VLAN {default} again")));
    }
    Ok(())
}

/// The VLAN that this bridge gives each new port: 1, unless its owner says otherwise, or says none.
const fn given(bridge: &Link) -> Option<u16> {
    if let Details::Bridge { default_pvid, .. } = bridge.details
        && default_pvid != 0
    {
        return Some(default_pvid);
    }
    None
}

impl Vlans {
    fn wanted(&self) -> Vec<NewVlan> {
        let trunk = self.trunk.iter().map(|range| NewVlan::tagged(*range.start(), *range.end()));
        // Behind the trunk: a range of it may hold the untagged one, whose flags are the later ones.
        let untagged =
            self.untagged.map(|id| NewVlan { pvid: true, untagged: true, ..NewVlan::tagged(id, id) });
        trunk.chain(untagged).collect()
    }

    /// Whether the port keeps, or has on its own account, what the bridge gives it.
    fn has(&self, default: u16) -> bool {
        let in_trunk = self.trunk.iter().any(|range| range.contains(&default));
        // Without an untagged VLAN of its own a trunk leaves frames without a tag where they were.
        self.keep_default || self.untagged.is_none_or(|id| id == default) || in_trunk
    }
}
