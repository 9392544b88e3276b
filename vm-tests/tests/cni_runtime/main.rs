//! The CNI plugin under a real container runtime: containerd, as `ctr` and as kubelet drive it.
#![expect(clippy::tests_outside_test_module, reason = "a folder of integration tests is a test module")]

mod stage;
mod ctr;
mod chain;
mod pods;
mod failures;
mod multus;
