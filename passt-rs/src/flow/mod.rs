//! flow

pub mod forward;
pub mod nat;
