//! passt-rs: a VM's layer 2 frames on one side, the pod's layer 4 sockets on the other.
//!
//! Modules are declared in the order a frame meets them. A module uses only those above it;
//! `tests/layering.rs` holds the table. Start reading at [`relay`], where an event becomes work.

pub mod wire;
pub mod time;
pub mod iovec;
pub mod drop_reason;
pub mod reserve;
pub mod flow;
pub mod answer;
pub mod classify;
pub mod transport;
pub mod guest;
pub mod host;
pub mod capture;
pub mod ledger;
pub mod stats;
pub mod control;
pub mod relay;
pub mod cli;
pub mod config;
pub mod logging;
pub mod sandbox;
pub mod assemble;
