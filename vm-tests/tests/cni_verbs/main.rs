//! What the verbs promise, by mode: nothing is damaged by saying a thing twice, nothing is left by whoever dies, what was
//! changed is noticed, what is refused changes nothing.
#![expect(clippy::tests_outside_test_module, reason = "a folder of integration tests is a test module")]

mod rows;
mod stage;
mod tracer;
mod repeats;
mod leases;
mod chained;
mod tampering;
mod neighbours;
mod garbage;
mod status;
mod kills;
mod indices;
mod faults;
mod crowds;
mod refusals;
