//! Echo flows: one per identifier and pair of addresses, from the guest only.
//!
//! Decides lifetimes, as [`udp`](super::udp) does; requests from outside cannot be had without privilege,
//! so nothing here is initiated by the host. A ping socket is a conversation of requests and replies that
//! ends by silence (RFC 5508 3.2: at least 60 seconds).

use std::time::Duration;

use super::udp::{Change, Idle, Marking, idle};
use crate::time::Instant;

/// Silence after which an identifier is forgotten (RFC 5508 REQ-2).
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The state of one echo flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    started: Instant,
    last_activity: Instant,
    /// What the socket was told last; `None` before the first request.
    marking: Option<Marking>,
    requests: u64,
    replies: u64,
    /// Bytes of messages, ICMP headers included.
    from_guest_bytes: u64,
    to_guest_bytes: u64,
}

// A flow's state can be copied, kept and thrown away without effect on anything else.
const _: () = assert!(!std::mem::needs_drop::<Echo>());

impl Echo {
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            last_activity: now,
            marking: None,
            requests: 0,
            replies: 0,
            from_guest_bytes: 0,
            to_guest_bytes: 0,
        }
    }

    pub fn on_request(&mut self, now: Instant, bytes: usize) {
        self.last_activity = now;
        self.requests += 1;
        self.from_guest_bytes += bytes as u64;
    }

    pub fn on_reply(&mut self, now: Instant, bytes: usize) {
        self.last_activity = now;
        self.replies += 1;
        self.to_guest_bytes += bytes as u64;
    }

    /// Whether the socket must be told of `wanted` before the next request.
    pub fn change_marking(&mut self, wanted: Marking) -> Option<Change> {
        let before = self.marking.replace(wanted);
        (before != Some(wanted)).then_some(Change { before, wanted })
    }

    pub fn idle(&self, now: Instant) -> Idle {
        idle(self.last_activity, TIMEOUT, now)
    }

    /// Bytes from the guest, and to it.
    pub fn bytes(&self) -> (u64, u64) {
        (self.from_guest_bytes, self.to_guest_bytes)
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn last_activity(&self) -> Instant {
        self.last_activity
    }

    pub fn requests(&self) -> u64 {
        self.requests
    }

    pub fn replies(&self) -> u64 {
        self.replies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn expires_60_s_after_the_last_request_or_reply() {
        let mut echo = Echo::new(at(0));
        echo.on_request(at(5), 64);
        assert_eq!(echo.idle(at(64)), Idle::Until(at(65)));
        echo.on_reply(at(6), 60);
        assert_eq!(echo.idle(at(65)), Idle::Until(at(66)));
        assert_eq!(echo.idle(at(66)), Idle::Expired);
        assert_eq!((echo.requests(), echo.replies(), echo.bytes()), (1, 1, (64, 60)));
    }

    #[test]
    fn the_socket_is_told_of_a_marking_once() {
        let mut echo = Echo::new(at(0));
        let wanted = Marking { hop_limit: 1, traffic_class: 0, dont_fragment: false };
        assert_eq!(echo.change_marking(wanted), Some(Change { before: None, wanted }));
        assert_eq!(echo.change_marking(wanted), None);
    }
}
