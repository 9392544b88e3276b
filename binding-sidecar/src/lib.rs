//! The binding sidecar: adds NICs to a KubeVirt VM's domain and keeps their translators running.
//!
//! Modules stand in the order of a hook call: it arrives at `hooks`; `sidecar` asks `define`, in which `vmi` says which NICs
//! the VM has and `domain` writes them into the XML; `translator` starts what serves them. `metrics`, `health` and `status`
//! tell of it.

pub mod names;
pub mod nic;
pub mod pod;
pub mod vmi;
pub mod domain;
pub mod define;
pub mod translator;
pub mod metrics;
pub mod health;
pub mod status;
pub mod sidecar;
pub mod hooks;
pub mod cli;
pub mod config;
pub mod logging;
