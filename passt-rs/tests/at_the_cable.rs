//! The binary from the guest's end of the cable: what flags make it say there.
//!
//! Each test has a network namespace of its own, which needs root. Without it every test fails, as one that cannot run
//! must not pass.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use passt_rs::wire::checksum::Sum;
use passt_rs::wire::{Envelope, Headers, Mac, protocol};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);
const GUEST_MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

/// A passt-rs that serves, and the guest's end of its cable.
struct Served {
    process: Child,
    guest: UnixStream,
    folder: tempfile::TempDir,
}

impl Served {
    /// Starts in the calling thread's network namespace, with a guest at 192.0.2.2.
    fn start(args: &[&str]) -> Self {
        Self::bare(&[&["-a", "192.0.2.2/24", "-g", "192.0.2.1", "-4"], args].concat())
    }

    /// The same, with whatever address the namespace has.
    fn bare(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [socket, control] = ["s", "control"].map(|name| folder.path().join(name));
        let mut process = Command::new(env!("CARGO_BIN_EXE_passt-rs"))
            .args(["--foreground", "--runas", "0", "-D", "none"])
            .arg("-s")
            .arg(&socket)
            .arg("--control")
            .arg(&control)
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        while !said.contains("ports are forwarded") {
            assert!(log.read_line(&mut said).unwrap() > 0, "it ended: {said}");
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let guest = UnixStream::connect(&socket).unwrap();
        guest.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { process, guest, folder }
    }

    /// The next frame that `wanted` finds something in.
    fn until<T>(&mut self, wanted: impl Fn(&Headers, &[u8]) -> Option<T>) -> T {
        loop {
            let mut len = [0; 4];
            self.guest.read_exact(&mut len).expect("a frame in time");
            let mut frame = vec![0; usize::try_from(u32::from_be_bytes(len)).unwrap()];
            self.guest.read_exact(&mut frame).unwrap();
            let headers = Headers::parse(&frame, frame.len()).unwrap();
            if let Some(found) = wanted(&headers, &frame) {
                return found;
            }
        }
    }

    fn send(&mut self, frame: &[u8]) {
        self.guest.write_all(&u32::try_from(frame.len()).unwrap().to_be_bytes()).unwrap();
        self.guest.write_all(frame).unwrap();
    }

    fn stats(&self) -> Value {
        let mut control = UnixStream::connect(self.folder.path().join("control")).unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(control, "{{\"get\":\"stats\"}}").unwrap();
        let mut line = String::new();
        BufReader::new(control).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Runs `test` where nobody else has ports.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let run = move || {
        #[expect(unsafe_code, reason = "a namespace for one thread")]
        // SAFETY: only this thread's network namespace changes, which nothing in it relies on.
        let alone = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
        alone.expect("root");
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        test();
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// The addressee of the SYN for the connection just made to the forwarded port.
fn addressee_of_syn(served: &mut Served) -> Mac {
    let _peer = TcpStream::connect((Ipv4Addr::LOCALHOST, 80)).unwrap();
    served.until(|headers, _| {
        let is_tcp = headers.ip.as_ref().is_some_and(|ip| ip.protocol == protocol::TCP);
        is_tcp.then_some(headers.dst)
    })
}

#[test]
fn the_first_connection_to_a_silent_guest_is_broadcast_unless_its_address_is_known() {
    in_namespace(|| {
        let mut served = Served::start(&["-t", "80"]);
        assert_eq!(addressee_of_syn(&mut served), Mac::BROADCAST);
    });
    in_namespace(|| {
        let mut served = Served::start(&["-t", "80", "--guest-mac", &GUEST_MAC.to_string()]);
        assert_eq!(addressee_of_syn(&mut served), GUEST_MAC);
    });
}

#[test]
fn the_limit_of_flows_is_the_one_given_and_peers_beyond_it_are_reset() {
    in_namespace(|| {
        let mut served = Served::start(&["-t", "80", "--flows-max", "1"]);
        let stats = served.stats();
        assert_eq!((&stats["flows_limit"], &stats["datagram_flows_limit"]), (&1.into(), &1.into()));
        let _first = TcpStream::connect((Ipv4Addr::LOCALHOST, 80)).unwrap();
        served.until(|headers, _| headers.ip.as_ref().filter(|ip| ip.protocol == protocol::TCP).map(|_| ()));
        let mut second = TcpStream::connect((Ipv4Addr::LOCALHOST, 80)).unwrap();
        second.set_read_timeout(Some(PATIENCE)).unwrap();
        let refused = second.read(&mut [0]).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(served.stats()["tcp"]["refused_at_limit_total"], 1);
    });
    in_namespace(|| {
        let served = Served::start(&["-t", "80"]);
        assert_eq!(served.stats()["flows_limit"], 131_072);
    });
}

/// What sockets on port 80 may hold to be received, as the kernel counts it: what waits for ss(8)'s `kind`.
fn receive_limits(kind: &str) -> Vec<u64> {
    let output = Command::new("ss").args(["-Hmn", kind, "sport = :80"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let fields = text.split(',').filter_map(|field| field.strip_prefix("rb"));
    fields.map(|limit| limit.parse().unwrap()).collect()
}

#[test]
fn memory_for_sockets_is_shared_among_listeners_connections_and_datagrams() {
    in_namespace(|| {
        let mut served = Served::start(&["-t", "80", "-u", "80", "--socket-memory", "4194304"]);
        let stats = served.stats();
        assert_eq!(
            (&stats["spill_limit_bytes"], &stats["retained_limit_bytes"]),
            (&524_288.into(), &1_048_576.into())
        );
        assert_eq!(receive_limits("-tl"), [128 << 10]);
        let _peers: Vec<_> = (0..2)
            .map(|_| {
                let peer = TcpStream::connect((Ipv4Addr::LOCALHOST, 80)).unwrap();
                served.until(|headers, _| {
                    headers.ip.as_ref().filter(|ip| ip.protocol == protocol::TCP).map(|_| ())
                });
                peer
            })
            .collect();
        let mut connections = receive_limits("-t");
        connections.sort_unstable();
        assert_eq!(connections, [64 << 10, 128 << 10]);
        assert_eq!(receive_limits("-ua"), [32 << 10]);
        for sender in ["127.0.0.2:0", "127.0.0.3:0"] {
            std::net::UdpSocket::bind(sender).unwrap().send_to(b"x", "127.0.0.1:80").unwrap();
            served.until(|headers, _| {
                headers.ip.as_ref().filter(|ip| ip.protocol == protocol::UDP).map(|_| ())
            });
        }
        let mut datagrams = receive_limits("-ua");
        datagrams.sort_unstable();
        assert_eq!(datagrams, [16 << 10, 32 << 10, 32 << 10]);
    });
}

#[test]
fn what_dhcp_is_to_hand_out_is_in_the_offer() {
    in_namespace(|| {
        let flags = "-t 80 --dhcp-bootfile pxelinux.0 --dhcp-tftp 192.0.2.9 --dhcp-ntp 192.0.2.4 --dhcp-option 254=a=b";
        let mut served = Served::start(&flags.split(' ').collect::<Vec<_>>());
        served.send(&discover());
        let message = served.until(|headers, frame| {
            let ip = headers.ip.as_ref().filter(|ip| ip.protocol == protocol::UDP)?;
            Some(frame[ip.payload()][8..].to_vec())
        });
        assert_eq!((&message[20..24], &message[108..119]), (&[192, 0, 2, 9][..], &b"pxelinux.0\0"[..]));
        for option in [
            &b"\x43\x0apxelinux.0"[..],
            b"\x42\x09192.0.2.9",
            &[150, 4, 192, 0, 2, 9],
            &[42, 4, 192, 0, 2, 4],
            b"\xfe\x03a=b",
        ] {
            assert!(message.windows(option.len()).any(|bytes| bytes == option), "{option:?}: {message:?}");
        }
    });
}

/// A pod with a second interface that has its subnet only; passt-rs for that one.
#[test]
fn a_guest_on_a_secondary_interface_gets_its_subnet_and_reaches_nothing_of_the_pod() {
    in_namespace(|| {
        let setup = "link add eth0 type veth peer name far0\nlink add net1 type veth peer name far1\n\
                     link set far0 up\nlink set far1 up\nlink set eth0 up\nlink set net1 up\n\
                     addr add 10.0.0.5/24 dev eth0\naddr add 10.0.1.5/24 dev net1\n\
                     addr add fd00::5/64 dev eth0 nodad\naddr add fd00:1::5/64 dev net1 nodad\n\
                     route add default via 10.0.0.1\n-6 route add default via fd00::1";
        for line in setup.lines() {
            assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
        }
        let service = std::net::TcpListener::bind("0.0.0.0:7777").unwrap();
        service.set_nonblocking(true).unwrap();
        let mut served = Served::bare(&["-i", "net1", "--no-map-gw", "-t", "80"]);
        served.send(&discover());
        let codes = served.until(|headers, frame| {
            let ip = headers.ip.as_ref().filter(|ip| ip.protocol == protocol::UDP)?;
            Some(option_codes(&frame[ip.payload()][8 + 240..]))
        });
        assert!(codes.contains(&1) && !codes.contains(&3) && !codes.contains(&121), "{codes:?}");
        served.send(&router_solicitation());
        let lifetime = served.until(|headers, frame| {
            let ip = headers.ip.as_ref().filter(|ip| ip.protocol == protocol::ICMPV6)?;
            let message = &frame[ip.payload()];
            (message[0] == 134).then(|| message[6..8].to_vec())
        });
        assert_eq!(lifetime, [0, 0]);
        let before = served.stats()["drops"]["destination"].as_u64().unwrap();
        served.send(&syn([10, 0, 1, 5], [10, 0, 0, 5], 7777));
        while served.stats()["drops"]["destination"].as_u64().unwrap() == before {
            assert_eq!(served.stats()["tcp"]["from_guest_total"], 0);
        }
        assert_eq!(service.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    });
}

fn option_codes(mut options: &[u8]) -> Vec<u8> {
    let mut codes = Vec::new();
    while let [code, len, rest @ ..] = options {
        codes.push(*code);
        options = rest.get(usize::from(*len)..).unwrap_or_default();
    }
    codes
}

fn router_solicitation() -> Vec<u8> {
    let envelope = Envelope {
        src_mac: GUEST_MAC,
        dst_mac: Mac([0x33, 0x33, 0, 0, 0, 2]),
        src: "fe80::5054:ff:fe12:3456".parse().unwrap(),
        dst: "ff02::2".parse().unwrap(),
        hop_limit: 255,
    };
    let mut frame = Vec::new();
    envelope.open(&mut frame);
    frame.extend([133, 0, 0, 0, 0, 0, 0, 0]);
    envelope.seal_icmpv6(&mut frame);
    frame
}

fn syn(src: [u8; 4], dst: [u8; 4], port: u16) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = (src.into(), dst.into());
    let envelope = Envelope { src_mac: GUEST_MAC, dst_mac: Mac::BROADCAST, src, dst, hop_limit: 64 };
    let mut segment =
        [&[0x9c, 0x40][..], &port.to_be_bytes(), &[0; 8], &[0x50, 2, 0xff, 0xff, 0, 0, 0, 0]].concat();
    let sum = Sum::pseudo_header(src, dst, protocol::TCP, segment.len()).with(&segment).finish();
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::new();
    envelope.open(&mut frame);
    frame.extend(segment);
    envelope.seal(&mut frame, protocol::TCP);
    frame
}

/// A DHCPDISCOVER without wishes.
fn discover() -> Vec<u8> {
    let envelope = Envelope {
        src_mac: GUEST_MAC,
        dst_mac: Mac::BROADCAST,
        src: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        dst: IpAddr::V4(Ipv4Addr::BROADCAST),
        hop_limit: 64,
    };
    let mut message = [0; 240];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[28..34].copy_from_slice(&GUEST_MAC.0);
    message[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    let mut frame = Vec::new();
    envelope.open_udp(&mut frame);
    frame.extend(message);
    frame.extend([53, 1, 1, 255]);
    envelope.seal_udp(&mut frame, 68, 67);
    frame
}
