//! Fuzz targets: what a hook call can bring to the sidecar, and what must hold whatever that is. Shape and replay are those
//! of passt-rs's fuzz targets.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a target is a test: a panic is its report, and what it trips over in itself is to be seen as well"
)]

mod domain;

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

/// Every target.
pub const TARGETS: &[Target] =
    &[Target { name: "domain", test_seconds: 10, run: domain::run, seeds: domain::seeds }];
