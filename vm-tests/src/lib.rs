//! Black-box labs of Sluice: they run binaries and look at what comes out; they import none of our other crates.

pub mod lab;
pub mod translator;
pub mod services;
pub mod vm;
pub mod vhost;
pub mod libvirt;
pub mod traffic;
pub mod bench;
