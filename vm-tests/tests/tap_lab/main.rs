//! passt-rs on a tap, with a real kernel as the guest, between real sockets: what unit tests cannot show.
//!
//! To tell a fault of ours from a fault of the test, `SLUICE_TAP_TRANSLATOR=none` connects the guest to the world's
//! veth itself (then all pass but the tests of port forwarding, and of how we end and what we capture), and
//! `SLUICE_TAP_TRANSLATOR=/usr/bin/pasta` puts passt's pasta in our place.
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
mod ends;
mod capture;
