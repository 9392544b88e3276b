//! UDP, echo and fragments through a whole relay: a scripted guest on the stream transport on one side, real
//! sockets on the other, in a network namespace of each test's own. Needs root.
#![expect(unsafe_code, reason = "unshare of a thread's network namespace")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::tests_outside_test_module,
    clippy::cast_possible_truncation,
    reason = "the whole file is a test"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use passt_rs::answer::dhcpv4::Extras;
use passt_rs::answer::{Network, Services, V4, V6};
use passt_rs::control::Control;
use passt_rs::flow::nat::Nat;
use passt_rs::guest::Stream;
use passt_rs::host::batch::Message;
use passt_rs::host::outbound::Outbound;
use passt_rs::host::udp;
use passt_rs::iovec::Piece;
use passt_rs::relay::{Limits, Listening, Opened, Proto, Protocols, Relay, Settings};
use passt_rs::transport::fragment;
use passt_rs::transport::reassembly::{BYTES_MAX, Key, Outcome, Reassembly};
use passt_rs::wire::checksum::Sum;
use passt_rs::wire::{
    EtherType, Fragment, Headers, IpHeaders, IpRepr, Mac, emit_ethernet, emit_ip, fragment as wire_fragment,
    ip_header_len, protocol,
};

const GUEST_MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const OUR_MAC: Mac = Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);
/// Guest and server of each family.
const ENDS: [(&str, &str); 2] = [("10.244.1.5", "10.244.1.9"), ("fd00::5", "fd00::9")];
const PATIENCE: Duration = Duration::from_secs(5);
/// Datagram flows that the labs allow.
const FLOWS_MAX: usize = 64;

/// A guest and what is behind its cable.
struct Lab {
    guest: UnixStream,
    control: BufReader<UnixStream>,
    mtu: u16,
}

