//! The networks that targets live in, and frames of their guest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use passt_rs::answer::dhcpv4::Extras;
use passt_rs::answer::{Network, Services, V4, V6};
use passt_rs::wire::{Envelope, Mac};

pub(crate) const OUR_MAC: Mac = Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);
pub(crate) const GUEST_MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

pub(crate) const GUEST_V4: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
pub(crate) const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 7);
pub(crate) const OUR_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const GUEST_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0xff, 0xfe12, 0x3456);

/// A network by the two lowest bits of `choice`: 0 has both families, 1 host routes and no gateway, 2 IPv4 only, 3 IPv6
/// only. The third bit takes the services away.
pub(crate) fn network(choice: u8) -> Network {
    let on = choice & 4 == 0;
    let host_routes = choice & 3 == 1;
    let gateway = (!host_routes).then_some(GATEWAY);
    let v4 = V4 { guest: GUEST_V4, prefix_len: if host_routes { 32 } else { 24 }, gateway };
    let v6 = V6 {
        guest: GUEST_V6,
        prefix_len: if host_routes { 128 } else { 64 },
        our_link_local: OUR_LINK_LOCAL,
        has_default_route: !host_routes,
    };
    Network {
        our_mac: OUR_MAC,
        mtu: Some(1450),
        v4: (choice & 3 != 3).then_some(v4),
        v6: (choice & 3 != 2).then_some(v6),
        dns: vec![
            IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 10)),
        ],
        search: ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"].map(String::from).into(),
        hostname: Some("vm".into()),
        fqdn: Some("vm.sub.ns.svc.cluster.local".into()),
        extras: if host_routes { Extras::default() } else { extras() },
        services: Services { dhcp: on, dhcpv6: on, ndp: on, ra: on, announce_dns: on, announce_search: on },
    }
}

/// More than fits the shortest reply.
fn extras() -> Extras {
    Extras {
        boot_file: Some("pxelinux.0".into()),
        tftp_server: Some("192.0.2.9".into()),
        ntp_servers: vec![Ipv4Addr::new(192, 0, 2, 4); 3],
        site: vec![(224, "s".repeat(255)), (254, "t".into())],
    }
}

/// A datagram of the guest in its frame, whole and right.
pub(crate) fn datagram(src: (IpAddr, u16), dst: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let envelope =
        Envelope { src_mac: GUEST_MAC, dst_mac: Mac::BROADCAST, src: src.0, dst: dst.0, hop_limit: 64 };
    let mut frame = Vec::new();
    envelope.open_udp(&mut frame);
    frame.extend(payload);
    envelope.seal_udp(&mut frame, src.1, dst.1);
    frame
}

/// Another transport's message of the guest in its frame; its own checksum is left as it is.
pub(crate) fn packet(src: IpAddr, dst: IpAddr, hop_limit: u8, protocol: u8, message: &[u8]) -> Vec<u8> {
    let envelope = Envelope { src_mac: GUEST_MAC, dst_mac: Mac::BROADCAST, src, dst, hop_limit };
    let mut frame = Vec::new();
    envelope.open(&mut frame);
    frame.extend(message);
    envelope.seal(&mut frame, protocol);
    frame
}
