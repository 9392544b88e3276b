//! Datagrams and echo requests from the guest: to which flow they belong, and into the queue.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;

use crate::classify::{self, Verdict};
use crate::drop_reason::DropReason;
use crate::flow::{Endpoint, FlowId, Key, Protocol, TableFull};
use crate::guest::{Guest, Place};
use crate::host::{buffers, echo as host_echo, udp as host_udp};
use crate::transport::reassembly::{self, Outcome};
use crate::transport::udp::{Association, Idle, Initiator, Marking};
use crate::wire::udp::{self, Datagram};
use crate::wire::{Fragment, IpHeaders, Offload, Segmentation};

use super::echo::EchoFlow;
use super::icmp::{self, Quote};
use super::queue::Queued;
use super::token::Token;
use super::udp::UdpFlow;
use super::{Flow, Relay};

/// Why a flow could not be opened.
pub(super) enum Refusal {
    Silent(DropReason),
    /// The kernel refused; the guest is told what that means.
    Socket(std::io::Error),
}

impl<G: Guest> Relay<G> {
    pub(super) fn on_udp(&mut self, place: Place, offload: &Offload, ip: &IpHeaders, datagram: &Datagram) {
        let start = ip.transport + udp::HEADER_LEN;
        let range = start..start + datagram.payload_len;
        let segment = match offload.segmentation {
            Segmentation::None => None,
            Segmentation::Udp { size } if size > 0 => Some(size),
            Segmentation::Udp { .. } | Segmentation::Tcp4 { .. } | Segmentation::Tcp6 { .. } => {
                return self.core.drops.count(DropReason::Offload);
            }
        };
        let key = udp_key(ip, datagram);
        let id = match self.udp_flow(&key) {
            Ok(id) => id,
            Err(refusal) => {
                let quote = Quote::of_frame(&self.core.cable.guest, place, range.end);
                return self.refuse(&key, &refusal, &quote);
            }
        };
        let queued = Queued { id, place, range, segment, marking: marking(ip) };
        if let Some((_, Flow::Udp(flow))) = self.flows.get_mut(id) {
            flow.work.lane = self.core.lane;
            flow.association.on_guest(self.core.now, queued.datagrams(), queued.range.len());
        }
        self.enqueue(&queued);
    }

    pub(super) fn on_echo(&mut self, place: Place, ip: &IpHeaders, ident: u16) {
        let key = echo_key(ip, ident);
        let id = match self.echo_flow(&key) {
            Ok(id) => id,
            Err(refusal) => {
                let quote = Quote::of_frame(&self.core.cable.guest, place, ip.end);
                return self.refuse(&key, &refusal, &quote);
            }
        };
        if let Some((_, Flow::Echo(flow))) = self.flows.get_mut(id) {
            flow.work.lane = self.core.lane;
            flow.echo.on_request(self.core.now, ip.payload().len());
        }
        self.enqueue(&Queued { id, place, range: ip.payload(), segment: None, marking: marking(ip) });
    }

    /// Keeps the frame where it is until the queue is flushed.
    fn enqueue(&mut self, queued: &Queued) {
        self.core.queued.extend(queued.messages());
        if !self.core.cable.guest.hold(queued.place) {
            self.flush_datagrams();
        }
    }

