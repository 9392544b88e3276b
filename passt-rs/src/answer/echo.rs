//! Echo requests to our own address: the guest's ping to its gateway (RFC 792, RFC 4443 4.2).
//!
//! Echo to anyone else is a flow and not answered here.

use std::net::IpAddr;

use super::Network;
use super::request::Request;
use crate::drop_reason::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::{Envelope, protocol};

/// Type, code, checksum, identifier, sequence number.
const HEADER_LEN: usize = 8;
const HOP_LIMIT: u8 = 64;

/// Whether an ICMP message of this type to `dst` is an echo request to our address.
pub fn is_for_us(network: &Network, dst: IpAddr, message_type: u8) -> bool {
    let (request, ours) = match dst {
        IpAddr::V4(dst) => (8, network.v4.is_some_and(|v4| dst == v4.ours())),
        IpAddr::V6(dst) => (128, network.v6.is_some_and(|v6| dst == v6.our_link_local)),
    };
    message_type == request && ours
}

pub fn answer(network: &Network, frame: &[u8], out: &mut Vec<u8>) -> Result<(), DropReason> {
    out.clear();
    let is_v6 = frame.get(12..14) == Some(&[0x86, 0xdd]);
    let (protocol, reply_type) = if is_v6 { (protocol::ICMPV6, 129) } else { (protocol::ICMP, 0) };
    let request = Request::parse(frame, protocol)?;
    let [request_type, code, sum_high, sum_low, rest @ ..] = request.message else {
        return Err(DropReason::Malformed);
    };
    if request.message.len() < HEADER_LEN {
        return Err(DropReason::Malformed);
    }
    if *code != 0 || !is_for_us(network, request.dst, *request_type) {
        return Err(DropReason::NotForUs);
    }
    if request.src.is_unspecified() || request.src.is_loopback() {
        return Err(DropReason::Source);
    }
    // The type alone changes; exchanged addresses sum up alike. A wrong checksum so stays wrong (RFC 1624).
    let sum = Sum::default()
        .with_word(!u16::from_be_bytes([*sum_high, *sum_low]))
        .with_word(!u16::from_be_bytes([*request_type, 0]))
        .with_word(u16::from_be_bytes([reply_type, 0]))
        .finish();
    // Zero has two forms, and in a reply of zeros alone only this one is right (RFC 1624 3).
    let sum = if sum == 0 { 0xffff } else { sum };
    let envelope = Envelope {
        src_mac: network.our_mac,
        dst_mac: request.src_mac,
        src: request.dst,
        dst: request.src,
        hop_limit: HOP_LIMIT,
    };
    envelope.open(out);
    out.extend([reply_type, 0]);
    out.extend(sum.to_be_bytes());
    out.extend(rest);
    envelope.seal(out, protocol);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Question;
    use super::super::fixture::{
        Answer, GUEST_LINK_LOCAL, GUEST_MAC, OUR_LINK_LOCAL, icmpv4, icmpv6, network, survives,
    };
    use super::*;

    fn request(kind: u8) -> Vec<u8> {
        [&[kind, 0, 0, 0, 0x12, 0x34, 0, 7][..], b"payload of odd length"].concat()
    }

    fn ask(frame: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut out = vec![0xa5; 3];
        answer(&network(), frame, &mut out).map(|()| out)
    }

    #[test]
    fn a_ping_to_the_gateway_comes_back() {
        let reply = Answer::parse(&ask(&icmpv4("10.244.1.7", "10.244.1.1", &request(8))).unwrap());
        assert_eq!(reply.route(), ("10.244.1.1".parse().unwrap(), "10.244.1.7".parse().unwrap()));
        assert_eq!((reply.dst_mac, reply.message[..2].to_vec()), (GUEST_MAC, vec![0, 0]));
        assert_eq!(reply.message[4..], request(8)[4..]);
    }

    #[test]
    fn a_ping_to_our_link_local_address_comes_back() {
        let reply = ask(&icmpv6(GUEST_LINK_LOCAL, OUR_LINK_LOCAL, 64, &request(128))).unwrap();
        let reply = Answer::parse(&reply);
        assert_eq!(reply.route(), (OUR_LINK_LOCAL.parse().unwrap(), GUEST_LINK_LOCAL.parse().unwrap()));
        assert_eq!((reply.dst_mac, reply.message[..2].to_vec()), (GUEST_MAC, vec![129, 0]));
        assert_eq!(reply.message[4..], request(128)[4..]);
    }

    #[test]
    fn a_ping_of_zeros_comes_back_with_its_checksum() {
        Answer::parse(&ask(&icmpv4("10.244.1.7", "10.244.1.1", &[8, 0, 0, 0, 0, 0, 0, 0, 0])).unwrap());
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let mut frame = icmpv4("10.244.1.7", "10.244.1.1", &request(8));
        frame[50] ^= 1;
        let reply = ask(&frame).unwrap();
        assert_ne!(Sum::default().with(&reply[34..]).finish(), 0);
    }

    #[test]
    fn other_messages_and_destinations_are_not_answered() {
        let mut of_other_code = request(8);
        of_other_code[1] = 1;
        for (case, frame, reason) in [
            ("another host", icmpv4("10.244.1.7", "8.8.8.8", &request(8)), DropReason::NotForUs),
            ("a reply", icmpv4("10.244.1.7", "10.244.1.1", &request(0)), DropReason::NotForUs),
            ("another code", icmpv4("10.244.1.7", "10.244.1.1", &of_other_code), DropReason::NotForUs),
            ("cut short", icmpv4("10.244.1.7", "10.244.1.1", &[8, 0, 0, 0, 0, 0, 0]), DropReason::Malformed),
            ("from loopback", icmpv4("127.0.0.1", "10.244.1.1", &request(8)), DropReason::Source),
            ("from nobody", icmpv4("0.0.0.0", "10.244.1.1", &request(8)), DropReason::Source),
            ("from a group", icmpv6("ff02::1", OUR_LINK_LOCAL, 64, &request(128)), DropReason::Source),
            (
                "the v4 type in v6",
                icmpv6(GUEST_LINK_LOCAL, OUR_LINK_LOCAL, 64, &request(8)),
                DropReason::NotForUs,
            ),
        ] {
            assert_eq!(ask(&frame), Err(reason), "{case}");
        }
    }

    #[test]
    fn hostile_requests_are_survived() {
        survives(Question::Echo, &icmpv4("10.244.1.7", "10.244.1.1", &request(8)));
        survives(Question::Echo, &icmpv6(GUEST_LINK_LOCAL, OUR_LINK_LOCAL, 64, &request(128)));
    }
}
