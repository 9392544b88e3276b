//! The CNI plugin as its runtimes meet it: an executable, called on nodes made of network namespaces.
#![expect(
    clippy::tests_outside_test_module,
    clippy::indexing_slicing,
    reason = "a folder of integration tests is a test module"
)]

mod ours;
mod look;
mod ears;
mod reference;
mod protocol;
mod versions;
mod surroundings;
mod multus;
mod differential;
mod explain;
mod bandwidth;
mod quiet;
mod extras;
