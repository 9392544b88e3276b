//! VMs, and what stands for them, on taps that our CNI plugin made: who reaches whom, in every mode.
#![expect(
    clippy::tests_outside_test_module,
    clippy::indexing_slicing,
    reason = "a folder of integration tests is a test module"
)]

mod stage;
mod machines;
mod refusals;
mod reach;
mod filters;
mod routed;
mod overlay;
mod migration;
mod hotplug;
