//! One pass over a frame's Ethernet and IP headers, giving places instead of slices.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::checksum::Sum;
use super::{ETHERNET_HEADER_LEN, IPV4_HEADER_LEN, IPV6_HEADER_LEN, Mac};

/// IPv6 extension headers we walk over before giving up; more than any real stack sends.
const EXTENSION_HEADERS_MAX: usize = 8;

/// The EtherTypes we answer or translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtherType {
    Ipv4,
    Ipv6,
    Arp,
    Other(u16),
}

impl EtherType {
    pub fn value(self) -> u16 {
        match self {
            Self::Ipv4 => 0x0800,
            Self::Ipv6 => 0x86dd,
            Self::Arp => 0x0806,
            Self::Other(value) => value,
        }
    }
}

impl From<u16> for EtherType {
    fn from(value: u16) -> Self {
        match value {
            0x0800 => Self::Ipv4,
            0x86dd => Self::Ipv6,
            0x0806 => Self::Arp,
            other => Self::Other(other),
        }
    }
}

/// Why bytes are not the packet they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the frame ends inside a header")]
    Truncated,
    #[error("the IP version contradicts the EtherType")]
    Version,
    #[error("a header's length field is impossible")]
    HeaderLength,
    #[error("the IP length exceeds the frame")]
    Length,
    #[error("the header checksum is wrong")]
    Checksum,
    #[error("more IPv6 extension headers than any real stack sends")]
    Extensions,
}

/// A frame's Ethernet header and, for IP, what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    pub src: Mac,
    pub dst: Mac,
    pub ether_type: EtherType,
    pub ip: Option<IpHeaders>,
}

/// An IP packet's meaning and the places of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpHeaders {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN as one byte.
    pub traffic_class: u8,
    /// The transport's number after all extension headers.
    pub protocol: u8,
    /// Frame offset of the transport header (or of the fragment's data).
    pub transport: usize,
    /// Frame offset of the packet's end; Ethernet padding lies behind it.
    pub end: usize,
    pub fragment: Option<Fragment>,
    /// Nobody on the way may cut this packet: DF, and every IPv6 packet (RFC 8200 4.5).
    pub dont_fragment: bool,
}

/// Bytes of a frame by place: offsets from the frame's first byte.
pub type Payload = Range<usize>;

/// The part of a larger packet that this one carries (RFC 791 3.2, RFC 8200 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub ident: u32,
    /// Byte offset of this part's data in the original's payload; a multiple of 8.
    pub offset: u16,
    /// More parts follow.
    pub more: bool,
}

impl Headers {
    /// Reads the headers of a frame of `frame_len` bytes whose first bytes are `head`.
    ///
    /// `head` must hold every header; a frame shorter than what its headers claim is [`Malformed`].
    pub fn parse(head: &[u8], frame_len: usize) -> Result<Self, Malformed> {
        let Some((ethernet, rest)) = head.split_first_chunk::<ETHERNET_HEADER_LEN>() else {
            return Err(Malformed::Truncated);
        };
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *ethernet;
        let ether_type = EtherType::from(u16::from_be_bytes([t0, t1]));
        let ip = match ether_type {
            EtherType::Ipv4 => Some(parse_v4(rest, frame_len)?),
            EtherType::Ipv6 => Some(parse_v6(rest, frame_len)?),
            EtherType::Arp | EtherType::Other(_) => None,
        };
        Ok(Self { src: Mac([s0, s1, s2, s3, s4, s5]), dst: Mac([d0, d1, d2, d3, d4, d5]), ether_type, ip })
    }
}

impl IpHeaders {
    /// The place of everything behind the IP headers.
    pub fn payload(&self) -> Payload {
        self.transport..self.end
    }
}

