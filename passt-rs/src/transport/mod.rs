//! Decisions of the transports: `(now, input) -> what to do`. No syscalls, no clock, no descriptors.
//!
//! Machines plan; the relay moves bytes between socket and guest and then commits what really moved. Only
//! [`reassembly`] holds payload, since a fragment's frame is gone before the next one arrives.

pub mod reassembly;
pub mod tcp;
pub mod udp;
pub mod echo;
pub mod fragment;
