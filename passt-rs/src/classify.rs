//! Header to verdict: answer it ourselves, translate it, or drop it. Pure.

use std::net::IpAddr;

use crate::answer::{Network, Question};
use crate::drop_reason::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::tcp::Segment;
use crate::wire::udp::Datagram;
use crate::wire::{Checksum, EtherType, Fragment, Headers, IpHeaders, Malformed, Offload, protocol};

/// What is to be done with a frame.
#[derive(Debug)]
pub enum Verdict {
    Answer(Question),
    /// A TCP segment, and the length of its header in bytes.
    Tcp(IpHeaders, Segment, usize),
    Udp(IpHeaders, Datagram),
    /// An echo request and its identifier.
    Echo(IpHeaders, u16),
    /// Part of a datagram or of an echo request; whole, it is judged by [`packet`].
    Fragment(IpHeaders, Fragment),
}

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// Judges the frame of `len` bytes whose first bytes are `head`: all its headers, or the whole of it if a checksum is
/// to be verified.
pub fn frame(
    head: &[u8],
    len: usize,
    offload: &Offload,
    network: &Network,
) -> Result<(Headers, Verdict), DropReason> {
    let headers = Headers::parse(head, len).map_err(|malformed| match malformed {
        Malformed::Checksum => DropReason::Checksum,
        Malformed::Truncated
        | Malformed::Version
        | Malformed::HeaderLength
        | Malformed::Length
        | Malformed::Extensions => DropReason::Malformed,
    })?;
    if headers.src.is_multicast() || headers.src.is_zero() {
        return Err(DropReason::Source);
    }
    if let EtherType::Other(_) = headers.ether_type {
        return Err(DropReason::EtherType);
    }
    let transport = headers.ip.as_ref().and_then(|ip| head.get(ip.transport..ip.end.min(head.len())));
    let transport = transport.unwrap_or_default();
    if let Some(question) = Question::of(network, &headers, transport) {
        return Ok((headers, Verdict::Answer(question)));
    }
    let ip = headers.ip.clone().ok_or(DropReason::NotForUs)?;
    if ip.src.is_multicast() || ip.src.is_unspecified() || ip.src.is_loopback() {
        return Err(DropReason::Source);
    }
    reach(network, ip.dst)?;
    let verdict = match ip.fragment {
        // All of it after all (RFC 6946).
        Some(Fragment { offset: 0, more: false, .. }) | None => packet(ip, transport, offload)?,
        Some(fragment) if is_reassembled(ip.protocol) => Verdict::Fragment(ip, fragment),
        Some(_) => return Err(DropReason::Fragment),
    };
    Ok((headers, verdict))
}

/// Whether packets for `dst` are ours to carry at all.
fn reach(network: &Network, dst: IpAddr) -> Result<(), DropReason> {
    let own: Option<IpAddr> = match dst {
        IpAddr::V4(_) => network.v4.map(|v4| v4.guest.into()),
        IpAddr::V6(_) => network.v6.map(|v6| v6.guest.into()),
    };
    match own {
        None => Err(DropReason::Disabled),
        // The guest's address is the pod's: a socket of ours would reach the pod's own services there.
        Some(own) if own == dst => Err(DropReason::Destination),
        Some(_) => Ok(()),
    }
}

/// Judges a whole IP packet, `transport` being what follows its IP headers: all of that, unless somebody vouches for
/// the checksum.
pub fn packet(ip: IpHeaders, transport: &[u8], offload: &Offload) -> Result<Verdict, DropReason> {
    match (ip.protocol, ip.dst) {
        (protocol::TCP, _) => {
            let (segment, header_len) = Segment::parse(transport).ok_or(DropReason::Malformed)?;
            verify(&ip, transport, offload)?;
            Ok(Verdict::Tcp(ip, segment, header_len))
        }
        (protocol::UDP, _) => {
            let datagram = Datagram::parse(transport, ip.payload().len()).ok_or(DropReason::Malformed)?;
            match datagram.without_checksum && offload.checksum == Checksum::Complete {
                // RFC 8200 8.1: only over IPv4 may a datagram go without.
                true if ip.src.is_ipv6() => return Err(DropReason::Checksum),
                true => {}
                false => verify(&ip, transport, offload)?,
            }
            Ok(Verdict::Udp(ip, datagram))
        }
        (protocol::ICMP, IpAddr::V4(_)) => echo(ip, transport, ECHO_REQUEST_V4),
        (protocol::ICMPV6, IpAddr::V6(_)) => echo(ip, transport, ECHO_REQUEST_V6),
        _ => Err(DropReason::Protocol),
    }
}

/// Judges an ICMP message; only echo requests have a socket that could carry them.
fn echo(ip: IpHeaders, message: &[u8], request: u8) -> Result<Verdict, DropReason> {
    let [kind, code, _, _, ident_high, ident_low, _, _, ..] = *message else {
        return Err(DropReason::Malformed);
    };
    if (kind, code) != (request, 0) {
        return Err(DropReason::Protocol);
    }
    // Only ICMPv6 covers a pseudo-header (RFC 4443 2.3).
    let sum = match ip.src {
        IpAddr::V4(_) => Sum::default(),
        IpAddr::V6(_) => Sum::pseudo_header(ip.src, ip.dst, ip.protocol, ip.payload().len()),
    };
    if sum.with(message).finish() != 0 || message.len() != ip.payload().len() {
        return Err(DropReason::Checksum);
    }
    Ok(Verdict::Echo(ip, u16::from_be_bytes([ident_high, ident_low])))
}

/// TCP never sends fragments: it makes its segments fit.
fn is_reassembled(number: u8) -> bool {
    matches!(number, protocol::UDP | protocol::ICMP | protocol::ICMPV6)
}

/// Checks a transport checksum that nobody vouches for.
fn verify(ip: &IpHeaders, transport: &[u8], offload: &Offload) -> Result<(), DropReason> {
    if offload.checksum != Checksum::Complete {
        return Ok(());
    }
    let sum = Sum::pseudo_header(ip.src, ip.dst, ip.protocol, ip.payload().len()).with(transport);
    if sum.finish() == 0 && transport.len() == ip.payload().len() {
        Ok(())
    } else {
        Err(DropReason::Checksum)
    }
}
