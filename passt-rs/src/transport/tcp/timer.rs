//! The one timer of a connection, and the round trip time behind it (RFC 6298).

use std::time::Duration;

use crate::time::Instant;
use crate::wire::tcp::Seq;

use super::{Connection, Phase};

/// Least retransmission time-out; the guest is a memory copy away, its delayed ACKs are not.
const TIMEOUT_MIN: Duration = Duration::from_millis(200);
const TIMEOUT_MAX: Duration = Duration::from_secs(120);
const TIMEOUT_INITIAL: Duration = Duration::from_secs(1);
/// Unanswered retransmissions before we give up; as `tcp_retries2`, some 20 minutes, so that a VM may be
/// paused that long.
const RETRIES: u8 = 15;
/// Unanswered SYNs before we give up; as `tcp_synack_retries`.
const SYN_RETRIES: u8 = 5;
const PERSIST_MAX: Duration = Duration::from_secs(60);
/// Silence before a probe, time between probes, and their number; as Linux.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(7200);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(75);
const KEEPALIVE_PROBES: u8 = 9;

/// What the connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    Off,
    /// The answer to our SYN or SYN-ACK, sent `tries` times again.
    Handshake {
        at: Instant,
        tries: u8,
    },
    /// An acknowledgment of data or FIN.
    Retransmit {
        at: Instant,
        tries: u8,
    },
    /// The guest to open its window.
    Persist {
        at: Instant,
        tries: u8,
    },
    /// Nothing; the guest is asked now and then whether it still lives.
    Idle {
        at: Instant,
        probes: u8,
    },
}

/// What the relay is to do when a timer fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerEvent {
    Nothing,
    /// Send [`Connection::syn`] again.
    Syn,
    /// [`Connection::plan`] has something to send again.
    Plan,
    /// Send [`Connection::probe`].
    Probe,
    /// The guest is gone: reset both ends.
    GiveUp,
}

impl Timer {
    pub(super) fn handshake(now: Instant, tries: u8) -> Self {
        Self::Handshake { at: now + backed_off(TIMEOUT_INITIAL, tries, TIMEOUT_MAX), tries }
    }

    pub(super) fn idle(now: Instant) -> Self {
        Self::Idle { at: now + KEEPALIVE_IDLE, probes: 0 }
    }

    /// Starts waiting for an acknowledgment unless that is under way (RFC 6298 5.1).
    pub(super) fn start_retransmit(&mut self, now: Instant, timeout: Duration) {
        if !matches!(self, Self::Retransmit { .. }) {
            *self = Self::Retransmit { at: now + timeout, tries: 0 };
        }
    }

    pub(super) fn persist(&mut self, now: Instant) {
        if !matches!(self, Self::Persist { .. }) {
            *self = Self::Persist { at: now + TIMEOUT_MIN, tries: 0 };
        }
    }

    /// Sends the SYN-ACK again at once; the guest asked, so it is not a try in vain.
    pub(super) fn repeat_handshake(&mut self, now: Instant) {
        if let Self::Handshake { at, tries } = self {
            (*at, *tries) = (now, tries.saturating_sub(1));
        }
    }

    fn at(self) -> Option<Instant> {
        match self {
            Self::Off => None,
            Self::Handshake { at, .. }
            | Self::Retransmit { at, .. }
            | Self::Persist { at, .. }
            | Self::Idle { at, .. } => Some(at),
        }
    }
}

