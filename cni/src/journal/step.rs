//! What an ADD does that someone has to undo. It must never need more to be undone than it says.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::protocol::MacAddress;

/// One thing that will be done, named so that it can be undone whether it was done or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The IPAM plugin was asked for addresses.
    Lease,
    /// A link of ours on the node, whose name no other attachment has.
    HostLink { name: String },
    /// A link of ours in the pod.
    PodLink { name: String },
    /// All frames of this link of the pod, which is not ours, are taken to a tap.
    PodRedirect {
        name: String,
        tap: String,
        /// The queueing discipline that filters hang on was made for them.
        ingress: bool,
        /// The tap's MTU in bytes, as it was made; older versions did not write it down.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mtu: Option<u32>,
    },
    /// A queueing discipline at the root of a link of the pod that is not ours.
    PodShaper { name: String },
    /// A device of ours on the node through which a container's frames are delayed. It does not go with the pod.
    HostShaper { name: String },
    /// A link of the node that others made was made a port of a bridge.
    Port { name: String },
    /// A bridge or VXLAN device that the attachments of a network share: goes with the last.
    SharedLink { name: String },
    /// Rules in nf_tables marked with the attachment's id.
    Rules,
    /// The node sends to 127.0.0.0/8 by this link of its own (`route_localnet`), for mapped ports.
    LocalRoute { link: String },
    /// A node in the host's /dev.
    DeviceNode { path: PathBuf },
    /// A file of ours that the runtime asked for.
    File { path: PathBuf },
    /// An entry in a bridge's neighbour table, for suppression of ARP.
    Neighbour { link: String, address: IpAddr, mac: MacAddress },
    /// Policy rules in the pod, which outlive our links.
    PodRules { table: u32 },
}
