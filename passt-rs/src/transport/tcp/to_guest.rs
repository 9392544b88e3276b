//! The host's stream towards the guest: what to send, what is acknowledged, what is lost.
//!
//! Bytes stay in the host socket's queue until the guest acknowledges them, so any of them can be sent
//! again from its exact place. Recovery follows RFC 6675 in spirit: with SACK only the holes are sent again.

use std::time::Duration;

use crate::time::Instant;
use crate::wire::tcp::{Segment, Seq};

use super::ranges::Ranges;
use super::{DUPLICATE_ACKS, MSS_MIN, timer};

/// Ranges the guest reported that we remember; more are forgotten, which costs only a needless byte.
const SACKED_MAX: usize = 8;
/// Segments sent at once while recovering, at most.
const BURST_MAX: u32 = 64;

/// How far our direction towards the guest is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound {
    Open,
    /// The host's stream ended at `next`; the FIN is still to be sent.
    Ending,
    FinSent,
    FinAcked,
}

/// One segment to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Up to `len` bytes from `seq`; `again` if they were sent before.
    Data {
        seq: Seq,
        len: u32,
        again: bool,
    },
    Fin {
        seq: Seq,
    },
}

#[derive(Clone, Copy, Debug)]
struct Recovery {
    /// Next byte to send again.
    next: Seq,
    /// Recovery ends when the guest acknowledged up to here.
    until: Seq,
    /// Everything not reported counts as lost; otherwise only holes below the highest report.
    timeout: bool,
    /// Segments that may be sent now, and how many the next progress allows.
    allowance: u32,
    burst: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Send {
    state: Outbound,
    initial: Seq,
    /// First byte the guest did not acknowledge.
    unacknowledged: Seq,
    /// Next byte never sent before. Counts SYN and FIN once sent.
    next: Seq,
    /// The guest's window in bytes, and the largest it ever was.
    window: u32,
    window_max: u32,
    /// Segment that the window was last taken from (RFC 9293 3.10.7.4, SND.WL1 and SND.WL2).
    window_seq: Seq,
    window_ack: Seq,
    window_shift: u8,
    mss: u16,
    sack_permitted: bool,
    duplicate_acks: u8,
    sacked: Ranges<SACKED_MAX>,
    recovery: Option<Recovery>,
    rtt: timer::RoundTrip,
    /// The persist timer fired: a segment smaller than good manners demand may go.
    force: bool,
}

impl Send {
    pub(super) fn new(isn: Seq, mss: u16) -> Self {
        Self {
            state: Outbound::Open,
            initial: isn,
            unacknowledged: isn,
            next: isn + 1,
            window: 0,
            window_max: 0,
            window_seq: Seq(0),
            window_ack: isn,
            window_shift: 0,
            mss,
            sack_permitted: false,
            duplicate_acks: 0,
            sacked: Ranges::default(),
            recovery: None,
            rtt: timer::RoundTrip::default(),
            force: false,
        }
    }

    pub(super) fn learn_syn(&mut self, syn: &Segment, link_mss: u16) {
        self.mss = syn.mss.unwrap_or(self.mss).max(MSS_MIN).min(link_mss);
        self.window_shift = syn.window_scale.unwrap_or(0);
        self.sack_permitted = syn.sack_permitted;
        self.window_seq = syn.seq;
        // Never scaled in a SYN (RFC 7323 2.2).
        self.window = u32::from(syn.window);
        self.window_max = self.window;
    }

    /// The guest acknowledged our SYN with `segment`.
    pub(super) fn syn_acknowledged(&mut self, segment: &Segment) {
        self.unacknowledged = self.next;
        self.window_ack = segment.ack;
    }

    pub(super) fn state(&self) -> Outbound {
        self.state
    }

    fn set_state(&mut self, state: Outbound) {
        tracing::trace!("to guest: {:?} => {state:?}", self.state);
        self.state = state;
    }

