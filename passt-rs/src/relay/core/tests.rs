use std::io::Read;
use std::os::unix::net::UnixStream;

use super::*;
use crate::answer::dhcpv4::Extras;
use crate::answer::{Network, Services, V4, V6};
use crate::flow::nat::Nat;
use crate::guest::Stream;
use crate::host::outbound::Outbound;
use crate::relay::Protocols;
use crate::wire::protocol;

const LINK_LOCAL: &str = "fe80::1";

fn settings() -> Settings {
    Settings {
        network: Network {
            our_mac: Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]),
            mtu: None,
            v4: Some(V4 { guest: "10.0.0.2".parse().unwrap(), prefix_len: 24, gateway: None }),
            v6: Some(V6 {
                guest: "fd00::2".parse().unwrap(),
                prefix_len: 64,
                our_link_local: LINK_LOCAL.parse().unwrap(),
                has_default_route: true,
            }),
            dns: vec![],
            search: vec![],
            hostname: None,
            fqdn: None,
            extras: Extras::default(),
            services: Services {
                dhcp: false,
                dhcpv6: false,
                ndp: true,
                ra: true,
                announce_dns: false,
                announce_search: false,
            },
        },
        nat: Nat::default(),
        mtu: 1500,
        protocols: Protocols { tcp: false, udp: false, icmp: false },
        outbound: Outbound::default(),
        limits: Limits::default(),
        guest_mac: None,
        one_off: false,
        secret: [0; 16],
    }
}

/// A core, and the guest's end of its cable.
fn core(settings: Settings) -> (Core<Stream>, UnixStream) {
    let (ours, guest) = UnixStream::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    let core = Core::new(Stream::connected(ours).unwrap(), Epoll::new().unwrap(), settings, None);
    (core, guest)
}

/// What each frame that came says: an ARP operation, or an ICMPv6 type.
fn said(core: &mut Core<Stream>, guest: &mut UnixStream) -> Vec<(&'static str, u8)> {
    core.cable.guest.flush();
    let mut said = Vec::new();
    let mut len = [0; 4];
    while guest.read_exact(&mut len).is_ok() {
        let mut frame = vec![0; u32::from_be_bytes(len) as usize];
        guest.read_exact(&mut frame).unwrap();
        let headers = crate::wire::Headers::parse(&frame, frame.len()).unwrap();
        said.push(match headers.ip {
            None => ("ARP", frame[21]),
            Some(ip) => {
                assert_eq!((ip.protocol, ip.src), (protocol::ICMPV6, LINK_LOCAL.parse().unwrap()));
                ("ICMPv6", frame[ip.transport])
            }
        });
    }
    said
}

#[test]
fn a_guest_that_comes_up_is_told_and_asked() {
    let (mut core, mut guest) = core(settings());
    core.on_link_up();
    let all = [("ARP", 1), ("ICMPv6", 136), ("ARP", 1), ("ICMPv6", 135), ("ICMPv6", 134)];
    assert_eq!(said(&mut core, &mut guest), all);
}

/// Who the next frame is sent to.
fn addressee(core: &mut Core<Stream>, guest: &mut UnixStream) -> Mac {
    said(core, guest);
    let ends =
        ["10.0.0.2:80", "192.0.2.1:4000"].map(|end| end.parse::<std::net::SocketAddr>().unwrap().into());
    let key = Key { protocol: crate::flow::Protocol::Tcp, guest: ends[0], peer: ends[1] };
    core.cable.send_tcp(&key, &Segment::default()).unwrap();
    core.cable.guest.flush();
    let mut bytes = [0; 10];
    guest.read_exact(&mut bytes).unwrap();
    let [_, _, _, _, mac @ ..] = bytes;
    while guest.read(&mut [0; 100]).is_ok() {}
    Mac(mac)
}

#[test]
fn a_guest_that_did_not_speak_yet_is_addressed_as_known_and_else_as_everybody() {
    let known = Mac([2, 0, 0, 0, 0, 7]);
    for (guest_mac, expected) in [(None, Mac::BROADCAST), (Some(known), known)] {
        let (mut core, mut guest) = core(Settings { guest_mac, ..settings() });
        core.on_link_up();
        assert_eq!(addressee(&mut core, &mut guest), expected);
        core.cable.guest_mac = Mac([2, 0, 0, 0, 0, 9]);
        core.on_link_up();
        assert_eq!(addressee(&mut core, &mut guest), expected, "the next guest");
    }
}

/// What is said before anybody listens is lost, and this is said once.
#[test]
fn lost_connections_are_told_when_the_guest_has_spoken_also_where_its_address_is_known() {
    let (mut core, _guest) = core(Settings { guest_mac: Some(Mac([2, 0, 0, 0, 0, 7])), ..settings() });
    let ends =
        ["10.0.0.2:80", "192.0.2.1:4000"].map(|end| end.parse::<std::net::SocketAddr>().unwrap().into());
    core.lost = vec![Key { protocol: crate::flow::Protocol::Tcp, guest: ends[0], peer: ends[1] }];
    core.on_link_up();
    core.tell_of_lost();
    assert_eq!((core.lost.len(), core.tcp.lost_told_total), (1, 0));
    core.heard = true;
    core.tell_of_lost();
    assert_eq!((core.lost.len(), core.tcp.lost_told_total), (0, 1));
}

#[test]
fn router_advertisements_are_repeated_each_time_the_interval_has_passed() {
    let (mut core, mut guest) = core(settings());
    assert_eq!(core.announcements_due(), None);
    core.on_link_up();
    said(&mut core, &mut guest);
    for _ in 0..3 {
        assert_eq!(core.announcements_due(), Some(ADVERTISEMENT_INTERVAL));
        core.now = core.now + (ADVERTISEMENT_INTERVAL - Duration::from_micros(1));
        core.announce_periodically();
        assert_eq!(said(&mut core, &mut guest), []);
        core.now = core.now + Duration::from_micros(1);
        core.announce_periodically();
        assert_eq!(said(&mut core, &mut guest), [("ICMPv6", 134)]);
    }
}

#[test]
fn without_router_advertisements_none_is_planned() {
    let mut settings = settings();
    settings.network.services.ra = false;
    let (mut core, _guest) = core(settings);
    core.on_link_up();
    assert_eq!(core.announcements_due(), None);
}
