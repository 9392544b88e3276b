//! Target: any frame of the guest, with any virtio-net header, seen whole or only in part.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use passt_rs::classify::{self, Verdict};
use passt_rs::wire::checksum::Sum;
use passt_rs::wire::udp::{self, Datagram};
use passt_rs::wire::{
    ETHERNET_HEADER_LEN, Headers, IPV4_HEADER_LEN, IPV6_HEADER_LEN, Offload, VNET_HEADER_LEN, protocol,
};

use crate::input::Input;
use crate::network::{
    GATEWAY, GUEST_LINK_LOCAL, GUEST_MAC, GUEST_V4, GUEST_V6, OUR_LINK_LOCAL, datagram, network, packet,
};
use crate::reply;

/// Bits of an input's first byte, above those that choose the network.
const REPAIR_CHECKSUMS: u8 = 8;
const REPAIR_LENGTHS: u8 = 16;
const CUT_HEAD: u8 = 32;

/// An input is one byte of choices, the virtio-net header, two bytes that say how much of the frame is the head, and the
/// frame. A fuzzer guesses no checksum: most inputs ask for theirs to be made right.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.byte();
    let Some(offload) = Offload::parse(&input.array::<VNET_HEADER_LEN>()) else { return };
    let cut = usize::from(input.half());
    let mut frame = input.rest().to_vec();
    if choice & REPAIR_LENGTHS != 0 {
        repair_lengths(&mut frame);
    }
    if choice & REPAIR_CHECKSUMS != 0 {
        repair_checksums(&mut frame);
    }
    let head = if choice & CUT_HEAD != 0 { &frame[..cut % (frame.len() + 1)] } else { &frame };
    let network = network(choice);
    let Ok((headers, verdict)) = classify::frame(head, frame.len(), &offload, &network) else { return };

    let inside = |ip: &passt_rs::wire::IpHeaders, header_len: usize| {
        assert!(ip.transport + header_len <= ip.end && ip.end <= frame.len(), "{ip:?} and {header_len}");
    };
    match verdict {
        Verdict::Answer(question) => {
            reply::answer(question, &network, &frame);
            // Nobody asks that way, and no harm comes of it.
            reply::answer(question, &network, head);
        }
        Verdict::Tcp(ip, _, header_len) => inside(&ip, header_len),
        Verdict::Udp(ip, datagram) => inside(&ip, udp::HEADER_LEN + datagram.payload_len),
        Verdict::Echo(ip, _) => inside(&ip, 8),
        Verdict::Fragment(ip, fragment) => {
            inside(&ip, 0);
            assert!(fragment.more || fragment.offset > 0);
        }
    }
    assert!(!headers.src.is_multicast() && !headers.src.is_zero());
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let peer4 = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let peer6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let (guest4, guest6): (IpAddr, IpAddr) = (GUEST_V4.into(), GUEST_V6.into());
    let (gateway, local): (IpAddr, IpAddr) = (GATEWAY.into(), GUEST_LINK_LOCAL.into());
    let syn: Vec<u8> = {
        let fixed = [0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0xa0, 2, 0xfa, 0xf0, 0, 0, 0, 0];
        let options = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        [fixed, options].concat()
    };
    let echo = |request: u8| [&[request, 0, 0, 0, 0x12, 0x34, 0, 1], &b"payload"[..]].concat();
    // Type, code, checksum, 4 reserved bytes, target, option 1: our link-layer address (RFC 4861 4.3).
    let solicitation =
        [&[135, 0, 0, 0, 0, 0, 0, 0], &OUR_LINK_LOCAL.octets()[..], &[1, 1], &GUEST_MAC.0].concat();
    let router_solicitation = [&[133, 0, 0, 0, 0, 0, 0, 0, 1, 1], &GUEST_MAC.0[..]].concat();
    let solicited_node: IpAddr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1).into();
    let all_routers: IpAddr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2).into();
    // Destination options, then a first fragment of a datagram (RFC 8200 4.6, 4.5).
    let extensions = [60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 1, 2, 3, 4];
    let fragment6 = [&extensions[..], &[0x12, 0x34, 0, 53, 0, 16, 0, 0], &[0; 8]].concat();
    let mut fragment4 = datagram((guest4, 0x1234), (peer4, 53), b"a fragment's data");
    fragment4[20] = 0x20; // more fragments

    let frames = [
        arp(),
        packet(guest4, peer4, 64, protocol::TCP, &syn),
        packet(guest6, peer6, 64, protocol::TCP, &syn),
        datagram((guest4, 0x1234), (peer4, 53), b"a question"),
        datagram((guest6, 0x1234), (peer6, 53), b"a question"),
        packet(guest4, peer4, 64, protocol::ICMP, &echo(8)),
        packet(guest4, gateway, 64, protocol::ICMP, &echo(8)),
        packet(guest6, peer6, 64, protocol::ICMPV6, &echo(128)),
        packet(local, OUR_LINK_LOCAL.into(), 64, protocol::ICMPV6, &echo(128)),
        packet(local, solicited_node, 255, protocol::ICMPV6, &solicitation),
        packet(local, all_routers, 255, protocol::ICMPV6, &router_solicitation),
        packet(guest6, peer6, 64, 60, &fragment6),
        fragment4,
    ];
    let wrapped = frames.iter().map(|frame| {
        let mut input = vec![REPAIR_CHECKSUMS];
        input.extend(Offload::default().emit());
        input.extend(54u16.to_le_bytes());
        input.extend(frame);
        input
    });
    wrapped.collect()
}

