//! A guest in this process: smoltcp behind a cable with faults, the real relay, real sockets in a namespace.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "each test binary uses its part"
)]

pub mod cable;
pub mod control;
pub mod guest;
pub mod host;
pub mod lab;
pub mod old_kernel;
pub mod pattern;
pub mod random;
