use super::super::Question;
use super::super::fixture::{
    Answer, GUEST_LINK_LOCAL, GUEST_MAC, OUR_LINK_LOCAL, OUR_MAC, ask, datagram, host_route_network, network,
    survives, v4_only,
};
use super::*;
use crate::wire::dhcpv6::{Options, push_address, push_option};

const SOLICIT: u8 = 1;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION_REQUEST: u8 = 11;

const CLIENT_ID: [u8; 10] = [0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];
const GUEST: &str = "fd00:10:244::7";
const OTHER: &str = "fd00:10:244::99";
const ALL: &str = "ff02::1:2";

/// A client's message under construction.
#[derive(Clone)]
struct Client(Vec<u8>);

impl Client {
    /// With the identifiers that the message must have.
    fn new(kind: u8) -> Self {
        let client = Self::nameless(kind).with(1, &CLIENT_ID);
        if [REQUEST, RENEW, RELEASE, DECLINE].contains(&kind) {
            client.with(2, &server_id(OUR_MAC))
        } else {
            client
        }
    }

    fn nameless(kind: u8) -> Self {
        Self(vec![kind, 0xaa, 0xbb, 0xcc])
    }

    fn with(mut self, code: u16, data: &[u8]) -> Self {
        push_option(&mut self.0, code, |out| out.extend(data));
        self
    }

    fn with_ia(mut self, code: u16, id: u8, addresses: &[&str]) -> Self {
        push_option(&mut self.0, code, |out| {
            out.extend([0, 0, 0, id]);
            out.extend(vec![0; if code == 4 { 0 } else { 8 }]);
            addresses.iter().for_each(|address| push_address(out, address.parse().unwrap(), 100));
        });
        self
    }

    fn with_na(self, addresses: &[&str]) -> Self {
        self.with_ia(3, 7, addresses)
    }

    fn frame(&self, dst: &str) -> Vec<u8> {
        datagram((GUEST_LINK_LOCAL, 546), (dst, 547), &self.0)
    }

    fn ask(&self, network: &Network) -> Result<Reply, DropReason> {
        ask(network, &self.frame(ALL)).map(|frame| Reply::parse(&frame))
    }
}

/// What the client got.
#[derive(Debug)]
struct Reply {
    kind: u8,
    options: Vec<(u16, Vec<u8>)>,
}

impl Reply {
    fn parse(frame: &[u8]) -> Self {
        let answer = Answer::parse(frame);
        assert_eq!(answer.route(), (OUR_LINK_LOCAL.parse().unwrap(), GUEST_LINK_LOCAL.parse().unwrap()));
        assert_eq!((answer.dst_mac, &answer.message[..4]), (GUEST_MAC, &[0x02, 0x23, 0x02, 0x22][..]));
        let message = Message::parse(&answer.message[8..]).unwrap();
        assert_eq!(message.transaction, [0xaa, 0xbb, 0xcc]);
        let options: Vec<_> = message.options.iter().map(|(code, data)| (code, data.to_vec())).collect();
        assert_eq!(options[0], (2, server_id(OUR_MAC).to_vec()));
        Self { kind: message.kind.value(), options }
    }

    fn codes(&self) -> Vec<u16> {
        self.options.iter().map(|(code, _)| *code).collect()
    }

    fn option(&self, code: u16) -> Option<&[u8]> {
        self.options.iter().find(|(at, _)| *at == code).map(|(_, data)| &data[..])
    }

    /// The status of the whole message.
    fn status(&self) -> Option<u8> {
        self.option(13).map(|data| data[1])
    }

