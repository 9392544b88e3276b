//! Sluice's CNI plugin: wires a VM's tap into a pod's networks, in the kernel. Short-lived, privileged, one static binary.

pub mod protocol;
pub mod attachment;
pub mod namespace;
pub mod netlink;
pub mod tap;
pub mod sysctl;
