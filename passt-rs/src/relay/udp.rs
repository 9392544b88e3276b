//! UDP flows: an association, its connected socket, and what moves between socket and guest.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use crate::drop_reason::DropReason;
use crate::flow::{FlowId, Key};
use crate::guest::Guest;
use crate::host::batch::{Batch, Message, Received};
use crate::host::epoll::Ready;
use crate::host::udp::Socket;
use crate::iovec::Piece;
use crate::stats::FlowReport;
use crate::transport::udp::{Association, Idle, Initiator, Marking};
use crate::wire::{protocol, udp};

use super::core::{Core, Fate};
use super::datagrams::{udp_fits, udp_header};
use super::icmp::Quote;
use super::queue::{self, Queued};
use super::run::Run;
use super::tcp::millis;
use super::work::{DatagramFlow, Work, note_sent};

/// One association.
#[derive(Debug)]
pub(super) struct UdpFlow {
    pub(super) association: Association,
    pub(super) socket: Socket,
    /// What the socket is connected to: the peer as the host side knows it.
    pub(super) target: SocketAddr,
    pub(super) work: Work,
}

impl UdpFlow {
    pub(super) fn new(association: Association, socket: Socket, target: SocketAddr) -> Self {
        Self { association, socket, target, work: Work::default() }
    }

    /// Sets what the next datagrams from the guest are to carry.
    pub(super) fn mark(&mut self, wanted: Marking) {
        let Some(change) = self.association.change_marking(wanted) else { return };
        let before = change.before;
        let socket = &self.socket;
        let mut results = [Ok(()), Ok(()), Ok(())];
        if before.is_none_or(|before| before.hop_limit != wanted.hop_limit) {
            results[0] = socket.set_hop_limit(wanted.hop_limit);
        }
        if before.is_none_or(|before| before.traffic_class != wanted.traffic_class) {
            results[1] = socket.set_traffic_class(wanted.traffic_class);
        }
        if before.is_none_or(|before| before.dont_fragment != wanted.dont_fragment) {
            results[2] = socket.set_dont_fragment(wanted.dont_fragment);
        }
        for error in results.into_iter().filter_map(Result::err) {
            tracing::debug!("udp socket option for {wanted:?}: {error}");
        }
    }

    pub(super) fn on_ready<G: Guest>(&mut self, core: &mut Core<G>, id: FlowId, ready: Ready) -> Fate {
        self.work.on_ready(core, id, ready);
        Fate::Keep
    }

    pub(super) fn settle<G: Guest>(&mut self, core: &mut Core<G>, id: FlowId, key: &Key) -> Fate {
        self.take_from_host(core, id, key)
    }

