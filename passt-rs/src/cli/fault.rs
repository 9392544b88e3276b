//! What is wrong with the command line.

use std::fmt;

/// One mistake. There is one thing to do about it, so it is text: the flag, and what is wrong with what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// As the user may find it on the command line: `--mtu`.
    pub flag: String,
    pub problem: String,
}

impl Fault {
    pub fn new(flag: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { flag: flag.into(), problem: problem.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.flag, self.problem)
    }
}
