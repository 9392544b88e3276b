//! Headers towards the guest: what each says, and which debts of ours it pays.
//!
//! Ports are left to the relay, which knows the flow's ends; payload is never seen here.

use crate::wire::tcp::{Flags, SackBlocks, Segment, Seq};

use super::{Connection, Phase, WINDOW_SCALE};

impl Connection {
    /// The SYN or SYN-ACK of this phase.
    pub fn syn(&mut self) -> Segment {
        let answer = self.phase == Phase::SynAckSent;
        let ack = if answer { self.receive.next() } else { Seq(0) };
        let scale = !answer || self.receive.is_scaled();
        Segment {
            seq: self.send.initial(),
            ack,
            flags: if answer { Flags::SYN.and(Flags::ACK) } else { Flags::SYN },
            window: self.receive.syn_window(),
            mss: Some(self.link_mss),
            window_scale: scale.then_some(WINDOW_SCALE),
            sack_permitted: !answer || self.send.is_sack_permitted(),
            ..Segment::default()
        }
    }

    /// A header that acknowledges what came, at `seq` with `flags` beside ACK; the ACK owed is paid with it.
    pub fn header(&mut self, seq: Seq, flags: Flags) -> Segment {
        (self.ack_due, self.answer_due) = (false, false);
        self.ahead_due = self.ahead_due.saturating_sub(1);
        let (ack, window) = self.receive.acknowledge(u32::from(self.send.mss()));
        let mut segment = Segment { seq, ack, flags: flags.and(Flags::ACK), window, ..Segment::default() };
        if self.send.is_sack_permitted() {
            segment.sack = self.receive.sack_blocks();
        }
        segment
    }

    /// A header in front of data or FIN. Bytes that came out of order keep the ACK owed: only a bare one has
    /// room to report them.
    pub fn data_header(&mut self, seq: Seq, flags: Flags) -> Segment {
        let owed = (self.ack_due && self.receive.holds_ahead(), self.ahead_due);
        let segment = Segment { sack: SackBlocks::default(), ..self.header(seq, flags) };
        (self.ack_due, self.ahead_due) = owed;
        segment
    }

    /// A bare acknowledgment.
    pub fn ack(&mut self) -> Segment {
        self.header(self.send.next(), Flags::default())
    }

    /// A probe: an old byte's sequence number without data, which every TCP answers (RFC 9293 3.8.4).
    pub fn probe(&mut self) -> Segment {
        self.header(self.send.unacknowledged() - 1, Flags::default())
    }

    /// A reset that the guest accepts (RFC 9293 3.10.7, RFC 5961 3.2: the exact next byte).
    pub fn reset(&mut self) -> Segment {
        match self.phase {
            Phase::Connecting => Segment {
                seq: Seq(0),
                ack: self.receive.next(),
                flags: Flags::RST.and(Flags::ACK),
                ..Segment::default()
            },
            Phase::SynSent => Segment { seq: self.send.next(), flags: Flags::RST, ..Segment::default() },
            Phase::SynAckSent | Phase::Open => self.header(self.send.next(), Flags::RST),
        }
    }
}

/// The reset that answers a segment of no connection (RFC 9293 3.10.7.1); `None` for a reset.
pub fn refuse(segment: &Segment, payload: u32) -> Option<Segment> {
    if segment.flags.has(Flags::RST) {
        return None;
    }
    let ports = Segment { src_port: segment.dst_port, dst_port: segment.src_port, ..Segment::default() };
    if segment.flags.has(Flags::ACK) {
        return Some(Segment { seq: segment.ack, flags: Flags::RST, ..ports });
    }
    let controls = u32::from(segment.flags.has(Flags::SYN)) + u32::from(segment.flags.has(Flags::FIN));
    let ack = segment.seq + payload + controls;
    Some(Segment { ack, flags: Flags::RST.and(Flags::ACK), ..ports })
}
