//! Networks and frames of the answers' tests.

use std::net::IpAddr;

use proptest::prelude::*;

use super::dhcpv4::Extras;
use super::{Network, Question, Services, V4, V6};
use crate::drop_reason::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::{Envelope, Headers, IpHeaders, Mac, protocol};

pub(super) const GUEST_MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
pub(super) const OUR_MAC: Mac = Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);
pub(super) const GUEST_LINK_LOCAL: &str = "fe80::5054:ff:fe12:3456";
pub(super) const OUR_LINK_LOCAL: &str = "fe80::1";

/// A pod with an ordinary subnet in both families.
pub(super) fn network() -> Network {
    Network {
        our_mac: OUR_MAC,
        mtu: Some(1450),
        v4: Some(V4 {
            guest: "10.244.1.7".parse().unwrap(),
            prefix_len: 24,
            gateway: Some("10.244.1.1".parse().unwrap()),
        }),
        v6: Some(V6 {
            guest: "fd00:10:244::7".parse().unwrap(),
            prefix_len: 64,
            our_link_local: OUR_LINK_LOCAL.parse().unwrap(),
            has_default_route: true,
        }),
        dns: ["10.96.0.10", "fd00:10:96::a"].map(|text| text.parse().unwrap()).into(),
        search: ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"].map(String::from).into(),
        hostname: Some("vm".into()),
        fqdn: Some("vm.sub.ns.svc.cluster.local".into()),
        extras: Extras::default(),
        services: Services {
            dhcp: true,
            dhcpv6: true,
            ndp: true,
            ra: true,
            announce_dns: true,
            announce_search: true,
        },
    }
}

/// A pod whose address is a host route and whose gateway is link-local (Calico).
pub(super) fn host_route_network() -> Network {
    let mut network = network();
    network.v4 = Some(V4 {
        guest: "10.244.1.7".parse().unwrap(),
        prefix_len: 32,
        gateway: Some("169.254.1.1".parse().unwrap()),
    });
    network.v6.as_mut().unwrap().prefix_len = 128;
    network
}

pub(super) fn v6_only() -> Network {
    Network { v4: None, ..network() }
}

pub(super) fn v4_only() -> Network {
    Network { v6: None, ..network() }
}

fn envelope(src: &str, dst: &str, hop_limit: u8) -> Envelope {
    Envelope {
        src_mac: GUEST_MAC,
        dst_mac: Mac::BROADCAST,
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        hop_limit,
    }
}

pub(super) fn datagram(src: (&str, u16), dst: (&str, u16), payload: &[u8]) -> Vec<u8> {
    let (envelope, mut frame) = (envelope(src.0, dst.0, 64), Vec::new());
    envelope.open_udp(&mut frame);
    frame.extend(payload);
    envelope.seal_udp(&mut frame, src.1, dst.1);
    frame
}

pub(super) fn icmpv6(src: &str, dst: &str, hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let (envelope, mut frame) = (envelope(src, dst, hop_limit), Vec::new());
    envelope.open(&mut frame);
    frame.extend(message);
    envelope.seal_icmpv6(&mut frame);
    frame
}

pub(super) fn icmpv4(src: &str, dst: &str, message: &[u8]) -> Vec<u8> {
    let (envelope, mut frame) = (envelope(src, dst, 64), Vec::new());
    let mut message = message.to_vec();
    let sum = Sum::default().with(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    envelope.open(&mut frame);
    frame.extend(message);
    envelope.seal(&mut frame, protocol::ICMP);
    frame
}

/// The question in `frame`, and its answer into a buffer that held something else.
pub(super) fn ask(network: &Network, frame: &[u8]) -> Result<Vec<u8>, DropReason> {
    let headers = Headers::parse(frame, frame.len()).unwrap();
    let transport = headers.ip.as_ref().map_or(&[][..], |ip| &frame[ip.payload()]);
    let question = Question::of(network, &headers, transport).expect("a question");
    let mut out = vec![0xa5; 99];
    let answer = question.answer(network, frame, &mut out);
    if answer.is_err() {
        assert!(out.is_empty(), "a refused request leaves no reply");
    }
    answer.map(|()| out)
}

/// An IP reply of ours that was found whole: its headers and what stands behind them.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) dst_mac: Mac,
    pub(super) ip: IpHeaders,
    pub(super) message: Vec<u8>,
}

impl Answer {
    pub(super) fn parse(frame: &[u8]) -> Self {
        let headers = Headers::parse(frame, frame.len()).unwrap();
        assert_eq!(headers.src, OUR_MAC);
        let ip = headers.ip.unwrap();
        assert_eq!(ip.end, frame.len());
        let message = frame[ip.payload()].to_vec();
        let sum = match ip.protocol {
            protocol::ICMP => Sum::default().with(&message),
            _ => Sum::pseudo_header(ip.src, ip.dst, ip.protocol, message.len()).with(&message),
        };
        assert_eq!(sum.finish(), 0, "checksum");
        Self { dst_mac: headers.dst, ip, message }
    }

    pub(super) fn route(&self) -> (IpAddr, IpAddr) {
        (self.ip.src, self.ip.dst)
    }
}

/// Every truncation of `frame` and every frame that arbitrary bytes make of it is refused or answered.
pub(super) fn survives(question: Question, frame: &[u8]) {
    let networks = [network(), host_route_network(), v6_only(), v4_only()];
    let mut out = Vec::new();
    for network in &networks {
        for len in 0..=frame.len() {
            let _ = question.answer(network, &frame[..len], &mut out);
        }
    }
    // Behind the IP header, which would only be refused for its checksum.
    let header_len = match question {
        Question::Arp => 14,
        Question::Dhcpv4 => 34,
        Question::Ndp | Question::Dhcpv6 | Question::Echo => 54.min(frame.len() - 8),
    };
    let mut runner = proptest::test_runner::TestRunner::default();
    let changes = proptest::collection::vec((header_len..frame.len(), any::<u8>()), 1..12);
    runner
        .run(&(changes, 0usize..4), |(changes, at)| {
            let mut frame = frame.to_vec();
            for (at, value) in changes {
                frame[at] = value;
            }
            let mut out = Vec::new();
            let _ = question.answer(&networks[at], &frame, &mut out);
            prop_assert!(out.len() <= 1514);
            Ok(())
        })
        .unwrap();
    let bytes = proptest::collection::vec(any::<u8>(), 0..400);
    runner
        .run(&(bytes, 0..=frame.len()), |(bytes, keep)| {
            let mut frame = frame[..keep].to_vec();
            frame.extend(bytes);
            let mut out = Vec::new();
            let _ = question.answer(&networks[0], &frame, &mut out);
            prop_assert!(out.len() <= 1514);
            Ok(())
        })
        .unwrap();
}