    /// Sends the guest datagrams that came together, in as few frames as its device allows.
    fn deliver_all<'a, G: Guest>(
        &mut self,
        core: &mut Core<G>,
        key: &Key,
        datagrams: impl Iterator<Item = Received<'a>>,
    ) {
        let fits = udp_fits(key, core.settings.mtu);
        let uso = core.cable.offloads().uso(key.peer.address);
        let mut run: Option<Run<'a>> = None;
        for next in datagrams {
            if run.as_mut().is_some_and(|run| run.push(&next)) {
                continue;
            }
            if let Some(run) = run.replace(Run::new(next, uso, fits)) {
                self.deliver_run(core, key, &run);
            }
        }
        if let Some(run) = run {
            self.deliver_run(core, key, &run);
        }
    }

    /// Sends the guest one datagram that came from the peer.
    pub(super) fn deliver<G: Guest>(&mut self, core: &mut Core<G>, key: &Key, received: Received<'_>) {
        self.deliver_all(core, key, std::iter::once(received));
    }

    fn deliver_run<G: Guest>(&mut self, core: &mut Core<G>, key: &Key, run: &Run<'_>) {
        let sent = core.cable.send_udp(key, run, core.settings.mtu);
        let datagrams = note_sent(core, sent);
        self.association.on_host(core.now, datagrams, run.bytes());
    }

    /// Sends `run`, datagrams of the guest of one marking.
    pub(super) fn send<G: Guest>(&mut self, core: &mut Core<G>, key: &Key, run: &[Queued]) {
        if let Some(first) = run.first() {
            self.mark(first.marking);
        }
        let (mut rest, mut join) = (run, true);
        while let Some((first, behind)) = rest.split_first() {
            let sent = queue::send(&core.cable.guest, rest, join, |messages| self.socket.send(messages));
            match sent {
                Ok(taken) => rest = rest.get(taken.max(1)..).unwrap_or_default(),
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    rest.iter().for_each(|_| core.drops.count(DropReason::HostSend));
                    return;
                }
                // What was joined may be too large for the path, or the device cannot cut it: one by one.
                Err(_) if join => join = false,
                Err(_) if first.segment.is_some() => {
                    self.send_parts(core, key, first);
                    rest = behind;
                }
                Err(errno) => {
                    let quote = Quote::of_frame(&core.cable.guest, first.place, first.range.end);
                    self.on_send_error(core, key, errno, &quote);
                    rest = behind;
                }
            }
        }
    }

    /// Sends a super-datagram that the kernel does not cut.
    fn send_parts<G: Guest>(&mut self, core: &mut Core<G>, key: &Key, queued: &Queued) {
        for part in queued.parts() {
            let run = std::slice::from_ref(&part);
            let sent = queue::send(&core.cable.guest, run, false, |messages| self.socket.send(messages));
            if let Err(errno) = sent {
                let quote = Quote::of_frame(&core.cable.guest, part.place, part.range.end);
                self.on_send_error(core, key, errno, &quote);
                // The others are no smaller.
                return;
            }
        }
    }

    /// Sends one datagram that lies in our memory.
    pub(super) fn send_payload<G: Guest>(
        &mut self,
        core: &mut Core<G>,
        key: &Key,
        marking: Marking,
        payload: &[u8],
    ) {
        self.mark(marking);
        self.association.on_guest(core.now, 1, payload.len());
        let message = Message { slices: &[Piece::new(payload)], segment: None };
        if let Err(errno) = self.socket.send(&[message]) {
            let quote = self.quote(key, payload);
            self.on_send_error(core, key, errno, &quote);
        }
    }

    pub(super) fn on_timer<G: Guest>(&self, core: &mut Core<G>, id: FlowId) -> Fate {
        match self.association.idle(core.now) {
            Idle::Expired => Fate::Finished,
            Idle::Until(deadline) => {
                core.wheel.set(id.index(), deadline);
                Fate::Keep
            }
        }
    }

    pub(super) fn report(&self, key: &Key, now: crate::time::Instant) -> FlowReport {
        let association = &self.association;
        FlowReport {
            protocol: key.protocol.name(),
            guest: key.guest.to_string(),
            peer: key.peer.to_string(),
            initiator: if association.initiator() == Initiator::Guest { "guest" } else { "host" },
            state: if association.is_answered() { "answered".into() } else { "one-sided".into() },
            to_guest_bytes: association.from_host().bytes,
            from_guest_bytes: association.from_guest().bytes,
            age_ms: millis(now, association.started()),
            idle_ms: millis(now, association.last_activity()),
            window: None,
            queued_to_host_bytes: None,
            in_flight_to_guest_bytes: None,
        }
    }
}

impl DatagramFlow for UdpFlow {
    fn work(&mut self) -> &mut Work {
        &mut self.work
    }

    fn target(&self) -> IpAddr {
        self.target.ip()
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn receive(&self, batch: &mut Batch, limit: usize) -> Result<usize, Errno> {
        self.socket.receive(batch, limit)
    }

    fn deliver_batch<G: Guest>(&mut self, core: &mut Core<G>, key: &Key, batch: &Batch, count: usize) {
        self.deliver_all(core, key, (0..count).filter_map(|index| batch.datagram(index)));
    }

    fn quote(&self, key: &Key, payload: &[u8]) -> Quote {
        let mut header = [0; udp::HEADER_LEN];
        // Ports the other way round than in what is sent to the guest.
        let reverse = Key { guest: key.peer, peer: key.guest, ..*key };
        udp_header(&reverse, payload.len()).emit(&mut header, 0);
        Quote::rebuilt(key, protocol::UDP, &header, payload)
    }
}