impl Connection {
    /// When [`Self::on_timer`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.timer.at()
    }

    /// After an acknowledgment: with nothing left in flight the timer rests, with progress it starts anew
    /// (RFC 6298 5.2, 5.3).
    pub(super) fn arm(&mut self, now: Instant, progress: bool) {
        if self.phase != Phase::Open {
            return;
        }
        if self.send.in_flight() == 0 {
            if !matches!(self.timer, Timer::Persist { .. }) || self.send.window() > 0 {
                // The deadline of an idle connection is corrected lazily, when it fires.
                if !matches!(self.timer, Timer::Idle { probes: 0, .. }) {
                    self.timer = Timer::idle(now);
                }
            } else if let Timer::Persist { tries, .. } = &mut self.timer {
                *tries = (*tries).min(RETRIES / 2); // It answers, so it lives (RFC 9293 3.8.6.1).
            }
        } else if progress {
            self.timer = Timer::Retransmit { at: now + self.send.timeout(), tries: 0 };
        } else if let Timer::Retransmit { tries, .. } = &mut self.timer
            && self.send.window() == 0
        {
            *tries = (*tries).min(RETRIES / 2); // It dropped what it had room for, but it lives.
        }
    }

    /// Call when [`Self::deadline`] has passed.
    pub fn on_timer(&mut self, now: Instant) -> TimerEvent {
        if self.timer.at().is_none_or(|at| at > now) {
            return TimerEvent::Nothing;
        }
        match self.timer {
            Timer::Off => TimerEvent::Nothing,
            Timer::Handshake { tries, .. } if tries >= SYN_RETRIES => TimerEvent::GiveUp,
            Timer::Handshake { tries, .. } => {
                self.timer = Timer::handshake(now, tries + 1);
                TimerEvent::Syn
            }
            Timer::Retransmit { tries, .. } if tries >= RETRIES => TimerEvent::GiveUp,
            Timer::Retransmit { tries, .. } => {
                let timeout = backed_off(self.send.timeout(), tries + 1, TIMEOUT_MAX);
                self.timer = Timer::Retransmit { at: now + timeout, tries: tries + 1 };
                self.send.on_timeout();
                TimerEvent::Plan
            }
            Timer::Persist { tries, .. } if tries >= RETRIES => TimerEvent::GiveUp,
            Timer::Persist { tries, .. } => {
                self.timer = Timer::Persist {
                    at: now + backed_off(TIMEOUT_MIN, tries + 1, PERSIST_MAX),
                    tries: tries + 1,
                };
                if self.send.window() == 0 {
                    return TimerEvent::Probe;
                }
                self.send.allow_small();
                TimerEvent::Plan
            }
            Timer::Idle { probes, .. } => self.on_idle(now, probes),
        }
    }

    fn on_idle(&mut self, now: Instant, probes: u8) -> TimerEvent {
        let due = self.last_heard + KEEPALIVE_IDLE;
        if due > now {
            self.timer = Timer::Idle { at: due, probes: 0 };
            return TimerEvent::Nothing;
        }
        if probes >= KEEPALIVE_PROBES {
            return TimerEvent::GiveUp;
        }
        self.timer = Timer::Idle { at: now + KEEPALIVE_INTERVAL, probes: probes + 1 };
        TimerEvent::Probe
    }
}

fn backed_off(base: Duration, tries: u8, max: Duration) -> Duration {
    base.saturating_mul(1 << tries.min(16)).min(max)
}

/// Smoothed round trip time, one sample at a time (RFC 6298 2).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip {
    /// Microseconds; 0 before the first sample.
    smoothed: u32,
    variation: u32,
    /// The byte after the one timed, and when it was sent.
    sample: Option<(Seq, Instant)>,
}

impl RoundTrip {
    pub(super) fn on_sent(&mut self, now: Instant, next: Seq) {
        self.sample.get_or_insert((next, now));
    }

    pub(super) fn forget_sample(&mut self) {
        self.sample = None;
    }

    pub(super) fn on_ack(&mut self, now: Instant, ack: Seq) {
        let Some((_, sent)) = self.sample.filter(|(seq, _)| ack.is_at_or_after(*seq)) else { return };
        self.sample = None;
        let sample = u32::try_from(now.since(sent).as_micros()).unwrap_or(u32::MAX).max(1);
        if self.smoothed == 0 {
            (self.smoothed, self.variation) = (sample, sample / 2);
        } else {
            let error = self.smoothed.abs_diff(sample);
            self.variation = self.variation - self.variation / 4 + error / 4;
            self.smoothed = self.smoothed - self.smoothed / 8 + sample / 8;
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        if self.smoothed == 0 {
            return TIMEOUT_INITIAL;
        }
        let micros = u64::from(self.smoothed) + 4 * u64::from(self.variation);
        Duration::from_micros(micros).clamp(TIMEOUT_MIN, TIMEOUT_MAX)
    }
}
