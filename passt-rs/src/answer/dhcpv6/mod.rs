//! DHCPv6: the guest gets its one address as a /128, resolvers and names (RFC 8415).
//!
//! Nothing is remembered: the address is the guest's for as long as we run, so lifetimes are infinite and
//! "appropriate for the link" (18.3) means being that address, as nothing else can be on this cable.
//!
//! | message             | client id | server id | reply |
//! |---------------------|-----------|-----------|-------|
//! | Solicit             | must      | must not  | Advertise; Reply when it asks for rapid commit |
//! | Request             | must      | ours      | Reply: the address, or NotOnLink for another |
//! | Renew               | must      | ours      | Reply: the address; others with lifetime 0 |
//! | Rebind              | must      | must not  | the same |
//! | Confirm             | must      | must not  | Reply: Success or NotOnLink; none without addresses |
//! | Release, Decline    | must      | ours      | Reply: Success |
//! | Information-request | may       | ours or none | Reply: parameters |
//! | others              |           |           | none, [`DropReason::NotForUs`] |
//!
//! Messages that break the rules on identifiers are [`DropReason::Malformed`] (16.2 to 16.12), those with
//! another server's are [`DropReason::NotForUs`]. After Decline the address is offered again: there is no
//! other, and on this cable only the guest itself can be using it.

mod ia;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr};

use super::request::Request;
use super::{Network, V6};
use crate::drop_reason::DropReason;
use crate::wire::dhcpv6::{Message, MessageType, Status, Writer, option};
use crate::wire::{ETHERNET_HEADER_LEN, Envelope, Mac, name, protocol};

const SERVER_PORT: u16 = 547;
const CLIENT_PORT: u16 = 546;
const HOP_LIMIT: u8 = 64;
/// All_DHCP_Relay_Agents_and_Servers (RFC 8415 7.1).
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Replies fit the smallest IPv6 link (RFC 8200 5).
const FRAME_LEN_MAX: usize = ETHERNET_HEADER_LEN + 1280;
/// Bytes of an identifier, its type included: 128 and 2, and something behind the type (RFC 8415 11.1).
const DUID_LEN: std::ops::RangeInclusive<usize> = 3..=130;
/// Above this a client does not wait for better offers (RFC 8415 18.2.1).
const PREFERENCE: u8 = 255;

/// Flags of option 39 (RFC 4704 4.1): S server updates AAAA records, O against the client's wish,
/// N server updates nothing.
const FQDN_S: u8 = 1;
const FQDN_O: u8 = 2;
const FQDN_N: u8 = 4;

/// Whether a datagram to `dst` and `port` is for the DHCPv6 server.
pub fn is_for_us(network: &Network, dst: Ipv6Addr, port: u16) -> bool {
    port == SERVER_PORT && (dst == ALL_SERVERS || network.v6.is_some_and(|v6| dst == v6.our_link_local))
}

pub fn answer(network: &Network, frame: &[u8], out: &mut Vec<u8>) -> Result<(), DropReason> {
    out.clear();
    let v6 = network.v6.filter(|_| network.services.dhcpv6).ok_or(DropReason::Disabled)?;
    let request = Request::parse(frame, protocol::UDP)?;
    let message = Message::parse(request.datagram_to(SERVER_PORT)?).ok_or(DropReason::Malformed)?;
    let IpAddr::V6(client) = request.src else { return Err(DropReason::NotForUs) };
    if !client.is_unicast_link_local() {
        return Err(DropReason::Source); // RFC 8415 17.1: a client uses its link-local address
    }
    let is_unicast = !request.dst.is_multicast();
    let our_id = server_id(network.our_mac);
    check_ids(&message, &our_id)?;
    let reply = Reply::decide(v6, &message, is_unicast)?;

    let envelope = Envelope {
        src_mac: network.our_mac,
        dst_mac: request.src_mac,
        src: v6.our_link_local.into(),
        dst: client.into(),
        hop_limit: HOP_LIMIT,
    };
    envelope.open_udp(out);
    let mut writer = Writer::new(out, FRAME_LEN_MAX, reply.message_type(), message.transaction);
    writer.push(option::SERVER_ID, &our_id);
    if let Some(id) = message.options.find(option::CLIENT_ID) {
        writer.push(option::CLIENT_ID, id);
    }
    reply.push(network, v6, &message, &mut writer);
    envelope.seal_udp(out, SERVER_PORT, CLIENT_PORT);
    Ok(())
}

/// DUID-LL of an Ethernet interface (RFC 8415 11.4).
fn server_id(mac: Mac) -> [u8; 10] {
    let [a, b, c, d, e, f] = mac.0;
    [0, 3, 0, 1, a, b, c, d, e, f]
}

