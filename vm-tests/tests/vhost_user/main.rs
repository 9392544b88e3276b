//! passt-rs behind a vhost-user socket, with smoltcp as the guest's TCP/IP over a driver of every kind there is.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a folder of integration tests is a test module"
)]

mod pod;
mod frames;
mod nic;
mod guest;
mod work;
mod matrix;
mod rings;
mod starvation;
mod lifecycle;
mod cable;
