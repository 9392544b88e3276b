//! Forwarded ports: connections from outside become connections to the guest.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::flow::{Endpoint, FlowId, Key, Protocol};
use crate::guest::Guest;
use crate::host::buffers;
use crate::host::tcp::{Accepted, Socket, accept};
use crate::transport::tcp::Connection;

use super::budget::Budget;
use super::core::Fate;
use super::tcp::{Initiator, TcpFlow};
use super::token::Token;
use super::{Flow, Relay};

/// Connections accepted from one listener before others get their turn.
const ACCEPT_BATCH: usize = 64;

/// The protocol of a forwarded port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    Tcp,
    Udp,
}

/// A listening socket and the guest's port behind it.
#[derive(Debug)]
pub struct Listening {
    pub protocol: Proto,
    pub socket: OwnedFd,
    pub guest_port: u16,
    /// The interface it is bound to; what belongs to it leaves there as well.
    pub device: Option<String>,
}

impl Listening {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Limits what waits at forwarded ports. Connections inherit it and the window scale that follows from it, so it is what
/// the first one may have; each is given its own share when it is accepted.
pub(super) fn limit_buffers(listening: &[Listening], sockets: Option<Budget>) {
    let Some(budget) = sockets else { return };
    let of_udp = listening.iter().filter(|listener| listener.protocol == Proto::Udp).count();
    for listener in listening {
        match listener.protocol {
            Proto::Tcp => budget.tcp(0).map(|bytes| buffers::limit_both(listener.fd(), bytes)),
            Proto::Udp => budget
                .datagrams(of_udp.saturating_sub(1))
                .map(|bytes| buffers::limit_receive(listener.fd(), bytes)),
        };
    }
}

impl<G: Guest> Relay<G> {
    pub(super) fn on_listener(&mut self, index: u32) {
        match self.listening.get(index as usize).map(|listener| listener.protocol) {
            Some(Proto::Tcp) => self.on_tcp_listener(index),
            Some(Proto::Udp) => self.on_udp_listener(index),
            None => {}
        }
    }

    fn on_tcp_listener(&mut self, index: u32) {
        for _ in 0..ACCEPT_BATCH {
            let Some(listener) = self.listening.get(index as usize) else { return };
            let guest_port = listener.guest_port;
            match accept(listener.fd()) {
                Accepted::Connection { socket, peer } => self.on_accepted(socket, peer, guest_port),
                Accepted::Nothing => return,
                Accepted::Exhausted => {
                    if !self.refuse_one(index) {
                        self.pause(Token::Listener(index));
                        return;
                    }
                }
                Accepted::Failed(error) => {
                    tracing::warn!("accept: {error}");
                    return;
                }
            }
        }
    }

    fn on_accepted(&mut self, mut socket: Socket, peer: SocketAddr, guest_port: u16) {
        if self.flows.is_full() {
            self.core.tcp.refused_at_limit_total += 1;
            socket.reset();
            return;
        }
        let Some(key) = self.inbound_key(Protocol::Tcp, peer, guest_port) else {
            socket.reset();
            return;
        };
        if self.find(&key).is_some() {
            // The same ends twice: an old connection the guest still has. The peer may try another port.
            socket.reset();
            return;
        }
        if !self.make_half_open_place() {
            self.core.tcp.refused_at_limit_total += 1;
            socket.reset();
            return;
        }
        self.limit_buffers(&mut socket);
        let parameters = self.tcp_parameters(&key);
        let connection = Connection::from_host_accept(self.core.now, &parameters);
        let flow = TcpFlow::new(connection, socket, Initiator::Host, parameters.isn, self.core.now);
        let Ok(id) = self.insert_tcp(&key, flow) else {
            self.core.tcp.refused_at_limit_total += 1;
            return;
        };
        self.note_half_open(id);
        self.core.tcp.from_host_total += 1;
        tracing::debug!("tcp {} -> {} (from {peer})", key.peer, key.guest);
        if let Some((_, Flow::Tcp(flow))) = self.flows.get_mut(id) {
            flow.send_syn(&mut self.core, &key);
            flow.set_timer(&mut self.core, id);
        }
    }

    /// At the limit the oldest half-open connection is reset: else one peer could fill all places for a minute,
    /// and nobody be let in. `false`: there is not even one place.
    fn make_half_open_place(&mut self) -> bool {
        while self.core.half_open >= self.core.settings.limits.half_open {
            let Some(id) = self.core.half_open_order.pop_front() else { return false };
            if self.is_half_open(id) {
                self.core.tcp.half_open_evicted_total += 1;
                self.apply(id, Fate::ResetHost);
            }
        }
        true
    }

    /// Most connections open at once and leave their id behind; a walk over the list pays for as many accepted
    /// connections as it has places.
    fn note_half_open(&mut self, id: FlowId) {
        self.core.half_open += 1;
        if self.core.half_open_order.len() >= 2 * self.core.settings.limits.half_open {
            let mut order = std::mem::take(&mut self.core.half_open_order);
            order.retain(|id| self.is_half_open(*id));
            self.core.half_open_order = order;
        }
        self.core.half_open_order.push_back(id);
    }

    fn is_half_open(&self, id: FlowId) -> bool {
        matches!(self.flows.get(id), Some((_, Flow::Tcp(flow))) if flow.is_half_open())
    }

    /// The ends of a flow from `peer`, as the guest is to see them.
    pub(super) fn inbound_key(&self, protocol: Protocol, peer: SocketAddr, guest_port: u16) -> Option<Key> {
        let nat = &self.core.settings.nat;
        let peer = nat.source_seen_by_guest(peer)?;
        let guest = nat.guest_address_for(peer.ip())?;
        Some(Key { protocol, guest: Endpoint::new(guest, guest_port), peer: Endpoint::from(peer) })
    }

    /// No descriptor is left for a waiting connection: give up the spare one for a moment, so that the peer
    /// is refused at once instead of waiting. `false`: nobody was refused, as even that was not possible.
    fn refuse_one(&mut self, index: u32) -> bool {
        let Some(listener) = self.listening.get(index as usize) else { return false };
        self.core.reserve.lend();
        let accepted = accept(listener.fd());
        let refused = matches!(accepted, Accepted::Connection { .. });
        if let Accepted::Connection { socket, .. } = accepted {
            self.core.tcp.refused_at_limit_total += 1;
            socket.reset();
        }
        self.core.reserve.refill();
        refused
    }
}
