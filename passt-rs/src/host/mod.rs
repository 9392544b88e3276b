//! host

pub mod netlink;
