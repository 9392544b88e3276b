//! Waiting for events, awake for a moment when that is likely to pay.
//!
//! Going to sleep and being woken costs more than a server next door takes to answer: a request and its answer pay
//! it twice each. So while small events follow each other within microseconds the wait begins awake, giving the
//! processor to anybody else who wants it; as soon as that stops paying, sleep comes first again. Transfers sleep at
//! once: what they wait for is the work of others, who need the processor.

use std::io;
use std::time::Duration;

use crate::host::clock;
use crate::host::epoll::Epoll;

/// Longest time awake without an event: what falling asleep and waking up costs.
const AWAKE: Duration = Duration::from_micros(30);
/// Waits in vain until sleep comes first again.
const MISSES: u8 = 2;
/// Bytes across the cable between two waits, halved with each wait, that make a transfer: some requests do not.
const TRANSFER_BYTES: u64 = 8192;

/// How waits went lately.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Waits that may still begin awake, unless one is rewarded.
    credit: u8,
    /// Bytes across the cable lately, and as counted at the last wait.
    recent_bytes: u64,
    total_bytes: u64,
}

impl Patience {
    /// Notes that `total_bytes` crossed the cable so far.
    pub(super) fn note(&mut self, total_bytes: u64) {
        self.recent_bytes = self.recent_bytes / 2 + total_bytes.saturating_sub(self.total_bytes);
        self.total_bytes = total_bytes;
        if self.recent_bytes > TRANSFER_BYTES {
            self.credit = 0;
        }
    }

    /// Waits until something is ready, at most `timeout` (`None`: forever); gives how many events there are.
    pub(super) fn wait(&mut self, epoll: &mut Epoll, timeout: Option<Duration>) -> io::Result<usize> {
        if timeout == Some(Duration::ZERO) {
            return epoll.wait(timeout);
        }
        if self.credit > 0 {
            let until = clock::now() + AWAKE;
            loop {
                let count = epoll.wait(Some(Duration::ZERO))?;
                if count > 0 {
                    self.credit = MISSES;
                    return Ok(count);
                }
                if clock::now() >= until {
                    break;
                }
                rustix::thread::sched_yield();
            }
            self.credit -= 1;
        }
        let asleep = clock::now();
        let count = epoll.wait(timeout)?;
        if count > 0 && self.recent_bytes <= TRANSFER_BYTES && clock::now().since(asleep) < AWAKE {
            self.credit = MISSES;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn waits_in_vain_end_the_waking_and_an_event_renews_it() {
        let mut epoll = Epoll::new().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        epoll.watch_input(&reader, 7).unwrap();
        let mut patience = Patience { credit: MISSES, ..Patience::default() };
        let moment = Some(Duration::from_millis(1));
        assert_eq!(patience.wait(&mut epoll, moment).unwrap(), 0);
        assert_eq!(patience.credit, MISSES - 1);
        writer.write_all(b"x").unwrap();
        assert_eq!(patience.wait(&mut epoll, moment).unwrap(), 1);
        assert_eq!(patience.credit, MISSES);
        io::Read::read_exact(&mut &reader, &mut [0]).unwrap();
        for _ in 0..MISSES {
            assert_eq!(patience.wait(&mut epoll, moment).unwrap(), 0);
        }
        assert_eq!(patience.credit, 0);
    }

    #[test]
    fn a_transfer_sleeps_at_once_until_it_has_been_over_for_some_waits() {
        let mut patience = Patience { credit: MISSES, ..Patience::default() };
        patience.note(200);
        assert_eq!(patience.credit, MISSES);
        patience.note(66_000);
        assert_eq!(patience.credit, 0);
        let waits = (1..).find(|_| {
            patience.note(66_000);
            patience.recent_bytes <= TRANSFER_BYTES
        });
        assert_eq!(waits, Some(4));
    }
}