fn parse_v4(bytes: &[u8], frame_len: usize) -> Result<IpHeaders, Malformed> {
    let Some(fixed) = bytes.first_chunk::<IPV4_HEADER_LEN>() else {
        return Err(Malformed::Truncated);
    };
    if fixed[0] >> 4 != 4 {
        return Err(Malformed::Version);
    }
    let header_len = usize::from(fixed[0] & 0xf) * 4;
    let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if header_len < IPV4_HEADER_LEN || total_len < header_len {
        return Err(Malformed::HeaderLength);
    }
    let header = bytes.get(..header_len).ok_or(Malformed::Truncated)?;
    if ETHERNET_HEADER_LEN + total_len > frame_len {
        return Err(Malformed::Length);
    }
    if Sum::default().with(header).finish() != 0 {
        return Err(Malformed::Checksum);
    }
    let flags_offset = u16::from_be_bytes([fixed[6], fixed[7]]);
    let (more, offset) = (flags_offset & 0x2000 != 0, (flags_offset & 0x1fff) << 3);
    let fragment = (more || offset != 0).then(|| Fragment {
        ident: u32::from(u16::from_be_bytes([fixed[4], fixed[5]])),
        offset,
        more,
    });
    Ok(IpHeaders {
        src: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
        dst: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
        hop_limit: fixed[8],
        traffic_class: fixed[1],
        protocol: fixed[9],
        transport: ETHERNET_HEADER_LEN + header_len,
        end: ETHERNET_HEADER_LEN + total_len,
        fragment,
        dont_fragment: flags_offset & 0x4000 != 0,
    })
}

fn parse_v6(bytes: &[u8], frame_len: usize) -> Result<IpHeaders, Malformed> {
    let Some(fixed) = bytes.first_chunk::<IPV6_HEADER_LEN>() else {
        return Err(Malformed::Truncated);
    };
    if fixed[0] >> 4 != 6 {
        return Err(Malformed::Version);
    }
    let packet_len = IPV6_HEADER_LEN + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    if ETHERNET_HEADER_LEN + packet_len > frame_len {
        return Err(Malformed::Length);
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&fixed[at..at + 16]);
        IpAddr::from(Ipv6Addr::from(octets))
    };
    let chain = Extensions::walk(bytes, packet_len, fixed[6])?;
    Ok(IpHeaders {
        src: address(8),
        dst: address(24),
        hop_limit: fixed[7],
        traffic_class: fixed[0] << 4 | fixed[1] >> 4,
        protocol: chain.protocol,
        transport: ETHERNET_HEADER_LEN + chain.end,
        end: ETHERNET_HEADER_LEN + packet_len,
        fragment: chain.fragment,
        dont_fragment: true,
    })
}

/// Where the chain of IPv6 extension headers ends (RFC 8200 4.1).
struct Extensions {
    protocol: u8,
    /// Offset from the IPv6 header's first byte.
    end: usize,
    fragment: Option<Fragment>,
}

impl Extensions {
    fn walk(bytes: &[u8], packet_len: usize, first: u8) -> Result<Self, Malformed> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const DESTINATION: u8 = 60;