/// Runs `test` against a relay in a namespace where the pod's and the servers' addresses are on loopback.
fn lab(mtu: u16, path_mtu: u16, protocols: Protocols, test: impl FnOnce(&mut Lab) + Send + 'static) {
    let run = move || {
        // SAFETY: only this thread's network namespace changes, which nothing in it relies on.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.expect("root");
        ip(&format!("link set lo up mtu {path_mtu}"));
        for address in ["10.244.1.5/24", "10.244.1.9/24", "fd00::5/64 nodad", "fd00::9/64 nodad"] {
            ip(&format!("addr add {address} dev lo"));
        }
        // IPv6 addresses become reachable from a work queue.
        let deadline = Instant::now() + PATIENCE;
        while !ENDS[1..].iter().all(|(guest, server)| is_local(guest) && is_local(server)) {
            assert!(Instant::now() < deadline, "the IPv6 addresses have no local route");
        }
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let control = Control::listen(&path).unwrap();
        let (ours, guest) = UnixStream::pair().unwrap();
        guest.set_read_timeout(Some(PATIENCE)).unwrap();
        let listening = ["0.0.0.0:5353", "[::]:5353"].map(|address: &str| Listening {
            protocol: Proto::Udp,
            socket: udp::listen(address.parse().unwrap(), true, None).unwrap(),
            guest_port: 53,
            device: None,
        });
        let opened = Opened { listening: listening.into(), control: Some(control), ..Opened::default() };
        let relay = std::thread::spawn(move || {
            let guest = Stream::connected(ours).unwrap();
            Relay::new(guest, settings(mtu, protocols), opened).unwrap().run().unwrap();
        });
        let control = BufReader::new(UnixStream::connect(&path).unwrap());
        let mut lab = Lab { guest, control, mtu };
        test(&mut lab);
        drop(lab);
        relay.join().expect("the relay ends when the guest goes");
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

const ALL: Protocols = Protocols { tcp: true, udp: true, icmp: true };

fn settings(mtu: u16, protocols: Protocols) -> Settings {
    let off = Services {
        dhcp: false,
        dhcpv6: false,
        ndp: false,
        ra: false,
        announce_dns: false,
        announce_search: false,
    };
    let (guest4, guest6) = ("10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap());
    let (gateway, our_link_local) = ("10.244.1.1".parse().unwrap(), "fe80::1".parse().unwrap());
    Settings {
        network: Network {
            our_mac: OUR_MAC,
            mtu: Some(mtu),
            v4: Some(V4 { guest: guest4, prefix_len: 24, gateway: Some(gateway) }),
            v6: Some(V6 { guest: guest6, prefix_len: 64, our_link_local, has_default_route: true }),
            dns: vec![],
            search: vec![],
            hostname: None,
            fqdn: None,
            extras: Extras::default(),
            services: off,
        },
        nat: Nat {
            guest4: Some(guest4),
            guest6: Some(guest6),
            host4: Some(guest4),
            host6: Some(guest6),
            gateway4: Some(gateway),
            our_link_local6: Some(our_link_local),
            ..Nat::default()
        },
        mtu,
        protocols,
        outbound: Outbound { v4: Some(guest4), v6: Some(guest6), ..Outbound::default() },
        limits: Limits { datagram_flows: FLOWS_MAX, ..Limits::default() },
        guest_mac: None,
        one_off: true,
        secret: [7; 16],
    }
}

fn ip(args: &str) {
    assert!(Command::new("ip").args(args.split(' ')).status().unwrap().success(), "ip {args}");
}

fn is_local(address: &str) -> bool {
    let routes = Command::new("ip").args(["-6", "route", "show", "table", "local"]).output().unwrap();
    String::from_utf8(routes.stdout).unwrap().contains(&format!("local {address} "))
}

/// One packet of the guest's, or for it.
#[derive(Debug)]
struct Packet {
    ip: IpHeaders,
    frame: Vec<u8>,
}

impl Packet {
    fn payload(&self) -> &[u8] {
        &self.frame[self.ip.payload()]
    }
}

impl Lab {
    fn send_frame(&mut self, frame: &[u8]) {
        self.guest.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
        self.guest.write_all(frame).unwrap();
    }

    /// Sends an IP packet, in fragments when it is larger than the MTU.
    fn send(&mut self, ip: &IpRepr, payload: &[u8]) {
        if ip_header_len(ip.src) + payload.len() <= usize::from(self.mtu) {
            self.send_frame(&frame(ip, None, payload));
            return;
        }
        for piece in fragment::plan(77, ip.src, payload.len(), usize::from(self.mtu)) {
            let start = usize::from(piece.fragment.offset);
            self.send_frame(&frame(ip, Some(piece.fragment), &payload[start..start + piece.len]));
        }
    }

    /// The next ARP request for another address than the sender's.
    fn receive_arp(&mut self) -> Vec<u8> {
        loop {
            let frame = self.receive_frame();
            if frame[12..14] == [8, 6] && frame[28..32] != frame[38..42] {
                return frame;
            }
        }
    }

    fn receive_frame(&mut self) -> Vec<u8> {
        let mut prefix = [0; 4];
        if let Err(error) = self.guest.read_exact(&mut prefix) {
            panic!("no frame: {error}; {}", self.stats());
        }
        let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
        self.guest.read_exact(&mut frame).unwrap();
        frame
    }

    /// The next IP packet for the guest of `number`; what the relay announces is skipped.
    fn receive(&mut self, number: u8) -> Packet {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no packet of protocol {number}");
            let frame = self.receive_frame();
            let headers = Headers::parse(&frame, frame.len()).unwrap();
            if let Some(ip) = headers.ip.filter(|ip| ip.protocol == number && !ip.dst.is_multicast()) {
                assert_eq!((headers.src, headers.dst), (OUR_MAC, GUEST_MAC));
                assert!(ip.end - 14 <= usize::from(self.mtu), "{ip:?}");
                return Packet { ip, frame };
            }
        }
    }

    /// The next whole payload for the guest of `number`, and in how many packets it came.
    fn receive_whole(&mut self, number: u8) -> (IpHeaders, Vec<u8>, usize) {
        let mut reassembly = Reassembly::new(BYTES_MAX);
        for count in 1.. {
            let packet = self.receive(number);
            let Some(fragment) = packet.ip.fragment else {
                return (packet.ip.clone(), packet.payload().to_vec(), count);
            };
            let ip = packet.ip.clone();
            let key = Key { src: ip.src, dst: ip.dst, protocol: number, ident: fragment.ident };
            let now = passt_rs::time::Instant::from_micros(0);
            match reassembly.insert(now, key, fragment, packet.payload()) {
                Outcome::Complete(bytes) => return (ip, bytes.to_vec(), count),
                Outcome::Waiting => {}
                Outcome::Refused => panic!("{ip:?}"),
            }
        }
        unreachable!()
    }

    fn stats(&mut self) -> serde_json::Value {
        self.control.get_mut().write_all(b"{\"get\":\"stats\"}\n").unwrap();
        let mut line = String::new();
        self.control.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// A number of `{"get":"stats"}`.
    fn stat(&mut self, group: &str, name: &str) -> u64 {
        let stats = self.stats();
        stats[group][name].as_u64().unwrap_or_else(|| panic!("{group}.{name} in {stats}"))
    }

    fn wait_for(&mut self, group: &str, name: &str, value: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.stat(group, name) != value {
            assert!(Instant::now() < deadline, "{group}.{name} is {}", self.stat(group, name));
            std::thread::yield_now();
        }
    }
}

fn frame(ip: &IpRepr, fragment: Option<Fragment>, payload: &[u8]) -> Vec<u8> {
    let ip_len = match fragment {
        Some(_) => wire_fragment::header_len(ip.src),
        None => ip_header_len(ip.src),
    };
    let mut frame = vec![0; 14 + ip_len];
    let ether_type = if ip.src.is_ipv4() { EtherType::Ipv4 } else { EtherType::Ipv6 };
    emit_ethernet(&mut frame, GUEST_MAC, OUR_MAC, ether_type);
    match fragment {
        Some(fragment) => wire_fragment::emit(&mut frame[14..], ip, fragment, payload.len()),
        None => emit_ip(&mut frame[14..], ip, payload.len()),
    }
    frame.extend(payload);
    frame
}

fn repr((src, dst): (&str, &str), number: u8) -> IpRepr {
    let [src, dst] = [src, dst].map(|address| address.parse().unwrap());
    IpRepr { src, dst, protocol: number, hop_limit: 61, traffic_class: 0xb8 }
}

/// A UDP datagram with its checksum.
fn datagram(ip: &IpRepr, (src, dst): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len();
    let mut bytes = [src, dst, len as u16, 0].map(u16::to_be_bytes).concat();
    bytes.extend(payload);
    let sum = Sum::pseudo_header(ip.src, ip.dst, protocol::UDP, len).with(&bytes).finish();
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Ports and payload of a UDP datagram whose checksum is right.
fn parse_datagram(ip: &IpHeaders, bytes: &[u8]) -> (u16, u16, Vec<u8>) {
    let sum = Sum::pseudo_header(ip.src, ip.dst, protocol::UDP, bytes.len()).with(bytes).finish();
    assert_eq!(sum, 0, "checksum");
    assert_ne!(bytes[6..8], [0, 0]);
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    assert_eq!(usize::from(port(4)), bytes.len());
    (port(0), port(2), bytes[8..].to_vec())
}

fn icmp_number(address: IpAddr) -> u8 {
    if address.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 }
}

fn server(address: &str) -> (UdpSocket, u16) {
    let address: IpAddr = address.parse().unwrap();
    let socket = UdpSocket::bind((address, 0)).unwrap();
    // Room for a whole burst, however late it is read.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 251) as u8).collect()
}

#[test]
fn a_datagram_goes_out_from_the_guest_s_port_and_its_answer_comes_back() {
    for ends in ENDS {
        lab(1500, 1500, ALL, move |lab| {
            let (server, port) = server(ends.1);
            let ip = repr(ends, protocol::UDP);
            lab.send(&ip, &datagram(&ip, (4000, port), b"question"));
            let mut buffer = [0; 2000];
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&b"question"[..], SocketAddr::new(ip.src, 4000)));
            server.send_to(b"answer", from).unwrap();
            let (headers, bytes, _) = lab.receive_whole(protocol::UDP);
            assert_eq!((headers.src, headers.dst, headers.hop_limit), (ip.dst, ip.src, 64));
            assert_eq!(parse_datagram(&headers, &bytes), (port, 4000, b"answer".to_vec()));
            assert_eq!(lab.stat("udp", "from_guest_total"), 1);
            assert_eq!(lab.stat("udp", "port_replaced_total"), 0);
        });
    }
}

#[test]
fn beyond_their_limit_datagram_flows_are_refused_and_old_ones_go_on() {
    lab(1500, 1500, ALL, |lab| {
        let (server, port) = server(ENDS[0].1);
        let ip = repr(ENDS[0], protocol::UDP);
        for source in 4000..4000 + FLOWS_MAX as u16 {
            lab.send(&ip, &datagram(&ip, (source, port), b"mine"));
            assert_eq!(server.recv_from(&mut [0; 10]).unwrap().1.port(), source);
        }
        lab.send(&ip, &datagram(&ip, (5000, port), b"too many"));
        lab.wait_for("drops", "flow_limit", 1);
        // No socket is opened for it: that would have failed with another reason.
        let nowhere = repr((ENDS[0].0, "192.0.2.7"), protocol::UDP);
        lab.send(&nowhere, &datagram(&nowhere, (5000, port), b"too many"));
        lab.wait_for("drops", "flow_limit", 2);
        server.send_to(b"too many", SocketAddr::new(ip.src, 5353)).unwrap();
        lab.wait_for("drops", "flow_limit", 3);
        lab.send(&ip, &datagram(&ip, (4000, port), b"still mine"));
        assert_eq!(server.recv_from(&mut [0; 10]).unwrap().1.port(), 4000);
        let stats = lab.stats();
        assert_eq!(
            (&stats["datagram_flows"], &stats["datagram_flows_limit"]),
            (&FLOWS_MAX.into(), &FLOWS_MAX.into())
        );
    });
}

#[test]
fn a_port_that_somebody_in_the_pod_holds_alone_is_replaced_and_counted() {
    lab(1500, 1500, ALL, |lab| {
        let _holder = UdpSocket::bind("0.0.0.0:4000").unwrap();
        let (server, port) = server(ENDS[0].1);
        let ip = repr(ENDS[0], protocol::UDP);
        lab.send(&ip, &datagram(&ip, (4000, port), b"question"));
        let (_, from) = server.recv_from(&mut [0; 10]).unwrap();
        assert_ne!(from.port(), 4000);
        server.send_to(b"answer", from).unwrap();
        let (headers, bytes, _) = lab.receive_whole(protocol::UDP);
        assert_eq!(parse_datagram(&headers, &bytes), (port, 4000, b"answer".to_vec()));
        assert_eq!(lab.stat("udp", "port_replaced_total"), 1);
    });
}

#[test]
fn datagrams_larger_than_the_mtu_pass_in_fragments_both_ways() {
    for ends in ENDS {
        lab(1500, 65_535, ALL, move |lab| {
            let (server, port) = server(ends.1);
            let ip = repr(ends, protocol::UDP);
            let payload = pattern(60_000);
            lab.send(&ip, &datagram(&ip, (4000, port), &payload));
            let mut buffer = vec![0; 65_535];
            let (len, from) = server.recv_from(&mut buffer).unwrap_or_else(|error| {
                panic!("{error}: {}", lab.stats());
            });
            assert!(buffer[..len] == payload);
            server.send_to(&payload, from).unwrap();
            let (headers, bytes, packets) = lab.receive_whole(protocol::UDP);
            let (src, dst, received) = parse_datagram(&headers, &bytes);
            assert_eq!((src, dst), (port, 4000));
            assert!(
                received == payload
                    && packets == 60_008usize.div_ceil(1448 + usize::from(ip.src.is_ipv4()) * 32)
            );
            assert_eq!(lab.stat("datagram", "reassembled_total"), 1);
            assert_eq!(lab.stat("datagram", "fragmented_total"), 1);
        });
    }
}

#[test]
fn many_datagrams_of_one_flow_arrive_each_as_it_was() {
    lab(1500, 1500, ALL, |lab| {
        let (server, port) = server(ENDS[0].1);
        let ip = repr(ENDS[0], protocol::UDP);
        // Lengths that are equal, shorter, empty and longer again: joined or not, all arrive alone. Written at once
        // and more than one batch, so that some wait in our buffer while the socket is empty.
        let some = [1000; 30].into_iter().chain([400, 1000, 0, 0, 1, 1472, 1472, 7]);
        let lengths: Vec<_> = std::iter::repeat_n(some, 4).flatten().collect();
        let mut frames = Vec::new();
        for len in &lengths {
            let frame = frame(&ip, None, &datagram(&ip, (4000, port), &pattern(*len)));
            frames.extend((frame.len() as u32).to_be_bytes());
            frames.extend(frame);
        }
        lab.guest.write_all(&frames).unwrap();
        let mut buffer = [0; 2000];
        for len in lengths {
            assert_eq!(server.recv(&mut buffer).unwrap(), len);
            assert!(buffer[..len] == pattern(len));
        }
        assert_eq!(lab.stat("udp", "from_guest_total"), 1);
    });
}

#[test]
fn a_burst_that_the_kernel_joins_is_cut_to_its_datagrams() {
    for ends in ENDS {
        lab(1500, 1500, ALL, move |lab| {
            let ip = repr(ends, protocol::UDP);
            let ours = SocketAddr::new(ip.dst, 7000);
            let server = udp::connect_from(ours, SocketAddr::new(ip.src, 4000), None, false).unwrap();
            lab.send(&ip, &datagram(&ip, (4000, 7000), b"go"));
            lab.wait_for("udp", "from_guest_total", 1);
            let payload = pattern(3 * 1200 + 300);
            let slices = [Piece::new(&payload)];
            let empty = Message { slices: &[], segment: None };
            let sent = server.send(&[Message { slices: &slices, segment: Some(1200) }, empty]);
            assert_eq!(sent, Ok(2));
            for part in payload.chunks(1200).chain([&[][..]]) {
                let (headers, bytes, _) = lab.receive_whole(protocol::UDP);
                assert!(parse_datagram(&headers, &bytes) == (7000, 4000, part.to_vec()));
            }
        });
    }
}

#[test]
fn a_closed_port_is_unreachable_to_the_guest() {
    for ends in ENDS {
        lab(1500, 1500, ALL, move |lab| {
            let ip = repr(ends, protocol::UDP);
            let sent = datagram(&ip, (4000, 9), b"anybody?");
            lab.send(&ip, &sent);
            let error = lab.receive(icmp_number(ip.src));
            let message = error.payload();
            let (kind_code, ip_len) = if ip.src.is_ipv4() { ([3, 3], 20) } else { ([1, 4], 40) };
            assert_eq!((error.ip.src, &message[..2]), (ip.dst, &kind_code[..]));
            // The quoted packet has the guest's ends and bytes.
            let quoted = Headers::parse(
                &[&frame(&ip, None, &[])[..14], &message[8..]].concat(),
                14 + message.len() - 8,
            );
            let quoted = quoted.unwrap().ip.unwrap();
            assert_eq!((quoted.src, quoted.dst), (ip.src, ip.dst));
            assert_eq!(message[8 + ip_len..8 + ip_len + 6], sent[..6]);
            assert_eq!(message[8 + ip_len + 8..], sent[8..]);
            assert_eq!(lab.stat("datagram", "errors_to_guest_total"), 1);
        });
    }
}

#[test]
fn what_is_too_large_for_the_path_tells_the_guest_its_mtu() {
    for ends in ENDS {
        lab(9000, 1500, ALL, move |lab| {
            let (_server, port) = server(ends.1);
            let ip = repr(ends, protocol::UDP);
            // Two, so that they are also tried as one.
            for _ in 0..2 {
                lab.send(&ip, &datagram(&ip, (4000, port), &pattern(3000)));
            }
            for _ in 0..2 {
                let error = lab.receive(icmp_number(ip.src));
                let kind_code = if ip.src.is_ipv4() { [3, 4] } else { [2, 0] };
                assert_eq!(error.payload()[..2], kind_code);
                assert_eq!(error.payload()[4..8], 1500u32.to_be_bytes());
            }
            assert_eq!(lab.stat("drops", "host_send"), 2);
        });
    }
}

#[test]
fn a_destination_without_route_is_unreachable_to_the_guest() {
    lab(1500, 1500, ALL, |lab| {
        let ip = repr((ENDS[0].0, "192.0.2.1"), protocol::UDP);
        lab.send(&ip, &datagram(&ip, (4000, 53), b"x"));
        let error = lab.receive(protocol::ICMP);
        assert_eq!(error.payload()[..2], [3, 0]);
        assert_eq!(error.ip.src, "10.244.1.1".parse::<IpAddr>().unwrap());
    });
}

#[test]
fn a_forwarded_port_reaches_the_guest_which_sees_and_answers_the_peer() {
    for ends in ENDS {
        lab(1500, 1500, ALL, move |lab| {
            // So that the relay knows the guest's address.
            let ip = repr(ends, protocol::UDP);
            let (server, port) = server(ends.1);
            lab.send(&ip, &datagram(&ip, (4000, port), b"x"));
            let mut buffer = [0; 100];
            server.recv(&mut buffer).unwrap();
            let pod = SocketAddr::new(ip.src, 5353);
            for question in [&b"first"[..], b"second"] {
                server.send_to(question, pod).unwrap();
                let (headers, bytes, _) = lab.receive_whole(protocol::UDP);
                assert_eq!((headers.src, headers.dst), (ip.dst, ip.src));
                assert_eq!(parse_datagram(&headers, &bytes), (port, 53, question.to_vec()));
            }
            lab.send(&ip, &datagram(&ip, (53, port), b"answer"));
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&b"answer"[..], pod));
            assert_eq!(lab.stat("udp", "from_host_total"), 1);
        });
    }
}

