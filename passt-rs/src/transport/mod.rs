//! The decisions of TCP: `(now, input) -> what to do`. No syscalls, no clock, no descriptors.
//!
//! Machines plan; the relay moves bytes between socket and guest and then commits what really moved.

pub mod tcp;
