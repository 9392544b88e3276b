//! Writing the IP headers of one fragment (RFC 791 3.2, RFC 8200 4.5).

use std::net::IpAddr;

use super::checksum::Sum;
use super::{Fragment, IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpRepr, emit_ip, ip_header_len};

/// IANA protocol number of the IPv6 fragment header.
const IPV6_FRAGMENT: u8 = 44;
const IPV6_FRAGMENT_HEADER_LEN: usize = 8;

/// Length of what [`emit`] writes for packets between addresses of this family.
pub fn header_len(address: IpAddr) -> usize {
    ip_header_len(address) + if address.is_ipv4() { 0 } else { IPV6_FRAGMENT_HEADER_LEN }
}

/// Writes the IP header of `fragment`, which carries `len` bytes, at the start of `buffer`; over IPv6 the
/// fragment header follows it.
pub fn emit(buffer: &mut [u8], ip: &IpRepr, fragment: Fragment, len: usize) {
    let more = u16::from(fragment.more);
    match ip.src {
        IpAddr::V4(_) => {
            emit_ip(buffer, ip, len);
            let header = &mut buffer[..IPV4_HEADER_LEN];
            let [_, _, ident @ ..] = fragment.ident.to_be_bytes();
            header[4..6].copy_from_slice(&ident);
            header[6..8].copy_from_slice(&(more << 13 | fragment.offset >> 3).to_be_bytes());
            header[10..12].fill(0);
            let sum = Sum::default().with(header).finish();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        IpAddr::V6(_) => {
            let outer = IpRepr { protocol: IPV6_FRAGMENT, ..*ip };
            emit_ip(buffer, &outer, IPV6_FRAGMENT_HEADER_LEN + len);
            let header = &mut buffer[IPV6_HEADER_LEN..IPV6_HEADER_LEN + IPV6_FRAGMENT_HEADER_LEN];
            header[0] = ip.protocol;
            header[1] = 0;
            header[2..4].copy_from_slice(&(fragment.offset & !7 | more).to_be_bytes());
            header[4..8].copy_from_slice(&fragment.ident.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ETHERNET_HEADER_LEN, EtherType, Headers, Mac, emit_ethernet};
    use super::*;

    fn ip(src: &str, dst: &str) -> IpRepr {
        let [src, dst] = [src, dst].map(|address| address.parse().unwrap());
        IpRepr { src, dst, protocol: 17, hop_limit: 64, traffic_class: 0 }
    }

    #[test]
    fn ipv4_fragment_in_literal_bytes() {
        let mut buffer = [0xa5; 20];
        let fragment = Fragment { ident: 0x9999_1234, offset: 1480, more: true };
        emit(&mut buffer, &ip("10.0.0.1", "10.0.0.2"), fragment, 8);
        let bytes = [
            0x45, 0, 0, 28, 0x12, 0x34, 0x20, 0xb9, 64, 17, 0x33, 0xe2, 10, 0, 0, 1, 10, 0, 0, 2, //
        ];
        assert_eq!(buffer, bytes);
    }

    #[test]
    fn ipv6_fragment_header_in_literal_bytes() {
        let mut buffer = [0xa5; 48];
        let fragment = Fragment { ident: 0xaabb_ccdd, offset: 1448, more: false };
        emit(&mut buffer, &ip("fd00::1", "fd00::2"), fragment, 100);
        assert_eq!(buffer[4..8], [0, 108, 44, 64]);
        assert_eq!(buffer[40..], [17, 0, 0x05, 0xa8, 0xaa, 0xbb, 0xcc, 0xdd]);
    }

    #[test]
    fn what_is_emitted_parses_to_the_same() {
        for (repr, ether_type) in [
            (ip("10.0.0.1", "10.0.0.2"), EtherType::Ipv4),
            (ip("fd00::1", "fd00::2"), EtherType::Ipv6), //
        ] {
            for fragment in [
                Fragment { ident: 7, offset: 0, more: true },
                Fragment { ident: 0xffff, offset: 65_520, more: false }, //
            ] {
                let headers = ETHERNET_HEADER_LEN + header_len(repr.src);
                let mut frame = vec![0xa5; headers + 8];
                emit_ethernet(&mut frame, Mac([2; 6]), Mac([4; 6]), ether_type);
                emit(&mut frame[ETHERNET_HEADER_LEN..], &repr, fragment, 8);
                let parsed = Headers::parse(&frame, frame.len()).unwrap().ip.unwrap();
                assert_eq!((parsed.fragment, parsed.protocol), (Some(fragment), 17));
                assert_eq!(parsed.payload(), headers..headers + 8);
            }
        }
    }
}
