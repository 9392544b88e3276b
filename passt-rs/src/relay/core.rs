//! What every flow needs at hand while it works: the cable, readiness, timers, memory, counters.

use std::collections::VecDeque;
use std::time::Duration;

use crate::answer::{self, announce};
use crate::capture::Capture;
use crate::drop_reason::{DropReason, Drops};
use crate::flow::{FlowId, Key};
use crate::guest::{Guest, HEADERS_MAX};
use crate::host::batch::Batch;
use crate::host::epoll::Epoll;
use crate::host::{clock, tcp};
use crate::ledger::Ledger;
use crate::reserve::Reserve;
use crate::stats::{CableCounters, DatagramCounters, EchoCounters, TcpCounters, UdpCounters};
use crate::time::{Instant, Wheel};
use crate::transport::reassembly::Reassembly;
use crate::wire::tcp::{Flags, Segment};
use crate::wire::{Mac, Offload};

use super::Settings;
use super::budget::Budget;
use super::cable::Cable;
use super::queue::Queued;
use super::spill::Spill;

/// What one VM may use. At a limit new work is refused and old work goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows of all kinds.
    pub flows: usize,
    /// Of these, UDP and echo: each holds a descriptor for half a minute at least, and whatever a guest sends
    /// there must not take those that TCP needs.
    pub datagram_flows: usize,
    /// Accepted connections that the guest did not answer yet. One more takes the place of the oldest: a guest
    /// that is alive answers soon, so the oldest is the least likely to be of use.
    pub half_open: usize,
    /// Memory for bytes that host sockets do not take, all flows together.
    pub spill_bytes: usize,
    /// The same for one flow; also the largest window it is offered.
    pub spill_per_flow_bytes: u32,
    /// Bytes sent to the guest that it did not acknowledge, all flows together. They lie in the kernel's receive
    /// queues, which we keep from being emptied. Beyond, a flow may have one frame in flight.
    pub retained_bytes: u64,
    /// Memory for fragments of incomplete datagrams.
    pub reassembly_bytes: usize,
    /// What sockets may hold in the kernel. `None`: what the kernel lets each of them.
    pub sockets: Option<Budget>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 131_072,
            datagram_flows: 65_536,
            half_open: 1024,
            spill_bytes: 64 << 20,
            spill_per_flow_bytes: 512 << 10,
            retained_bytes: 256 << 20,
            reassembly_bytes: 1 << 20,
            sockets: None,
        }
    }
}

/// Window for flows while the spill is short.
pub(super) const SHORT_CAPACITY: u32 = 64 * 1024;
/// How long an acknowledgment waits for the host's answer: longer than a server next door takes, and shorter than
/// anything a guest waits for.
const ANSWER_TIME: Duration = Duration::from_micros(500);
/// Time between unsolicited router advertisements (RFC 4861 6.2.1, MaxRtrAdvInterval's default).
const ADVERTISEMENT_INTERVAL: Duration = Duration::from_secs(600);

/// What becomes of a flow after something happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    /// Both directions ended in order.
    Finished,
    /// The peer is to see a RST.
    ResetHost,
}