    /// The associations' options in short: "address/lifetime" or "status N".
    fn ias(&self) -> Vec<String> {
        let ias = self.options.iter().filter(|(code, _)| [3, 4, 25].contains(code));
        let texts = ias.map(|(code, data)| {
            let header_len = if *code == 4 { 4 } else { 12 };
            let times = &data[4..header_len];
            let inside = Options::new_checked(&data[header_len..]).unwrap();
            let parts: Vec<_> = inside
                .iter()
                .map(|(code, data)| match code {
                    5 => {
                        assert_eq!(data[16..20], data[20..24]);
                        let lifetime = u32::from_be_bytes(data[16..20].try_into().unwrap());
                        let address = Ipv6Addr::from(<[u8; 16]>::try_from(&data[..16]).unwrap());
                        format!(
                            "{address}/{}",
                            if lifetime == u32::MAX { "forever".into() } else { lifetime.to_string() }
                        )
                    }
                    13 => format!("status {}", data[1]),
                    _ => panic!("option {code}"),
                })
                .collect();
            let infinite = parts[0].ends_with("/forever");
            assert!(times.iter().all(|byte| *byte == if infinite { 0xff } else { 0 }));
            format!("{code}.{} {}", data[3], parts.join(" "))
        });
        texts.collect()
    }
}

#[test]
fn solicit_is_advertised_the_guests_address_with_everything() {
    let advertise = Client::new(SOLICIT).with_na(&[]).ask(&network()).unwrap();
    assert_eq!(advertise.kind, 2);
    let mut ia = vec![0, 0, 0, 7];
    ia.extend([0xff; 8]);
    ia.extend([0, 5, 0, 24]);
    ia.extend(GUEST.parse::<Ipv6Addr>().unwrap().octets());
    ia.extend([0xff; 8]);
    let names = b"\x02ns\x03svc\x07cluster\x05local\0\x03svc\x07cluster\x05local\0\x07cluster\x05local\0";
    assert_eq!(
        advertise.options,
        [
            (2, vec![0, 3, 0, 1, 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]),
            (1, CLIENT_ID.to_vec()),
            (7, vec![255]),
            (3, ia),
            (23, "fd00:10:96::a".parse::<Ipv6Addr>().unwrap().octets().to_vec()),
            (24, names.to_vec()),
            (39, b"\x04\x02vm\x03sub\x02ns\x03svc\x07cluster\x05local\x00".to_vec()),
        ]
    );
}

#[test]
fn a_host_route_gets_its_address_likewise() {
    let reply = Client::new(REQUEST).with_na(&[]).ask(&host_route_network()).unwrap();
    assert_eq!((reply.kind, reply.ias()), (7, vec!["3.7 fd00:10:244::7/forever".to_string()]));
}

#[test]
fn rapid_commit_is_replied_to_at_once() {
    let reply = Client::new(SOLICIT).with(14, &[]).with_na(&[]).ask(&network()).unwrap();
    assert_eq!((reply.kind, reply.option(14)), (7, Some(&[][..])));
    assert_eq!(reply.ias(), ["3.7 fd00:10:244::7/forever"]);
}

#[test]
fn each_association_gets_the_address_or_a_status() {
    const GRANTED: &str = "3.7 fd00:10:244::7/forever";
    for (case, client, expected) in [
        ("solicit with a hint", Client::new(SOLICIT).with_na(&[OTHER]), &[GRANTED][..]),
        ("solicit of nothing", Client::new(SOLICIT), &[]),
        ("request", Client::new(REQUEST).with_na(&[GUEST]), &[GRANTED]),
        ("request of another address", Client::new(REQUEST).with_na(&[OTHER]), &["3.7 status 4"]),
        ("renew", Client::new(RENEW).with_na(&[GUEST]), &[GRANTED]),
        (
            "renew of another address",
            Client::new(RENEW).with_na(&[OTHER]),
            &["3.7 fd00:10:244::7/forever fd00:10:244::99/0"],
        ),
        (
            "rebind of two addresses",
            Client::new(REBIND).with_na(&[OTHER, GUEST]),
            &["3.7 fd00:10:244::7/forever fd00:10:244::99/0"],
        ),
        (
            "two associations: the first",
            Client::new(SOLICIT).with_na(&[]).with_ia(3, 8, &[]),
            &[GRANTED, "3.8 status 2"],
        ),
        (
            "two associations: the one that has it",
            Client::new(RENEW).with_ia(3, 6, &[OTHER]).with_na(&[GUEST]),
            &["3.6 status 3", GRANTED],
        ),
        (
            "temporary addresses and prefixes",
            Client::new(SOLICIT).with_ia(4, 1, &[]).with_ia(25, 2, &[]).with_na(&[]),
            &["4.1 status 2", "25.2 status 6", GRANTED],
        ),
        (
            "the same requested",
            Client::new(REQUEST).with_ia(25, 2, &[]).with_ia(4, 1, &[GUEST]),
            &["25.2 status 6", "4.1 status 2"],
        ),
        (
            "the same renewed",
            Client::new(RENEW).with_ia(4, 1, &[GUEST]).with_ia(25, 2, &[]),
            &["4.1 status 3", "25.2 status 3"],
        ),
    ] {
        assert_eq!(client.ask(&network()).unwrap().ias(), expected, "{case}");
    }
}

