//! Every reason to refuse a frame has a frame that moves its counter, and only that one.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use passt_rs::drop_reason::DropReason;
use passt_rs::relay::Limits;
use passt_rs::wire::checksum::Sum;
use passt_rs::wire::tcp::{Flags, HEADER_LEN, Segment, Seq};
use passt_rs::wire::{
    ETHERNET_HEADER_LEN, EtherType, IPV4_HEADER_LEN, IpRepr, Mac, emit_ethernet, emit_ip, protocol,
};

use crate::support::guest::MAC;
use crate::support::host::{accept, listen};
use crate::support::lab::{GATEWAY4, GUEST4, Lab, OUR_MAC, Options, PEER4, with};

/// Not reachable through this transport: it has no virtio-net header that could name a segmentation, which the relay's
/// own tests have, and no rings, which vhost-user's have.
const ELSEWHERE: [DropReason; 3] = [DropReason::Offload, DropReason::Descriptors, DropReason::QueueDisabled];

const PORT: u16 = 9;

fn syn() -> Segment {
    Segment { src_port: 1234, dst_port: PORT, flags: Flags::SYN, window: 1000, ..Segment::default() }
}

/// A frame of the guest with `payload` behind an IPv4 header.
fn ip(src: Ipv4Addr, dst: Ipv4Addr, number: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET_HEADER_LEN + IPV4_HEADER_LEN];
    emit_ethernet(&mut frame, Mac(MAC), OUR_MAC.parse().unwrap(), EtherType::Ipv4);
    let repr = IpRepr { src: src.into(), dst: dst.into(), protocol: number, hop_limit: 64, traffic_class: 0 };
    emit_ip(&mut frame[ETHERNET_HEADER_LEN..], &repr, payload.len());
    frame.extend_from_slice(payload);
    frame
}

fn tcp(src: Ipv4Addr, dst: Ipv4Addr, segment: &Segment) -> Vec<u8> {
    let mut header = [0; HEADER_LEN];
    segment.emit(&mut header, 0);
    let sum = Sum::pseudo_header(IpAddr::V4(src), IpAddr::V4(dst), protocol::TCP, HEADER_LEN);
    let sum = sum.with(&header).finish();
    segment.emit(&mut header, sum);
    ip(src, dst, protocol::TCP, &header)
}

fn udp(dst: Ipv4Addr) -> Vec<u8> {
    // Without a checksum, as IPv4 allows.
    ip(GUEST4, dst, protocol::UDP, &[0x12, 0x34, 0, 9, 0, 9, 0, 0, b'x'])
}

fn peer() -> Ipv4Addr {
    PEER4.parse().unwrap()
}

