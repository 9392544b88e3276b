//! DHCPv4 and BOOTP: the guest gets its one address, whatever it asks with (RFC 2131, RFC 951).
//!
//! There is one address for one guest and it never changes while we run, so there is nothing to remember:
//!
//! | message     | state of the client            | reply |
//! |-------------|--------------------------------|-------|
//! | none        | BOOTP                          | BOOTREPLY without lease (RFC 1534 2) |
//! | DISCOVER    | INIT                           | OFFER; ACK when it asks for rapid commit (RFC 4039) |
//! | REQUEST     | SELECTING, of us               | ACK or NAK |
//! | REQUEST     | SELECTING, of another server   | none, [`DropReason::NotForUs`] |
//! | REQUEST     | INIT-REBOOT, RENEWING, REBINDING | ACK or NAK: we know all there is to know |
//! | INFORM      | configured by other means      | ACK with neither address nor lease |
//! | DECLINE     | found the address in use       | none, accepted: there is no other address |
//! | RELEASE     | done                           | none, accepted |
//!
//! The lease is infinite, T1 and T2 with it: the pod keeps its address for life, and a guest that comes to
//! another pod sees its link go down and up, asks again (INIT-REBOOT) and is refused the old address.
//!
//! A reply is as long as the client takes, 576 bytes of datagram if it does not say, and options are written in the
//! order of their use to the guest: lease, routes, MTU, resolvers, then [`Extras`], then names. One that has no room
//! any more is left out whole, and shorter ones behind it may still fit. The boot file and its server are in fixed
//! fields as well, which always have room.

mod extras;
mod options;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use smoltcp::wire::{DhcpFlags, DhcpMessageType, DhcpOpCode, DhcpPacket, EthernetAddress};

use super::request::Request;
use super::{Network, V4};
use crate::drop_reason::DropReason;
use crate::wire::dhcpv4::{FIXED_LEN, MAGIC_COOKIE, Options, option};
use crate::wire::{Envelope, Mac, protocol};

pub use extras::Extras;

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const HOP_LIMIT: u8 = 64;
/// IP and UDP headers, which a client's maximum message size counts in (RFC 2132 9.10).
const HEADERS_LEN: usize = 28;
/// Every client takes this much (RFC 2131 2), and we send no more than fits any link.
const DATAGRAM_LEN_MIN: usize = 576;
const DATAGRAM_LEN_MAX: usize = 1500;
/// A BOOTP message; relays and old clients may discard shorter ones, BOOTP clients take none longer
/// (RFC 1542 2.1).
const BOOTP_LEN: usize = 300;

/// Whether a datagram to `dst` and `port` is for the DHCP server.
pub fn is_for_us(network: &Network, dst: Ipv4Addr, port: u16) -> bool {
    port == SERVER_PORT && (dst.is_broadcast() || network.v4.is_some_and(|v4| dst == v4.ours()))
}

pub fn answer(network: &Network, frame: &[u8], out: &mut Vec<u8>) -> Result<(), DropReason> {
    out.clear();
    let v4 = network.v4.filter(|_| network.services.dhcp).ok_or(DropReason::Disabled)?;
    let request = Request::parse(frame, protocol::UDP)?;
    let message = request.datagram_to(SERVER_PORT)?;
    let packet = DhcpPacket::new_checked(message).map_err(|_| DropReason::Malformed)?;
    let query = Query::parse(&packet)?;
    let Some(reply) = Reply::decide(v4, &query)? else { return Ok(()) };

    let source = if let std::net::IpAddr::V4(source) = request.src { source } else { Ipv4Addr::UNSPECIFIED };
    let place = Place::choose(v4, &query, reply, request.src_mac, source);
    let envelope = Envelope {
        src_mac: network.our_mac,
        dst_mac: place.mac,
        src: v4.ours().into(),
        dst: place.address.into(),
        hop_limit: HOP_LIMIT,
    };
    envelope.open_udp(out);
    let start = out.len();
    out.resize(start + FIXED_LEN, 0);
    if let Some(fixed) = out.get_mut(start..) {
        emit_fixed(network, v4, &query, reply, fixed);
    }
    let mut options = Options::new(out, start + query.message_len_max());
    options::push(network, v4, &query, reply, &mut options);
    options.end();
    if out.len() < start + BOOTP_LEN {
        out.resize(start + BOOTP_LEN, 0);
    }
    envelope.seal_udp(out, SERVER_PORT, place.port);
    Ok(())
}

