//! Forwarded UDP ports: a datagram from outside begins a flow to the guest.
//!
//! A listening socket serves as doorman only. Each peer gets a connected socket on the same port, and what follows
//! comes there; what was on its way meanwhile still comes here and goes to the same flow.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;

use crate::drop_reason::DropReason;
use crate::flow::{FlowId, Key, Protocol};
use crate::guest::Guest;
use crate::host::batch::{RECEIVE_MAX, Received};
use crate::host::udp as host_udp;
use crate::transport::udp::Initiator;

use super::connectionless::Refusal;
use super::{Flow, Relay};

/// Batches received from one forwarded port before others get their turn; level-triggered readiness brings us back.
const LISTENER_RECEIVES: usize = 2;

impl<G: Guest> Relay<G> {
    /// Takes what reached a forwarded UDP port.
    pub(super) fn on_udp_listener(&mut self, index: u32) {
        let mut batch = std::mem::take(&mut self.core.batch);
        for _ in 0..LISTENER_RECEIVES {
            let Some(listener) = self.listening.get(index as usize) else { break };
            let Ok(count) = batch.receive(listener.fd(), RECEIVE_MAX) else { break };
            for received in (0..count).filter_map(|index| batch.datagram(index)) {
                self.on_forwarded(index, &received);
            }
        }
        self.core.batch = batch;
    }

    fn on_forwarded(&mut self, index: u32, received: &Received<'_>) {
        let Some(listener) = self.listening.get(index as usize) else { return };
        let (Some(from), Some(to)) = (received.from, received.to) else {
            return self.core.drops.count(DropReason::Source);
        };
        if to.is_multicast() || is_broadcast(to) {
            return self.core.drops.count(DropReason::Destination);
        }
        let Some(key) = self.inbound_key(Protocol::Udp, from, listener.guest_port) else {
            return self.core.drops.count(DropReason::Source);
        };
        let peer = canonical(from);
        let id = match self.find(&key) {
            Some(id) => id,
            None => match self.open_forwarded(index, &key, peer, to) {
                Ok(id) => id,
                Err(_) => return self.core.drops.count(DropReason::FlowLimit),
            },
        };
        let Some((_, Flow::Udp(flow))) = self.flows.get_mut(id) else { return };
        if flow.target != peer {
            // Two peers of the host side that the guest is shown as one: the first has the flow.
            return self.core.drops.count(DropReason::Source);
        }
        flow.deliver(&mut self.core, &key, *received);
    }

    fn open_forwarded(
        &mut self,
        index: u32,
        key: &Key,
        peer: SocketAddr,
        to: IpAddr,
    ) -> Result<FlowId, Refusal> {
        self.has_place()?;
        let listener = self.listening.get(index as usize).ok_or(Refusal::Silent(DropReason::NoFlow))?;
        let port = host_udp::local(listener.socket.as_fd()).map_err(Refusal::Socket)?.port();
        let local = match (to, peer) {
            (IpAddr::V6(to), SocketAddr::V6(peer)) if to.is_unicast_link_local() => {
                SocketAddrV6::new(to, port, 0, peer.scope_id()).into()
            }
            (to, _) => SocketAddr::new(to, port),
        };
        let socket =
            host_udp::connect_from(local, peer, listener.device.as_deref(), true).map_err(Refusal::Socket)?;
        let id = self.insert_udp(key, socket, peer, Initiator::Host)?;
        self.core.udp.from_host_total += 1;
        tracing::debug!("udp {} -> {} (from {peer})", key.peer, key.guest);
        Ok(id)
    }
}

/// The address as an IPv4 socket has it, when a dual-stack one shows it as mapped.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_broadcast())
}
