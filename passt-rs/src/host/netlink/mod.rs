//! The kernel's network configuration: what the pod has, and what a tap in a guest namespace is given.
//!
//! Synchronous rtnetlink, used only at start; never on the data path. Everything acts on the network
//! namespace of the calling thread; [`namespace`] runs it in another one.

mod socket;
mod uplink;
mod configure;
pub mod namespace;

pub use configure::{LinkAddress, LinkSetup, configure};
pub use socket::{NetlinkError, Request};
pub use uplink::{Pod, Uplink};

#[cfg(test)]
mod tests;