/// Who has the gateway's address?
fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(GUEST_MAC.0);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(GUEST_MAC.0);
    frame.extend(GUEST_V4.octets());
    frame.extend([0; 6]);
    frame.extend(GATEWAY.octets());
    frame
}

/// Makes the IP and UDP lengths those of the frame.
fn repair_lengths(frame: &mut [u8]) {
    let Some(len) = frame.len().checked_sub(ETHERNET_HEADER_LEN) else { return };
    let put = |frame: &mut [u8], at: usize, len: usize| {
        if let (Some(field), Ok(len)) = (frame.get_mut(at..at + 2), u16::try_from(len)) {
            field.copy_from_slice(&len.to_be_bytes());
        }
    };
    match frame.get(12..15) {
        Some([8, 0, _]) => put(frame, 16, len),
        Some([0x86, 0xdd, _]) => put(frame, 18, len.saturating_sub(IPV6_HEADER_LEN)),
        _ => return,
    }
    if let Some(ip) = parsed(frame).filter(|ip| ip.protocol == protocol::UDP) {
        put(frame, ip.transport + 4, ip.payload().len());
    }
}

/// Makes the checksums of IPv4 and of the transport right.
fn repair_checksums(frame: &mut [u8]) {
    if let Some([8, 0, version]) = frame.first_chunk::<15>().map(|head| [head[12], head[13], head[14]]) {
        let header_len = (usize::from(version & 0xf) * 4).max(IPV4_HEADER_LEN);
        if let Some(header) = frame.get_mut(ETHERNET_HEADER_LEN..ETHERNET_HEADER_LEN + header_len) {
            header[10..12].fill(0);
            let sum = Sum::default().with(header).finish();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
    let Some(ip) = parsed(frame) else { return };
    let message = &mut frame[ip.payload()];
    let at = match ip.protocol {
        protocol::TCP => 16,
        // None was computed, and that is to stay so.
        protocol::UDP if Datagram::parse(message, message.len()).is_none_or(|udp| udp.without_checksum) => {
            return;
        }
        protocol::UDP => 6,
        protocol::ICMP | protocol::ICMPV6 => 2,
        _ => return,
    };
    if message.len() < at + 2 {
        return;
    }
    message[at..at + 2].fill(0);
    let sum = match ip.protocol {
        protocol::ICMP => Sum::default(),
        number => Sum::pseudo_header(ip.src, ip.dst, number, message.len()),
    };
    let sum = sum.with(message).finish();
    message[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn parsed(frame: &[u8]) -> Option<passt_rs::wire::IpHeaders> {
    let ip = Headers::parse(frame, frame.len()).ok()?.ip?;
    ip.fragment.is_none().then_some(ip)
}
