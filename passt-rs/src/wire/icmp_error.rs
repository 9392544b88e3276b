//! ICMP and ICMPv6 errors about a packet of the guest's (RFC 792, RFC 1812 4.3.2, RFC 4443 2.4 and 3).
//!
//! Builds whole frames only; whether one may be sent at all (never about an error, a multicast or a later
//! fragment: RFC 1122 3.2.2) is for the caller, who knows the packet.

use std::net::IpAddr;

use super::checksum::Sum;
use super::{
    ETHERNET_HEADER_LEN, EtherType, IPV4_HEADER_LEN, IpRepr, Mac, emit_ethernet, emit_ip, ip_header_len,
    protocol,
};

/// Length of an error's own header: type, code, checksum and the word that depends on the type.
const HEADER_LEN: usize = 8;
/// An ICMPv4 error packet is at most this long (RFC 1812 4.3.2.3).
const V4_PACKET_MAX: usize = 576;
/// An ICMPv6 error packet is at most this long, the smallest MTU of a link (RFC 4443 2.4 c).
const V6_PACKET_MAX: usize = 1280;
/// The longest frame that [`emit`] writes.
pub const FRAME_MAX: usize = ETHERNET_HEADER_LEN + V6_PACKET_MAX;
/// Hop limit of errors; they come from next door as far as the guest can tell.
const HOP_LIMIT: u8 = 64;

/// What is wrong, in terms both families have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    NetUnreachable,
    HostUnreachable,
    ProtocolUnreachable,
    PortUnreachable,
    AdminProhibited,
    /// Fragmentation needed, or packet too big; `mtu` in bytes of the next link.
    TooBig {
        mtu: u32,
    },
    /// TTL or hop limit exceeded in transit.
    TimeExceeded,
}

impl IcmpError {
    /// The meaning of an ICMPv4 error's type, code and next-hop MTU; `None` for what is not one of ours.
    pub fn from_v4(kind: u8, code: u8, mtu: u32) -> Option<Self> {
        match (kind, code) {
            // RFC 792; codes 5 to 15 are of RFC 1122 3.2.2.1 and RFC 1812 5.2.7.1.
            (3, 0 | 6 | 11) => Some(Self::NetUnreachable),
            (3, 1 | 5 | 7 | 8 | 12) => Some(Self::HostUnreachable),
            (3, 2) => Some(Self::ProtocolUnreachable),
            (3, 3) => Some(Self::PortUnreachable),
            (3, 4) => Some(Self::TooBig { mtu }),
            (3, 9 | 10 | 13..=15) => Some(Self::AdminProhibited),
            (11, 0) => Some(Self::TimeExceeded),
            _ => None,
        }
    }

    /// The meaning of an ICMPv6 error's type, code and MTU (RFC 4443 3).
    pub fn from_v6(kind: u8, code: u8, mtu: u32) -> Option<Self> {
        match (kind, code) {
            (1, 0 | 2) => Some(Self::NetUnreachable),
            (1, 1 | 5 | 6) => Some(Self::AdminProhibited),
            (1, 3) => Some(Self::HostUnreachable),
            (1, 4) => Some(Self::PortUnreachable),
            (2, _) => Some(Self::TooBig { mtu }),
            (3, 0) => Some(Self::TimeExceeded),
            (4, 1) => Some(Self::ProtocolUnreachable),
            _ => None,
        }
    }

    /// Type, code and last header word of the ICMPv4 message.
    fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::NetUnreachable => (3, 0, 0),
            Self::HostUnreachable => (3, 1, 0),
            Self::ProtocolUnreachable => (3, 2, 0),
            Self::PortUnreachable => (3, 3, 0),
            Self::AdminProhibited => (3, 13, 0),
            // The upper half is unused (RFC 1191 4).
            Self::TooBig { mtu } => (3, 4, mtu.min(0xffff)),
            Self::TimeExceeded => (11, 0, 0),
        }
    }

    /// Type, code and last header word of the ICMPv6 message.
    fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::NetUnreachable => (1, 0, 0),
            Self::HostUnreachable => (1, 3, 0),
            // Parameter problem, pointing at Next Header of the fixed header (RFC 4443 3.4).
            Self::ProtocolUnreachable => (4, 1, 6),
            Self::PortUnreachable => (1, 4, 0),
            Self::AdminProhibited => (1, 1, 0),
            Self::TooBig { mtu } => (2, 0, mtu),
            Self::TimeExceeded => (3, 0, 0),
        }
    }
}