        let mut chain = Self { protocol: first, end: IPV6_HEADER_LEN, fragment: None };
        for _ in 0..EXTENSION_HEADERS_MAX {
            let len = match chain.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT => {
                    let header = bytes.get(chain.end..chain.end + 8).ok_or(Malformed::Truncated)?;
                    if chain.protocol == FRAGMENT {
                        let offset_flags = u16::from_be_bytes([header[2], header[3]]);
                        chain.fragment = Some(Fragment {
                            ident: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                            offset: offset_flags & !7,
                            more: offset_flags & 1 != 0,
                        });
                        8
                    } else {
                        8 + usize::from(header[1]) * 8
                    }
                }
                _ => return Ok(chain),
            };
            let next = bytes.get(chain.end).copied().ok_or(Malformed::Truncated)?;
            let is_fragment = chain.protocol == FRAGMENT;
            chain.end += len;
            if chain.end > packet_len {
                return Err(Malformed::HeaderLength);
            }
            chain.protocol = next;
            // What follows a fragment header that is not the first is data, not headers.
            if is_fragment && chain.fragment.is_some_and(|fragment| fragment.offset != 0) {
                return Ok(chain);
            }
        }
        Err(Malformed::Extensions)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ethernet, IPv4 10.0.0.1 -> 10.0.0.2, UDP, 4 bytes behind the IP header, then padding.
    const UDP4: [u8; 60] = {
        let mut frame = [0; 60];
        let head = [
            0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x08, 0x00, //
            0x45, 0xb8, 0x00, 0x18, 0x12, 0x34, 0x40, 0x00, 0x40, 0x11, 0x13, 0xe7, 10, 0, 0, 1, 10, 0, 0,
            2, //
            1, 2, 3, 4,
        ];
        let mut at = 0;
        while at < head.len() {
            frame[at] = head[at];
            at += 1;
        }
        frame
    };

    #[test]
    fn ipv4_places_exclude_ethernet_padding() {
        let headers = Headers::parse(&UDP4, UDP4.len()).unwrap();
        let ip = headers.ip.unwrap();
        assert_eq!(headers.src, Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!((ip.src.to_string(), ip.dst.to_string()), ("10.0.0.1".into(), "10.0.0.2".into()));
        assert_eq!((ip.hop_limit, ip.traffic_class, ip.protocol), (64, 0xb8, 17));
        assert_eq!((ip.payload(), ip.fragment, ip.dont_fragment), (34..38, None, true));
    }

    #[test]
    fn every_truncation_of_ipv4_is_an_error() {
        for len in 0..38 {
            assert!(Headers::parse(&UDP4[..len], len).is_err(), "{len}");
        }
    }

    #[test]
    fn a_flipped_bit_in_the_ipv4_header_is_a_checksum_error() {
        let mut frame = UDP4;
        frame[26] ^= 1;
        assert_eq!(Headers::parse(&frame, frame.len()), Err(Malformed::Checksum));
    }

    /// IPv6, hop-by-hop options, fragment header (first, more follow), then UDP.
    fn v6_with_extensions() -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x6b, 0x80, 0, 0, 0, 24, 0, 64]);
        frame.extend([0xfd; 16]);
        frame.extend([0xfe; 16]);
        frame.extend([44, 0, 1, 4, 0, 0, 0, 0]);
        frame.extend([17, 0, 0, 1, 0xaa, 0xbb, 0xcc, 0xdd]);
        frame.extend([0; 8]);
        frame
    }

    #[test]
    fn ipv6_extension_headers_are_walked_to_the_transport() {
        let frame = v6_with_extensions();
        let ip = Headers::parse(&frame, frame.len()).unwrap().ip.unwrap();
        assert_eq!((ip.protocol, ip.traffic_class, ip.payload()), (17, 0xb8, 70..78));
        assert_eq!(ip.fragment, Some(Fragment { ident: 0xaabb_ccdd, offset: 0, more: true }));
    }

    #[test]
    fn an_endless_chain_of_extension_headers_is_refused() {
        let mut frame = v6_with_extensions();
        frame.truncate(54);
        frame[18..20].copy_from_slice(&160u16.to_be_bytes());
        frame[20] = 60;
        for _ in 0..20 {
            frame.extend([60, 0, 1, 4, 0, 0, 0, 0]);
        }
        assert_eq!(Headers::parse(&frame, frame.len()), Err(Malformed::Extensions));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_places_stay_inside(
            mut frame in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..3,
        ) {
            if let Some(bytes) = frame.get_mut(12..15) {
                bytes.copy_from_slice(&[[8, 0, 0x45], [0x86, 0xdd, 0x60], [8, 6, 0]][kind]);
            }
            if let Ok(Headers { ip: Some(ip), .. }) = Headers::parse(&frame, frame.len()) {
                prop_assert!(ip.transport <= ip.end && ip.end <= frame.len());
            }
        }
    }
}
