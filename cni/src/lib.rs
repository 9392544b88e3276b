//! Sluice's CNI plugin: wires a VM's tap into a pod's networks, in the kernel. Short-lived, privileged, one static binary.
//!
//! Modules stand in the order a call passes them.

pub mod logging;
pub mod protocol;
pub mod attachment;
pub mod namespace;
pub mod netlink;
pub mod tap;
pub mod sysctl;
pub mod nft;
pub mod ipam;
pub mod journal;
pub mod undo;
pub mod wiring;
pub mod verbs;
pub mod explain;
pub mod install;
pub mod termination;
pub mod person;
