//! A guest on the pod's own network, by a tap and what joins it to the pod's NIC. It must never translate anything.

use anyhow::Context as _;
use serde_json::json;

use super::contender::Wire;
use super::plugin_calls;
use crate::lab::{Child, Lab, POD_MAC};
use crate::tap_guest;

/// What the pod's NIC has instead, where its own MAC is the guest's.
const OTHER_MAC: &str = "02:00:00:00:00:99";

const TAP: &str = "tap0";

/// Joins the guest to the pod's NIC. What keeps it joined, if anything.
pub(super) fn connect(lab: &Lab, wire: Wire, mtu: u32) -> anyhow::Result<Option<Child>> {
    let pod = lab.pod();
    match wire {
        Wire::Veth => return Ok(None),
        Wire::Bridge => pod.ip(&format!(
            "tuntap add mode tap name {TAP} vnet_hdr\n\
             link set {TAP} mtu {mtu} up\n\
             address flush dev eth0\n\
             link set eth0 address {OTHER_MAC}\n\
             link add br0 type bridge\n\
             link set br0 mtu {mtu} up\n\
             link set eth0 master br0\n\
             link set {TAP} master br0\n"
        ))?,
        Wire::Redirect => {
            let state = lab.directory().join("state");
            let config = json!({
                "cniVersion": "1.0.0", "name": "bench", "type": "sluice", "mode": "tap", "stateDir": state,
            });
            plugin_calls::call(lab, lab.world(), pod, "ADD", "net1", &config)?;
        }
    }
    let guest = lab.guest();
    guest.sysctl("net/ipv6/conf/default/accept_ra", "0")?;
    let mtu = u16::try_from(mtu).context("a tap's MTU")?;
    let child = tap_guest::start_offloading(lab, pod, TAP, guest, mtu)?;
    guest.ip(&format!("link set eth0 address {POD_MAC}\n{}", lab.variant().pod_configuration("eth0")))?;
    Ok(Some(child))
}