/// The parts of a relay that flows share.
#[derive(Debug)]
pub(super) struct Core<G> {
    pub(super) cable: Cable<G>,
    pub(super) epoll: Epoll,
    /// Read once per turn.
    pub(super) now: Instant,
    pub(super) wheel: Wheel,
    pub(super) settings: Settings,
    pub(super) spill: Spill,
    pub(super) drops: Drops,
    pub(super) tcp: TcpCounters,
    pub(super) udp: UdpCounters,
    pub(super) echo: EchoCounters,
    pub(super) datagram: DatagramCounters,
    /// Datagrams from the guest whose frames are held.
    pub(super) queued: Vec<Queued>,
    pub(super) reassembly: Reassembly,
    /// Buffers of whoever receives at the moment.
    pub(super) batch: Batch,
    /// Flows to settle this turn; each knows whether it is listed.
    pub(super) later: Vec<FlowId>,
    /// The list of the turn before, empty between turns.
    pub(super) settling: Vec<FlowId>,
    /// Flows whose acknowledgment waits for an answer to carry it, and until when; soonest first.
    delayed: VecDeque<(FlowId, Instant)>,
    /// Flows that wait for room at the guest's end.
    blocked: Vec<FlowId>,
    /// Queue of the transport that the frame at hand came through.
    pub(super) lane: u16,
    /// UDP and echo flows alive.
    pub(super) datagram_flows: usize,
    /// Per slot of the flow table: who was put into `blocked` last, and after how many resumptions.
    blocked_notes: Vec<Option<(FlowId, u64)>>,
    /// Times the blocked flows went on.
    resumed: u64,
    /// Accepted connections that the guest did not answer yet.
    pub(super) half_open: usize,
    /// These, oldest first, among others that are no longer; twice the limit at most.
    pub(super) half_open_order: VecDeque<FlowId>,
    /// Sum of what flows sent to the guest and it did not acknowledge.
    pub(super) retained_bytes: u64,
    /// Peeks can start behind the head of a queue; otherwise `scratch` takes what lies before.
    pub(super) has_peek_offset: bool,
    pub(super) scratch: Vec<u8>,
    /// Reply being built.
    pub(super) reply: Vec<u8>,
    /// For refusing a connection for which no descriptor is left.
    pub(super) reserve: Reserve,
    /// Connections are written down there.
    pub(super) ledger: Option<Ledger>,
    /// Connections of a process before us, of which the guest is to find out that they are gone.
    pub(super) lost: Vec<Key>,
    /// Connections that the guest is to confirm: it may be another than the one that opened them.
    pub(super) unconfirmed: Vec<FlowId>,
    /// The guest that came last has spoken.
    pub(super) heard: bool,
    /// The guest that came last has not spoken from an address of this family.
    pub(super) silent4: bool,
    pub(super) silent6: bool,
    /// When the next unsolicited router advertisement is due.
    advertise_at: Option<Instant>,
}

impl<G: Guest> Core<G> {
    pub(super) fn new(guest: G, epoll: Epoll, settings: Settings, capture: Option<Capture>) -> Self {
        let now = clock::now();
        let has_peek_offset = tcp::has_peek_offset();
        let cable = Cable {
            guest,
            capture,
            counters: CableCounters::default(),
            our_mac: settings.network.our_mac,
            next_ident: 0,
            scratch: Vec::new(),
            guest_mac: settings.guest_mac.unwrap_or(Mac::BROADCAST),
        };
        Self {
            cable,
            epoll,
            now,
            wheel: Wheel::new(now),
            spill: Spill::new(settings.limits.spill_bytes),
            reassembly: Reassembly::new(settings.limits.reassembly_bytes),
            settings,
            drops: Drops::default(),
            tcp: TcpCounters::default(),
            udp: UdpCounters::default(),
            echo: EchoCounters::default(),
            datagram: DatagramCounters::default(),
            queued: Vec::new(),
            batch: Batch::new(),
            later: Vec::new(),
            settling: Vec::new(),
            delayed: VecDeque::new(),
            blocked: Vec::new(),
            lane: 0,
            datagram_flows: 0,
            blocked_notes: Vec::new(),
            resumed: 0,
            half_open: 0,
            half_open_order: VecDeque::new(),
            retained_bytes: 0,
            has_peek_offset,
            scratch: if has_peek_offset { Vec::new() } else { vec![0; tcp::SKIP_MAX] },
            reply: Vec::new(),
            reserve: Reserve::new(),
            ledger: None,
            lost: Vec::new(),
            unconfirmed: Vec::new(),
            heard: false,
            silent4: false,
            silent6: false,
            advertise_at: None,
        }
    }

    /// Has the guest find out that connections of a process before us are gone. It answers a segment that is outside
    /// any window with what it expects (RFC 9293 3.10.7.4, RFC 5961), and that, belonging to no flow of ours, is
    /// answered with the reset it then believes. So nothing but the ends has to be known.
    pub(super) fn tell_of_lost(&mut self) {
        // Before the guest's first frame nobody may be there to listen, and this is said once.
        while !self.lost.is_empty() && self.heard {
            if self.cable.reserve(HEADERS_MAX, 0).is_none() {
                return; // There will be an event when there is room.
            }
            let Some(key) = self.lost.pop() else { return };
            let (src_port, dst_port) = (key.peer.port, key.guest.port);
            let probe = Segment { src_port, dst_port, flags: Flags::ACK, ..Segment::default() };
            let _ = self.cable.send_tcp(&key, &probe);
            self.tcp.lost_told_total += 1;
        }
    }

