//! Errors of host sockets as ICMP for the guest.

use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;

use crate::flow::Key;
use crate::guest::{Guest, Place, SLICES_MAX};
use crate::host::error_queue::{Entry, Origin};
use crate::iovec::{self, Piece};
use crate::wire::icmp_error::{self, IcmpError};
use crate::wire::{ETHERNET_HEADER_LEN, IpRepr, emit_ip, ip_header_len};

use super::core::Core;

/// Bytes of a packet that an error may quote at most: what fits 1280 bytes over IPv6 (RFC 4443 2.4 c).
const QUOTE_MAX: usize = 1280 - 48;
/// Hop limit of reconstructed packets; the one it had where it failed is not known.
const HOP_LIMIT: u8 = 1;

/// What the guest is told when a send failed with `errno`; `mtu` is what the kernel said of the path.
pub(super) fn of_errno(errno: Errno, mtu: Option<u32>) -> Option<IcmpError> {
    match errno {
        Errno::MSGSIZE => mtu.map(|mtu| IcmpError::TooBig { mtu }),
        Errno::NETUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL => Some(IcmpError::NetUnreachable),
        Errno::HOSTUNREACH | Errno::HOSTDOWN => Some(IcmpError::HostUnreachable),
        Errno::ACCESS | Errno::PERM => Some(IcmpError::AdminProhibited),
        Errno::CONNREFUSED => Some(IcmpError::PortUnreachable),
        _ => None,
    }
}

/// What the guest is told of an entry of an error queue.
pub(super) fn of_entry(entry: &Entry<'_>) -> Option<IcmpError> {
    match entry.origin {
        Origin::Icmp => IcmpError::from_v4(entry.kind, entry.code, entry.info),
        Origin::Icmp6 => IcmpError::from_v6(entry.kind, entry.code, entry.info),
        Origin::Local => of_errno(entry.errno, Some(entry.info)),
    }
}

/// A packet's first bytes as the guest sent it.
#[derive(Debug)]
pub(super) struct Quote {
    bytes: [u8; QUOTE_MAX],
    len: usize,
}

impl Quote {
    /// From the frame it came in.
    pub(super) fn of_frame<G: Guest>(guest: &G, place: Place, end: usize) -> Self {
        let mut pieces = [Piece::EMPTY; SLICES_MAX];
        let end = end.min(place.len()).max(ETHERNET_HEADER_LEN);
        let count = guest.gather(place, ETHERNET_HEADER_LEN..end, &mut pieces);
        let mut quote = Self { bytes: [0; QUOTE_MAX], len: 0 };
        quote.len = iovec::copy_all(pieces.into_iter().take(count), &mut quote.bytes);
        quote
    }

    /// Made up from the flow's ends, a transport header and as much of the payload as an error brought back.
    pub(super) fn rebuilt(key: &Key, protocol: u8, header: &[u8], payload: &[u8]) -> Self {
        let ip = IpRepr {
            src: key.guest.address,
            dst: key.peer.address,
            protocol,
            hop_limit: HOP_LIMIT,
            traffic_class: 0,
        };
        let mut quote = Self { bytes: [0; QUOTE_MAX], len: ip_header_len(ip.src) };
        emit_ip(&mut quote.bytes, &ip, header.len() + payload.len());
        quote.append(header);
        quote.append(payload);
        quote
    }

    fn append(&mut self, bytes: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(self.len).zip(bytes) {
            *place = *byte;
        }
        self.len = (self.len + bytes.len()).min(QUOTE_MAX);
    }
}

/// Tells the guest that the packet of `quote` failed; `target` is where the host side had sent it.
pub(super) fn tell<G: Guest>(
    core: &mut Core<G>,
    key: &Key,
    (target, offender): (IpAddr, Option<IpAddr>),
    error: IcmpError,
    quote: &Quote,
) {
    let from = reporter(core, key, target, offender);
    core.datagram.errors_to_guest_total += 1;
    send(core, key, from, error, quote);
}

/// Sends the guest `error` about the packet of `quote`, as if `from` had noticed it.
pub(super) fn send<G: Guest>(core: &mut Core<G>, key: &Key, from: IpAddr, error: IcmpError, quote: &Quote) {
    let macs = (core.cable.our_mac, core.cable.guest_mac);
    let original = quote.bytes.get(..quote.len).unwrap_or_default();
    core.reply.resize(icmp_error::FRAME_MAX, 0);
    let len = icmp_error::emit(&mut core.reply, error, macs, (from, key.guest.address), original);
    core.reply.truncate(len);
    core.send_reply();
}

/// Who the guest is to see as the sender of an error: the peer by the address the guest knows, a router by the one
/// it has, and for what our own kernel found, the guest's gateway.
fn reporter<G: Guest>(core: &Core<G>, key: &Key, target: IpAddr, offender: Option<IpAddr>) -> IpAddr {
    let nat = &core.settings.nat;
    let seen = match offender {
        Some(offender) if offender == target => None,
        Some(offender) => nat.source_seen_by_guest(SocketAddr::new(offender, 0)).map(|seen| seen.ip()),
        None => match key.peer.address {
            IpAddr::V4(_) => nat.gateway4.map(IpAddr::V4),
            IpAddr::V6(_) => nat.our_link_local6.map(IpAddr::V6),
        },
    };
    seen.filter(|seen| seen.is_ipv4() == key.peer.address.is_ipv4()).unwrap_or(key.peer.address)
}
