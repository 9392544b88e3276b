//! Who may have VMs now. An emulated VM wants every core: one test at a time, or limits would have to be much longer.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for the tests that have VMs.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