#[test]
fn a_guest_that_never_spoke_is_found_by_asking_and_is_reached_from_outside() {
    lab(1500, 1500, ALL, |lab| {
        let asked = lab.receive_arp();
        assert_eq!(
            (asked[21], &asked[28..32], &asked[38..42]),
            (1, &[10, 244, 1, 1][..], &[10, 244, 1, 5][..])
        );
        let mut reply = [OUR_MAC.0, GUEST_MAC.0].concat();
        reply.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        reply.extend(GUEST_MAC.0);
        reply.extend([10, 244, 1, 5]);
        reply.extend(&asked[22..32]);
        lab.send_frame(&reply);
        lab.wait_for("cable", "from_guest_frames", 1);
        let (server, port) = server(ENDS[0].1);
        server.send_to(b"question", "10.244.1.5:5353").unwrap();
        // It looks at the MAC address too.
        let (headers, bytes, _) = lab.receive_whole(protocol::UDP);
        assert_eq!(parse_datagram(&headers, &bytes), (port, 53, b"question".to_vec()));
        assert_eq!(lab.stat("drops", "not_for_us"), 0);
    });
}

#[test]
fn pings_of_any_size_come_back_under_the_guest_s_identifier() {
    for ends in ENDS {
        lab(1500, 65_535, ALL, move |lab| {
            let number = icmp_number(ends.0.parse().unwrap());
            let ip = repr(ends, number);
            let (request, reply) = if number == protocol::ICMP { (8, 0) } else { (128, 129) };
            for (seq, len) in [(1, 56), (2, 3000), (3, 0)] {
                let mut message = vec![request, 0, 0, 0, 0x12, 0x34, 0, seq];
                message.extend(pattern(len));
                let sum = checksum(ip.src, ip.dst, number, &message);
                message[2..4].copy_from_slice(&sum.to_be_bytes());
                lab.send(&ip, &message);
                let (headers, bytes, packets) = lab.receive_whole(number);
                assert_eq!((headers.src, headers.dst), (ip.dst, ip.src));
                assert_eq!(checksum(headers.src, headers.dst, number, &bytes), 0);
                assert_eq!((bytes[0], &bytes[4..8]), (reply, &[0x12, 0x34, 0, seq][..]));
                assert!(bytes[8..] == pattern(len) && packets == if len == 3000 { 3 } else { 1 });
            }
            assert_eq!(lab.stat("echo", "from_guest_total"), 1);
        });
    }
}

