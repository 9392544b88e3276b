//! Answers to the guest: asked for as the relay asks, and held to what any frame of ours must be.

use passt_rs::answer::{Network, Question};
use passt_rs::drop_reason::DropReason;
use passt_rs::wire::checksum::Sum;
use passt_rs::wire::udp::{self, Datagram};
use passt_rs::wire::{ETHERNET_HEADER_LEN, EtherType, Headers, IpHeaders, protocol};

use crate::network::OUR_MAC;

/// Largest answer we make up ourselves; only an echo is as long as what it answers.
const FRAME_LEN_MAX: usize = ETHERNET_HEADER_LEN + 1500;
/// ARP for IPv4 over Ethernet (RFC 826).
const ARP_LEN: usize = 28;

/// The answer to `frame`, checked; nothing if it was refused or nothing is to be said.
pub(crate) fn answer(question: Question, network: &Network, frame: &[u8]) -> Option<Vec<u8>> {
    let mut reply = vec![0xa5; 99];
    let outcome: Result<(), DropReason> = question.answer(network, frame, &mut reply);
    if outcome.is_err() {
        assert!(reply.is_empty(), "a refused request leaves a reply: {reply:?}");
    }
    if reply.is_empty() {
        return None;
    }
    let most = if question == Question::Echo { frame.len() } else { FRAME_LEN_MAX };
    assert!(reply.len() <= most, "{} bytes", reply.len());
    let is_right = check(&reply);
    // An echo is answered as it came: a wrong checksum stays wrong.
    let expected = question != Question::Echo || has_checksum(frame, &parse(frame));
    assert_eq!(is_right, expected, "the transport's checksum");
    Some(reply)
}

/// What the transport of a reply carries; for UDP without its header.
pub(crate) fn payload(reply: &[u8]) -> &[u8] {
    let ip = parse(reply);
    let message = &reply[ip.payload()];
    if ip.protocol == protocol::UDP { &message[udp::HEADER_LEN..] } else { message }
}

fn parse(frame: &[u8]) -> IpHeaders {
    Headers::parse(frame, frame.len()).expect("headers that parse").ip.expect("an IP packet")
}

/// Holds a frame to what every receiver asks: lengths that agree, and a right checksum in the IPv4 header. Whether the
/// transport's is right too.
fn check(frame: &[u8]) -> bool {
    let headers = Headers::parse(frame, frame.len()).expect("headers that parse");
    assert_eq!(headers.src, OUR_MAC);
    match (headers.ether_type, headers.ip) {
        (EtherType::Ipv4 | EtherType::Ipv6, Some(ip)) => check_ip(frame, &ip),
        (EtherType::Arp, _) => {
            let arp = &frame[ETHERNET_HEADER_LEN..];
            assert_eq!(arp.len(), ARP_LEN);
            assert_eq!(arp[..8], [0, 1, 8, 0, 6, 4, 0, 2], "an ARP reply for IPv4 over Ethernet");
            assert_eq!(arp[8..14], OUR_MAC.0);
            assert_eq!(arp[18..24], headers.dst.0);
            true
        }
        other => panic!("neither IP nor ARP: {other:?}"),
    }
}

fn has_checksum(frame: &[u8], ip: &IpHeaders) -> bool {
    let message = &frame[ip.payload()];
    let sum = match ip.protocol {
        protocol::ICMP => Sum::default(),
        _ => Sum::pseudo_header(ip.src, ip.dst, ip.protocol, message.len()),
    };
    sum.with(message).finish() == 0
}

fn check_ip(frame: &[u8], ip: &IpHeaders) -> bool {
    assert_eq!(ip.end, frame.len(), "the IP length is the frame's");
    assert_eq!(ip.fragment, None);
    let message = &frame[ip.payload()];
    match ip.protocol {
        protocol::UDP => {
            let datagram = Datagram::parse(message, message.len()).expect("a datagram");
            assert_eq!(datagram.payload_len + udp::HEADER_LEN, message.len());
            assert!(!datagram.without_checksum);
        }
        protocol::ICMP => assert!(ip.src.is_ipv4() && message.len() >= 8),
        protocol::ICMPV6 => assert!(ip.src.is_ipv6() && message.len() >= 8),
        other => panic!("we never answer with protocol {other}"),
    }
    has_checksum(frame, ip)
}
