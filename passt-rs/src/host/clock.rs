//! The monotonic clock.

use rustix::time::{ClockId, clock_gettime};

use crate::time::Instant;

/// The time now. Read once per batch of work.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_nsec).unwrap_or(0) / 1000;
    Instant::from_micros(seconds * 1_000_000 + micros)
}
