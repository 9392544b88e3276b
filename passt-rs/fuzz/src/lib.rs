//! Fuzz targets: what a hostile party can hand to passt-rs, and what must hold whatever that is.
//!
//! A target is a module with `run`, which panics when a promise is broken, and `seeds`, inputs that reach depth at once.
//! To add one: write the module, declare it here and give it a row in [`TARGETS`]. An input that once broke a promise is
//! kept as `regressions/TARGET/SENTENCE`; `cargo test` replays those and the seeds.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a target is a test: a panic is its report, and what it trips over in itself is to be seen as well"
)]

mod input;
mod network;
mod reply;
mod frame;
mod dhcp;
mod ports;
mod tcp;
mod front_end;
mod messages;
mod rings;

/// One thing to be fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    /// Seconds that `cargo xtask test` gives it.
    pub test_seconds: u32,
    /// Holds one input against the promises; panics if one is broken.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target. Those that read memory which another party can write get 30 s in tests.
pub const TARGETS: &[Target] = &[
    Target { name: "frame", test_seconds: 5, run: frame::run, seeds: frame::seeds },
    Target { name: "dhcp", test_seconds: 5, run: dhcp::run, seeds: dhcp::seeds },
    Target { name: "ports", test_seconds: 5, run: ports::run, seeds: ports::seeds },
    Target { name: "tcp", test_seconds: 5, run: tcp::run, seeds: tcp::seeds },
    Target { name: "messages", test_seconds: 30, run: messages::run, seeds: messages::seeds },
    Target { name: "rings", test_seconds: 30, run: rings::run, seeds: rings::seeds },
];
