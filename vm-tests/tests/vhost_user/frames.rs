//! What a frame must be like, given its virtio-net header: nothing that a correct driver could choke on.

use std::net::IpAddr;

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
    checksum,
};
use vm_tests::vhost::{DATA_VALID, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Header, NEEDS_CSUM};

const ETHERNET: usize = 14;

/// Where a frame's parts are.
pub(crate) struct Parts {
    source: IpAddress,
    destination: IpAddress,
    protocol: IpProtocol,
    /// Bytes in front of the TCP or UDP header, and the bytes of that header.
    pub(crate) transport: usize,
    pub(crate) transport_header: usize,
    end: usize,
}

impl Parts {
    /// None for what is not TCP or UDP over IP, or is a fragment.
    pub(crate) fn find(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetFrame::new_checked(frame).expect("an Ethernet header");
        let packet = &frame[ETHERNET..];
        let (source, destination, protocol, header, total) = match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => {
                let ip = Ipv4Packet::new_unchecked(packet);
                if ip.more_frags() || ip.frag_offset() > 0 {
                    return None;
                }
                let header = usize::from(ip.header_len());
                (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), header, ip.total_len().into())
            }
            EthernetProtocol::Ipv6 => {
                let ip = Ipv6Packet::new_unchecked(packet);
                let total = 40 + usize::from(ip.payload_len());
                (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), 40, total)
            }
            EthernetProtocol::Arp | EthernetProtocol::Unknown(_) => return None,
        };
        let transport = ETHERNET + header;
        let transport_header = if protocol == IpProtocol::Tcp {
            usize::from(TcpPacket::new_unchecked(&frame[transport..]).header_len())
        } else if protocol == IpProtocol::Udp {
            8
        } else {
            return None;
        };
        Some(Self { source, destination, protocol, transport, transport_header, end: ETHERNET + total })
    }

    /// Where the checksum is, counted from the transport header.
    pub(crate) fn checksum_offset(&self) -> usize {
        if self.protocol == IpProtocol::Tcp { 16 } else { 6 }
    }

    /// What a checksum field holds that is yet to be completed.
    pub(crate) fn pseudo_header(&self, frame_len: usize) -> u16 {
        let len = u32::try_from(frame_len - self.transport).unwrap();
        checksum::pseudo_header(&self.source, &self.destination, self.protocol, len)
    }

    pub(crate) fn is_v4(&self) -> bool {
        IpAddr::from(self.source).is_ipv4()
    }

    pub(crate) fn is_tcp(&self) -> bool {
        self.protocol == IpProtocol::Tcp
    }
}

/// Fails the test unless `frame` is one that a guest with this MTU may be given.
pub(crate) fn check(header: Header, frame: &[u8], mtu: usize) {
    assert!(frame.len() >= ETHERNET, "a frame of {} bytes", frame.len());
    if frame[12..14] == [8, 0] {
        assert!(Ipv4Packet::new_unchecked(&frame[ETHERNET..]).verify_checksum(), "IPv4 header checksum");
    }
    if header.kind == GSO_NONE {
        assert!(frame.len() <= ETHERNET + mtu, "{} bytes for an MTU of {mtu}", frame.len());
    }
    let Some(parts) = Parts::find(frame) else {
        assert_eq!((header.kind, header.flags & NEEDS_CSUM), (GSO_NONE, 0), "{header:?}");
        return;
    };
    // Short frames are padded by some; segments are not.
    assert!(parts.end <= frame.len(), "IP says {}, there are {}", parts.end, frame.len());
    let transport = &frame[parts.transport..parts.end];
    if header.flags & NEEDS_CSUM != 0 {
        assert_eq!(usize::from(header.checksum_start), parts.transport, "{header:?}");
        assert_eq!(usize::from(header.checksum_offset), parts.checksum_offset(), "{header:?}");
        let at = parts.transport + parts.checksum_offset();
        let field = u16::from_be_bytes([frame[at], frame[at + 1]]);
        assert_eq!(field, parts.pseudo_header(parts.end), "pseudo header of {header:?}");
    } else if header.flags & DATA_VALID == 0 {
        let (source, destination) = (&parts.source, &parts.destination);
        let is_right = if parts.is_tcp() {
            TcpPacket::new_checked(transport).unwrap().verify_checksum(source, destination)
        } else {
            UdpPacket::new_checked(transport).unwrap().verify_checksum(source, destination)
        };
        assert!(is_right, "checksum of {} bytes", frame.len());
    }
    if header.kind != GSO_NONE {
        let expected = match (parts.is_tcp(), parts.is_v4()) {
            (true, true) => GSO_TCPV4,
            (true, false) => GSO_TCPV6,
            (false, _) => GSO_UDP_L4,
        };
        assert_eq!(header.kind & 0x7f, expected, "{header:?}");
        let headers = parts.transport + parts.transport_header;
        assert!([0, headers].contains(&header.headers_len.into()), "{header:?} with {headers}");
        assert!(header.segment_len > 0, "{header:?}");
        assert!(headers + usize::from(header.segment_len) <= ETHERNET + mtu, "{header:?}");
        assert_eq!(parts.end, frame.len(), "segments are not padded");
    }
}
