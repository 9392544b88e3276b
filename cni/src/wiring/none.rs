//! Mode `none`: a tap that leads nowhere, for a VM that must have a NIC and no network. It must never join it to anything.

use serde::Deserialize;

use super::site::{Call, Site, View, same};
use super::{Wiring, kernel, pod_tap, shaping};
use crate::journal::Step;
use crate::netlink::{Change, Netlink};
use crate::protocol::{CniError, CniResult, Config};

/// It has no keys of its own.
#[derive(Debug, Deserialize)]
pub(super) struct NoUplink {}

impl NoUplink {
    pub(super) fn read(config: &Config) -> Result<Self, CniError> {
        shaping::refuse(config.bandwidth()?, "mode none has no traffic to limit")?;
        if config.ipam_type().is_some() {
            return Err(CniError::config("ipam", "given", "mode none has no network to have an address on"));
        }
        config.read()
    }

    /// For itself a link of its own, called as the runtime says: there is no NIC beside which KubeVirt would look.
    fn name(call: &Call) -> String {
        call.settings.tap.name.clone().unwrap_or_else(|| call.attachment.interface.clone())
    }
}

impl Wiring for NoUplink {
    fn add(&self, call: &Call, site: &mut Site<'_>) -> Result<CniResult, CniError> {
        let mac = call.config.mac(&call.environment)?;
        let tap = pod_tap::make(call, site, &Self::name(call), call.settings.mtu)?;
        if mac.is_some() {
            site.inside.change(tap.index, &Change { mac, ..Change::default() })?;
        }
        let mut interface = pod_tap::interface(call, &tap);
        if let Some(mac) = mac {
            interface.mac = Some(mac.to_string());
        }
        let mut result = call.config.previous()?.unwrap_or_default();
        result.interfaces.push(interface);
        Ok(result)
    }

    fn check(&self, call: &Call, view: &View<'_>, previous: &CniResult) -> Result<(), CniError> {
        let name = view.recorded(|step| if let Step::PodLink { name } = step { Some(name) } else { None })?;
        let tap = pod_tap::check(call, view, &name, None)?;
        let made = previous.interfaces.iter().find(|interface| interface.name == name);
        // Any MTU is good: no frame goes anywhere, and a plugin behind us in the list may have set another.
        if let Some(mac) = made.and_then(|made| made.mac.as_ref()) {
            let is = tap.mac.map(|mac| mac.to_string()).unwrap_or_default();
            same(&format!("{name}'s MAC"), &is.to_lowercase(), &mac.to_lowercase())?;
        }
        Ok(())
    }

    fn ready(&self, call: &Call, _host: &Netlink) -> Result<(), CniError> {
        kernel::ready(call)
    }
}
