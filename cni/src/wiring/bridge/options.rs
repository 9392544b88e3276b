//! The keys of mode `bridge`, those of the reference plugin and ours, read and found good. It must never look at a node.

use std::ops::RangeInclusive;

use serde::Deserialize;

use crate::netlink::{Details, Link, Netlink};
use crate::protocol::{CniError, CniResult};
use crate::wiring::settings::interface_name;
use crate::wiring::site::Call;

/// What the bridge is called unless the configuration says otherwise; also the reference plugin's.
const BRIDGE: &str = "cni0";

/// IEEE 802.1Q: 0 is for no VLAN, 4095 reserved.
const VLANS: RangeInclusive<i64> = 1..=4094;

#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key that an administrator writes")]
pub(super) struct Options {
    pub(super) bridge: String,
    /// The configuration says what it is called.
    pub(super) named: bool,
    pub(super) is_gateway: bool,
    pub(super) is_default_gateway: bool,
    /// Replace another address of the bridge's instead of refusing.
    pub(super) force_address: bool,
    pub(super) masquerade: bool,
    pub(super) hairpin: bool,
    pub(super) promiscuous: bool,
    pub(super) spoof_check: bool,
    pub(super) disable_container_interface: bool,
    pub(super) isolated: bool,
    /// `Some(false)`: the bridge learns no addresses from this port.
    pub(super) learning: Option<bool>,
    pub(super) vlans: Option<Vlans>,
}

/// Which VLANs a port has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vlans {
    /// Frames without a tag are of this one.
    pub(super) untagged: Option<u16>,
    pub(super) trunk: Vec<RangeInclusive<u16>>,
    /// Also those of VLAN 1, which the kernel gives each port.
    pub(super) keep_default: bool,
}

#[derive(Debug, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key that an administrator writes")]
struct Keys {
    bridge: Option<String>,
    #[serde(rename = "isgateway", default)]
    is_gateway: bool,
    #[serde(rename = "isdefaultgateway", default)]
    is_default_gateway: bool,
    #[serde(rename = "forceaddress", default)]
    force_address: bool,
    #[serde(rename = "ipmasq", default)]
    masquerade: bool,
    #[serde(rename = "ipmasqbackend")]
    masquerade_backend: Option<String>,
    #[serde(rename = "hairpinmode", default)]
    hairpin: bool,
    #[serde(rename = "promiscmode", default)]
    promiscuous: bool,
    #[serde(rename = "macspoofchk", default)]
    spoof_check: bool,
    #[serde(rename = "disablecontainerinterface", default)]
    disable_container_interface: bool,
    #[serde(rename = "portisolation", default)]
    isolated: bool,
    learning: Option<bool>,
    vlan: Option<i64>,
    #[serde(rename = "vlantrunk", default)]
    trunk: Vec<TrunkKeys>,
    #[serde(rename = "preservedefaultvlan", default)]
    keep_default: bool,
    tap: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct TrunkKeys {
    id: Option<i64>,
    #[serde(rename = "minid")]
    least: Option<i64>,
    #[serde(rename = "maxid")]
    most: Option<i64>,
}

impl Options {
    pub(super) fn read(call: &Call) -> Result<Self, CniError> {
        let keys: Keys = call.config.read()?;
        let named = keys.bridge.clone().filter(|name| !name.is_empty());
        let bridge = named.clone().unwrap_or_else(|| BRIDGE.to_owned());
        interface_name("bridge", &bridge)?;
        if keys.hairpin && keys.promiscuous {
            let why = "cannot set hairpin mode and promiscuous mode at the same time";
            return Err(CniError::config("hairpinMode", true, why));
        }
        if let Some(backend) = &keys.masquerade_backend
            && !["", "nftables", "iptables"].contains(&backend.as_str())
        {
            return Err(CniError::config("ipMasqBackend", format!("{backend:?}"), "must be nftables"));
        }
        if keys.disable_container_interface {
            if call.config.ipam_type().is_some() {
                let why = "cannot use IPAM when DisableContainerInterface flag is set";
                return Err(CniError::config("disableContainerInterface", true, why));
            }
            if keys.tap == Some(true) {
                let why = "a tap beside an interface that is down leads nowhere; leave one of them out";
                return Err(CniError::config("disableContainerInterface", true, why));
            }
        }
        Ok(Self {
            vlans: Vlans::read(&keys)?,
            bridge,
            named: named.is_some(),
            is_gateway: keys.is_gateway || keys.is_default_gateway,
            is_default_gateway: keys.is_default_gateway,
            force_address: keys.force_address,
            masquerade: keys.masquerade,
            hairpin: keys.hairpin,
            promiscuous: keys.promiscuous,
            spoof_check: keys.spoof_check,
            disable_container_interface: keys.disable_container_interface,
            isolated: keys.isolated,
            learning: keys.learning,
        })
    }

