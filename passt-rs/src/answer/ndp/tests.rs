use super::super::Question;
use super::super::fixture::{
    Answer, GUEST_LINK_LOCAL, GUEST_MAC, OUR_LINK_LOCAL, OUR_MAC, ask, host_route_network, icmpv6, network,
    survives, v4_only,
};
use super::*;

const GUEST: &str = "fd00:10:244::7";
const ALL_ROUTERS: &str = "ff02::2";

/// A neighbor solicitation with the options of `extra`.
fn solicitation(src: &str, dst: &str, target: &str, extra: &[u8]) -> Vec<u8> {
    let target = target.parse::<Ipv6Addr>().unwrap().octets();
    icmpv6(src, dst, 255, &[&[135, 0, 0, 0, 0, 0, 0, 0], &target[..], extra].concat())
}

fn source_mac() -> Vec<u8> {
    [&[1, 1][..], &GUEST_MAC.0].concat()
}

fn router_solicitation(src: &str, extra: &[u8]) -> Vec<u8> {
    icmpv6(src, ALL_ROUTERS, 255, &[&[133, 0, 0, 0, 0, 0, 0, 0], extra].concat())
}

#[test]
fn a_solicitation_for_the_router_is_answered_by_a_router() {
    let frame = solicitation(GUEST, "ff02::1:ff00:1", OUR_LINK_LOCAL, &source_mac());
    let reply = Answer::parse(&ask(&network(), &frame).unwrap());
    assert_eq!(reply.route(), (OUR_LINK_LOCAL.parse().unwrap(), GUEST.parse().unwrap()));
    assert_eq!((reply.dst_mac, reply.ip.hop_limit), (GUEST_MAC, 255));
    let mut expected = vec![136, 0, reply.message[2], reply.message[3], 0xe0, 0, 0, 0];
    expected.extend(OUR_LINK_LOCAL.parse::<Ipv6Addr>().unwrap().octets());
    expected.extend([2, 1]);
    expected.extend(OUR_MAC.0);
    assert_eq!(reply.message, expected);
}

#[test]
fn a_solicitation_for_a_neighbour_is_answered_without_router_flag() {
    let frame = solicitation(GUEST, "ff02::1:ff00:8", "fd00:10:244::8", &source_mac());
    let reply = Answer::parse(&ask(&network(), &frame).unwrap());
    assert_eq!((reply.message[4], reply.dst_mac), (0x60, GUEST_MAC));
}

#[test]
fn solicitations_are_answered_for_all_but_the_guest() {
    const NONE: Result<(), DropReason> = Err(DropReason::NotForUs);
    for (case, src, dst, target, expected) in [
        ("unicast, to see that we are alive", GUEST, OUR_LINK_LOCAL, OUR_LINK_LOCAL, Ok(())),
        ("off the prefix", GUEST, "ff02::1:ff00:1", "2001:db8::1", Ok(())),
        ("the guest", GUEST_LINK_LOCAL, "ff02::1:ff00:7", GUEST, NONE),
        ("whom it is from", "fd00:10:244::99", "ff02::1:ff00:99", "fd00:10:244::99", NONE),
        ("nobody", GUEST, "ff02::1:ff00:0", "::", NONE),
        ("loopback", GUEST, "ff02::1:ff00:1", "::1", NONE),
        ("duplicates of the assigned address", "::", "ff02::1:ff00:7", GUEST, NONE),
        ("duplicates of the link-local address", "::", "ff02::1:ff12:3456", GUEST_LINK_LOCAL, NONE),
        ("duplicates of a random link-local", "::", "ff02::1:ffaa:bbcc", "fe80::1234:56ff:feaa:bbcc", NONE),
        ("duplicates of an address of its choice", "::", "ff02::1:ffaa:bbcc", "fd00:10:244::aa:bbcc", NONE),
        ("duplicates of our address", "::", "ff02::1:ff00:1", OUR_LINK_LOCAL, Ok(())),
    ] {
        assert_eq!(ask(&network(), &solicitation(src, dst, target, &[])).map(|_| ()), expected, "{case}");
    }
}

#[test]
fn a_guest_that_takes_our_address_is_told_among_all_nodes() {
    let frame = solicitation("::", "ff02::1:ff00:1", OUR_LINK_LOCAL, &[]);
    let reply = Answer::parse(&ask(&network(), &frame).unwrap());
    assert_eq!(reply.route(), (OUR_LINK_LOCAL.parse().unwrap(), ALL_NODES.into()));
    assert_eq!((reply.dst_mac, reply.message[4]), (ALL_NODES_MAC, 0xa0));
}