    pub(super) fn initial(&self) -> Seq {
        self.initial
    }

    pub(super) fn next(&self) -> Seq {
        self.next
    }

    pub(super) fn unacknowledged(&self) -> Seq {
        self.unacknowledged
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.next.since(self.unacknowledged)
    }

    pub(super) fn window(&self) -> u32 {
        self.window
    }

    pub(super) fn mss(&self) -> u16 {
        self.mss
    }

    pub(super) fn is_sack_permitted(&self) -> bool {
        self.sack_permitted
    }

    pub(super) fn timeout(&self) -> Duration {
        self.rtt.timeout()
    }

    pub(super) fn end(&mut self) {
        if self.state == Outbound::Open {
            self.set_state(Outbound::Ending);
        }
    }

    /// Handles the acknowledgment, window and SACK blocks of a segment. Gives the stream bytes newly
    /// acknowledged; an error for an acknowledgment of what was never sent.
    pub(super) fn on_ack(&mut self, now: Instant, segment: &Segment, payload: u32) -> Result<u32, ()> {
        let ack = segment.ack;
        if ack.is_after(self.next) {
            return Err(());
        }
        let window = u32::from(segment.window) << self.window_shift;
        let duplicate = ack == self.unacknowledged
            && payload == 0
            && window == self.window
            && self.in_flight() > 0
            && !segment.flags.has(crate::wire::tcp::Flags::FIN);
        let newer = segment.seq.is_after(self.window_seq)
            || segment.seq == self.window_seq && ack.is_at_or_after(self.window_ack);
        if newer && ack.is_at_or_after(self.unacknowledged) {
            (self.window_seq, self.window_ack) = (segment.seq, ack);
            self.window = window;
            self.window_max = self.window_max.max(window);
        }
        for (left, right) in segment.sack.as_slice() {
            if left.is_at_or_after(self.unacknowledged) && self.next.is_at_or_after(*right) {
                self.sacked.insert(*left, *right);
            }
        }
        let acked = if ack.is_after(self.unacknowledged) { self.advance(now, ack) } else { 0 };
        if duplicate {
            self.duplicate_acks = self.duplicate_acks.saturating_add(1);
        }
        self.detect_loss(duplicate);
        Ok(acked)
    }

    fn advance(&mut self, now: Instant, ack: Seq) -> u32 {
        let mut acked = ack.since(self.unacknowledged);
        self.unacknowledged = ack;
        self.duplicate_acks = 0;
        self.rtt.on_ack(now, ack);
        self.sacked.remove_below(ack);
        if let Some(recovery) = &mut self.recovery {
            if ack.is_at_or_after(recovery.until) {
                self.recovery = None;
            } else {
                recovery.burst = (recovery.burst * 2).min(BURST_MAX);
                recovery.allowance = recovery.burst;
                // Without SACK a partial acknowledgment names the next hole (RFC 6582 3.2).
                let hole = !self.sack_permitted && !recovery.timeout;
                recovery.next = if hole { ack } else { recovery.next.max(ack) };
            }
        }
        if self.state == Outbound::FinSent && ack == self.next {
            self.set_state(Outbound::FinAcked);
            acked -= 1;
        }
        acked
    }

    fn detect_loss(&mut self, duplicate: bool) {
        let lost = self.duplicate_acks >= DUPLICATE_ACKS
            || self.sacked.bytes() > u32::from(DUPLICATE_ACKS) * u32::from(self.mss);
        if let Some(recovery) = &mut self.recovery {
            // Each further report means that a segment left the link: one more may enter it.
            recovery.allowance = (recovery.allowance + u32::from(duplicate)).min(BURST_MAX);
        } else if lost && self.in_flight() > 0 {
            self.recover(false);
        }
    }

    fn recover(&mut self, timeout: bool) {
        self.rtt.forget_sample(); // Karn: an acknowledgment of bytes sent twice measures nothing (RFC 6298 3).
        self.recovery =
            Some(Recovery { next: self.unacknowledged, until: self.next, timeout, allowance: 1, burst: 1 });
    }

