//! UDP associations: who talks, since when, and when to forget it.
//!
//! Decides lifetimes and which options a socket needs before the next datagram; holds no socket and sees no
//! payload. UDP has no end, so an association ends by silence alone. The times are those of Linux's
//! connection tracking, which guests' keepalives are tuned for (RFC 4787 4.3 asks for 2 minutes).
//!
//! | state | datagram from guest | datagram from host | silence |
//! |---|---|---|---|
//! | one-sided: only the initiator spoke | guest initiated: stays; else answered | host initiated: stays; else answered | [`TIMEOUT_ONE_SIDED`]: expires |
//! | answered: both ends spoke | stays | stays | [`TIMEOUT_ANSWERED`]: expires |

use std::time::Duration;

use crate::time::Instant;

/// Silence after which an association that nobody answered is forgotten.
pub const TIMEOUT_ONE_SIDED: Duration = Duration::from_secs(30);
/// Silence after which an association that both ends used is forgotten.
pub const TIMEOUT_ANSWERED: Duration = Duration::from_secs(120);

/// Who sent the first datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    Guest,
    Host,
}

/// What a guest's packet asks of the packets its datagram travels in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marking {
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN as one byte.
    pub traffic_class: u8,
    /// Whoever finds it too large says so instead of cutting it.
    pub dont_fragment: bool,
}

/// Datagrams and their payload in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub datagrams: u64,
    pub bytes: u64,
}

impl Traffic {
    fn count(&mut self, datagrams: u64, bytes: usize) {
        self.datagrams += datagrams;
        self.bytes += bytes as u64;
    }
}

/// What a flow's silence means at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Look again then.
    Until(Instant),
    /// Forget the flow.
    Expired,
}

/// The state of one UDP flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Association {
    initiator: Initiator,
    answered: bool,
    started: Instant,
    last_activity: Instant,
    /// What the socket was told last; `None` before the first datagram from the guest.
    marking: Option<Marking>,
    from_guest: Traffic,
    from_host: Traffic,
}

// A flow's state can be copied, kept and thrown away without effect on anything else.
const _: () = assert!(!std::mem::needs_drop::<Association>());

impl Association {
    pub fn new(now: Instant, initiator: Initiator) -> Self {
        Self {
            initiator,
            answered: false,
            started: now,
            last_activity: now,
            marking: None,
            from_guest: Traffic::default(),
            from_host: Traffic::default(),
        }
    }

    /// Takes note of `datagrams` from the guest with `bytes` of payload in all.
    pub fn on_guest(&mut self, now: Instant, datagrams: u64, bytes: usize) {
        self.from_guest.count(datagrams, bytes);
        self.on_activity(now, Initiator::Guest);
    }

    /// Takes note of `datagrams` from the host with `bytes` of payload in all.
    pub fn on_host(&mut self, now: Instant, datagrams: u64, bytes: usize) {
        self.from_host.count(datagrams, bytes);
        self.on_activity(now, Initiator::Host);
    }

    /// Whether the socket must be told of `wanted` before the next datagram; if so, of what it was told before.
    pub fn change_marking(&mut self, wanted: Marking) -> Option<Change> {
        let before = self.marking.replace(wanted);
        (before != Some(wanted)).then_some(Change { before, wanted })
    }

    /// Whether the flow has been silent for too long. Deadlines move with every datagram, so the timer is
    /// not moved with them: it fires, asks, and is set again.
    pub fn idle(&self, now: Instant) -> Idle {
        let timeout = if self.answered { TIMEOUT_ANSWERED } else { TIMEOUT_ONE_SIDED };
        idle(self.last_activity, timeout, now)
    }

    pub fn initiator(&self) -> Initiator {
        self.initiator
    }

    pub fn is_answered(&self) -> bool {
        self.answered
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn last_activity(&self) -> Instant {
        self.last_activity
    }

    pub fn from_guest(&self) -> Traffic {
        self.from_guest
    }

    pub fn from_host(&self) -> Traffic {
        self.from_host
    }

    fn on_activity(&mut self, now: Instant, by: Initiator) {
        self.last_activity = now;
        self.answered |= by != self.initiator;
    }
}

/// Options a socket must change; equal parts may be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub before: Option<Marking>,
    pub wanted: Marking,
}

/// What silence since `last_activity` means when `timeout` of it ends a flow.
pub(super) fn idle(last_activity: Instant, timeout: Duration, now: Instant) -> Idle {
    let deadline = last_activity + timeout;
    if now >= deadline { Idle::Expired } else { Idle::Until(deadline) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    const MARKING: Marking = Marking { hop_limit: 64, traffic_class: 0, dont_fragment: true };

    #[test]
    fn one_sided_expires_30_s_after_the_last_datagram() {
        for initiator in [Initiator::Guest, Initiator::Host] {
            let mut flow = Association::new(at(0), initiator);
            match initiator {
                Initiator::Guest => flow.on_guest(at(10), 1, 5),
                Initiator::Host => flow.on_host(at(10), 1, 5),
            }
            assert!(!flow.is_answered());
            assert_eq!(flow.idle(at(30)), Idle::Until(at(40)));
            assert_eq!(flow.idle(at(40)), Idle::Expired);
        }
    }

    #[test]
    fn answered_lives_120_s_and_stays_answered() {
        let mut flow = Association::new(at(0), Initiator::Guest);
        flow.on_guest(at(0), 1, 5);
        flow.on_host(at(1), 2, 100);
        flow.on_guest(at(2), 1, 5);
        assert!(flow.is_answered());
        assert_eq!(flow.idle(at(121)), Idle::Until(at(122)));
        assert_eq!(flow.idle(at(122)), Idle::Expired);
        assert_eq!(flow.from_guest(), Traffic { datagrams: 2, bytes: 10 });
        assert_eq!(flow.from_host(), Traffic { datagrams: 2, bytes: 100 });
    }

    #[test]
    fn the_socket_is_told_of_a_marking_once() {
        let mut flow = Association::new(at(0), Initiator::Guest);
        assert_eq!(flow.change_marking(MARKING), Some(Change { before: None, wanted: MARKING }));
        assert_eq!(flow.change_marking(MARKING), None);
        let wanted = Marking { hop_limit: 3, ..MARKING };
        assert_eq!(flow.change_marking(wanted), Some(Change { before: Some(MARKING), wanted }));
    }
}