#[test]
fn confirm_says_whether_the_address_is_the_guests() {
    for (addresses, expected) in [(&[GUEST][..], 0), (&[OTHER], 4), (&[GUEST, OTHER], 4)] {
        let reply = Client::new(CONFIRM).with_na(addresses).ask(&network()).unwrap();
        assert_eq!((reply.status(), reply.codes()), (Some(expected), vec![2, 1, 13]));
    }
    let nothing = Client::new(CONFIRM).with_na(&[]).ask(&network());
    assert_eq!(nothing.map(|_| ()), Err(DropReason::NotForUs));
}

#[test]
fn release_and_decline_succeed() {
    for kind in [RELEASE, DECLINE] {
        let reply = Client::new(kind).with_na(&[GUEST]).ask(&network()).unwrap();
        assert_eq!((reply.kind, reply.status(), reply.codes()), (7, Some(0), vec![2, 1, 13]));
    }
}

#[test]
fn information_request_gets_parameters() {
    let reply = Client::new(INFORMATION_REQUEST).with(6, &[0, 23, 0, 24]).ask(&network()).unwrap();
    assert_eq!((reply.kind, reply.codes()), (7, vec![2, 1, 23, 24]));
    let reply = Client::nameless(INFORMATION_REQUEST).ask(&network()).unwrap();
    assert_eq!(reply.codes(), [2, 23, 24, 39]);
}

#[test]
fn parameters_are_those_requested() {
    let solicit = || Client::new(SOLICIT).with_na(&[]);
    let reply = solicit().with(6, &[0, 24, 0]).ask(&network()).unwrap();
    assert_eq!(reply.codes(), [2, 1, 7, 3, 24]);
    let reply = solicit().with(6, &[0, 39]).ask(&network()).unwrap();
    assert_eq!(reply.option(39).unwrap()[0], 4);
    let reply = solicit().with(6, &[0, 1]).with(39, &[1]).ask(&network()).unwrap();
    assert_eq!(reply.option(39).unwrap()[0], 4 | 2, "no update, against the client's wish");
}

#[test]
fn resolvers_and_search_list_follow_their_switches() {
    let mut network = network();
    network.services.announce_dns = false;
    network.services.announce_search = false;
    network.fqdn = Some("f".repeat(64));
    assert_eq!(Client::new(SOLICIT).ask(&network).unwrap().codes(), [2, 1, 7]);
}

#[test]
fn identifiers_are_checked() {
    let other = server_id(GUEST_MAC);
    let ours = server_id(OUR_MAC);
    const ALL_KINDS: [u8; 8] =
        [SOLICIT, REQUEST, CONFIRM, RENEW, REBIND, RELEASE, DECLINE, INFORMATION_REQUEST];
    for kind in ALL_KINDS {
        let needs_server = [REQUEST, RENEW, RELEASE, DECLINE].contains(&kind);
        let client = |server: Option<&[u8]>| {
            let client = Client::nameless(kind).with(1, &CLIENT_ID);
            let client = server.map_or_else(|| client.clone(), |id| client.clone().with(2, id));
            if kind == INFORMATION_REQUEST { client } else { client.with_na(&[GUEST]) }
        };
        let result = |client: Client| client.ask(&network()).map(|_| ());
        let malformed = Err(DropReason::Malformed);
        let (without, with_ours, with_other) = match (needs_server, kind) {
            (true, _) => (malformed, Ok(()), Err(DropReason::NotForUs)),
            (false, INFORMATION_REQUEST) => (Ok(()), Ok(()), Err(DropReason::NotForUs)),
            (false, _) => (Ok(()), malformed, malformed),
        };
        assert_eq!(result(client(None)), without, "{kind}");
        assert_eq!(result(client(Some(&ours))), with_ours, "{kind}");
        assert_eq!(result(client(Some(&other))), with_other, "{kind}");
        if kind != INFORMATION_REQUEST {
            let nameless = Client::nameless(kind).with(2, &ours).with_na(&[GUEST]);
            assert_eq!(result(nameless), malformed, "{kind} without client identifier");
        }
        for len in [0, 2, 131] {
            let badly_named = Client::nameless(kind).with(1, &vec![0; len]);
            assert_eq!(result(badly_named), malformed, "{kind} of a client with {len} bytes");
        }
    }
}

