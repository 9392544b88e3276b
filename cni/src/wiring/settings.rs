//! Keys that every mode understands. It must never read a mode's own.

use std::path::PathBuf;

use serde::Deserialize;

use crate::journal::STATE_DIRECTORY;
use crate::protocol::environment::check_link_name;
use crate::protocol::{CniError, Config};

/// Whom KubeVirt runs QEMU as: user and group.
const QEMU: u32 = 107;

/// What IPv4 needs at least (RFC 791) and what a link's MTU may be at most, in bytes.
const MTUS: std::ops::RangeInclusive<u32> = 68..=65535;

/// How a pod's end is wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Tap,
    Bridge,
    Macvtap,
    Macvlan,
    Ipvlan,
    Ptp,
    Vxlan,
    None,
    Passt,
}

/// What all modes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub mode: Mode,
    /// Bytes. `None`: that of the link beneath.
    pub mtu: Option<u32>,
    pub tap: TapSettings,
    /// A container's IPv6 addresses are used only once nobody else is found to have them (RFC 4862 section 5.4).
    pub detect_duplicates: bool,
    pub state_directory: PathBuf,
}

/// The tap that QEMU opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapSettings {
    /// `false`: the interface is for a container, as the reference plugins make it.
    pub wanted: bool,
    /// `None`: as KubeVirt calls it.
    pub name: Option<String>,
    /// Must be what the VM asks for: the kernel refuses a queue more, and refuses to open one that has several as one.
    pub multi_queue: bool,
    pub owner: u32,
    pub group: u32,
    /// SELinux label of who makes the tap, and so of the tap.
    pub selinux_context: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Keys {
    mode: Option<String>,
    mtu: Option<i64>,
    tap: Option<bool>,
    /// Mode bridge has it, for an interface that nobody uses in the pod.
    #[serde(rename = "disablecontainerinterface", default)]
    disabled: bool,
    #[serde(rename = "tapname")]
    tap_name: Option<String>,
    #[serde(rename = "enabledad", default)]
    detect_duplicates: bool,
    #[serde(rename = "multiqueue", default)]
    multi_queue: bool,
    owner: Option<u32>,
    group: Option<u32>,
    #[serde(rename = "selinuxcontext")]
    selinux_context: Option<String>,
    #[serde(rename = "statedir")]
    state_directory: Option<PathBuf>,
}

impl Settings {
    pub fn read(config: &Config) -> Result<Self, CniError> {
        let keys: Keys = config.read()?;
        let tap_name = keys.tap_name.filter(|name| !name.is_empty());
        if let Some(name) = &tap_name {
            interface_name("tapName", name)?;
        }
        let state_directory = keys.state_directory.unwrap_or_else(|| PathBuf::from(STATE_DIRECTORY));
        if !state_directory.is_absolute() {
            let shown = state_directory.display();
            return Err(CniError::config("stateDir", shown, "an absolute path is needed"));
        }
        let mode = keys.mode.as_deref().map_or(Ok(Mode::Tap), Mode::parse)?;
        Ok(Self {
            mode,
            mtu: keys.mtu.map(mtu).transpose()?.flatten(),
            tap: TapSettings {
                wanted: mode.taps(keys.tap)? && !keys.disabled,
                name: tap_name,
                multi_queue: keys.multi_queue,
                owner: keys.owner.unwrap_or(QEMU),
                group: keys.group.unwrap_or(QEMU),
                selinux_context: keys.selinux_context.filter(|context| !context.is_empty()),
            },
            detect_duplicates: keys.detect_duplicates,
            state_directory,
        })
    }

    /// Where attachments are written down, of a configuration whose other keys may be wrong.
    pub fn state_directory(config: &Config) -> PathBuf {
        #[derive(Deserialize)]
        struct Key {
            #[serde(rename = "statedir")]
            state_directory: Option<PathBuf>,
        }
        let key = config.read::<Key>().ok().and_then(|key| key.state_directory);
        key.filter(|path| path.is_absolute()).unwrap_or_else(|| PathBuf::from(STATE_DIRECTORY))
    }
}

impl Mode {
    const ALL: [Self; 9] = [
        Self::Tap,
        Self::Bridge,
        Self::Macvtap,
        Self::Macvlan,
        Self::Ipvlan,
        Self::Ptp,
        Self::Vxlan,
        Self::None,
        Self::Passt,
    ];

    /// Whether this mode leaves the interface that it is called for to others, and may come after them in a list.
    pub const fn is_beside(self) -> bool {
        match self {
            Self::Tap | Self::None | Self::Passt => true,
            Self::Bridge | Self::Macvtap | Self::Macvlan | Self::Ipvlan | Self::Ptp | Self::Vxlan => false,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Bridge => "bridge",
            Self::Macvtap => "macvtap",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Ptp => "ptp",
            Self::Vxlan => "vxlan",
            Self::None => "none",
            Self::Passt => "passt",
        }
    }

    /// Whether there is a tap, where the key `tap` says so or says nothing.
    fn taps(self, key: Option<bool>) -> Result<bool, CniError> {
        let refused = |value, why| Err(CniError::config("tap", value, why));
        match (self, key) {
            (Self::Macvlan, Some(true)) => {
                refused(true, "a macvlan is for containers; mode macvtap is for VMs")
            }
            (Self::Macvlan | Self::Macvtap | Self::Passt, _) => Ok(false),
            (Self::Tap | Self::None, Some(false)) => refused(false, "this mode makes nothing but a tap"),
            (_, key) => Ok(key.unwrap_or(true)),
        }
    }

    fn parse(text: &str) -> Result<Self, CniError> {
        if text.is_empty() {
            return Ok(Self::Tap);
        }
        if text == "host" {
            return Err(CniError::config(
                "mode",
                "\"host\"",
                "nothing is wired for a VM that uses the pod's own sockets; that is the translator: \
                 use the sluice binding with a NetworkAttachmentDefinition of mode \"passt\"",
            ));
        }
        Self::ALL.into_iter().find(|mode| mode.as_str() == text).ok_or_else(|| {
            let all: Vec<&str> = Self::ALL.iter().map(|mode| mode.as_str()).collect();
            CniError::config("mode", format!("{text:?}"), &format!("must be one of {}", all.join(", ")))
        })
    }
}

/// An MTU as configured; 0 stands for none, as with the reference plugins.
fn mtu(value: i64) -> Result<Option<u32>, CniError> {
    if value == 0 {
        return Ok(None);
    }
    u32::try_from(value)
        .ok()
        .filter(|mtu| MTUS.contains(mtu))
        .map(Some)
        .ok_or_else(|| CniError::config("mtu", value, "must be between 68 and 65535"))
}

/// Checks the name of a link that `key` gives.
pub(super) fn interface_name(key: &str, name: &str) -> Result<(), CniError> {
    check_link_name(name)
        .and_then(|()| {
            // The kernel would put a number in the place of "%d", or end the name at the zero.
            if name.contains(['%', '\0']) { Err("interface name contains % or a zero byte") } else { Ok(()) }
        })
        .map_err(|why| CniError::config(key, format!("{name:?}"), why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_that_no_link_has_is_refused_with_key_and_value() {
        for name in ["", "sixteen-bytes-xx", ".", "..", "a/b", "a:b", "a b", "tap%d", "a\0b"] {
            let error = interface_name("tapName", name).unwrap_err();
            let start = format!("invalid network configuration: tapName {name:?}: ");
            assert!(error.code == 7 && error.msg.starts_with(&start), "{error}");
        }
        interface_name("tapName", "eth0.100-x_y@z").unwrap();
    }
}
