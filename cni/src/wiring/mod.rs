//! The ways to wire a VM: one file per `mode`. A mode must never undo what it did; the journal does.
//!
//! | mode | the pod's end | the other end |
//! |---|---|---|
//! | `tap` | a tap beside the NIC that the pod has | that NIC |
//! | `bridge` | veth and tap, or a veth alone | a bridge on the node |
//! | `macvtap` | a macvtap | a link of the node |
//! | `macvlan` | a macvlan, for containers | a link of the node |
//! | `ipvlan` | an ipvlan, for a VM routed to a tap | a link of the node |
//! | `ptp` | veth and tap, or a veth alone | routes on the node |
//! | `vxlan` | veth and tap, or a veth alone | a bridge with a VXLAN port |
//! | `none` | a tap | nothing |
//! | `passt` | two sysctls | the translator |

mod settings;
mod site;
mod routing;
mod kernel;
mod pod_tap;
mod pod_interface;
mod rules;
mod shaping;
mod device_info;
mod tap;
mod none;
mod passt;
mod bridge;
mod ptp;
mod macvlan;
mod macvtap;
mod ipvlan;

pub use macvtap::device_node::path as device_node;
pub use settings::{Mode, Settings};
pub use site::{Call, Site, View, changed};

use crate::journal::Step;
use crate::netlink::Netlink;
use crate::protocol::{CniError, CniResult};

/// One mode, its configuration read and found good.
pub trait Wiring: std::fmt::Debug {
    /// Makes the attachment. Each step that outlives a failure is in the site's journal before it is taken.
    fn add(&self, call: &Call, site: &mut Site<'_>) -> Result<CniResult, CniError>;

    /// Whether the attachment still is what `add` made.
    fn check(&self, call: &Call, view: &View<'_>, previous: &CniResult) -> Result<(), CniError>;

    /// Whether the node has what `add` needs: code 50 or 51 if not.
    fn ready(&self, call: &Call, host: &Netlink) -> Result<(), CniError>;

    /// What `add` may have left on the node where its journal is lost: names that only this attachment can have.
    fn leftovers(&self, call: &Call) -> Vec<Step> {
        let _ = call;
        Vec::new()
    }
}

/// The mode that the configuration asks for.
pub fn of(call: &Call) -> Result<Box<dyn Wiring>, CniError> {
    device_info::pass_over(call);
    rules::refuse_mappings(call)?;
    Ok(match call.settings.mode {
        Mode::Tap => Box::new(tap::Tap::read(&call.config)?),
        Mode::None => Box::new(none::NoUplink::read(&call.config)?),
        Mode::Passt => Box::new(passt::Passt::read(&call.config)?),
        Mode::Bridge => Box::new(bridge::Bridge::read(call)?),
        Mode::Vxlan => Box::new(bridge::Bridge::read_overlay(call)?),
        Mode::Ptp => Box::new(ptp::Ptp::read(&call.config)?),
        Mode::Macvlan => Box::new(macvlan::Macvlan::read(call)?),
        Mode::Macvtap => Box::new(macvtap::Macvtap::read(call)?),
        Mode::Ipvlan => Box::new(ipvlan::Ipvlan::read(call)?),
    })
}