#[test]
fn invalid_solicitations_are_malformed() {
    let valid = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &ALL_NODES.octets()].concat();
    for (case, frame) in [
        ("a forwarded one", icmpv6(GUEST, OUR_LINK_LOCAL, 254, &[133, 0, 0, 0, 0, 0, 0, 0])),
        ("another code", icmpv6(GUEST, OUR_LINK_LOCAL, 255, &[133, 1, 0, 0, 0, 0, 0, 0])),
        ("a group as target", icmpv6(GUEST, OUR_LINK_LOCAL, 255, &valid)),
        ("cut short", icmpv6(GUEST, OUR_LINK_LOCAL, 255, &valid[..23])),
        (
            "an option of no length",
            solicitation(GUEST, OUR_LINK_LOCAL, OUR_LINK_LOCAL, &[14, 0, 0, 0, 0, 0, 0, 0]),
        ),
        (
            "an option cut short",
            solicitation(GUEST, OUR_LINK_LOCAL, OUR_LINK_LOCAL, &[1, 2, 0, 0, 0, 0, 0, 0]),
        ),
        ("from nobody to one", solicitation("::", OUR_LINK_LOCAL, OUR_LINK_LOCAL, &[])),
        ("from nobody with a MAC", solicitation("::", "ff02::1:ff00:1", OUR_LINK_LOCAL, &source_mac())),
        ("for a router, from nobody with a MAC", router_solicitation("::", &source_mac())),
    ] {
        assert_eq!(ask(&network(), &frame), Err(DropReason::Malformed), "{case}");
    }
}

#[test]
fn a_nonce_does_not_disturb() {
    let frame = solicitation("::", "ff02::1:ff00:1", OUR_LINK_LOCAL, &[14, 1, 1, 2, 3, 4, 5, 6]); // RFC 7527
    assert!(ask(&network(), &frame).is_ok());
}

#[test]
fn advertisements_and_redirects_of_the_guest_are_not_for_us_unless_we_asked() {
    const NONE: Result<Vec<u8>, DropReason> = Err(DropReason::NotForUs);
    for (kind, len, to, expected) in [
        (134, 16, OUR_LINK_LOCAL, NONE),
        (136, 24, OUR_LINK_LOCAL, Ok(Vec::new())),
        (136, 24, "ff02::1", NONE),
        (137, 40, OUR_LINK_LOCAL, NONE),
    ] {
        let mut message = vec![0; len];
        message[0] = kind;
        let frame = icmpv6(GUEST, to, 255, &message);
        assert_eq!(ask(&network(), &frame), expected, "{kind} to {to}");
    }
}

