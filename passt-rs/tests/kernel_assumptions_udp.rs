//! What UDP, echo and their errors lean on in Linux, each on real sockets in a fresh network namespace.
//!
//! - Sockets with SO_REUSEADDR share a UDP port; the kernel gives a datagram to the one connected to its sender,
//!   and to an unconnected one only when there is none.
//! - A connected UDP socket never receives from another peer; between bind and connect it does.
//! - A socket bound to an interface sends through it, also where the better route leads elsewhere.
//! - UDP_SEGMENT cuts one send to datagrams (Linux 4.18), and refuses a segment larger than the MTU.
//! - UDP_GRO joins them again on receive and says their length in a control message (Linux 5.0).
//! - IP_RECVERR queues ICMP errors with the payload they quote; the next send fails once with the error, without
//!   sending.
//! - IP_MTU_DISCOVER = DO refuses a datagram larger than the path's MTU with EMSGSIZE and queues an entry of local
//!   origin with that MTU; DONT cuts it.
//! - IP_RECVTTL, IP_RECVTOS and their IPv6 kin give what was in the packet.
//! - IP_PKTINFO gives the destination of the packet, on dual-stack sockets also for IPv4.
//! - A ping socket bound to port N sends identifier N, fills in checksums, and receives the reply's ICMP message.
//! - ping_group_range is a property of the network namespace and is empty in a new one.
//!
//! The lab needs root. Without it every test fails, as one that cannot run must not pass.
#![expect(unsafe_code, reason = "unshare of a thread's network namespace")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::tests_outside_test_module,
    reason = "the whole file is a test"
)]

use passt_rs::iovec::Piece;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use passt_rs::host::batch::{Batch, Message, RECEIVE_MAX};
use passt_rs::host::echo::{self, EchoError};
use passt_rs::host::error_queue::{self, Origin};
use passt_rs::host::outbound::Outbound;
use passt_rs::host::udp::{self, Socket};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

/// Runs `test` on a thread of its own in a namespace whose loopback is up with an MTU of 1500.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let outcome = std::thread::spawn(move || {
        // SAFETY: only this thread's network namespace changes, which nothing in it relies on.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.expect("root");
        let up = Command::new("ip").args(["link", "set", "lo", "up", "mtu", "1500"]).status().unwrap();
        assert!(up.success());
        test();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn wait(fd: impl AsFd, flags: PollFlags) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    loop {
        let mut polled = [PollFd::new(&fd, flags)];
        if rustix::event::poll(&mut polled, Some(&timeout)).is_ok_and(|ready| ready > 0) {
            return;
        }
        assert!(Instant::now() < deadline, "nothing arrived");
    }
}

fn server(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Runs `ip` once per line.
fn ip(lines: &str) {
    for line in lines.lines() {
        assert!(Command::new("ip").args(line.split_whitespace()).status().unwrap().success(), "ip {line}");
    }
}

/// Packets that left by an interface of this thread's namespace.
fn sent_by(interface: &str) -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = table.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':')).unwrap();
    line.split_whitespace().nth(9).unwrap().parse().unwrap()
}

/// As on a pod's secondary interface that has a default route, but not the best.
#[test]
fn a_flow_of_one_interface_answers_through_it() {
    in_namespace(|| {
        // Else both interfaces would send for themselves.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        ip("link add eth0 type veth peer name far0
            link add net1 type veth peer name far1
            link set far0 up
            link set far1 up
            link set eth0 arp off up
            link set net1 arp off up
            addr add 10.0.0.5/24 dev eth0
            addr add 10.0.1.5/24 dev net1
            route add default dev eth0
            route add default dev net1 metric 100");
        let peer = "192.0.2.1:9".parse().unwrap();
        for (port, device, by) in [(1, None, ["eth0", "net1"]), (2, Some("net1"), ["net1", "eth0"])] {
            let before = by.map(sent_by);
            let flow =
                udp::connect_from(SocketAddr::from(([10, 0, 1, 5], port)), peer, device, false).unwrap();
            // Without ARP a datagram that is sent has left.
            assert_eq!(send(&flow, b"x", None), Ok(1));
            assert_eq!([sent_by(by[0]) - before[0], sent_by(by[1]) - before[1]], [1, 0], "{device:?}");
        }
    });
}

