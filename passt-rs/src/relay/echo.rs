//! Echo flows: a ping socket for each identifier and destination of the guest's.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use crate::flow::{FlowId, Key};
use crate::guest::Guest;
use crate::host::batch::{Batch, Message, Received};
use crate::host::echo::Socket;
use crate::host::epoll::Ready;
use crate::iovec::Piece;
use crate::stats::FlowReport;
use crate::time::Instant;
use crate::transport::echo::Echo;
use crate::transport::udp::{Idle, Marking};
use crate::wire::protocol;

use super::core::{Core, Fate};
use super::icmp::Quote;
use super::queue::{self, Queued};
use super::tcp::millis;
use super::work::{DatagramFlow, Work, note_sent};

/// One identifier and destination.
#[derive(Debug)]
pub(super) struct EchoFlow {
    pub(super) echo: Echo,
    pub(super) socket: Socket,
    /// What the socket is connected to: the peer as the host side knows it.
    pub(super) target: SocketAddr,
    pub(super) work: Work,
}

impl EchoFlow {
    pub(super) fn new(now: Instant, socket: Socket, target: SocketAddr) -> Self {
        Self { echo: Echo::new(now), socket, target, work: Work::default() }
    }

    fn mark(&mut self, wanted: Marking) {
        if self.echo.change_marking(wanted).is_none() {
            return;
        }
        let socket = &self.socket;
        let results = [
            socket.set_hop_limit(wanted.hop_limit),
            socket.set_traffic_class(wanted.traffic_class),
            socket.set_dont_fragment(wanted.dont_fragment),
        ];
        for error in results.into_iter().filter_map(Result::err) {
            tracing::debug!("echo socket option for {wanted:?}: {error}");
        }
    }

    /// Sends requests of one marking.
    pub(super) fn send<G: Guest>(&mut self, core: &mut Core<G>, key: &Key, run: &[Queued]) {
        if let Some(first) = run.first() {
            self.mark(first.marking);
        }
        let mut rest = run;
        while let Some((first, behind)) = rest.split_first() {
            match queue::send(&core.cable.guest, rest, false, |messages| self.socket.send(messages)) {
                Ok(taken) => rest = rest.get(taken.max(1)..).unwrap_or_default(),
                Err(errno) => {
                    let quote = Quote::of_frame(&core.cable.guest, first.place, first.range.end);
                    self.on_send_error(core, key, errno, &quote);
                    rest = behind;
                }
            }
        }
    }

    /// Sends one request, a whole ICMP message, that lies in our memory.
    pub(super) fn send_message<G: Guest>(
        &mut self,
        core: &mut Core<G>,
        key: &Key,
        marking: Marking,
        message: &[u8],
    ) {
        self.mark(marking);
        self.echo.on_request(core.now, message.len());
        let sent = self.socket.send(&[Message { slices: &[Piece::new(message)], segment: None }]);
        if let Err(errno) = sent {
            let quote = self.quote(key, message);
            self.on_send_error(core, key, errno, &quote);
        }
    }

    pub(super) fn on_ready<G: Guest>(&mut self, core: &mut Core<G>, id: FlowId, ready: Ready) -> Fate {
        self.work.on_ready(core, id, ready);
        Fate::Keep
    }

    pub(super) fn settle<G: Guest>(&mut self, core: &mut Core<G>, id: FlowId, key: &Key) -> Fate {
        self.take_from_host(core, id, key)
    }

    fn deliver<G: Guest>(&mut self, core: &mut Core<G>, key: &Key, received: &Received<'_>) {
        let sent = core.cable.send_echo(key, received, core.settings.mtu);
        note_sent(core, sent);
        self.echo.on_reply(core.now, received.payload.len());
    }

    pub(super) fn on_timer<G: Guest>(&self, core: &mut Core<G>, id: FlowId) -> Fate {
        match self.echo.idle(core.now) {
            Idle::Expired => Fate::Finished,
            Idle::Until(deadline) => {
                core.wheel.set(id.index(), deadline);
                Fate::Keep
            }
        }
    }

    pub(super) fn report(&self, key: &Key, now: Instant) -> FlowReport {
        FlowReport {
            protocol: key.protocol.name(),
            guest: key.guest.to_string(),
            peer: key.peer.to_string(),
            initiator: "guest",
            state: format!("requests={} replies={}", self.echo.requests(), self.echo.replies()),
            to_guest_bytes: self.echo.bytes().1,
            from_guest_bytes: self.echo.bytes().0,
            age_ms: millis(now, self.echo.started()),
            idle_ms: millis(now, self.echo.last_activity()),
            window: None,
            queued_to_host_bytes: None,
            in_flight_to_guest_bytes: None,
        }
    }
}

impl DatagramFlow for EchoFlow {
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
        for received in (0..count).filter_map(|index| batch.datagram(index)) {
            self.deliver(core, key, &received);
        }
    }

    /// `message` has the identifier of the host side. The guest finds its socket by the identifier; the checksum
    /// stays that of the host side.
    fn quote(&self, key: &Key, message: &[u8]) -> Quote {
        let number = if key.peer.address.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        let [ident_high, ident_low] = key.guest.port.to_be_bytes();
        match message.split_first_chunk() {
            Some(([kind, code, sum_high, sum_low, _, _, seq_high, seq_low], payload)) => {
                let header = [*kind, *code, *sum_high, *sum_low, ident_high, ident_low, *seq_high, *seq_low];
                Quote::rebuilt(key, number, &header, payload)
            }
            None => Quote::rebuilt(key, number, message, &[]),
        }
    }
}