/// Writes a frame that tells `to` of `error`, as if from the node `from`, into `buffer` of at least
/// [`FRAME_MAX`] bytes; gives its length.
///
/// `original` begins with the IP header of the packet that is at fault, as the guest sent it; of what
/// follows, as much is quoted as a message may hold. `from` and `to` are of the same family.
pub fn emit(
    buffer: &mut [u8],
    error: IcmpError,
    (our_mac, guest_mac): (Mac, Mac),
    (from, to): (IpAddr, IpAddr),
    original: &[u8],
) -> usize {
    let (ether_type, number, packet_max, (kind, code, word)) = match from {
        IpAddr::V4(_) => (EtherType::Ipv4, protocol::ICMP, V4_PACKET_MAX, error.v4()),
        IpAddr::V6(_) => (EtherType::Ipv6, protocol::ICMPV6, V6_PACKET_MAX, error.v6()),
    };
    let ip_len = ip_header_len(from);
    let quoted = &original[..original.len().min(packet_max - ip_len - HEADER_LEN)];
    let len = HEADER_LEN + quoted.len();

    emit_ethernet(buffer, our_mac, guest_mac, ether_type);
    let packet = &mut buffer[ETHERNET_HEADER_LEN..];
    // Errors are network control traffic: precedence 6 (RFC 1812 4.3.2.5).
    let ip = IpRepr { src: from, dst: to, protocol: number, hop_limit: HOP_LIMIT, traffic_class: 0xc0 };
    emit_ip(packet, &ip, len);
    let message = &mut packet[ip_len..ip_len + len];
    message[..4].copy_from_slice(&[kind, code, 0, 0]);
    message[4..HEADER_LEN].copy_from_slice(&word.to_be_bytes());
    message[HEADER_LEN..].copy_from_slice(quoted);
    // Only ICMPv6 covers a pseudo-header (RFC 4443 2.3).
    let sum = if from.is_ipv4() { Sum::default() } else { Sum::pseudo_header(from, to, number, len) };
    let checksum = sum.with(message).finish();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    ETHERNET_HEADER_LEN + ip_len + len
}

const _: () =
    assert!(V4_PACKET_MAX - IPV4_HEADER_LEN - HEADER_LEN >= 68, "a whole IPv4 header and 8 bytes fit");

#[cfg(test)]
mod tests {
    use super::super::Headers;
    use super::*;

    const MACS: (Mac, Mac) =
        (Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]), Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]));

    fn pair(from: &str, to: &str) -> (IpAddr, IpAddr) {
        (from.parse().unwrap(), to.parse().unwrap())
    }

    #[test]
    fn port_unreachable_over_ipv4_in_literal_bytes() {
        let original = [
            0x45, 0, 0, 30, 0, 0, 0x40, 0, 64, 17, 0x26, 0xcd, 10, 0, 0, 1, 10, 0, 0, 2, //
            0x12, 0x34, 0, 53, 0, 10, 0, 0, 0xab, 0xcd, //
        ];
        let mut buffer = [0xa5; FRAME_MAX];
        let len =
            emit(&mut buffer, IcmpError::PortUnreachable, MACS, pair("10.0.0.2", "10.0.0.1"), &original);
        let mut expected = vec![0x52, 0x54, 0, 0x12, 0x34, 0x56, 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55, 8, 0];
        expected.extend([0x45, 0xc0, 0, 58, 0, 0, 0x40, 0, 64, 1, 0x26, 0x01, 10, 0, 0, 2, 10, 0, 0, 1]);
        expected.extend([3, 3, 0x3e, 0xbc, 0, 0, 0, 0]);
        expected.extend(original);
        assert_eq!(buffer[..len], expected);
    }

    #[test]
    fn packet_too_big_over_ipv6_carries_the_mtu_and_fills_1280_bytes() {
        let mut buffer = [0xa5; FRAME_MAX];
        let (from, to) = pair("fd00::2", "fd00::1");
        let len = emit(&mut buffer, IcmpError::TooBig { mtu: 1400 }, MACS, (from, to), &[0x60; 3000]);
        assert_eq!(len, FRAME_MAX);
        let ip = Headers::parse(&buffer[..len], len).unwrap().ip.unwrap();
        let message = &buffer[ip.payload()];
        assert_eq!((message[0], message[1], &message[4..8]), (2, 0, &1400u32.to_be_bytes()[..]));
        assert_eq!(Sum::pseudo_header(from, to, 58, message.len()).with(message).finish(), 0);
    }

    #[test]
    fn ipv4_errors_quote_up_to_576_bytes_in_all() {
        let mut buffer = [0xa5; FRAME_MAX];
        let error = IcmpError::TooBig { mtu: 1_000_000 };
        let len = emit(&mut buffer, error, MACS, pair("10.0.0.2", "10.0.0.1"), &[0x45; 3000]);
        assert_eq!(len, ETHERNET_HEADER_LEN + 576);
        assert_eq!(buffer[34..36], [3, 4]);
        assert_eq!(buffer[38..42], [0, 0, 0xff, 0xff]);
        assert_eq!(Sum::default().with(&buffer[34..len]).finish(), 0);
    }

    #[test]
    fn what_one_family_says_reads_back_as_the_same() {
        let all = [
            IcmpError::NetUnreachable,
            IcmpError::HostUnreachable,
            IcmpError::ProtocolUnreachable,
            IcmpError::PortUnreachable,
            IcmpError::AdminProhibited,
            IcmpError::TooBig { mtu: 1400 },
            IcmpError::TimeExceeded,
        ];
        for error in all {
            let (kind, code, word) = error.v4();
            assert_eq!(IcmpError::from_v4(kind, code, word), Some(error));
            let (kind, code, word) = error.v6();
            assert_eq!(IcmpError::from_v6(kind, code, word), Some(error));
        }
        assert_eq!((IcmpError::from_v4(8, 0, 0), IcmpError::from_v6(128, 0, 0)), (None, None));
    }
}
