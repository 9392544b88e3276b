//! Mode `passt`: prepares a pod for the translator, which has not the privilege to do so. It must never add an interface.

use std::path::PathBuf;

use serde::Deserialize;

use super::site::{Call, Site, View, changed, in_pod};
use super::{Wiring, device_info, shaping};
use crate::netlink::Netlink;
use crate::protocol::{CniError, CniResult, Config};
use crate::sysctl;

/// Of groups that may ping: the first and the last.
const PING_GROUPS: &str = "net/ipv4/ping_group_range";

/// Its path, and its value.
type Sysctl = (&'static str, fn(&Call) -> String);

/// What the translator needs of its network namespace, and what for.
const SYSCTLS: [Sysctl; 2] = [
    // Ports below 1024 are forwarded to the guest like others.
    ("net/ipv4/ip_unprivileged_port_start", |_| "0".to_owned()),
    // The guest's pings leave by ping sockets, which are for these groups.
    (PING_GROUPS, |call| {
        let group = call.settings.tap.group;
        format!("{group} {group}")
    }),
];

/// The mode with its key.
#[derive(Debug)]
pub(super) struct Passt {
    /// The translator's vhost-user socket, which is told to who asks for it.
    socket: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Keys {
    #[serde(rename = "socketpath")]
    socket: Option<PathBuf>,
}

impl Passt {
    pub(super) fn read(config: &Config) -> Result<Self, CniError> {
        if config.ipam_type().is_some() {
            return Err(CniError::config(
                "ipam",
                "given",
                "mode passt leaves the pod's addresses as they are",
            ));
        }
        let keys: Keys = config.read()?;
        let socket = keys.socket.filter(|socket| !socket.as_os_str().is_empty());
        if let Some(socket) = socket.as_ref().filter(|socket| !socket.is_absolute()) {
            return Err(CniError::config("socketPath", socket.display(), "an absolute path is needed"));
        }
        let why =
            "the VM's traffic leaves by the pod's own interface, among the translator's: limit that one";
        shaping::refuse(config.bandwidth()?, why)?;
        Ok(Self { socket })
    }
}

impl Wiring for Passt {
    fn add(&self, call: &Call, site: &mut Site<'_>) -> Result<CniResult, CniError> {
        for (path, value) in SYSCTLS {
            site.sysctl(path, &value(call))?;
        }
        if let Some(socket) = &self.socket {
            device_info::write(call, site, socket)?;
        }
        Ok(call.config.previous()?.unwrap_or_default())
    }

    fn check(&self, call: &Call, view: &View<'_>, _previous: &CniResult) -> Result<(), CniError> {
        for (path, value) in SYSCTLS {
            let is = in_pod(view.pod, || sysctl::read(path))?.map_err(|error| changed(error.to_string()))?;
            let is: Vec<&str> = is.split_whitespace().collect();
            let value = value(call);
            // A plugin behind us in the list may have let more groups ping.
            let is_wider = path == PING_GROUPS && covers(&is, call.settings.tap.group);
            if is.join(" ") != value && !is_wider {
                return Err(changed(format!(
                    "{} is {:?}, was set to {value:?}",
                    path.replace('/', "."),
                    is.join(" ")
                )));
            }
        }
        self.socket.as_ref().map_or(Ok(()), |socket| device_info::check(call, socket))
    }

    fn ready(&self, _call: &Call, _host: &Netlink) -> Result<(), CniError> {
        Ok(())
    }
}

fn covers(range: &[&str], group: u32) -> bool {
    let numbers: Vec<u32> = range.iter().filter_map(|text| text.parse().ok()).collect();
    matches!(numbers[..], [first, last] if (first..=last).contains(&group))
}