/// What a client says.
struct Query<'a> {
    packet: &'a DhcpPacket<&'a [u8]>,
    /// `None` of a BOOTP client.
    kind: Option<DhcpMessageType>,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    /// The options it asks for; `None` when it does not say.
    parameters: Option<&'a [u8]>,
    client_id: Option<&'a [u8]>,
    message_size_max: Option<u16>,
    rapid_commit: bool,
    /// Flags of the name it has or wants (RFC 4702 2.1).
    fqdn_flags: Option<u8>,
}

impl<'a> Query<'a> {
    fn parse(packet: &'a DhcpPacket<&'a [u8]>) -> Result<Self, DropReason> {
        let is_ethernet = u16::from(packet.hardware_type()) == 1 && packet.hardware_len() == 6;
        if packet.opcode() != DhcpOpCode::Request || !is_ethernet {
            return Err(DropReason::NotForUs);
        }
        if Mac(packet.client_hardware_address().0).is_multicast() {
            return Err(DropReason::Malformed);
        }
        let mut query = Self {
            packet,
            kind: None,
            requested: None,
            server: None,
            parameters: None,
            client_id: None,
            message_size_max: None,
            rapid_commit: false,
            fqdn_flags: None,
        };
        if packet.magic_number() != MAGIC_COOKIE {
            return Ok(query); // a vendor area of BOOTP's own (RFC 951 3)
        }
        for part in packet.options() {
            let data = part.data;
            match part.kind {
                option::MESSAGE_TYPE => query.kind = data.first().map(|kind| (*kind).into()),
                option::REQUESTED_ADDRESS => query.requested = address(data),
                option::SERVER_ID => query.server = address(data),
                option::PARAMETER_LIST => query.parameters = Some(data),
                option::CLIENT_ID => query.client_id = Some(data),
                option::MAX_MESSAGE_SIZE => {
                    query.message_size_max = data.first_chunk().map(|size| u16::from_be_bytes(*size));
                }
                option::RAPID_COMMIT => query.rapid_commit = true,
                option::CLIENT_FQDN => query.fqdn_flags = data.first().copied(),
                _ => {}
            }
        }
        Ok(query)
    }

    /// Bytes that the reply may have behind the UDP header.
    fn message_len_max(&self) -> usize {
        if self.kind.is_none() {
            return BOOTP_LEN;
        }
        let datagram_len = usize::from(self.message_size_max.unwrap_or(0));
        datagram_len.clamp(DATAGRAM_LEN_MIN, DATAGRAM_LEN_MAX) - HEADERS_LEN
    }

    /// Whether to send an option that a client can do without.
    fn wants(&self, code: u8) -> bool {
        self.parameters.is_none_or(|codes| codes.contains(&code))
    }
}

fn address(data: &[u8]) -> Option<Ipv4Addr> {
    data.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

/// What to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Bootp,
    Offer,
    Ack,
    /// Acknowledges a DISCOVER.
    RapidAck,
    /// Acknowledges an INFORM: parameters only.
    InformAck,
    Nak,
}

