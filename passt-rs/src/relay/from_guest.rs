//! Frames from the guest: view, classify, then answer, translate or drop.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::answer::Question;
use crate::classify::{self, Verdict};
use crate::drop_reason::DropReason;
use crate::flow::{Endpoint, Key, Protocol};
use crate::guest::{Guest, Place};
use crate::host::tcp as host_tcp;
use crate::host::tcp::Connecting;
use crate::transport::tcp::{Connection, Parameters};
use crate::wire::tcp::{Flags, Segment, Seq};
use crate::wire::{Headers, IpHeaders, Offload};

use super::refusal::{Refusal, reset_stray};
use super::tcp::{Initiator, TcpFlow};
use super::token::Token;
use super::{Flow, Relay};

/// Frames and bytes taken from the guest before flows are settled: enough to batch, little enough that the
/// guest hears of progress while it still has window left.
const BATCH_FRAMES: usize = 64;
const BATCH_BYTES: usize = 256 * 1024;

impl<G: Guest> Relay<G> {
    /// Takes what the guest has sent, up to a batch. The rest is taken next turn: it may lie in buffers of ours
    /// already, so that no readiness brings us back.
    pub(super) fn frames_from_guest(&mut self) {
        let mut bytes = 0;
        self.more_from_guest = true;
        for _ in 0..BATCH_FRAMES {
            let Some(received) = self.core.cable.receive() else {
                self.more_from_guest = false;
                break;
            };
            bytes += received.place.len();
            self.core.lane = received.queue;
            self.core.cable.guest.steer(received.queue);
            let offload = match received.offload {
                Ok(offload) => offload,
                Err(reason) => {
                    self.core.drops.count(reason);
                    continue;
                }
            };
            let head = self.core.cable.guest.head(received.place);
            match classify::frame(head, received.place.len(), &offload, &self.core.settings.network) {
                Ok((headers, verdict)) => self.on_frame(received.place, &offload, &headers, verdict),
                Err(reason) => self.core.drops.count(reason),
            }
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        self.flush_datagrams();
    }

    fn on_frame(&mut self, place: Place, offload: &Offload, headers: &Headers, verdict: Verdict) {
        self.core.cable.guest_mac = headers.src;
        self.core.heard = true;
        if let Some(IpHeaders { src: IpAddr::V6(src), .. }) = headers.ip
            && src.is_unicast_link_local()
        {
            self.core.settings.nat.guest_link_local6 = Some(src);
        }
        if (self.core.silent4 || self.core.silent6)
            && let Some(ip) = &headers.ip
        {
            self.hear_from(ip.src);
        }
        match verdict {
            Verdict::Answer(Question::Echo) if !self.core.settings.protocols.icmp => {
                self.core.drops.count(DropReason::Disabled);
            }
            Verdict::Answer(question) => {
                let core = &mut self.core;
                let frame = core.cable.guest.whole(place);
                match question.answer(&core.settings.network, frame, &mut core.reply) {
                    Ok(()) => core.send_reply(),
                    Err(reason) => core.drops.count(reason),
                }
            }
            Verdict::Tcp(ip, segment, header_len) => self.on_tcp(place, &ip, &segment, header_len),
            Verdict::Udp(ip, datagram) => self.on_udp(place, offload, &ip, &datagram),
            Verdict::Echo(ip, ident) => self.on_echo(place, &ip, ident),
            Verdict::Fragment(ip, fragment) => self.on_fragment(place, &ip, fragment),
        }
    }

    fn on_tcp(&mut self, place: Place, ip: &IpHeaders, segment: &Segment, header_len: usize) {
        let key = Key {
            protocol: Protocol::Tcp,
            guest: Endpoint::new(ip.src, segment.src_port),
            peer: Endpoint::new(ip.dst, segment.dst_port),
        };
        let payload = ip.transport + header_len..ip.end;
        let Some(id) = self.find(&key) else {
            self.on_unknown_tcp(&key, segment, payload.len());
            return;
        };
        let Some((_, Flow::Tcp(flow))) = self.flows.get_mut(id) else { return };
        let fate = flow.on_segment(&mut self.core, (id, &key), place, segment, payload);
        self.apply(id, fate);
    }

    fn on_unknown_tcp(&mut self, key: &Key, segment: &Segment, payload: usize) {
        let opens =
            segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK) && !segment.flags.has(Flags::RST);
        if !self.core.settings.protocols.tcp {
            self.core.drops.count(DropReason::Disabled);
        } else if opens {
            if let Err(refusal) = self.connect(key, segment) {
                refusal.tell(&mut self.core, key, segment.seq);
            }
        } else {
            self.core.drops.count(DropReason::NoFlow);
            reset_stray(&mut self.core, key, segment, payload);
        }
    }

