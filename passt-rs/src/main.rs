//! The program: command line to relay.
fn main() {}
