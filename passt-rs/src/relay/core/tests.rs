use std::io::Read;
use std::os::unix::net::UnixStream;

use super::*;
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
            }),
            dns: vec![],
            search: vec![],
            hostname: None,
            fqdn: None,
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