    /// The window a flow may be offered now; `full`: its socket takes nothing, so all of it may end up in the spill.
    pub(super) fn capacity(&self, full: bool) -> u32 {
        let most = self.settings.limits.spill_per_flow_bytes;
        if full && self.spill.is_exhausted() {
            return 0;
        }
        if self.spill.is_short() { most.min(SHORT_CAPACITY) } else { most }
    }

    /// Whether a flow that retains `own` bytes may send the guest new ones. One without any always may: its
    /// acknowledgments are what brings it back here.
    pub(super) fn may_retain_more(&self, own: u32) -> bool {
        own == 0 || self.retained_bytes < self.settings.limits.retained_bytes
    }

    /// Lets the acknowledgment of `id` wait for an answer.
    pub(super) fn delay_ack(&mut self, id: FlowId) {
        self.delayed.push_back((id, self.now + ANSWER_TIME));
    }

    /// A flow whose acknowledgment has waited long enough; call until `None`.
    pub(super) fn pop_delayed(&mut self) -> Option<FlowId> {
        let (id, _) = self.delayed.pop_front_if(|(_, until)| *until <= self.now)?;
        Some(id)
    }

    /// How long until [`Self::pop_delayed`] has something.
    pub(super) fn delayed_due(&self) -> Option<Duration> {
        self.delayed.front().map(|(_, until)| until.since(self.now))
    }

    /// The guest's end has no room: `id` goes on when it has.
    pub(super) fn block(&mut self, id: FlowId) {
        let slot = id.index() as usize;
        if slot >= self.blocked_notes.len() {
            self.blocked_notes.resize(slot + 1, None);
        }
        // It may be settled often while there is no room.
        let note = Some((id, self.resumed));
        if let Some(place) = self.blocked_notes.get_mut(slot)
            && *place != note
        {
            *place = note;
            self.blocked.push(id);
        }
    }

    pub(super) fn resume_blocked(&mut self) {
        self.resumed += 1;
        self.later.append(&mut self.blocked);
    }

    /// For a guest that took everything at once: then no readiness tells that there is room again.
    pub(super) fn resume_if_room(&mut self) {
        if !self.blocked.is_empty() && !self.cable.guest.tells_of_room() && self.frames_that_fit(1) > 0 {
            self.resume_blocked();
        }
    }

    /// How many frames of the MTU fit the guest's end now, as far as `most`.
    pub(super) fn frames_that_fit(&mut self, most: usize) -> usize {
        let len = HEADERS_MAX + usize::from(self.settings.mtu);
        self.cable.guest.frames_that_fit(len, most)
    }

    /// Flows that wait for room at the guest's end.
    pub(super) fn blocked_len(&self) -> usize {
        self.blocked.len()
    }

    /// Sends the reply in `self.reply`.
    pub(super) fn send_reply(&mut self) {
        if !self.reply.is_empty() && self.cable.send(Offload::default(), &self.reply, &[]).is_err() {
            self.drops.count(DropReason::GuestFull);
        }
    }

    /// A guest was attached: forget the address of the last one, announce ourselves, and ask for its own.
    pub(super) fn on_link_up(&mut self) {
        self.cable.counters.link_ups += 1;
        self.cable.guest_mac = self.settings.guest_mac.unwrap_or(Mac::BROADCAST);
        self.heard = false;
        tracing::info!("the guest's end of the cable is up");
        for say in [announce::arp, announce::neighbor, announce::ask_arp, announce::ask_neighbor] {
            if say(&self.settings.network, &mut self.reply).is_ok() {
                self.send_reply();
            }
        }
        self.advertise();
    }

    /// Sends a router advertisement and plans the next.
    fn advertise(&mut self) {
        self.advertise_at = None;
        self.cable.guest.steer(0);
        if answer::ndp::advertisement(&self.settings.network, &mut self.reply).is_ok() {
            self.send_reply();
            self.advertise_at = Some(self.now + ADVERTISEMENT_INTERVAL);
        }
    }

    pub(super) fn announcements_due(&self) -> Option<Duration> {
        self.advertise_at.map(|at| at.since(self.now))
    }

    pub(super) fn announce_periodically(&mut self) {
        if self.advertise_at.is_some_and(|at| at <= self.now) {
            self.advertise();
        }
    }
}

#[cfg(test)]
mod tests;
