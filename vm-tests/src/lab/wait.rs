//! Waiting for a condition with a deadline. The only place in the labs that may sleep.

use std::time::{Duration, Instant};

/// How often a condition is looked at; short beside everything a lab waits for.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Returns once `condition` holds; fails, saying `what` was waited for, when it does not within `limit`.
pub fn wait_for(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "waited {limit:?} in vain for {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}
