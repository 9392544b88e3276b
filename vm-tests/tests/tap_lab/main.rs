//! passt-rs on a tap, with a real kernel as the guest, between real sockets: what unit tests cannot show.
//!
//! `SLUICE_TAP_TRANSLATOR=/usr/bin/pasta` runs the same tests against passt's pasta, to tell a fault of ours from a
//! fault of the test.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a folder of integration tests is a test module"
)]

mod tap;
mod variants;
mod connections;
mod ports;
mod datagrams;
mod crowds;