/// Makes an IPv4 frame the first part of a larger packet.
fn cut(mut frame: Vec<u8>) -> Vec<u8> {
    frame[ETHERNET_HEADER_LEN + 6] = 0x20;
    frame[ETHERNET_HEADER_LEN + 10..ETHERNET_HEADER_LEN + 12].fill(0);
    let sum =
        Sum::default().with(&frame[ETHERNET_HEADER_LEN..ETHERNET_HEADER_LEN + IPV4_HEADER_LEN]).finish();
    frame[ETHERNET_HEADER_LEN + 10..ETHERNET_HEADER_LEN + 12].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// What a single frame says.
fn frames() -> Vec<(DropReason, Options, Vec<u8>)> {
    let plain = Options::default();
    let no_tcp = Options { tcp: false, ..plain };
    let no_flows = Options { limits: Limits { flows: 0, ..Limits::default() }, ..plain };
    let opening = tcp(GUEST4, peer(), &syn());
    let mut bad_sum = opening.clone();
    bad_sum[ETHERNET_HEADER_LEN + IPV4_HEADER_LEN + 16] ^= 1;
    let mut other_type = opening.clone();
    other_type[12..14].copy_from_slice(&[0x88, 0xcc]);
    let ack = Segment { flags: Flags::ACK, ..syn() };
    // Who has the guest's own address? The guest does.
    let mut arp = [[0xff; 6], MAC].concat();
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(MAC);
    arp.extend(GUEST4.octets());
    arp.extend([0; 6]);
    arp.extend(GUEST4.octets());
    vec![
        (DropReason::Malformed, plain, vec![0; 10]),
        (DropReason::Malformed, plain, opening[..50].to_vec()),
        (DropReason::Checksum, plain, bad_sum),
        (DropReason::EtherType, plain, other_type),
        (DropReason::Protocol, plain, ip(GUEST4, peer(), 132, &[0; 12])),
        (DropReason::Source, plain, tcp(Ipv4Addr::LOCALHOST, peer(), &syn())),
        (DropReason::Destination, plain, tcp(GUEST4, Ipv4Addr::new(224, 0, 0, 1), &syn())),
        (DropReason::Destination, plain, tcp(GUEST4, Ipv4Addr::LOCALHOST, &syn())),
        (DropReason::Disabled, no_tcp, opening.clone()),
        (DropReason::Fragment, plain, cut(opening.clone())),
        (DropReason::NoFlow, plain, tcp(GUEST4, peer(), &ack)),
        (DropReason::FlowLimit, no_flows, opening),
        (DropReason::HostSend, plain, udp(Ipv4Addr::new(203, 0, 113, 1))),
        (DropReason::NotForUs, plain, arp),
    ]
}

/// Waits for the counter of `reason`, and asserts that no other moved.
fn only(lab: &mut Lab, reason: DropReason) {
    lab.until_moved(&["drops", reason.name()]);
    let stats = lab.stats();
    for (name, count) in stats["drops"].as_object().unwrap() {
        assert_eq!(count.as_u64().unwrap() > 0, name == reason.name(), "{name} beside {}", reason.name());
    }
}

#[test]
fn one_frame_moves_one_counter() {
    for (reason, options, frame) in frames() {
        with(options, move |lab| {
            lab.guest.cable.inject(&frame);
            only(lab, reason);
            assert_eq!(lab.counter(&["drops", reason.name()]), 1);
        });
    }
}

#[test]
fn a_segment_outside_the_window_is_counted() {
    with(Options::default(), |lab| {
        let (_listener, address) = listen(PEER4);
        let mine = Segment { dst_port: address.port(), ..syn() };
        lab.guest.cable.inject(&tcp(GUEST4, peer(), &mine));
        lab.until_moved(&["tcp", "from_guest_total"]);
        lab.until_flow("SynAckSent");
        let far = Segment { seq: Seq(1 << 30), flags: Flags::ACK, ..mine };
        lab.guest.cable.inject(&tcp(GUEST4, peer(), &far));
        only(lab, DropReason::Window);
    });
}

#[test]
fn bytes_without_memory_are_counted() {
    let limits = Limits { spill_bytes: 0, ..Limits::default() };
    with(Options { limits, ..Options::default() }, |lab| {
        let (listener, address) = listen(PEER4);
        let handle = lab.guest.connected(address, 1 << 20);
        let _stream = accept(&listener);
        let mut sent = 0;
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while lab.counter(&["drops", "spill_limit"]) == 0 {
            assert!(std::time::Instant::now() < deadline);
            for _ in 0..100 {
                sent += lab.guest.send_some(handle, sent, u64::MAX);
                lab.guest.turn();
            }
        }
    });
}

#[test]
fn frames_for_a_guest_that_does_not_take_them_are_counted() {
    with(Options::default(), |lab| {
        let mut echo = vec![8, 0, 0, 0, 0, 1, 0, 1];
        echo.resize(1400, 0);
        let sum = Sum::default().with(&echo).finish();
        echo[2..4].copy_from_slice(&sum.to_be_bytes());
        let frame = ip(GUEST4, GATEWAY4, protocol::ICMP, &echo);
        lab.guest.cable.frozen = true;
        for _ in 0..4000 {
            lab.guest.cable.inject(&frame);
            lab.guest.cable.drain_output();
        }
        only(lab, DropReason::GuestFull);
    });
}

#[test]
fn every_reason_has_a_test() {
    let several = [DropReason::Window, DropReason::SpillLimit, DropReason::GuestFull];
    for reason in DropReason::ALL {
        let tested = frames().iter().any(|(tested, ..)| *tested == reason) || several.contains(&reason);
        assert!(tested != ELSEWHERE.contains(&reason), "{}", reason.name());
    }
}
