//! Who gets which address: `host-local` and `static` built in, every other plugin executed. It must never touch the
//! pod's interfaces, nor hold a lease for an attachment whose ADD failed.

pub mod range;
pub mod leases;
pub mod resolv_conf;
pub mod route_config;
pub mod host_local;
pub mod static_addresses;