impl Reply {
    fn decide(v4: V4, query: &Query<'_>) -> Result<Option<Self>, DropReason> {
        use DhcpMessageType as Type;

        let is_to_another = query.server.is_some_and(|server| server != v4.ours());
        match query.kind {
            None => Ok(Some(Self::Bootp)),
            Some(Type::Discover) if query.rapid_commit => Ok(Some(Self::RapidAck)),
            Some(Type::Discover) => Ok(Some(Self::Offer)),
            Some(Type::Request | Type::Decline | Type::Release) if is_to_another => Err(DropReason::NotForUs),
            Some(Type::Request) => {
                // SELECTING and INIT-REBOOT name the address in an option, RENEWING and REBINDING in ciaddr
                // (RFC 2131 4.3.2).
                let in_use = Some(query.packet.client_ip()).filter(|address| !address.is_unspecified());
                let wanted = query.requested.or(in_use).ok_or(DropReason::Malformed)?;
                Ok(Some(if wanted == v4.guest { Self::Ack } else { Self::Nak }))
            }
            Some(Type::Inform) => Ok(Some(Self::InformAck)),
            Some(Type::Decline | Type::Release) => Ok(None),
            Some(Type::Offer | Type::Ack | Type::Nak | Type::Unknown(_)) => Err(DropReason::NotForUs),
        }
    }

    fn has_lease(self) -> bool {
        matches!(self, Self::Offer | Self::Ack | Self::RapidAck)
    }

    fn message_type(self) -> Option<DhcpMessageType> {
        match self {
            Self::Bootp => None,
            Self::Offer => Some(DhcpMessageType::Offer),
            Self::Ack | Self::RapidAck | Self::InformAck => Some(DhcpMessageType::Ack),
            Self::Nak => Some(DhcpMessageType::Nak),
        }
    }
}

/// Where a reply goes.
struct Place {
    mac: Mac,
    address: Ipv4Addr,
    port: u16,
}

impl Place {
    /// The rules of RFC 2131 4.1, in their order; `asker` and `source` sent the request's frame.
    fn choose(v4: V4, query: &Query<'_>, reply: Reply, asker: Mac, source: Ipv4Addr) -> Self {
        let (relay, in_use) = (query.packet.relay_agent_ip(), query.packet.client_ip());
        let client = Mac(query.packet.client_hardware_address().0);
        let broadcast = Self { mac: Mac::BROADCAST, address: Ipv4Addr::BROADCAST, port: CLIENT_PORT };
        let to_client = |address| Self { mac: client, address, port: CLIENT_PORT };
        if !relay.is_unspecified() {
            return Self { mac: asker, address: relay, port: SERVER_PORT };
        }
        if reply == Reply::Nak {
            return broadcast;
        }
        if !in_use.is_unspecified() {
            return to_client(in_use);
        }
        if reply == Reply::InformAck && !source.is_unspecified() {
            return Self { mac: asker, ..to_client(source) };
        }
        if query.packet.flags().contains(DhcpFlags::BROADCAST) || reply == Reply::InformAck {
            return broadcast;
        }
        to_client(v4.guest)
    }
}

/// Writes everything before the options into zeroed room (RFC 2131 4.3.1, table 3).
fn emit_fixed(network: &Network, v4: V4, query: &Query<'_>, reply: Reply, fixed: &mut [u8]) {
    let request = query.packet;
    let mut packet = DhcpPacket::new_unchecked(fixed);
    packet.set_opcode(DhcpOpCode::Reply);
    packet.set_hardware_type(request.hardware_type());
    packet.set_hardware_len(request.hardware_len());
    packet.set_transaction_id(request.transaction_id());
    let mut flags = request.flags();
    if reply == Reply::Nak && !request.relay_agent_ip().is_unspecified() {
        flags |= DhcpFlags::BROADCAST; // the relay must not send it to an address we refuse (RFC 2131 4.3.2)
    }
    packet.set_flags(flags);
    if matches!(reply, Reply::Ack | Reply::InformAck | Reply::Bootp) {
        packet.set_client_ip(request.client_ip());
    }
    if !matches!(reply, Reply::Nak | Reply::InformAck) {
        packet.set_your_ip(v4.guest);
    }
    packet.set_relay_agent_ip(request.relay_agent_ip());
    packet.set_client_hardware_address(EthernetAddress(request.client_hardware_address().0));
    packet.set_magic_number(MAGIC_COOKIE);
    if reply != Reply::Nak {
        packet.set_server_ip(network.extras.boot_server().unwrap_or(Ipv4Addr::UNSPECIFIED));
        network.extras.emit_boot_file(packet.into_inner());
    }
}