/// The packet goes through loopback, and counts as come through the interface that has the address.
#[test]
fn a_port_of_one_interface_is_reached_by_its_address_from_within() {
    in_namespace(|| {
        ip("link add eth0 type veth peer name far0
            link set far0 up
            link set eth0 up
            addr add 10.0.0.5/24 dev eth0");
        let listener = udp::listen("[::]:4000".parse().unwrap(), false, Some("eth0")).unwrap();
        let (client, _) = server("0.0.0.0:0");
        client.send_to(b"x", "127.0.0.1:4000").unwrap();
        client.send_to(b"y", "10.0.0.5:4000").unwrap();
        wait(&listener, PollFlags::IN);
        let mut batch = Batch::new();
        assert_eq!(batch.receive(listener.as_fd(), RECEIVE_MAX), Ok(1), "what went to loopback came too");
        assert_eq!(batch.datagram(0).unwrap().to, Some("10.0.0.5".parse().unwrap()));
    });
}

fn connect(port: u16, to: SocketAddr) -> Socket {
    udp::connect(&Outbound::default(), port, to, true).unwrap().socket
}

fn send(socket: &Socket, payload: &[u8], segment: Option<u16>) -> Result<usize, Errno> {
    socket.send(&[Message { slices: &[Piece::new(payload)], segment }])
}

#[test]
fn flows_with_one_source_port_and_different_peers_keep_it_and_stay_apart() {
    in_namespace(|| {
        let servers = [server("127.0.0.1:0"), server("127.0.0.1:0")];
        let listener = udp::listen("0.0.0.0:4000".parse().unwrap(), false, None).unwrap();
        let flows = servers.each_ref().map(|(_, address)| {
            let connected = udp::connect(&Outbound::default(), 4000, *address, false).unwrap();
            assert!(connected.port_kept);
            connected.socket
        });
        let mut batch = Batch::new();
        for ((server, address), flow) in servers.iter().zip(&flows) {
            send(flow, b"question", None).unwrap();
            let mut buffer = [0; 16];
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!((len, from), (8, "127.0.0.1:4000".parse().unwrap()));
            server.send_to(b"answer", from).unwrap();
            wait(flow, PollFlags::IN);
            assert_eq!(flow.receive(&mut batch, RECEIVE_MAX), Ok(1));
            let answer = batch.datagram(0).unwrap();
            assert_eq!((answer.payload, answer.from), (&b"answer"[..], Some(*address)));
        }
        // A stranger reaches the listener and no flow.
        let (stranger, address) = server("127.0.0.1:0");
        stranger.send_to(b"hello", "127.0.0.1:4000").unwrap();
        wait(&listener, PollFlags::IN);
        assert_eq!(batch.receive(listener.as_fd(), RECEIVE_MAX), Ok(1));
        let hello = batch.datagram(0).unwrap();
        assert_eq!((hello.from, hello.to), (Some(address), Some([127, 0, 0, 1].into())));
        assert!(flows.iter().all(|flow| flow.receive(&mut Batch::new(), RECEIVE_MAX) == Err(Errno::AGAIN)));
    });
}

#[test]
fn a_source_port_somebody_holds_alone_is_replaced() {
    in_namespace(|| {
        let (_holder, held) = server("0.0.0.0:0");
        let (_server, to) = server("127.0.0.1:0");
        let connected = udp::connect(&Outbound::default(), held.port(), to, false).unwrap();
        assert!(!connected.port_kept);
        assert_ne!(connected.socket.local().unwrap().port(), held.port());
    });
}

#[test]
fn a_forwarded_peer_gets_a_socket_on_the_listener_s_port() {
    in_namespace(|| {
        let listener = udp::listen("[::]:4000".parse().unwrap(), false, None).unwrap();
        let (peer, from) = server("127.0.0.1:0");
        peer.send_to(b"first", "127.0.0.1:4000").unwrap();
        wait(&listener, PollFlags::IN);
        let mut batch = Batch::new();
        assert_eq!(batch.receive(listener.as_fd(), RECEIVE_MAX), Ok(1));
        let first = batch.datagram(0).unwrap();
        // Over a dual-stack socket: the peer as a mapped address, ours from IP_PKTINFO, markings of IPv4.
        assert_eq!(first.from.unwrap().ip().to_canonical(), from.ip());
        assert_eq!((first.to, first.hop_limit), (Some(from.ip()), Some(64)));

        let flow = udp::connect_from("127.0.0.1:4000".parse().unwrap(), from, None, false).unwrap();
        send(&flow, b"answer", None).unwrap();
        let mut buffer = [0; 16];
        let (len, source) = peer.recv_from(&mut buffer).unwrap();
        assert_eq!((len, source), (6, "127.0.0.1:4000".parse().unwrap()));
        peer.send_to(b"second", "127.0.0.1:4000").unwrap();
        wait(&flow, PollFlags::IN);
        assert_eq!(flow.receive(&mut batch, RECEIVE_MAX), Ok(1));
        assert_eq!(batch.receive(listener.as_fd(), RECEIVE_MAX), Err(Errno::AGAIN));
    });
}

#[test]
fn one_send_of_many_segments_arrives_as_one_super_datagram() {
    for (to, ours) in [("127.0.0.1:5000", "127.0.0.1:5001"), ("[::1]:5000", "[::1]:5001")] {
        in_namespace(move || {
            let (to, ours): (SocketAddr, SocketAddr) = (to.parse().unwrap(), ours.parse().unwrap());
            let receiver = udp::connect_from(to, ours, None, true).unwrap();
            let sender = udp::connect_from(ours, to, None, false).unwrap();
            sender.set_dont_fragment(true).unwrap();
            let payload: Vec<u8> = (0..12_100u32).map(|at| at.to_le_bytes()[0]).collect();
            assert_eq!(send(&sender, &payload, Some(1200)), Ok(1));
            wait(&receiver, PollFlags::IN);
            let mut batch = Batch::new();
            assert_eq!(receiver.receive(&mut batch, RECEIVE_MAX), Ok(1));
            let joined = batch.datagram(0).unwrap();
            assert_eq!((joined.segment, joined.payload), (Some(1200), &payload[..]));

            let error = send(&sender, &payload, Some(1500)).unwrap_err();
            assert!([Errno::INVAL, Errno::MSGSIZE].contains(&error), "{error}");
        });
    }
}

#[test]
fn sixty_four_messages_are_sent_and_thirty_two_received_at_once() {
    in_namespace(|| {
        let (a, b) = ("127.0.0.1:5000".parse().unwrap(), "127.0.0.1:5001".parse().unwrap());
        let sender = udp::connect_from(a, b, None, false).unwrap();
        let receiver = udp::connect_from(b, a, None, false).unwrap();
        let payloads: Vec<[u8; 1]> = (0..70).map(|at| [at]).collect();
        let slices: Vec<_> = payloads.iter().map(|payload| [Piece::new(payload)]).collect();
        let messages: Vec<_> = slices.iter().map(|slices| Message { slices, segment: None }).collect();
        assert_eq!(sender.send(&messages), Ok(64));
        let mut batch = Batch::new();
        for round in 0..2 {
            wait(&receiver, PollFlags::IN);
            assert_eq!(receiver.receive(&mut batch, RECEIVE_MAX), Ok(32));
            assert_eq!(batch.datagram(31).unwrap().payload, [round * 32 + 31]);
        }
        assert_eq!(receiver.receive(&mut batch, RECEIVE_MAX), Err(Errno::AGAIN));
    });
}

#[test]
fn ttl_and_traffic_class_travel_both_ways() {
    for (a, b) in [("127.0.0.1:5000", "127.0.0.1:5001"), ("[::1]:5000", "[::1]:5001")] {
        in_namespace(move || {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            let (sender, receiver) =
                (udp::connect_from(a, b, None, false).unwrap(), udp::connect_from(b, a, None, true).unwrap());
            sender.set_hop_limit(7).unwrap();
            sender.set_traffic_class(0xb8).unwrap();
            send(&sender, b"x", None).unwrap();
            wait(&receiver, PollFlags::IN);
            let mut batch = Batch::new();
            assert_eq!(receiver.receive(&mut batch, RECEIVE_MAX), Ok(1));
            let datagram = batch.datagram(0).unwrap();
            assert_eq!((datagram.hop_limit, datagram.traffic_class), (Some(7), Some(0xb8)));
            assert_eq!(datagram.segment, None);
        });
    }
}

#[test]
fn a_closed_port_is_queued_with_its_payload_and_does_not_spoil_the_next_send() {
    for (to, origin, kind_code) in [
        ("127.0.0.1:9", Origin::Icmp, (3, 3)),
        ("[::1]:9", Origin::Icmp6, (1, 4)), //
    ] {
        in_namespace(move || {
            let to: SocketAddr = to.parse().unwrap();
            let socket = connect(4000, to);
            send(&socket, b"anybody?", None).unwrap();
            wait(&socket, PollFlags::ERR);
            assert_eq!(send(&socket, b"again", None), Ok(1));
            let mut batch = Batch::new();
            for payload in [&b"anybody?"[..], b"again"] {
                wait(&socket, PollFlags::ERR);
                let entry = error_queue::take(socket.as_fd(), &mut batch).unwrap();
                assert_eq!((entry.errno, entry.origin), (Errno::CONNREFUSED, origin));
                assert_eq!((entry.kind, entry.code), kind_code);
                assert_eq!((entry.offender, entry.payload), (Some(to.ip()), payload));
            }
            assert_eq!(error_queue::take(socket.as_fd(), &mut batch), None);
        });
    }
}

#[test]
fn too_large_with_df_is_refused_with_the_mtu_and_without_is_cut() {
    for to in ["127.0.0.1:0", "[::1]:0"] {
        in_namespace(move || {
            let (server, to) = server(to);
            let socket = connect(4000, to);
            let payload = [7; 3000];
            socket.set_dont_fragment(true).unwrap();
            assert_eq!(send(&socket, &payload, None), Err(Errno::MSGSIZE));
            let mut batch = Batch::new();
            let entry = error_queue::take(socket.as_fd(), &mut batch).unwrap();
            assert_eq!((entry.errno, entry.origin, entry.info), (Errno::MSGSIZE, Origin::Local, 1500));
            socket.set_dont_fragment(false).unwrap();
            assert_eq!(send(&socket, &payload, None), Ok(1));
            let mut buffer = [0; 4000];
            assert_eq!(server.recv(&mut buffer).unwrap(), 3000);
        });
    }
}

#[test]
fn ping_sockets_need_the_sysctl_and_keep_the_identifier() {
    in_namespace(|| {
        let sysctl = "/proc/sys/net/ipv4/ping_group_range";
        std::fs::write(sysctl, "1 0").unwrap();
        assert!(matches!(echo::available(), Err(EchoError::Group { .. })));
        std::fs::write(sysctl, "0 2147483647").unwrap();
        echo::available().unwrap();
        for (to, request, reply) in [("127.0.0.1:0", 8, 0), ("[::1]:0", 128, 129)] {
            let to: SocketAddr = to.parse().unwrap();
            let socket = echo::connect(&Outbound::default(), 0x1234, to).unwrap();
            // Checksum and identifier are wrong on purpose.
            let message = [request, 0, 0xde, 0xad, 0xff, 0xff, 0, 9, b'p', b'i', b'n', b'g'];
            let sent = socket.send(&[Message { slices: &[Piece::new(&message)], segment: None }]);
            assert_eq!(sent, Ok(1));
            wait(&socket, PollFlags::IN);
            let mut batch = Batch::new();
            assert_eq!(socket.receive(&mut batch, RECEIVE_MAX), Ok(1));
            let received = batch.datagram(0).unwrap();
            assert_eq!(received.payload[..2], [reply, 0]);
            assert_eq!(received.payload[4..], [0x12, 0x34, 0, 9, b'p', b'i', b'n', b'g']);
            assert_eq!((received.hop_limit, received.from.map(|from| from.ip())), (Some(64), Some(to.ip())));
        }
    });
}

#[test]
fn sockets_leave_from_the_address_and_interface_that_were_chosen() {
    in_namespace(|| {
        let ip = |args: &str| assert!(Command::new("ip").args(args.split(' ')).status().unwrap().success());
        ip("link add v0 type veth peer name v1");
        ip("addr add 10.9.0.1/24 dev v0");
        ip("addr add 10.9.0.2/24 dev v0");
        ip("link set v0 up");
        ip("link set v1 up");
        let to = "10.9.0.7:53".parse().unwrap();
        let outbound =
            Outbound { v4: Some([10, 9, 0, 2].into()), if4: Some("v0".into()), ..Outbound::default() };
        let socket = udp::connect(&outbound, 4000, to, false).unwrap().socket;
        assert_eq!(socket.local().unwrap(), "10.9.0.2:4000".parse().unwrap());
        let elsewhere = Outbound { v4: Some([192, 0, 2, 1].into()), ..Outbound::default() };
        assert!(udp::connect(&elsewhere, 4000, to, false).is_err());
        // An address nobody has can be bound with freebind, for the day somebody has it; not sent from.
        let free = Outbound { freebind: true, ..elsewhere };
        let bound = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        free.apply_with_port(bound.as_fd(), to, 4001).unwrap();
        assert!(udp::connect(&free, 4000, to, false).is_err());
        // Loopback is reached from loopback, whatever was chosen.
        let socket = udp::connect(&outbound, 4000, "127.0.0.1:53".parse().unwrap(), false).unwrap().socket;
        assert_eq!(socket.local().unwrap(), "127.0.0.1:4000".parse().unwrap());
    });
}
