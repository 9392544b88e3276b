//! Header to verdict: answer it ourselves, translate it, or drop it. Pure.

use crate::answer::{Network, Question};
use crate::drop_reason::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::tcp::Segment;
use crate::wire::{Checksum, EtherType, Headers, IpHeaders, Malformed, Offload, protocol};

/// What is to be done with a frame.
#[derive(Debug)]
pub enum Verdict {
    Answer(Question),
    /// A TCP segment, and the length of its header in bytes.
    Tcp(IpHeaders, Segment, usize),
}

/// Judges the frame of `len` bytes whose first bytes are `head`.
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
    let transport = headers.ip.as_ref().and_then(|ip| head.get(ip.payload())).unwrap_or_default();
    if let Some(question) = Question::of(network, &headers, transport) {
        return Ok((headers, Verdict::Answer(question)));
    }
    let ip = headers.ip.clone().ok_or(DropReason::NotForUs)?;
    if ip.src.is_multicast() || ip.src.is_unspecified() || ip.src.is_loopback() {
        return Err(DropReason::Source);
    }
    if ip.fragment.is_some() {
        return Err(DropReason::Fragment);
    }
    let verdict = match ip.protocol {
        protocol::TCP => {
            let (segment, header_len) = Segment::parse(transport).ok_or(DropReason::Malformed)?;
            verify(&ip, transport, offload)?;
            Verdict::Tcp(ip, segment, header_len)
        }
        _ => return Err(DropReason::Protocol),
    };
    Ok((headers, verdict))
}

/// Checks a transport checksum that nobody vouches for.
fn verify(ip: &IpHeaders, transport: &[u8], offload: &Offload) -> Result<(), DropReason> {
    if offload.checksum != Checksum::Complete {
        return Ok(());
    }
    let sum = Sum::pseudo_header(ip.src, ip.dst, ip.protocol, transport.len()).with(transport);
    if sum.finish() == 0 { Ok(()) } else { Err(DropReason::Checksum) }
}
