use super::fixture::{OUR_LINK_LOCAL, datagram, icmpv4, icmpv6, network, v6_only};
use super::*;

fn question(network: &Network, frame: &[u8]) -> Option<Question> {
    let headers = Headers::parse(frame, frame.len()).unwrap();
    let transport = headers.ip.as_ref().map_or(&[][..], |ip| &frame[ip.payload()]);
    Question::of(network, &headers, transport)
}

#[test]
fn questions_are_told_from_traffic() {
    let (guest, guest_v6) = (("10.244.1.7", 68), ("fe80::2", 546));
    for (case, frame, expected) in [
        ("DHCP to all", datagram(("0.0.0.0", 68), ("255.255.255.255", 67), &[]), Some(Question::Dhcpv4)),
        ("DHCP to us", datagram(guest, ("10.244.1.1", 67), &[]), Some(Question::Dhcpv4)),
        ("DHCP to another server", datagram(guest, ("8.8.8.8", 67), &[]), None),
        ("another port", datagram(guest, ("10.244.1.1", 53), &[]), None),
        ("DHCPv6 to all", datagram(guest_v6, ("ff02::1:2", 547), &[]), Some(Question::Dhcpv6)),
        ("DHCPv6 to us", datagram(guest_v6, (OUR_LINK_LOCAL, 547), &[]), Some(Question::Dhcpv6)),
        ("DHCPv6 to another server", datagram(guest_v6, ("fd00::547", 547), &[]), None),
        ("solicitation", icmpv6("fe80::2", "ff02::2", 255, &[133, 0, 0, 0]), Some(Question::Ndp)),
        ("redirect", icmpv6("fe80::2", "ff02::2", 255, &[137, 0, 0, 0]), Some(Question::Ndp)),
        ("multicast report", icmpv6("fe80::2", "ff02::16", 1, &[143, 0, 0, 0]), None),
        ("ping of the gateway", icmpv4("10.244.1.7", "10.244.1.1", &[8, 0, 0, 0]), Some(Question::Echo)),
        ("its reply", icmpv4("10.244.1.7", "10.244.1.1", &[0, 0, 0, 0]), None),
        ("ping of the world", icmpv4("10.244.1.7", "8.8.8.8", &[8, 0, 0, 0]), None),
        ("ping of the router", icmpv6("fe80::2", OUR_LINK_LOCAL, 64, &[128, 0, 0, 0]), Some(Question::Echo)),
        ("ping6 of the world", icmpv6("fd00::2", "fd00::3", 64, &[128, 0, 0, 0]), None),
    ] {
        assert_eq!(question(&network(), &frame), expected, "{case}");
    }
}

#[test]
fn a_fragment_is_no_question_yet() {
    let mut frame = datagram(("0.0.0.0", 68), ("255.255.255.255", 67), &[]);
    let more_follow = 0x20;
    frame[20] = more_follow;
    frame[24..26].fill(0);
    let sum = crate::wire::checksum::Sum::default().with(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(question(&network(), &frame), None);
    for question in [Question::Dhcpv4, Question::Echo] {
        assert_eq!(question.answer(&network(), &frame, &mut Vec::new()), Err(DropReason::Fragment));
    }
}

#[test]
fn each_answers_its_own_question_only() {
    let frames = [
        datagram(("10.244.1.7", 68), ("10.244.1.1", 53), &[0; 300]),
        datagram(("fe80::2", 546), (OUR_LINK_LOCAL, 53), &[0; 300]),
        icmpv6("fe80::2", OUR_LINK_LOCAL, 255, &[143, 0, 0, 0, 0, 0, 0, 0]),
        icmpv4("10.244.1.7", "10.244.1.1", &[0; 8]),
    ];
    for question in [Question::Ndp, Question::Dhcpv4, Question::Dhcpv6, Question::Echo, Question::Arp] {
        for (at, frame) in frames.iter().enumerate() {
            let result = question.answer(&network(), frame, &mut Vec::new());
            let refused = matches!(result, Err(DropReason::NotForUs | DropReason::Malformed));
            assert!(refused, "{question:?} of frame {at}: {result:?}");
        }
    }
}

#[test]
fn a_group_is_never_a_source() {
    let mut frame = icmpv4("10.244.1.7", "10.244.1.1", &[8, 0, 0, 0, 0, 0, 0, 0]);
    frame[6] |= 1;
    assert_eq!(Question::Echo.answer(&network(), &frame, &mut Vec::new()), Err(DropReason::Source));
}

#[test]
fn a_question_to_a_family_that_is_off_is_disabled() {
    let frame = datagram(("0.0.0.0", 68), ("255.255.255.255", 67), &[]);
    assert_eq!(question(&v6_only(), &frame), Some(Question::Dhcpv4));
    assert_eq!(Question::Dhcpv4.answer(&v6_only(), &frame, &mut Vec::new()), Err(DropReason::Disabled));
}

#[test]
fn masks_and_subnets() {
    let v4 = |prefix_len, gateway: &str| V4 {
        guest: "10.244.1.7".parse().unwrap(),
        prefix_len,
        gateway: Some(gateway.parse().unwrap()),
    };
    for (prefix_len, gateway, mask, off_subnet) in [
        (0, "8.8.8.8", "0.0.0.0", false),
        (24, "10.244.1.1", "255.255.255.0", false),
        (24, "10.244.2.1", "255.255.255.0", true),
        (31, "10.244.1.6", "255.255.255.254", false),
        (32, "169.254.1.1", "255.255.255.255", true),
    ] {
        let v4 = v4(prefix_len, gateway);
        assert_eq!(v4.mask().to_string(), mask);
        assert_eq!(v4.gateway_off_subnet().is_some(), off_subnet, "{prefix_len} {gateway}");
    }
}

#[test]
fn answering_allocates_nothing_after_the_first_reply() {
    let network = network();
    let frame = icmpv6("fe80::2", "ff02::2", 255, &[133, 0, 0, 0, 0, 0, 0, 0]);
    let mut out = Vec::new();
    Question::Ndp.answer(&network, &frame, &mut out).unwrap();
    let (place, capacity) = (out.as_ptr(), out.capacity());
    Question::Ndp.answer(&network, &frame, &mut out).unwrap();
    assert_eq!((out.as_ptr(), out.capacity()), (place, capacity));
}
