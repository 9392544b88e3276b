//! CNI plugins on a node: modes whose kernel modules the machine of the tests may lack, and taps with a VM on them.
#![expect(clippy::tests_outside_test_module, reason = "a file of integration tests is a test module")]

mod turn;
mod stage;
mod reference;
mod ours;
mod taps;
