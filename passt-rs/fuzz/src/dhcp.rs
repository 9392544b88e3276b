//! Target: questions to the DHCPv4 and DHCPv6 servers, in frames that get them there, so that every bit is theirs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use passt_rs::answer::Question;
use passt_rs::classify::{self, Verdict};
use passt_rs::wire::dhcpv4::{FIXED_LEN, MAGIC_COOKIE};
use passt_rs::wire::dhcpv6::{self, Message};
use passt_rs::wire::{Offload, dhcpv4};

use crate::input::Input;
use crate::network::{
    GATEWAY, GUEST_LINK_LOCAL, GUEST_MAC, GUEST_V4, GUEST_V6, OUR_LINK_LOCAL, OUR_MAC, datagram, network,
};
use crate::reply;

/// Bits of an input's first byte, above those that choose the network.
const V6: u8 = 8;
const UNICAST: u8 = 16;
/// The client has no address yet; DHCPv6 has no such client.
const NO_ADDRESS: u8 = 32;

const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// An input is one byte of choices, and a message.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.byte();
    let message = input.rest();
    let (src, dst): ((IpAddr, u16), (IpAddr, u16)) = if choice & V6 != 0 {
        let dst = if choice & UNICAST != 0 { OUR_LINK_LOCAL } else { ALL_SERVERS };
        ((GUEST_LINK_LOCAL.into(), 546), (dst.into(), 547))
    } else {
        let src = if choice & NO_ADDRESS != 0 { Ipv4Addr::UNSPECIFIED } else { GUEST_V4 };
        let dst = if choice & UNICAST != 0 { GATEWAY } else { Ipv4Addr::BROADCAST };
        ((src.into(), 68), (dst.into(), 67))
    };
    let network = network(choice);
    let frame = datagram(src, dst, message);
    let judged = classify::frame(&frame, frame.len(), &Offload::default(), &network);
    let Ok((_, Verdict::Answer(question))) = judged else {
        // Of several networks, some have no such server at that address.
        assert!(choice & UNICAST != 0, "a question to all servers: {judged:?}");
        return;
    };
    let Some(reply) = reply::answer(question, &network, &frame) else { return };
    if question == Question::Dhcpv6 {
        check_v6(message, reply::payload(&reply));
    } else {
        check_v4(message, reply::payload(&reply));
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (kind, more) in [
        (1, &[55, 6, 1, 3, 6, 15, 119, 121, 57, 2, 5, 0xdc, 81, 4, 1, 0, 0, 0][..]),
        (1, &[80, 0]),
        (3, &[50, 4, 10, 244, 1, 7, 54, 4, 10, 244, 1, 1, 12, 2, b'v', b'm']),
        (3, &[50, 4, 10, 0, 0, 9, 61, 7, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]),
        (4, &[50, 4, 10, 244, 1, 7]),
        (7, &[54, 4, 10, 244, 1, 1]),
        (8, &[52, 1, 3]),
    ] {
        let mut message = dhcpv4_fixed();
        message.extend(MAGIC_COOKIE.to_be_bytes());
        message.extend([dhcpv4::option::MESSAGE_TYPE, 1, kind]);
        message.extend(more);
        message.push(dhcpv4::option::END);
        seeds.push([&[NO_ADDRESS], &message[..]].concat());
    }
    let bootp = [dhcpv4_fixed(), vec![0; 64]].concat();
    seeds.push([&[NO_ADDRESS], &bootp[..]].concat());

    let mut server_id = vec![0, 3, 0, 1];
    server_id.extend(OUR_MAC.0);
    let mut client_id = vec![0, 3, 0, 1];
    client_id.extend(GUEST_MAC.0);
    for kind in [1, 3, 4, 5, 6, 8, 9, 11] {
        let mut message = vec![kind, 1, 2, 3];
        option(&mut message, dhcpv6::option::CLIENT_ID, &client_id);
        if matches!(kind, 3 | 5 | 8 | 9) {
            option(&mut message, dhcpv6::option::SERVER_ID, &server_id);
        }
        // Identity 7, T1, T2, and the guest's address in it with both lifetimes (RFC 8415 21.4, 21.6).
        let mut identity = vec![0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0];
        option(&mut identity, dhcpv6::option::IA_ADDRESS, &[&GUEST_V6.octets()[..], &[0; 8]].concat());
        option(&mut message, dhcpv6::option::IA_NA, &identity);
        option(&mut message, dhcpv6::option::OPTION_REQUEST, &[0, 23, 0, 24, 0, 39]);
        option(&mut message, dhcpv6::option::CLIENT_FQDN, b"\x01\x02vm\x00");
        option(&mut message, dhcpv6::option::RAPID_COMMIT, &[]);
        seeds.push([&[V6], &message[..]].concat());
    }
    seeds
}

/// A request over Ethernet, up to the options (RFC 2131 2).
fn dhcpv4_fixed() -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 1, 2, 3, 4];
    message.resize(28, 0);
    message.extend(GUEST_MAC.0);
    message.resize(FIXED_LEN - 4, 0);
    message
}

fn option(message: &mut Vec<u8>, code: u16, data: &[u8]) {
    dhcpv6::push_option(message, code, |message| message.extend(data));
}

/// A reply that its client takes for its own, with options that end (RFC 2131 2).
fn check_v4(request: &[u8], reply: &[u8]) {
    assert_eq!(reply[0], 2, "BOOTREPLY");
    assert_eq!(reply[4..8], request[4..8], "the client's transaction");
    assert_eq!(reply[28..34], request[28..34], "the client's hardware address");
    let mut options = &reply[FIXED_LEN..];
    loop {
        match options {
            [dhcpv4::option::END, padding @ ..] => {
                assert!(padding.iter().all(|byte| *byte == 0));
                return;
            }
            [0, rest @ ..] => options = rest,
            [_, len, rest @ ..] => options = &rest[usize::from(*len)..],
            _ => panic!("options without an end"),
        }
    }
}

fn check_v6(request: &[u8], reply: &[u8]) {
    let asked = Message::parse(request).expect("what was answered was understood");
    let said = Message::parse(reply).expect("a message with whole options");
    assert_eq!(said.transaction, asked.transaction);
    let id = dhcpv6::option::CLIENT_ID;
    assert_eq!(said.options.find(id), asked.options.find(id), "the client's identifier comes back");
    assert!(said.options.find(dhcpv6::option::SERVER_ID).is_some());
}