    /// The retransmission timer fired: start over from the first unacknowledged byte.
    pub(super) fn on_timeout(&mut self) {
        self.sacked.clear(); // The guest may have reneged (RFC 2018 8).
        self.duplicate_acks = 0;
        self.recover(true);
    }

    pub(super) fn allow_small(&mut self) {
        self.force = true;
    }

    /// Bytes may be sent only when the guest's window grows, and nothing in flight will make it.
    pub(super) fn is_window_closed(&self) -> bool {
        self.state == Outbound::Open && self.in_flight() == 0
    }

    pub(super) fn plan(&mut self, readable: bool, max: u32) -> Option<Plan> {
        if let Some(plan) = self.plan_again(max) {
            return Some(plan);
        }
        match self.state {
            Outbound::Open if readable => self.plan_new(max),
            Outbound::Ending => Some(Plan::Fin { seq: self.next }),
            Outbound::Open | Outbound::FinSent | Outbound::FinAcked => None,
        }
    }

    fn plan_again(&self, max: u32) -> Option<Plan> {
        let recovery = self.recovery.as_ref().filter(|recovery| recovery.allowance > 0)?;
        let (seq, gap_end) = self.sacked.gap_from(recovery.next.max(self.unacknowledged));
        let limit = if recovery.timeout || self.sacked.is_empty() {
            // Without reports only the first segment is known to be lost.
            let known =
                if recovery.timeout { recovery.until } else { self.unacknowledged + u32::from(self.mss) };
            known.min(recovery.until)
        } else {
            self.sacked.highest()?
        };
        if !limit.is_after(seq) {
            return None;
        }
        let data_end = if self.state == Outbound::FinSent { self.next - 1 } else { self.next };
        if seq == data_end && self.state == Outbound::FinSent {
            return Some(Plan::Fin { seq });
        }
        let end = gap_end.unwrap_or(limit).min(limit).min(data_end);
        let window_end = self.unacknowledged + self.window.max(u32::from(self.mss));
        let len = end.min(window_end).since(seq).min(max).min(recovery.allowance * u32::from(self.mss));
        (end.is_after(seq) && window_end.is_after(seq) && len > 0).then_some(Plan::Data {
            seq,
            len,
            again: true,
        })
    }

    /// RFC 9293 3.8.6.2.1: no small segment while a larger one will be possible soon.
    fn plan_new(&mut self, max: u32) -> Option<Plan> {
        let edge = self.unacknowledged + self.window;
        if !edge.is_after(self.next) {
            return None;
        }
        let usable = edge.since(self.next);
        let mss = u32::from(self.mss);
        let small = usable < mss && usable < self.window_max / 2;
        if small && !self.force {
            return None;
        }
        let mut len = usable.min(max);
        if len > mss {
            len -= len % mss;
        }
        Some(Plan::Data { seq: self.next, len, again: false })
    }

    pub(super) fn sent(&mut self, now: Instant, plan: &Plan, bytes: u32) {
        match *plan {
            Plan::Data { seq, again: true, .. } => {
                if let Some(recovery) = &mut self.recovery {
                    recovery.next = seq + bytes;
                    let segments = bytes.div_ceil(u32::from(self.mss));
                    recovery.allowance = recovery.allowance.saturating_sub(segments);
                }
            }
            Plan::Data { again: false, .. } => {
                self.next += bytes;
                self.force = false;
                self.rtt.on_sent(now, self.next);
            }
            Plan::Fin { seq } if self.state == Outbound::Ending => {
                self.next = seq + 1;
                self.set_state(Outbound::FinSent);
            }
            Plan::Fin { seq } => {
                if let Some(recovery) = &mut self.recovery {
                    recovery.next = seq + 1;
                    recovery.allowance = recovery.allowance.saturating_sub(1);
                }
            }
        }
    }
}