fn checksum(src: IpAddr, dst: IpAddr, number: u8, message: &[u8]) -> u16 {
    let sum = match number {
        protocol::ICMP => Sum::default(),
        _ => Sum::pseudo_header(src, dst, number, message.len()),
    };
    sum.with(message).finish()
}

#[test]
fn what_goes_no_further_is_counted_by_reason() {
    lab(1500, 1500, Protocols { udp: false, icmp: true, tcp: true }, |lab| {
        let ip = repr(ENDS[0], protocol::UDP);
        lab.send(&ip, &datagram(&ip, (4000, 9), b"x"));
        lab.wait_for("drops", "disabled", 1);
        let mut wrong = datagram(&ip, (4000, 9), b"x");
        wrong[8] ^= 1;
        lab.send(&ip, &wrong);
        lab.wait_for("drops", "checksum", 1);
        let overlapping = [(0, 16), (8, 16)];
        for (offset, len) in overlapping {
            let fragment = Fragment { ident: 5, offset, more: true };
            lab.send_frame(&frame(&ip, Some(fragment), &pattern(len)));
        }
        lab.wait_for("drops", "fragment", 1);
        let echo = repr((ENDS[0].0, "224.0.0.1"), protocol::ICMP);
        let mut message = vec![8, 0, 0, 0, 0, 1, 0, 1];
        let sum = checksum(echo.src, echo.dst, protocol::ICMP, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        lab.send(&echo, &message);
        lab.wait_for("drops", "destination", 1);
        message[0] = 0;
        lab.send(&echo, &message);
        lab.wait_for("drops", "protocol", 1);
        assert_eq!(lab.stat("udp", "from_guest_total"), 0);
    });
}
