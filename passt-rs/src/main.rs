//! The program: command line to relay.
use passt_rs::*;
use std::fs::File;
fn main() {
    tracing_subscriber::fmt()
        .with_max_level(if std::env::var("DEBUG").is_ok() {
            tracing::Level::TRACE
        } else {
            tracing::Level::INFO
        })
        .with_writer(std::io::stderr)
        .init();
    let a: Vec<String> = std::env::args().collect();
    let mtu: u16 = a[2].parse().unwrap();
    let own = File::open("/proc/self/ns/net").unwrap();
    let guest = File::open(format!("/run/netns/{}", a[1])).unwrap();
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&guest),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )
    .unwrap();
    let tap = guest::Tap::open("tap0").unwrap();
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&own),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )
    .unwrap();
    let nat = flow::nat::Nat {
        guest4: Some([10, 244, 1, 5].into()),
        gateway4: Some([10, 244, 1, 1].into()),
        ..Default::default()
    };
    let network = answer::Network {
        our_mac: "9a:55:9a:55:9a:55".parse().unwrap(),
        mtu: Some(mtu),
        v4: Some(answer::V4 {
            guest: [10, 244, 1, 5].into(),
            prefix_len: 24,
            gateway: Some([10, 244, 1, 1].into()),
        }),
        v6: None,
        dns: vec![],
        search: vec![],
        hostname: None,
        fqdn: None,
        services: answer::Services {
            dhcp: true,
            dhcpv6: true,
            ndp: true,
            ra: true,
            announce_dns: true,
            announce_search: true,
        },
    };
    let mut listening = vec![];
    for port in 5001..5021 {
        listening.push(relay::Listening {
            protocol: relay::Proto::Tcp,
            guest_port: port,
            socket: host::tcp::listen(&format!("[::]:{port}").parse().unwrap(), false, None).unwrap(),
        });
    }
    let s = relay::Settings {
        network,
        nat,
        mtu,
        protocols: relay::Protocols { tcp: true, udp: true, icmp: true },
        limits: relay::Limits::default(),
        guest_mac: None,
        one_off: false,
        secret: [3; 16],
    };
    let capture = std::env::var("PCAP").ok().map(|p| capture::Capture::create(p.as_ref()).unwrap());
    let mut r = relay::Relay::new(
        tap,
        s,
        relay::Opened {
            listening,
            capture,
            control: Some(control::Control::listen("/tmp/ctl".as_ref()).unwrap()),
            ..Default::default()
        },
    )
    .unwrap();
    r.run().unwrap();
}