    /// Sends what is queued and lets go of the frames.
    pub(super) fn flush_datagrams(&mut self) {
        let mut queued = std::mem::take(&mut self.core.queued);
        let mut rest = queued.as_slice();
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|next| (next.id, next.marking) == (first.id, first.marking));
            let (run, behind) = rest.split_at(same.count());
            if let Some((key, flow)) = self.flows.get_mut(first.id) {
                let key = *key;
                match flow {
                    Flow::Udp(flow) => flow.send(&mut self.core, &key, run),
                    Flow::Echo(flow) => flow.send(&mut self.core, &key, run),
                    Flow::Tcp(_) => {}
                }
            }
            rest = behind;
        }
        queued.clear();
        self.core.queued = queued;
        self.core.cable.guest.release();
    }

    pub(super) fn on_fragment(&mut self, place: Place, ip: &IpHeaders, fragment: Fragment) {
        let key = reassembly::Key { src: ip.src, dst: ip.dst, protocol: ip.protocol, ident: fragment.ident };
        // Out of the core for as long as its bytes are used.
        let mut reassembly = std::mem::take(&mut self.core.reassembly);
        let outcome = match self.core.cable.guest.whole(place).get(ip.payload()) {
            Some(data) => reassembly.insert(self.core.now, key, fragment, data),
            None => Outcome::Refused,
        };
        match outcome {
            Outcome::Complete(bytes) => {
                self.core.datagram.reassembled_total += 1;
                self.on_reassembled(ip, bytes);
            }
            Outcome::Waiting => {}
            Outcome::Refused => self.core.drops.count(DropReason::Fragment),
        }
        self.core.reassembly = reassembly;
    }

    /// Handles the payload of an IP packet that came in fragments, the last of them with the headers `ip`.
    fn on_reassembled(&mut self, ip: &IpHeaders, bytes: &[u8]) {
        // Before what the guest sent later: those are queued, this is not.
        self.flush_datagrams();
        // The places are now those in `bytes`. Whoever cuts its packet agrees that others do.
        let whole =
            IpHeaders { transport: 0, end: bytes.len(), fragment: None, dont_fragment: false, ..ip.clone() };
        match classify::packet(whole, bytes, &Offload::default()) {
            Ok(Verdict::Udp(ip, datagram)) => {
                let key = udp_key(&ip, &datagram);
                let range = udp::HEADER_LEN..udp::HEADER_LEN + datagram.payload_len;
                let payload = bytes.get(range).unwrap_or_default();
                match self.udp_flow(&key) {
                    Ok(id) => {
                        if let Some((_, Flow::Udp(flow))) = self.flows.get_mut(id) {
                            flow.send_payload(&mut self.core, &key, marking(&ip), payload);
                        }
                    }
                    Err(refusal) => {
                        let quote = Quote::rebuilt(&key, ip.protocol, bytes, &[]);
                        self.refuse(&key, &refusal, &quote);
                    }
                }
            }
            Ok(Verdict::Echo(ip, ident)) => {
                let key = echo_key(&ip, ident);
                match self.echo_flow(&key) {
                    Ok(id) => {
                        if let Some((_, Flow::Echo(flow))) = self.flows.get_mut(id) {
                            flow.send_message(&mut self.core, &key, marking(&ip), bytes);
                        }
                    }
                    Err(refusal) => {
                        let quote = Quote::rebuilt(&key, ip.protocol, bytes, &[]);
                        self.refuse(&key, &refusal, &quote);
                    }
                }
            }
            Ok(Verdict::Answer(_) | Verdict::Tcp(..) | Verdict::Fragment(..)) => {
                self.core.drops.count(DropReason::Fragment);
            }
            Err(reason) => self.core.drops.count(reason),
        }
    }

    /// The flow of `key`, opened if there is none.
    fn udp_flow(&mut self, key: &Key) -> Result<FlowId, Refusal> {
        if let Some(id) = self.find(key) {
            return Ok(id);
        }
        self.may_open(self.core.settings.protocols.udp, key)?;
        let target = self.core.settings.nat.to_host(key.peer.into());
        let outbound = &self.core.settings.outbound;
        let connected = host_udp::connect(outbound, key.guest.port, target, true).map_err(Refusal::Socket)?;
        let id = self.insert_udp(key, connected.socket, target, Initiator::Guest)?;
        self.core.udp.from_guest_total += 1;
        self.core.udp.port_replaced_total += u64::from(!connected.port_kept);
        tracing::debug!("udp {} -> {} ({target})", key.guest, key.peer);
        Ok(id)
    }

    pub(super) fn insert_udp(
        &mut self,
        key: &Key,
        socket: host_udp::Socket,
        target: SocketAddr,
        initiator: Initiator,
    ) -> Result<FlowId, Refusal> {
        let association = Association::new(self.core.now, initiator);
        let idle = association.idle(self.core.now);
        self.insert_datagram_flow(key, Flow::Udp(UdpFlow::new(association, socket, target)), idle)
    }

    fn echo_flow(&mut self, key: &Key) -> Result<FlowId, Refusal> {
        if let Some(id) = self.find(key) {
            return Ok(id);
        }
        self.may_open(self.core.settings.protocols.icmp, key)?;
        let nat = &self.core.settings.nat;
        let target = match nat.echo_to_host(key.peer.address) {
            IpAddr::V6(to) if to.is_unicast_link_local() => {
                SocketAddrV6::new(to, 0, 0, nat.link_local_scope6).into()
            }
            to @ (IpAddr::V4(_) | IpAddr::V6(_)) => SocketAddr::new(to, 0),
        };
        let outbound = &self.core.settings.outbound;
        let socket = host_echo::connect(outbound, key.guest.port, target).map_err(Refusal::Socket)?;
        let flow = EchoFlow::new(self.core.now, socket, target);
        let idle = flow.echo.idle(self.core.now);
        let id = self.insert_datagram_flow(key, Flow::Echo(flow), idle)?;
        self.core.echo.from_guest_total += 1;
        tracing::debug!("echo {} -> {} ({target})", key.guest, key.peer);
        Ok(id)
    }

    fn may_open(&self, enabled: bool, key: &Key) -> Result<(), Refusal> {
        if !enabled {
            return Err(Refusal::Silent(DropReason::Disabled));
        }
        if self.core.settings.nat.is_unreachable(key.peer.into()) {
            return Err(Refusal::Silent(DropReason::Destination));
        }
        self.has_place()
    }

    /// Whether one more flow is allowed; to be asked before a socket is opened for it.
    pub(super) fn has_place(&self) -> Result<(), Refusal> {
        if self.flows.is_full() || self.core.datagram_flows >= self.core.settings.limits.datagram_flows {
            return Err(Refusal::Silent(DropReason::FlowLimit));
        }
        Ok(())
    }

    /// Puts a flow into the table, watches its socket and plans the end of its silence.
    fn insert_datagram_flow(&mut self, key: &Key, flow: Flow, idle: Idle) -> Result<FlowId, Refusal> {
        let id = self.flows.insert(*key, flow).map_err(|TableFull| Refusal::Silent(DropReason::FlowLimit))?;
        let token = Token::Flow(id).pack();
        let socket = match self.flows.get(id) {
            Some((_, Flow::Udp(flow))) => Some(flow.socket.as_fd()),
            Some((_, Flow::Echo(flow))) => Some(flow.socket.as_fd()),
            Some((_, Flow::Tcp(_))) | None => None,
        };
        let budget = self.core.settings.limits.sockets;
        let share = budget.and_then(|budget| budget.datagrams(self.core.datagram_flows));
        if let (Some(socket), Some(bytes)) = (socket, share) {
            buffers::limit_receive(socket, bytes);
        }
        let watched = socket.map_or(Ok(()), |socket| self.core.epoll.watch_edges(socket, token));
        if watched.is_err() {
            self.flows.remove(id);
            return Err(Refusal::Silent(DropReason::FlowLimit));
        }
        if let Idle::Until(deadline) = idle {
            self.core.wheel.set(id.index(), deadline);
        }
        self.core.datagram_flows += 1;
        Ok(id)
    }

    /// Counts a packet that no flow could be opened for, and tells the guest if the network would have.
    fn refuse(&mut self, key: &Key, refusal: &Refusal, quote: &Quote) {
        let error = match refusal {
            Refusal::Silent(reason) => return self.core.drops.count(*reason),
            Refusal::Socket(error) => error,
        };
        tracing::debug!("{} {} -> {}: {error}", key.protocol.name(), key.guest, key.peer);
        match rustix::io::Errno::from_io_error(error).and_then(|errno| icmp::of_errno(errno, None)) {
            Some(error) => {
                self.core.drops.count(DropReason::HostSend);
                icmp::tell(&mut self.core, key, (key.peer.address, None), error, quote);
            }
            // Descriptors or memory are exhausted.
            None => self.core.drops.count(DropReason::FlowLimit),
        }
    }
}

fn udp_key(ip: &IpHeaders, datagram: &Datagram) -> Key {
    Key {
        protocol: Protocol::Udp,
        guest: Endpoint::new(ip.src, datagram.src_port),
        peer: Endpoint::new(ip.dst, datagram.dst_port),
    }
}

fn echo_key(ip: &IpHeaders, ident: u16) -> Key {
    Key { protocol: Protocol::Echo, guest: Endpoint::new(ip.src, ident), peer: Endpoint::new(ip.dst, 0) }
}

fn marking(ip: &IpHeaders) -> Marking {
    Marking { hop_limit: ip.hop_limit, traffic_class: ip.traffic_class, dont_fragment: ip.dont_fragment }
}
