//! smoltcp as the guest, the real relay over the stream transport, real sockets behind it.
//!
//! Each test has a network namespace of its own, which needs root. Without it every test fails, as one that
//! cannot run must not pass.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::tests_outside_test_module,
    reason = "the whole file is a test"
)]

#[path = "../support/mod.rs"]
mod support;

mod bytes;
mod ends;
mod limits;
mod budget;
mod drops;
mod successor;
