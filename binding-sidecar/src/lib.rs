//! The binding sidecar: adds NICs to a KubeVirt VM's domain and keeps their translators running.
//!
//! Modules stand in the order of a hook call: it arrives at `hooks`, `vmi` says which NICs the VM has, `domain` writes them
//! into the XML, `translator` starts what serves them; `metrics`, `status` and `health` are for those who look.

pub mod names;
pub mod nic;
pub mod vmi;
pub mod domain;
pub mod translator;
pub mod metrics;
pub mod status;
pub mod health;
