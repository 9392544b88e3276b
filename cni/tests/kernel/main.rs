//! Namespaces, links, taps and traffic control against the real kernel, with `ip`, `tc` and `bridge` as witnesses.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole program is tests"
)]

mod lab;
mod namespaces;
mod links;
mod ports;
mod networks;
mod taps;
mod labels;
mod traffic;
