//! A descriptor held back for the moment when all others are taken.
//!
//! A connection that waits at a listening socket cannot be refused without being accepted first, which takes a
//! descriptor. Giving this one up makes room for exactly that.

use std::fs::File;
use std::os::fd::OwnedFd;

/// One descriptor, or none while it is lent.
#[derive(Debug)]
pub struct Reserve(Option<OwnedFd>);

impl Reserve {
    pub fn new() -> Self {
        let mut reserve = Self(None);
        reserve.refill();
        reserve
    }

    /// Makes room for one descriptor; `false` when there is nothing left to give.
    pub fn lend(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Takes a descriptor back if one is free.
    pub fn refill(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok().map(OwnedFd::from);
        }
    }
}

impl Default for Reserve {
    fn default() -> Self {
        Self::new()
    }
}
