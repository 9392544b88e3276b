//! Whole frames around a message of ours: room for headers first, the message behind, headers last.
//!
//! For messages that are written once and sent now (ARP aside, everything we answer). Forwarded traffic
//! never comes here: its headers go straight into the guest's buffers.

use std::net::IpAddr;

use super::checksum::Sum;
use super::udp::{self, Datagram};
use super::{ETHERNET_HEADER_LEN, EtherType, IpRepr, Mac, emit_ethernet, emit_ip, ip_header_len, protocol};

/// From whom to whom. `src` and `dst` are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub src_mac: Mac,
    pub dst_mac: Mac,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub hop_limit: u8,
}

impl Envelope {
    /// Makes `frame` the zeroed room of the Ethernet and IP headers; the message is appended behind it.
    pub fn open(&self, frame: &mut Vec<u8>) {
        frame.clear();
        frame.resize(self.ip_payload(), 0);
    }

    /// As [`Self::open`], with room for the UDP header as well.
    pub fn open_udp(&self, frame: &mut Vec<u8>) {
        frame.clear();
        frame.resize(self.ip_payload() + udp::HEADER_LEN, 0);
    }

    /// Writes the Ethernet and IP headers in front of what follows them in `frame`, a frame that
    /// [`Self::open`] began.
    pub fn seal(&self, frame: &mut [u8], protocol: u8) {
        let ether_type = if self.src.is_ipv4() { EtherType::Ipv4 } else { EtherType::Ipv6 };
        emit_ethernet(frame, self.src_mac, self.dst_mac, ether_type);
        let payload_len = frame.len() - self.ip_payload();
        let ip =
            IpRepr { src: self.src, dst: self.dst, protocol, hop_limit: self.hop_limit, traffic_class: 0 };
        emit_ip(&mut frame[ETHERNET_HEADER_LEN..], &ip, payload_len);
    }

    /// Writes all headers of a frame that [`Self::open_udp`] began, checksum included.
    pub fn seal_udp(&self, frame: &mut [u8], src_port: u16, dst_port: u16) {
        self.seal(frame, protocol::UDP);
        let datagram = &mut frame[self.ip_payload()..];
        let payload_len = datagram.len() - udp::HEADER_LEN;
        let header = Datagram { src_port, dst_port, payload_len, without_checksum: false };
        header.emit(datagram, 0);
        let sum = Sum::pseudo_header(self.src, self.dst, protocol::UDP, datagram.len()).with(datagram);
        // A computed zero is sent as all ones, zero meaning "none" (RFC 768).
        let sum = if sum.finish() == 0 { 0xffff } else { sum.finish() };
        header.emit(datagram, sum);
    }

    /// Writes all headers of a frame that [`Self::open`] began and the message's ICMPv6 checksum.
    pub fn seal_icmpv6(&self, frame: &mut [u8]) {
        self.seal(frame, protocol::ICMPV6);
        let message = &mut frame[self.ip_payload()..];
        message[2..4].fill(0);
        let sum = Sum::pseudo_header(self.src, self.dst, protocol::ICMPV6, message.len()).with(message);
        message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    }

    fn ip_payload(&self) -> usize {
        ETHERNET_HEADER_LEN + ip_header_len(self.src)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Headers;
    use super::*;

    fn envelope(src: &str, dst: &str) -> Envelope {
        Envelope {
            src_mac: Mac([2; 6]),
            dst_mac: Mac([4; 6]),
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            hop_limit: 255,
        }
    }

    fn checksum_is_right(frame: &[u8]) -> bool {
        let ip = Headers::parse(frame, frame.len()).unwrap().ip.unwrap();
        let payload = &frame[ip.payload()];
        Sum::pseudo_header(ip.src, ip.dst, ip.protocol, payload.len()).with(payload).finish() == 0
    }

    #[test]
    fn a_datagram_is_complete_in_both_families() {
        for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("fe80::1", "fe80::2")] {
            let envelope = envelope(src, dst);
            let mut frame = vec![0xa5; 7];
            envelope.open_udp(&mut frame);
            frame.extend(b"odd");
            envelope.seal_udp(&mut frame, 67, 68);
            let headers = Headers::parse(&frame, frame.len()).unwrap();
            let ip = headers.ip.unwrap();
            assert_eq!((headers.dst, headers.src), (Mac([4; 6]), Mac([2; 6])));
            assert_eq!((ip.src, ip.dst, ip.hop_limit), (envelope.src, envelope.dst, 255));
            assert_eq!(frame[ip.payload()][..6], [0, 67, 0, 68, 0, 11]);
            assert!(checksum_is_right(&frame));
        }
    }

    #[test]
    fn a_datagram_whose_checksum_is_zero_carries_all_ones() {
        let envelope = envelope("10.0.0.1", "10.0.0.2");
        let mut frame = Vec::new();
        envelope.open_udp(&mut frame);
        frame.extend([0, 0]);
        envelope.seal_udp(&mut frame, 0, 0);
        let sum = [frame[40], frame[41]];
        // The payload that complements the sum makes it zero.
        let at = frame.len() - 2;
        frame[at..].copy_from_slice(&sum);
        frame[40..42].fill(0);
        envelope.seal_udp(&mut frame, 0, 0);
        assert_eq!(frame[40..42], [0xff, 0xff]);
    }

    #[test]
    fn an_icmpv6_message_carries_its_checksum() {
        let envelope = envelope("fe80::1", "ff02::1");
        let mut frame = Vec::new();
        envelope.open(&mut frame);
        frame.extend([134, 0, 0xa5, 0xa5, 1, 2, 3]);
        envelope.seal_icmpv6(&mut frame);
        assert!(checksum_is_right(&frame));
    }
}