#[test]
fn a_router_advertisement_says_all_the_guest_needs() {
    let frame = router_solicitation(GUEST_LINK_LOCAL, &source_mac());
    let reply = Answer::parse(&ask(&network(), &frame).unwrap());
    assert_eq!(reply.route(), (OUR_LINK_LOCAL.parse().unwrap(), GUEST_LINK_LOCAL.parse().unwrap()));
    assert_eq!((reply.dst_mac, reply.ip.hop_limit), (GUEST_MAC, 255));
    let mut expected = vec![134, 0, reply.message[2], reply.message[3], 64, 0x80, 0xff, 0xff];
    expected.extend([0; 8]); // reachable time, retransmission timer
    expected.extend([1, 1]);
    expected.extend(OUR_MAC.0);
    expected.extend([5, 1, 0, 0, 0, 0, 0x05, 0xaa]); // MTU 1450
    expected.extend([3, 4, 64, 0x80]); // prefix: on link, not for autoconfiguration
    expected.extend([0xff; 8]);
    expected.extend([0; 4]);
    expected.extend("fd00:10:244::".parse::<Ipv6Addr>().unwrap().octets());
    expected.extend([25, 3, 0, 0, 0xff, 0xff, 0xff, 0xff]); // the IPv6 resolver only
    expected.extend("fd00:10:96::a".parse::<Ipv6Addr>().unwrap().octets());
    expected.extend([31, 8, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    expected
        .extend(b"\x02ns\x03svc\x07cluster\x05local\0\x03svc\x07cluster\x05local\0\x07cluster\x05local\0");
    assert_eq!(reply.message, expected);
}

#[test]
fn without_dhcpv6_the_guest_makes_its_address_from_the_prefix() {
    let mut network = network();
    network.services.dhcpv6 = false;
    let reply = Answer::parse(&ask(&network, &router_solicitation(GUEST_LINK_LOCAL, &[])).unwrap());
    assert_eq!((reply.message[5], reply.message[35]), (0, 0xc0));
}

#[test]
fn a_host_route_gets_a_default_router_and_no_prefix() {
    let mut network = host_route_network();
    (network.dns, network.search, network.mtu) = (vec![], vec![], Some(1279));
    let mut out = Vec::new();
    advertisement(&network, &mut out).unwrap();
    let unasked = Answer::parse(&out);
    assert_eq!(unasked.route(), (OUR_LINK_LOCAL.parse().unwrap(), ALL_NODES.into()));
    assert_eq!(unasked.dst_mac, ALL_NODES_MAC);
    let mut expected = vec![134, 0, unasked.message[2], unasked.message[3], 64, 0x80, 0xff, 0xff];
    expected.extend([0; 8]);
    expected.extend([1, 1]);
    expected.extend(OUR_MAC.0);
    assert_eq!(unasked.message, expected);
}

#[test]
fn without_default_route_we_are_no_default_router_and_the_subnet_is_on_link() {
    for (prefix_len, dhcpv6, expected) in [
        (64, true, Some(("fd00:10:244::", 0x80))),
        (64, false, Some(("fd00:10:244::", 0xc0))),
        (112, true, Some(("fd00:10:244::", 0x80))),
        (112, false, Some(("fd00:10:244::", 0x80))),
        (56, false, Some(("fd00:10:244::", 0x80))),
        (128, true, None),
    ] {
        let mut network = network();
        (network.dns, network.search, network.mtu) = (vec![], vec![], None);
        network.services.dhcpv6 = dhcpv6;
        let v6 = network.v6.as_mut().unwrap();
        (v6.prefix_len, v6.has_default_route) = (prefix_len, false);
        let reply = Answer::parse(&ask(&network, &router_solicitation(GUEST_LINK_LOCAL, &[])).unwrap());
        assert_eq!(reply.message[6..8], [0, 0], "the router's lifetime");
        let mut wanted = Vec::new();
        if let Some((prefix, flags)) = expected {
            wanted.extend([3, 4, prefix_len, flags]);
            wanted.extend([0xff; 8]);
            wanted.extend([0; 4]);
            wanted.extend(prefix.parse::<Ipv6Addr>().unwrap().octets());
        }
        assert_eq!(reply.message[24..], wanted, "/{prefix_len}, DHCPv6 {dhcpv6}");
    }
}

#[test]
fn a_solicitation_from_nobody_is_answered_to_all_nodes() {
    let reply = Answer::parse(&ask(&network(), &router_solicitation("::", &[])).unwrap());
    assert_eq!((reply.ip.dst, reply.dst_mac), (ALL_NODES.into(), ALL_NODES_MAC));
}

#[test]
fn what_does_not_fit_the_smallest_link_is_left_out() {
    let mut network = network();
    network.dns = vec!["fd00::53".parse().unwrap(); 300];
    network.search = (0..300).map(|at| format!("domain{at}.example")).collect();
    let reply = ask(&network, &router_solicitation(GUEST_LINK_LOCAL, &[])).unwrap();
    assert!((1270..=1294).contains(&reply.len()), "{}", reply.len());
    Answer::parse(&reply);
    network.dns.clear();
    let reply = ask(&network, &router_solicitation(GUEST_LINK_LOCAL, &[])).unwrap();
    assert!((1270..=1294).contains(&reply.len()), "{}", reply.len());
}

#[test]
fn a_search_list_is_padded_to_whole_units() {
    let mut network = network();
    network.search = vec!["a".into()];
    let reply = Answer::parse(&ask(&network, &router_solicitation(GUEST_LINK_LOCAL, &[])).unwrap());
    let option = &reply.message[reply.message.len() - 16..];
    assert_eq!(option, [31, 2, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, b'a', 0, 0, 0, 0, 0, 0]);
}

#[test]
fn what_is_switched_off_is_disabled() {
    let solicitation = solicitation(GUEST, "ff02::1:ff00:1", OUR_LINK_LOCAL, &[]);
    let for_router = router_solicitation(GUEST_LINK_LOCAL, &[]);
    let mut network = network();
    network.services.ra = false;
    assert_eq!(ask(&network, &for_router), Err(DropReason::Disabled));
    assert_eq!(advertisement(&network, &mut Vec::new()), Err(DropReason::Disabled));
    assert!(ask(&network, &solicitation).is_ok());
    network.services = super::super::Services { ndp: false, ra: true, ..network.services };
    assert_eq!(advertisement(&network, &mut Vec::new()), Err(DropReason::Disabled));
    for network in [network, v4_only()] {
        assert_eq!(ask(&network, &for_router), Err(DropReason::Disabled));
        assert_eq!(ask(&network, &solicitation), Err(DropReason::Disabled));
    }
}

#[test]
fn resolvers_and_search_list_follow_their_switches() {
    let mut network = network();
    network.services.announce_dns = false;
    network.services.announce_search = false;
    let reply = Answer::parse(&ask(&network, &router_solicitation(GUEST_LINK_LOCAL, &[])).unwrap());
    assert_eq!(reply.message.len(), 64);
}

#[test]
fn hostile_messages_are_survived() {
    survives(Question::Ndp, &solicitation(GUEST, "ff02::1:ff00:1", OUR_LINK_LOCAL, &source_mac()));
    survives(Question::Ndp, &router_solicitation(GUEST_LINK_LOCAL, &source_mac()));
}