    /// The key that asks for VLANs.
    pub(super) fn vlan_key(&self) -> &'static str {
        let untagged = self.vlans.as_ref().is_some_and(|vlans| vlans.trunk.is_empty());
        if untagged { "vlan" } else { "vlanTrunk" }
    }
}

impl Vlans {
    fn read(keys: &Keys) -> Result<Option<Self>, CniError> {
        let untagged = match keys.vlan {
            None | Some(0) => None,
            Some(id) => Some(vlan(id).ok_or_else(|| {
                CniError::config("vlan", id, &format!("invalid VLAN ID {id} (must be between 0 and 4094)"))
            })?),
        };
        let trunk = keys.trunk.iter().map(|entry| entry.read()).collect::<Result<Vec<_>, _>>()?;
        if untagged.is_none() && trunk.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { untagged, trunk, keep_default: keys.keep_default }))
    }
}

impl TrunkKeys {
    fn read(self) -> Result<RangeInclusive<u16>, CniError> {
        let refused = |value: String, why: &str| Err(CniError::config("vlanTrunk", value, why));
        match (self.least, self.most, self.id) {
            (Some(least), Some(most), _) => match (vlan(least), vlan(most)) {
                (Some(first), Some(last)) if first <= last => Ok(first..=last),
                (Some(_), Some(_)) => {
                    refused(format!("{least} to {most}"), "minID is greater than maxID in trunk parameter")
                }
                (None, _) => refused(least.to_string(), "incorrect trunk minID parameter"),
                (_, None) => refused(most.to_string(), "incorrect trunk maxID parameter"),
            },
            (None, None, Some(id)) => vlan(id)
                .map_or_else(|| refused(id.to_string(), "incorrect trunk id parameter"), |id| Ok(id..=id)),
            (None, None, None) => refused("{}".to_owned(), "an entry needs id, or minID and maxID"),
            (Some(one), None, _) | (None, Some(one), _) => refused(
                one.to_string(),
                "minID and maxID should be configured simultaneously, one of them is missing",
            ),
        }
    }
}

fn vlan(id: i64) -> Option<u16> {
    u16::try_from(id).ok().filter(|id| VLANS.contains(&i64::from(*id)))
}

/// "it should accept any previous result that includes a host-side interface" (CNI's conventions, "Chained plugins"): the
/// first on the node that is one end of a pod's.
pub(super) fn given_port(previous: &CniResult, host: &Netlink) -> Result<Link, CniError> {
    for interface in previous.interfaces.iter().filter(|interface| interface.sandbox.is_none()) {
        let Some(link) = host.link(&interface.name)? else { continue };
        // A pod's end, made for it: never a NIC of the node, whatever the result says.
        let is_end = matches!(link.details, Details::Veth | Details::Tun(_));
        let mac = link.mac.map(|mac| mac.to_string());
        let is_meant = interface.mac.as_ref().is_none_or(|meant| Some(meant.to_lowercase()) == mac);
        if is_end
            && is_meant
            && host.addresses(Some(link.index))?.iter().all(|address| !address.network.addr().is_ipv4())
        {
            return Ok(link);
        }
    }
    let names: Vec<&str> = previous.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let why = "no link of the node among the interfaces that is a veth's end or a tap without an address";
    Err(CniError::config("prevResult", format!("[{}]", names.join(", ")), why))
}