/// Who must name whom (RFC 8415 16.2 to 16.12).
fn check_ids(message: &Message<'_>, our_id: &[u8]) -> Result<(), DropReason> {
    let client = message.options.find(option::CLIENT_ID);
    if client.is_some_and(|id| !DUID_LEN.contains(&id.len())) {
        return Err(DropReason::Malformed);
    }
    let server = message.options.find(option::SERVER_ID);
    let is_ours = |id: &[u8]| if id == our_id { Ok(()) } else { Err(DropReason::NotForUs) };
    match (message.kind, client, server) {
        (MessageType::Solicit | MessageType::Confirm | MessageType::Rebind, Some(_), None) => Ok(()),
        (
            MessageType::Request | MessageType::Renew | MessageType::Release | MessageType::Decline,
            Some(_),
            Some(id),
        ) => is_ours(id),
        (MessageType::InformationRequest, _, None) => Ok(()),
        (MessageType::InformationRequest, _, Some(id)) => is_ours(id),
        (MessageType::Advertise | MessageType::Reply | MessageType::Other(_), ..) => {
            Err(DropReason::NotForUs)
        }
        (
            MessageType::Solicit
            | MessageType::Confirm
            | MessageType::Rebind
            | MessageType::Request
            | MessageType::Renew
            | MessageType::Release
            | MessageType::Decline,
            ..,
        ) => Err(DropReason::Malformed),
    }
}

/// What to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Advertise,
    /// Assigns the address at once, to a Solicit.
    Commit,
    /// Assigns the address.
    Assign,
    /// Extends the address and ends others.
    Extend,
    /// Parameters only.
    Information,
    /// A status and nothing else.
    Status(Status),
}

impl Reply {
    fn decide(v6: V6, message: &Message<'_>, is_unicast: bool) -> Result<Self, DropReason> {
        use MessageType as Type;

        match message.kind {
            // RFC 8415 16: these are never unicast.
            Type::Solicit | Type::Confirm | Type::Rebind | Type::InformationRequest if is_unicast => {
                Err(DropReason::NotForUs)
            }
            // We never send the Server Unicast option that would allow it (RFC 8415 18.3.2, 18.3.4, 18.3.7, 18.3.8).
            Type::Request | Type::Renew | Type::Release | Type::Decline if is_unicast => {
                Ok(Self::Status(Status::UseMulticast))
            }
            Type::Solicit if message.options.find(option::RAPID_COMMIT).is_some() => Ok(Self::Commit),
            Type::Solicit => Ok(Self::Advertise),
            Type::Request => Ok(Self::Assign),
            Type::Renew | Type::Rebind => Ok(Self::Extend),
            Type::Confirm => {
                let mut addresses = message.ias().flat_map(|ia| ia.addresses()).peekable();
                if addresses.peek().is_none() {
                    return Err(DropReason::NotForUs); // RFC 8415 18.3.3
                }
                let all_ours = addresses.all(|address| address == v6.guest);
                Ok(Self::Status(if all_ours { Status::Success } else { Status::NotOnLink }))
            }
            Type::Release | Type::Decline => Ok(Self::Status(Status::Success)),
            Type::InformationRequest if message.ias().next().is_some() => Err(DropReason::Malformed), // 16.12
            Type::InformationRequest => Ok(Self::Information),
            Type::Advertise | Type::Reply | Type::Other(_) => Err(DropReason::NotForUs),
        }
    }

    fn message_type(self) -> MessageType {
        if self == Self::Advertise { MessageType::Advertise } else { MessageType::Reply }
    }

    /// Appends the options behind the identifiers.
    fn push(self, network: &Network, v6: V6, message: &Message<'_>, writer: &mut Writer<'_>) {
        match self {
            Self::Status(status) => {
                writer.push(option::STATUS_CODE, &status.value().to_be_bytes());
                return;
            }
            Self::Advertise => writer.push(option::PREFERENCE, &[PREFERENCE]),
            Self::Commit => writer.push(option::RAPID_COMMIT, &[]),
            Self::Assign | Self::Extend | Self::Information => {}
        }
        match self {
            Self::Advertise | Self::Commit => ia::push_all(v6, message, ia::Exchange::Solicit, writer),
            Self::Assign => ia::push_all(v6, message, ia::Exchange::Request, writer),
            Self::Extend => ia::push_all(v6, message, ia::Exchange::Extend, writer),
            Self::Information | Self::Status(_) => {}
        }
        push_parameters(network, message, writer);
    }
}

/// Appends resolvers and names: those asked for, or all when the client does not say.
fn push_parameters(network: &Network, message: &Message<'_>, writer: &mut Writer<'_>) {
    let requested = message.options.find(option::OPTION_REQUEST);
    let wants = |code: u16| requested.is_none_or(|codes| codes.as_chunks().0.contains(&code.to_be_bytes()));
    if wants(option::DNS_SERVERS) {
        writer.push_with(option::DNS_SERVERS, |data, room| {
            network.resolvers_v6().take(room / 16).for_each(|address| data.extend(address.octets()));
        });
    }
    if wants(option::DOMAIN_LIST) {
        writer.push_with(option::DOMAIN_LIST, |data, room| {
            name::push_list(data, network.search_list(), room); // never compressed (RFC 8415 10)
        });
    }
    let client_flags =
        message.options.find(option::CLIENT_FQDN).map(|data| data.first().copied().unwrap_or(0));
    if let Some(fqdn) = network.fqdn.as_ref().filter(|_| client_flags.is_some() || wants(option::CLIENT_FQDN))
    {
        let overridden = if client_flags.unwrap_or(0) & FQDN_S == 0 { 0 } else { FQDN_O };
        writer.push_with(option::CLIENT_FQDN, |data, _| {
            let start = data.len();
            data.push(FQDN_N | overridden);
            if !name::push(data, fqdn) {
                data.truncate(start);
            }
        });
    }
}
