//! Black-box labs of Sluice: they run binaries and look at what comes out; of our other crates they
//! import only KubeVirt's API.

pub mod lab;
pub mod cni;
pub mod translator;
pub mod services;
pub mod hoard;
pub mod vm;
pub mod vhost;
pub mod tap_guest;
pub mod container;
pub mod libvirt;
pub mod launcher;
pub mod traffic;
pub mod bench;
