//! Writing Ethernet and IP headers in front of a payload.

use std::net::IpAddr;

use super::checksum::Sum;
use super::{ETHERNET_HEADER_LEN, EtherType, IPV4_HEADER_LEN, IPV6_HEADER_LEN, Mac};

/// The IP header of a packet we build: never fragmented by us here, no options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRepr {
    pub src: IpAddr,
    /// Same family as `src`.
    pub dst: IpAddr,
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN as one byte.
    pub traffic_class: u8,
}

/// Length of the IP header that [`emit_ip`] writes for packets between addresses of this family.
pub fn ip_header_len(address: IpAddr) -> usize {
    if address.is_ipv4() { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN }
}

/// Writes the Ethernet header into the first 14 bytes of `buffer`.
pub fn emit_ethernet(buffer: &mut [u8], src: Mac, dst: Mac, ether_type: EtherType) {
    buffer[..6].copy_from_slice(&dst.0);
    buffer[6..12].copy_from_slice(&src.0);
    buffer[12..ETHERNET_HEADER_LEN].copy_from_slice(&ether_type.value().to_be_bytes());
}

/// Writes the IP header for `payload_len` bytes at the start of `buffer`, checksum included.
///
/// `payload_len` must fit the 16-bit length with the header; the caller bounds it by the link's maximum.
pub fn emit_ip(buffer: &mut [u8], ip: &IpRepr, payload_len: usize) {
    match (ip.src, ip.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = &mut buffer[..IPV4_HEADER_LEN];
            header[0] = 0x45;
            header[1] = ip.traffic_class;
            header[2..4].copy_from_slice(&length16(IPV4_HEADER_LEN + payload_len));
            header[4..6].fill(0);
            header[6..8].copy_from_slice(&0x4000u16.to_be_bytes()); // DF: an atomic datagram, ident may be 0 (RFC 6864 4.1)
            header[8] = ip.hop_limit;
            header[9] = ip.protocol;
            header[10..12].fill(0);
            header[12..16].copy_from_slice(&src.octets());
            header[16..20].copy_from_slice(&dst.octets());
            let sum = Sum::default().with(header).finish();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = &mut buffer[..IPV6_HEADER_LEN];
            header[0] = 0x60 | ip.traffic_class >> 4;
            header[1] = ip.traffic_class << 4;
            header[2..4].fill(0);
            header[4..6].copy_from_slice(&length16(payload_len));
            header[6] = ip.protocol;
            header[7] = ip.hop_limit;
            header[8..24].copy_from_slice(&src.octets());
            header[24..40].copy_from_slice(&dst.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            debug_assert!(false, "families of one flow never differ");
        }
    }
}

fn length16(len: usize) -> [u8; 2] {
    debug_assert!(len <= 0xffff, "IP length {len}");
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::Headers;
    use super::*;

    #[test]
    fn emitted_headers_parse_to_what_was_meant() {
        for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let ip = IpRepr {
                src: src.parse().unwrap(),
                dst: dst.parse().unwrap(),
                protocol: 17,
                hop_limit: 63,
                traffic_class: 0xb8,
            };
            let mut frame = vec![0xa5; ETHERNET_HEADER_LEN + ip_header_len(ip.src) + 9];
            let ether_type = if ip.src.is_ipv4() { EtherType::Ipv4 } else { EtherType::Ipv6 };
            emit_ethernet(&mut frame, Mac([2; 6]), Mac([4; 6]), ether_type);
            emit_ip(&mut frame[ETHERNET_HEADER_LEN..], &ip, 9);
            let headers = Headers::parse(&frame, frame.len()).unwrap();
            assert_eq!((headers.src, headers.dst), (Mac([2; 6]), Mac([4; 6])));
            let parsed = headers.ip.unwrap();
            assert_eq!((parsed.src, parsed.dst, parsed.protocol), (ip.src, ip.dst, 17));
            assert_eq!((parsed.hop_limit, parsed.traffic_class), (63, 0xb8));
            assert_eq!(parsed.payload().len(), 9);
        }
    }
}
