use std::net::IpAddr;

use smoltcp::wire::DhcpRepr;

use super::super::fixture::{
    Answer, GUEST_MAC, OUR_MAC, ask, datagram, host_route_network, network, survives, v6_only,
};
use super::super::{ADDRESS_WITHOUT_GATEWAY, Question};
use super::*;

const DISCOVER: u8 = 1;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const RELEASE: u8 = 7;
const INFORM: u8 = 8;
const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

const GUEST: [u8; 4] = [10, 244, 1, 7];
const OTHER: [u8; 4] = [10, 244, 1, 99];
const US: [u8; 4] = [10, 244, 1, 1];

/// A client's message, to be changed field by field.
#[derive(Clone)]
struct Client {
    fixed: [u8; 240],
    options: Vec<u8>,
}

impl Client {
    fn bootp() -> Self {
        let mut fixed = [0; 240];
        fixed[..8].copy_from_slice(&[1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
        fixed[28..34].copy_from_slice(&GUEST_MAC.0);
        Self { fixed, options: vec![0; 60] }
    }

    fn new(kind: u8) -> Self {
        let mut client = Self { options: vec![], ..Self::bootp() };
        client.fixed[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
        client.with(53, &[kind])
    }

    fn with(mut self, code: u8, data: &[u8]) -> Self {
        self.options.extend([code, u8::try_from(data.len()).unwrap()]);
        self.options.extend(data);
        self
    }

    fn set(mut self, at: usize, bytes: &[u8]) -> Self {
        self.fixed[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Uses the address already.
    fn bound_to(self, address: [u8; 4]) -> Self {
        self.set(12, &address)
    }

    fn broadcasts(self) -> Self {
        self.set(10, &[0x80, 0])
    }

    fn frame(&self) -> Vec<u8> {
        let message = [&self.fixed[..], &self.options, &[255]].concat();
        datagram(("0.0.0.0", 68), ("255.255.255.255", 67), &message)
    }

    fn ask(&self, network: &Network) -> Result<Message, DropReason> {
        ask(network, &self.frame()).map(|frame| Message::parse(&frame))
    }
}

/// What the client got.
#[derive(Debug)]
struct Message {
    answer: Answer,
    bytes: Vec<u8>,
}

impl Message {
    fn parse(frame: &[u8]) -> Self {
        let answer = Answer::parse(frame);
        let bytes = answer.message[8..].to_vec();
        assert!(bytes.len() >= 300, "RFC 1542 2.1");
        assert_eq!(bytes[..8], [2, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(bytes[28..34], GUEST_MAC.0);
        assert_eq!(bytes[34..108], [0; 74]);
        assert_eq!(bytes[236..240], [0x63, 0x82, 0x53, 0x63]);
        Self { answer, bytes }
    }

    /// The data of all options of this code together.
    fn option(&self, code: u8) -> Option<Vec<u8>> {
        let parts: Vec<_> = self.options().filter(|(at, _)| *at == code).map(|(_, data)| data).collect();
        (!parts.is_empty()).then(|| parts.concat())
    }

    fn options(&self) -> impl Iterator<Item = (u8, Vec<u8>)> {
        let mut rest = &self.bytes[240..];
        std::iter::from_fn(move || match rest {
            [255, padding @ ..] => {
                assert!(padding.iter().all(|byte| *byte == 0));
                None
            }
            [code, len, tail @ ..] => {
                let (data, tail) = tail.split_at(usize::from(*len));
                rest = tail;
                Some((*code, data.to_vec()))
            }
            _ => panic!("no end mark"),
        })
    }

    fn codes(&self) -> Vec<u8> {
        self.options().map(|(code, _)| code).collect()
    }

    fn kind(&self) -> u8 {
        self.option(53).unwrap()[0]
    }

    fn your_address(&self) -> [u8; 4] {
        self.bytes[16..20].try_into().unwrap()
    }

    /// `siaddr`.
    fn next_server(&self) -> [u8; 4] {
        self.bytes[20..24].try_into().unwrap()
    }

    /// The `file` field up to its first zero, which it has.
    fn boot_file(&self) -> &[u8] {
        let field = &self.bytes[108..236];
        let end = field.iter().position(|byte| *byte == 0).unwrap();
        assert!(field[end..].iter().all(|byte| *byte == 0));
        &field[..end]
    }

    fn port(&self) -> u16 {
        u16::from_be_bytes([self.answer.message[2], self.answer.message[3]])
    }
}

#[test]
fn discover_is_offered_the_guests_address_with_everything() {
    let offer = Client::new(DISCOVER).ask(&network()).unwrap();
    assert_eq!((offer.kind(), offer.your_address()), (OFFER, GUEST));
    assert_eq!((offer.next_server(), offer.boot_file()), ([0; 4], &b""[..]));
    let search = b"\x02ns\x03svc\x07cluster\x05local\x00\xc0\x03\xc0\x07";
    let fqdn = b"\x0c\xff\xff\x02vm\x03sub\x02ns\x03svc\x07cluster\x05local\x00";
    let expected: [(u8, &[u8]); 13] = [
        (53, &[OFFER]),
        (54, &US),
        (51, &[0xff; 4]),
        (58, &[0xff; 4]),
        (59, &[0xff; 4]),
        (1, &[255, 255, 255, 0]),
        (3, &US),
        (26, &[0x05, 0xaa]),
        (6, &[10, 96, 0, 10]),
        (12, b"vm"),
        (15, b"ns.svc.cluster.local"),
        (81, fqdn),
        (119, search),
    ];
    let options: Vec<_> = offer.options().collect();
    assert_eq!(options.len(), expected.len());
    for ((code, data), (expected_code, expected_data)) in options.iter().zip(expected) {
        assert_eq!((*code, &data[..]), (expected_code, expected_data));
    }
}

#[test]
fn an_independent_reader_understands_the_acknowledgment() {
    let ack = Client::new(REQUEST).with(54, &US).with(50, &GUEST).ask(&network()).unwrap();
    let packet = DhcpPacket::new_checked(&ack.bytes[..]).unwrap();
    let repr = DhcpRepr::parse(&packet).unwrap();
    assert_eq!(repr.message_type, DhcpMessageType::Ack);
    assert_eq!((repr.your_ip, repr.router), (GUEST.into(), Some(US.into())));
    assert_eq!((repr.server_identifier, repr.lease_duration), (Some(US.into()), Some(u32::MAX)));
    assert_eq!(repr.dns_servers.unwrap()[..], [Ipv4Addr::new(10, 96, 0, 10)]);
}

#[test]
fn each_state_of_the_client_gets_its_reply() {
    let request = || Client::new(REQUEST);
    for (case, client, expected) in [
        ("selecting us", request().with(54, &US).with(50, &GUEST), Ok(ACK)),
        ("selecting us with another address", request().with(54, &US).with(50, &OTHER), Ok(NAK)),
        ("selecting another server", request().with(54, &OTHER).with(50, &GUEST), Err(DropReason::NotForUs)),
        ("init-reboot", request().with(50, &GUEST), Ok(ACK)),
        ("init-reboot with an old address", request().with(50, &OTHER), Ok(NAK)),
        ("renewing", request().bound_to(GUEST), Ok(ACK)),
        ("renewing an old address", request().bound_to(OTHER), Ok(NAK)),
        ("asking for nothing", request(), Err(DropReason::Malformed)),
        ("asking for half an address", request().with(50, &[10, 244]), Err(DropReason::Malformed)),
        ("informing", Client::new(INFORM).bound_to(OTHER), Ok(ACK)),
        ("offering", Client::new(OFFER), Err(DropReason::NotForUs)),
        ("acknowledging", Client::new(ACK), Err(DropReason::NotForUs)),
        ("inventing", Client::new(77), Err(DropReason::NotForUs)),
    ] {
        assert_eq!(client.ask(&network()).map(|reply| reply.kind()), expected, "{case}");
    }
}

#[test]
fn a_refusal_says_nothing_but_who_and_why() {
    let nak = Client::new(REQUEST).with(61, b"\x01id").bound_to(OTHER).ask(&network()).unwrap();
    assert_eq!(nak.codes(), [53, 54, 61, 56]);
    assert_eq!(nak.bytes[12..20], [0; 8]);
    // Broadcast even to a client that has an address: it must not keep it (RFC 2131 4.1).
    assert_eq!((nak.answer.dst_mac, nak.answer.ip.dst), (Mac::BROADCAST, Ipv4Addr::BROADCAST.into()));
}

#[test]
fn rapid_commit_is_acknowledged_at_once() {
    let ack = Client::new(DISCOVER).with(80, &[]).ask(&network()).unwrap();
    assert_eq!((ack.kind(), ack.option(80), ack.your_address()), (ACK, Some(vec![]), GUEST));
    assert!(ack.option(51).is_some());
    let ack = Client::new(REQUEST).with(50, &GUEST).with(80, &[]).ask(&network()).unwrap();
    assert_eq!(ack.option(80), None, "only a DISCOVER is committed rapidly");
}

#[test]
fn decline_and_release_are_accepted_silently() {
    for kind in [DECLINE, RELEASE] {
        let to_us = Client::new(kind).with(54, &US).bound_to(GUEST);
        assert_eq!(ask(&network(), &to_us.frame()), Ok(vec![]));
        let to_another = Client::new(kind).with(54, &OTHER).bound_to(GUEST);
        assert_eq!(ask(&network(), &to_another.frame()), Err(DropReason::NotForUs));
    }
}

#[test]
fn inform_gets_parameters_without_address_or_lease() {
    let ack = Client::new(INFORM).bound_to(OTHER).ask(&network()).unwrap();
    assert_eq!((ack.your_address(), &ack.bytes[12..16]), ([0; 4], &OTHER[..]));
    assert!(ack.option(6).is_some());
    assert_eq!([51, 58, 59].map(|code| ack.option(code)), [None, None, None]);
    assert_eq!((ack.answer.dst_mac, ack.answer.ip.dst), (GUEST_MAC, Ipv4Addr::from(OTHER).into()));
    let nameless = Client::new(INFORM).ask(&network()).unwrap();
    assert_eq!(nameless.answer.ip.dst, IpAddr::from(Ipv4Addr::BROADCAST));
}

#[test]
fn bootp_gets_an_address_without_lease_in_300_bytes() {
    for client in [Client::bootp(), Client::bootp().set(236, &[0x63, 0x82, 0x53, 0x63])] {
        let reply = client.ask(&network()).unwrap();
        assert_eq!((reply.your_address(), reply.bytes.len()), (GUEST, 300));
        assert_eq!([53, 54, 51, 58, 59].map(|code| reply.option(code)), [const { None }; 5]);
        assert_eq!(reply.option(3), Some(US.to_vec()));
    }
}

#[test]
fn a_host_route_gets_its_gateway_by_classless_routes() {
    let client = Client::new(DISCOVER).with(55, &[1, 3, 121]);
    let offer = client.ask(&host_route_network()).unwrap();
    assert_eq!(offer.option(1), Some(vec![255; 4]));
    assert_eq!(offer.option(3), Some(vec![169, 254, 1, 1]));
    assert_eq!(offer.option(54), Some(vec![169, 254, 1, 1]));
    assert_eq!(offer.option(121), Some(vec![32, 169, 254, 1, 1, 0, 0, 0, 0, 0, 169, 254, 1, 1]));
    assert_eq!(client.ask(&network()).unwrap().option(121), None, "the router option says it");
}

#[test]
fn a_pod_without_gateway_gets_no_route_but_a_server() {
    let mut network = network();
    network.v4.as_mut().unwrap().gateway = None;
    let offer = Client::new(DISCOVER).ask(&network).unwrap();
    assert_eq!([3, 121].map(|code| offer.option(code)), [None, None]);
    assert_eq!(offer.option(54), Some(vec![169, 254, 1, 1]));
    assert_eq!(offer.answer.ip.src, IpAddr::from(ADDRESS_WITHOUT_GATEWAY));
}

#[test]
fn replies_go_where_the_client_can_hear_them() {
    let selecting = || Client::new(REQUEST).with(50, &GUEST);
    let relay = [10, 244, 1, 50];
    for (case, client, mac, address, port) in [
        ("deaf to unicast", selecting().broadcasts(), Mac::BROADCAST, [255; 4], 68),
        ("with no address yet", selecting(), GUEST_MAC, GUEST, 68),
        ("bound", Client::new(REQUEST).bound_to(GUEST).broadcasts(), GUEST_MAC, GUEST, 68),
        ("behind a relay", selecting().set(24, &relay).broadcasts(), GUEST_MAC, relay, 67),
        (
            "refused behind a relay",
            Client::new(REQUEST).with(50, &OTHER).set(24, &relay),
            GUEST_MAC,
            relay,
            67,
        ),
    ] {
        let reply = client.ask(&network()).unwrap();
        let (src, dst) = reply.answer.route();
        assert_eq!((src, dst), (Ipv4Addr::from(US).into(), Ipv4Addr::from(address).into()), "{case}");
        assert_eq!((reply.answer.dst_mac, reply.port()), (mac, port), "{case}");
        if reply.kind() == NAK {
            assert_eq!(reply.bytes[10..12], [0x80, 0], "{case}");
        }
    }
}

#[test]
fn the_client_identifier_comes_back_unchanged() {
    for client in [Client::new(DISCOVER), Client::new(REQUEST).with(50, &OTHER)] {
        let id = [0xff, 1, 2, 3, 4, 0, 1];
        assert_eq!(client.with(61, &id).ask(&network()).unwrap().option(61), Some(id.to_vec()));
    }
}

#[test]
fn optional_parameters_are_those_requested() {
    let offer = Client::new(DISCOVER).with(55, &[1, 3, 6, 42]).ask(&network()).unwrap();
    assert_eq!(offer.codes(), [53, 54, 51, 58, 59, 1, 3, 26, 6]);
    let offer = Client::new(DISCOVER).with(55, &[12, 15, 119]).ask(&network()).unwrap();
    assert_eq!(offer.codes(), [53, 54, 51, 58, 59, 1, 3, 26, 12, 15, 119]);
}

#[test]
fn the_full_name_follows_the_clients_encoding_and_wish() {
    let name = b"vm.sub.ns.svc.cluster.local";
    let ascii = Client::new(DISCOVER).with(55, &[1]).with(81, &[0x01, 0, 0, b'x']).ask(&network()).unwrap();
    let (flags, text) = (0x08 | 0x02, [&[0x0a, 255, 255][..], name].concat());
    assert_eq!((ascii.option(81), text[0]), (Some(text), flags));
    let labels = Client::new(DISCOVER).with(81, &[0x04, 0, 0]).ask(&network()).unwrap();
    assert_eq!(labels.option(81).unwrap()[..6], [0x0c, 255, 255, 2, b'v', b'm']);
}

#[test]
fn the_domain_comes_from_the_name_when_nothing_is_searched() {
    let mut network = network();
    network.services.announce_search = false;
    let offer = Client::new(DISCOVER).ask(&network).unwrap();
    assert_eq!(offer.option(15), Some(b"sub.ns.svc.cluster.local".to_vec()));
    assert_eq!(offer.option(119), None);
    (network.fqdn, network.hostname) = (None, None);
    let offer = Client::new(DISCOVER).ask(&network).unwrap();
    assert_eq!([12, 15, 81].map(|code| offer.option(code)), [None, None, None]);
}

#[test]
fn resolvers_follow_their_switch() {
    let mut network = network();
    network.services.announce_dns = false;
    assert_eq!(Client::new(DISCOVER).ask(&network).unwrap().option(6), None);
}

#[test]
fn an_mtu_is_announced_when_there_is_one() {
    for (mtu, expected) in [(None, None), (Some(67), None), (Some(68), Some(vec![0, 68]))] {
        let network = Network { mtu, ..network() };
        assert_eq!(Client::new(DISCOVER).ask(&network).unwrap().option(26), expected);
    }
}

/// All that can be handed out besides.
fn extras() -> Extras {
    Extras {
        boot_file: Some("pxelinux.0".into()),
        tftp_server: Some("10.0.0.9".into()),
        ntp_servers: vec![[10, 0, 0, 123].into(), [10, 0, 0, 124].into()],
        site: vec![(254, "last".into()), (224, "\u{e4}=1".into())],
    }
}

#[test]
fn what_to_boot_from_is_told_in_options_and_fixed_fields() {
    let network = Network { extras: extras(), ..network() };
    for client in [
        Client::new(DISCOVER),
        Client::new(DISCOVER).with(80, &[]),
        Client::new(REQUEST).with(50, &GUEST),
        Client::new(INFORM).bound_to(GUEST),
    ] {
        let reply = client.ask(&network).unwrap();
        assert_eq!((reply.next_server(), reply.boot_file()), ([10, 0, 0, 9], &b"pxelinux.0"[..]));
        assert_eq!(reply.option(67).unwrap(), b"pxelinux.0");
        assert_eq!(reply.option(66).unwrap(), b"10.0.0.9");
        assert_eq!(reply.option(150).unwrap(), [10, 0, 0, 9]);
        assert_eq!(reply.option(42).unwrap(), [10, 0, 0, 123, 10, 0, 0, 124]);
        assert_eq!(
            (reply.option(254).unwrap(), reply.option(224).unwrap()),
            (b"last".into(), b"\xc3\xa4=1".into())
        );
    }
    let nak = Client::new(REQUEST).with(50, &OTHER).ask(&network).unwrap();
    assert_eq!((nak.codes(), nak.next_server(), nak.boot_file()), (vec![53, 54, 56], [0; 4], &b""[..]));
}

#[test]
fn a_client_that_lists_parameters_gets_what_to_boot_from_and_the_sites_options_anyway() {
    let network = Network { extras: extras(), ..network() };
    let codes = |list: &[u8]| Client::new(DISCOVER).with(55, list).ask(&network).unwrap().codes();
    assert_eq!(codes(&[1, 3]), [53, 54, 51, 58, 59, 1, 3, 26, 67, 66, 150, 254, 224]);
    assert_eq!(codes(&[6, 42]), [53, 54, 51, 58, 59, 1, 3, 26, 6, 67, 66, 150, 42, 254, 224]);
}

#[test]
fn a_boot_server_with_a_name_is_in_its_option_only() {
    let extras = Extras { tftp_server: Some("tftp.example".into()), ..Extras::default() };
    let offer = Client::new(DISCOVER).ask(&Network { extras, ..network() }).unwrap();
    assert_eq!((offer.next_server(), offer.boot_file()), ([0; 4], &b""[..]));
    assert_eq!(
        (offer.option(66).unwrap(), offer.option(150), offer.option(67)),
        (b"tftp.example".into(), None, None)
    );
}

#[test]
fn a_bootp_client_gets_what_to_boot_from_in_fixed_fields_and_options_as_far_as_they_fit() {
    let reply = Client::bootp().ask(&Network { extras: extras(), ..network() }).unwrap();
    assert_eq!((reply.next_server(), reply.boot_file()), ([10, 0, 0, 9], &b"pxelinux.0"[..]));
    // Sixty bytes are no room for the site's options behind all others.
    assert_eq!((reply.bytes.len(), reply.codes()), (300, vec![1, 3, 26, 6, 67, 66, 150, 42]));
}

#[test]
fn a_boot_file_name_longer_than_its_field_is_in_its_option_only() {
    for (len, in_field) in [(127, 127), (128, 0), (255, 0)] {
        let extras = Extras { boot_file: Some("f".repeat(len)), ..Extras::default() };
        let offer = Client::new(DISCOVER).ask(&Network { extras, ..network() }).unwrap();
        assert_eq!((offer.boot_file().len(), offer.option(67).unwrap().len()), (in_field, len));
    }
}

/// Three options of 200 bytes: one fits 576 bytes of datagram, all fit 1500.
#[test]
fn an_option_of_the_site_without_room_is_left_out_whole_and_shorter_ones_still_fit() {
    let site = [(224, 200), (225, 200), (226, 200), (227, 3)];
    let site = site.map(|(code, len)| (code, "s".repeat(len))).into();
    let network = Network { extras: Extras { site, ..extras() }, ..network() };
    let lengths = |client: Client| {
        let offer = client.ask(&network).unwrap();
        let site = offer.options().filter(|(code, _)| *code >= 224);
        (offer.bytes.len() + 28, site.map(|(code, data)| (code, data.len())).collect::<Vec<_>>())
    };
    let client = || Client::new(DISCOVER).with(55, &[1, 3, 6]);
    let (len, site) = lengths(client());
    assert_eq!((len <= 576, site), (true, vec![(224, 200), (227, 3)]));
    let (len, site) = lengths(client().with(57, &1500u16.to_be_bytes()));
    assert_eq!((len <= 1500, site), (true, vec![(224, 200), (225, 200), (226, 200), (227, 3)]));
}

#[test]
fn many_ntp_servers_fill_one_option_with_whole_addresses() {
    let extras = Extras { ntp_servers: vec![US.into(); 100], ..Extras::default() };
    let offer = Client::new(DISCOVER).with(57, &[5, 0]).ask(&Network { extras, ..network() }).unwrap();
    assert_eq!(offer.option(42).unwrap().len(), 252);
}

#[test]
fn the_message_fits_what_the_client_takes_and_names_give_way_first() {
    let mut network = network();
    network.search = (0..200).map(|at| format!("domain{at}.example{at}")).collect();
    for (size_max, datagram_len_max) in
        [(None, 576), (Some(0u16), 576), (Some(1000), 1000), (Some(65535), 1500)]
    {
        let mut client = Client::new(DISCOVER);
        if let Some(size_max) = size_max {
            client = client.with(57, &size_max.to_be_bytes());
        }
        let offer = client.ask(&network).unwrap();
        let datagram_len = offer.bytes.len() + 28;
        assert!(datagram_len <= datagram_len_max && datagram_len > datagram_len_max - 30, "{datagram_len}");
        assert!([1, 3, 6, 26, 51].iter().all(|code| offer.option(*code).is_some()));
        assert_eq!(offer.option(119).unwrap()[..18], *b"\x07domain0\x08example0\x00");
    }
}

#[test]
fn names_too_long_are_left_out() {
    let mut network = network();
    (network.hostname, network.fqdn) = (Some("h".repeat(256)), Some("f".repeat(64)));
    network.search = vec!["s".repeat(256)];
    let offer = Client::new(DISCOVER).ask(&network).unwrap();
    assert_eq!([12, 15, 81, 119].map(|code| offer.option(code)), [const { None }; 4]);
}

#[test]
fn a_full_name_too_long_for_its_option_is_left_out() {
    let network = Network { fqdn: Some("f.".repeat(127)), ..network() };
    let offer = Client::new(DISCOVER).with(81, &[0]).with(57, &[5, 0]).ask(&network).unwrap();
    assert_eq!(offer.option(81), None);
}

#[test]
fn many_resolvers_fill_one_option_with_whole_addresses() {
    let network = Network { dns: vec![IpAddr::from(US); 100], ..network() };
    let offer = Client::new(DISCOVER).with(57, &[5, 0]).ask(&network).unwrap();
    let lengths: Vec<_> =
        offer.options().filter(|(code, _)| *code == 6).map(|(_, data)| data.len()).collect();
    assert_eq!(lengths, [252]);
}

#[test]
fn what_is_no_request_over_ethernet_is_not_answered() {
    for (case, client, reason) in [
        ("a reply", Client::new(DISCOVER).set(0, &[2]), DropReason::NotForUs),
        ("another hardware", Client::new(DISCOVER).set(1, &[6]), DropReason::NotForUs),
        ("a longer address", Client::new(DISCOVER).set(2, &[16]), DropReason::NotForUs),
        ("a group as client", Client::new(DISCOVER).set(28, &[1]), DropReason::Malformed),
    ] {
        assert_eq!(client.ask(&network()).map(|_| ()), Err(reason), "{case}");
    }
    let short = datagram(("0.0.0.0", 68), ("255.255.255.255", 67), &Client::bootp().fixed[..239]);
    assert_eq!(ask(&network(), &short), Err(DropReason::Malformed));
}

#[test]
fn switched_off_and_ipv6_only_networks_answer_no_dhcp() {
    let mut off = network();
    off.services.dhcp = false;
    for network in [off, v6_only()] {
        assert_eq!(ask(&network, &Client::new(DISCOVER).frame()), Err(DropReason::Disabled));
    }
}

#[test]
fn the_frame_comes_from_our_mac() {
    let frame = ask(&network(), &Client::new(DISCOVER).frame()).unwrap();
    assert_eq!((&frame[..6], &frame[6..12]), (&GUEST_MAC.0[..], &OUR_MAC.0[..]));
}

#[test]
fn hostile_messages_are_survived() {
    let client =
        Client::new(REQUEST).with(50, &GUEST).with(61, &[1; 20]).with(55, &[1, 3, 6, 119]).with(81, &[4]);
    survives(Question::Dhcpv4, &client.frame());
    survives(Question::Dhcpv4, &Client::new(DISCOVER).with(57, &[0xff, 0xff]).with(80, &[]).frame());
}
