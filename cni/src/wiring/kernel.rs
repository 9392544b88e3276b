//! Whether the kernel can make what a mode needs: STATUS tries it, in a network namespace that nobody else sees. It must
//! never make anything on the node or in a pod.

use super::settings::Mode;
use super::site::Call;
use crate::namespace::Namespace;
use crate::netlink::{IpvlanMode, Kind, MacvlanMode, Netlink, NetlinkError, NewLink, Peer, Vxlan};
use crate::protocol::{CniError, Code};
use crate::tap::{self, NewTap};

const TAP: &str = "tap";

/// Every namespace has it (`LOOPBACK_IFINDEX` of include/net/net_namespace.h).
const LOOPBACK: u32 = 1;

/// Tries what an ADD with this configuration makes. Modules that the kernel has and has not loaded are loaded.
///
/// # Errors
///
/// Code 50, with the kernel's own reason.
pub(super) fn ready(call: &Call) -> Result<(), CniError> {
    let (mode, taps) = (call.settings.mode, call.settings.tap.wanted);
    let links = links(mode);
    if links.is_empty() && !taps {
        return Ok(());
    }
    let unavailable = |why: String| CniError::new(Code::NotAvailable, why);
    let scratch = Namespace::scratch()
        .map_err(|error| unavailable(format!("making a network namespace to try in: {error}")))?;
    if taps {
        let new =
            NewTap { name: TAP.to_owned(), owner: None, group: None, multi_queue: false, vnet_hdr: true };
        scratch
            .run(|| tap::create(&new))
            .map_err(|error| CniError::io("entering a network namespace to try in", error))?
            .map_err(|error| unavailable(error.to_string()))?;
    }
    // In mode ipvlan packets are routed; without an uplink they go nowhere.
    let redirects = taps && !matches!(mode, Mode::Ipvlan | Mode::None);
    Netlink::within(&scratch)
        .and_then(|netlink| attempt(&netlink, &links, redirects))
        .map_err(|error| unavailable(format!("mode {}: {error}", mode.as_str())))
}

/// The kinds that a mode makes, or is made upon: what has a parent has the first.
fn links(mode: Mode) -> Vec<Kind<'static>> {
    let pair = Kind::Veth { peer: Peer::new("peer", None) };
    let bridge = Kind::Bridge { vlan_filtering: false, default_pvid: None };
    match mode {
        Mode::Tap | Mode::None | Mode::Passt => Vec::new(),
        Mode::Ptp => vec![pair],
        Mode::Bridge => vec![pair, bridge],
        Mode::Vxlan => vec![pair, bridge, Kind::Vxlan(overlay())],
        Mode::Macvlan => vec![pair, Kind::Macvlan { mode: MacvlanMode::Bridge, broadcast_queue: None }],
        Mode::Macvtap => vec![pair, Kind::Macvtap { mode: MacvlanMode::Bridge }],
        Mode::Ipvlan => vec![pair, Kind::Ipvlan { mode: IpvlanMode::L2 }],
    }
}

/// Any: none is ever up.
const fn overlay() -> Vxlan {
    Vxlan { vni: 1, port: 4789, local: None, remote: None, learning: true, proxy: false, ttl: 0 }
}

/// Makes all of it, in the socket's namespace.
fn attempt(netlink: &Netlink, links: &[Kind<'static>], redirects: bool) -> Result<(), NetlinkError> {
    let mut beneath = None;
    for kind in links {
        let name = kind.name();
        let upon = matches!(kind, Kind::Macvlan { .. } | Kind::Macvtap { .. } | Kind::Ipvlan { .. });
        let parent = beneath.filter(|_| upon);
        netlink.create(&NewLink { parent, ..NewLink::new(name, kind.clone()) })?;
        if beneath.is_none() {
            beneath = netlink.link(name)?.map(|link| link.index);
        }
    }
    if let Some(tap) = netlink.link(TAP)?.filter(|_| redirects) {
        netlink.add_ingress(tap.index)?;
        netlink.redirect_all(tap.index, LOOPBACK)?;
    }
    Ok(())
}
