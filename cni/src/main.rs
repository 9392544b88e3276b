//! Sluice's CNI plugin.
fn main() {}