#[test]
fn an_information_request_for_addresses_is_malformed() {
    let client = Client::new(INFORMATION_REQUEST).with_na(&[]);
    assert_eq!(client.ask(&network()).map(|_| ()), Err(DropReason::Malformed));
}

#[test]
fn unicast_is_refused() {
    for kind in [REQUEST, RENEW, RELEASE, DECLINE] {
        let frame = Client::new(kind).with_na(&[GUEST]).frame(OUR_LINK_LOCAL);
        let reply = Reply::parse(&ask(&network(), &frame).unwrap());
        assert_eq!((reply.status(), reply.codes()), (Some(5), vec![2, 1, 13]), "{kind}");
    }
    for kind in [SOLICIT, CONFIRM, REBIND, INFORMATION_REQUEST] {
        let frame = Client::new(kind).frame(OUR_LINK_LOCAL);
        assert_eq!(ask(&network(), &frame), Err(DropReason::NotForUs), "{kind}");
    }
}

#[test]
fn messages_of_servers_and_relays_are_not_for_us() {
    for kind in [0, 2, 7, 10, 12, 13, 99] {
        assert_eq!(Client::new(kind).ask(&network()).map(|_| ()), Err(DropReason::NotForUs), "{kind}");
    }
}

#[test]
fn a_client_without_link_local_address_is_refused() {
    for src in [GUEST, "::"] {
        let frame = datagram((src, 546), (ALL, 547), &Client::new(SOLICIT).0);
        assert_eq!(ask(&network(), &frame), Err(DropReason::Source), "{src}");
    }
}

#[test]
fn a_broken_option_is_malformed() {
    let mut client = Client::new(SOLICIT);
    client.0.extend([0, 3, 0, 40, 1, 2, 3]);
    assert_eq!(client.ask(&network()).map(|_| ()), Err(DropReason::Malformed));
}

#[test]
fn a_reply_fits_the_smallest_link_whatever_is_asked() {
    let mut network = network();
    network.dns = vec!["fd00::53".parse().unwrap(); 300];
    network.search = (0..300).map(|at| format!("domain{at}.example")).collect();
    let mut client = Client::new(RENEW);
    for id in 0..20 {
        client = client.with_ia(3, id, &[OTHER; 10]);
    }
    let frame = ask(&network, &client.frame(ALL)).unwrap();
    assert!(frame.len() <= 1294);
    let reply = Reply::parse(&frame);
    assert_eq!((reply.ias().len(), reply.ias()[0].matches("/0").count()), (8, 8));
    let frame = ask(&network, &Client::new(INFORMATION_REQUEST).with(6, &[0, 24]).frame(ALL)).unwrap();
    assert!((1270..=1294).contains(&frame.len()));
}

#[test]
fn switched_off_and_ipv4_only_networks_answer_no_dhcpv6() {
    let mut off = network();
    off.services.dhcpv6 = false;
    for network in [off, v4_only()] {
        assert_eq!(ask(&network, &Client::new(SOLICIT).frame(ALL)), Err(DropReason::Disabled));
    }
}

#[test]
fn hostile_messages_are_survived() {
    let client =
        Client::new(RENEW).with_na(&[GUEST, OTHER]).with_ia(25, 1, &[]).with(6, &[0, 23]).with(39, &[1]);
    survives(Question::Dhcpv6, &client.frame(ALL));
    survives(Question::Dhcpv6, &Client::new(SOLICIT).with(14, &[]).with_na(&[]).frame(ALL));
}