    /// The guest's SYN becomes a socket's `connect`.
    fn connect(&mut self, key: &Key, syn: &Segment) -> Result<(), Refusal> {
        if self.core.settings.nat.is_unreachable(key.peer.into()) {
            return Err(Refusal::Silent(DropReason::Destination));
        }
        if self.flows.is_full() {
            return Err(Refusal::Limit);
        }
        let to = self.core.settings.nat.to_host(SocketAddr::from(key.peer));
        let mut socket = host_tcp::open(&to).map_err(Refusal::of_socket)?;
        let bound = self.core.settings.outbound.apply(socket.as_fd(), to);
        bound.map_err(|error| Refusal::Connect(Errno::from_io_error(&error).unwrap_or(Errno::INVAL)))?;
        self.limit_buffers(&mut socket);
        let connecting = socket.connect(&to);
        if let Connecting::Failed(error) = connecting {
            return Err(Refusal::Connect(error));
        }
        let parameters = self.tcp_parameters(key);
        let connection = Connection::from_guest_syn(self.core.now, syn, &parameters);
        let mut flow = TcpFlow::new(connection, socket, Initiator::Guest, parameters.isn, self.core.now);
        flow.lane = self.core.lane;
        self.insert_tcp(key, flow).map_err(|()| Refusal::Limit)?;
        self.core.tcp.from_guest_total += 1;
        tracing::debug!("tcp {} -> {} ({to})", key.guest, key.peer);
        Ok(())
    }

    /// Puts a flow into the table and watches its socket.
    pub(super) fn insert_tcp(&mut self, key: &Key, flow: TcpFlow) -> Result<crate::flow::FlowId, ()> {
        let id = self.flows.insert(*key, Flow::Tcp(flow)).map_err(|_| ())?;
        let Some((_, Flow::Tcp(flow))) = self.flows.get(id) else { return Err(()) };
        if self.core.epoll.watch_edges(flow.socket(), Token::Flow(id).pack()).is_err() {
            self.flows.remove(id);
            return Err(());
        }
        if let Some(ledger) = &mut self.core.ledger {
            ledger.note(id.index(), key);
        }
        Ok(id)
    }

    /// Gives the socket of a new connection its share.
    pub(super) fn limit_buffers(&self, socket: &mut host_tcp::Socket) {
        let connections = self.flows.len() - self.core.datagram_flows;
        if let Some(bytes) = self.core.settings.limits.sockets.and_then(|budget| budget.tcp(connections)) {
            socket.limit_buffers(bytes);
        }
    }

    /// What a new connection with the ends of `key` starts from.
    pub(super) fn tcp_parameters(&self, key: &Key) -> Parameters {
        // RFC 6528: a keyed hash of the ends plus a clock of 4 microseconds.
        let hash = self.flows.hash_of(key);
        let clock = self.core.now.as_micros() / 4;
        let isn = Seq(u32::try_from((hash.wrapping_add(clock)) & 0xffff_ffff).unwrap_or(0));
        let ipv6 = key.peer.address.is_ipv6();
        let headers = if ipv6 { 60 } else { 40 };
        Parameters {
            isn,
            link_mss: self.core.settings.mtu - headers,
            ipv6,
            capacity: self.core.capacity(false),
        }
    }
}
