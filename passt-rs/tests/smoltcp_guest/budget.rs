//! What connections hold in the kernel while neither guest nor peer reads, as the kernel counts it.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use passt_rs::relay::Limits;
use smoltcp::iface::SocketHandle;

use crate::support::host::{self, accept, listen, patient};
use crate::support::lab::{Lab, Options, PEER4, forward, in_namespace};

const MIB: u64 = 1 << 20;
/// Each way of a connection, though the budget is used up.
const FLOOR: u64 = 16 << 10;
/// No byte moves for so long: all queues are full.
const STILL: Duration = Duration::from_millis(500);

/// What queues hold, each way.
#[derive(Debug)]
struct Held {
    receive: u64,
    send: u64,
}

/// Memory of sockets of this namespace, in bytes, as sock_diag(7) tells it: those that `filter` of ss(8) selects.
fn held(filter: &str) -> Held {
    let output = Command::new("ss").args(["-tmnH", "state", "established", filter]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let sum = |name: &str| {
        text.split("skmem:(")
            .skip(1)
            .flat_map(|socket| socket.split(')').next().unwrap().split(','))
            .filter_map(|field| field.strip_prefix(name)?.parse::<u64>().ok())
            .sum()
    };
    assert!(text.contains("skmem:("), "ss tells nothing of {filter}: {text}");
    Held { receive: sum("r"), send: sum("w") }
}

/// Has both ends of each connection send, and none read, until nothing moves.
fn stall(lab: &mut Lab, connections: &mut [(SocketHandle, TcpStream)]) {
    let chunk = vec![0; 256 << 10];
    for (_, stream) in &mut *connections {
        stream.set_nonblocking(true).unwrap();
    }
    let mut moved = Instant::now();
    while moved.elapsed() < STILL {
        for (handle, stream) in &mut *connections {
            let more = lab.guest.send_some(*handle, 0, u64::MAX);
            let written = match stream.write(&chunk) {
                Ok(bytes) => bytes as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => panic!("{error}"),
            };
            if more + written > 0 {
                moved = Instant::now();
            }
        }
        lab.guest.turn();
    }
}

/// Has `count` connections from the guest stall; gives what the relay's sockets hold.
fn from_guest(lab: &mut Lab, count: usize) -> Held {
    let (listener, address) = listen(PEER4);
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push((lab.guest.connected(address, 16 << 10), accept(&listener)));
    }
    stall(lab, &mut connections);
    held(&format!("dport = :{}", address.port()))
}

/// The same for connections that a forwarded port accepts.
fn from_host(lab: &mut Lab, port: u16, count: usize) -> Held {
    let mut connections = Vec::new();
    for _ in 0..count {
        let handle = lab.guest.listen(80, 16 << 10);
        lab.guest.turn();
        let stream = patient(TcpStream::connect((PEER4, port)).unwrap());
        lab.guest.until_open(handle);
        connections.push((handle, stream));
    }
    stall(lab, &mut connections);
    held(&format!("sport = :{port}"))
}

/// Runs both with `count` connections each.
fn both(count: usize, budget: Option<u64>, check: impl Fn(&Held) + Send + 'static) {
    let limits = budget.map_or_else(Limits::default, |bytes| Limits::default().within(bytes));
    in_namespace(move || {
        for accepted in [false, true] {
            let (listening, port) = forward(80);
            let mut lab = Lab::new(Options { limits, mtu: 9000, ..Options::default() }, vec![listening]);
            let found = if accepted { from_host(&mut lab, port, count) } else { from_guest(&mut lab, count) };
            check(&found);
        }
    });
}

#[test]
fn without_a_budget_fourteen_stalled_connections_hold_tens_of_megabytes() {
    both(14, None, |held| assert!(held.receive + held.send > 30 * MIB, "{held:?}"));
}

#[test]
fn with_one_stalled_connections_hold_it_and_the_floor_for_each_at_most() {
    for (count, budget) in [(1, 8 * MIB), (14, 8 * MIB), (100, 8 * MIB), (100, MIB)] {
        both(count, Some(budget), move |held| {
            let most = budget + 2 * FLOOR * count as u64;
            assert!(held.receive + held.send <= most, "{budget} {count}: {held:?}");
        });
    }
}

/// The first one's window is not small, as it would be if it had the floor only.
#[test]
fn the_first_connection_is_given_more_than_those_after_it() {
    both(1, Some(8 * MIB), |held| assert!(held.receive.min(held.send) > 8 * FLOOR, "{held:?}"));
}

#[test]
fn a_connection_with_the_least_share_carries_every_byte_both_ways() {
    const TOTAL: u64 = 4 << 20;
    in_namespace(|| {
        let (listening, port) = forward(80);
        let limits = Limits::default().within(MIB);
        let mut lab = Lab::new(Options { limits, ..Options::default() }, vec![listening]);
        let (listener, address) = listen(PEER4);
        let _idle: Vec<_> = (0..4).map(|_| (lab.guest.connected(address, 4096), accept(&listener))).collect();
        let accepted = lab.guest.listen(80, 64 << 10);
        lab.guest.turn();
        let to_guest = patient(TcpStream::connect((PEER4, port)).unwrap());
        lab.guest.until_open(accepted);
        let connected = lab.guest.connected(address, 64 << 10);
        let from_guest = accept(&listener);
        for (handle, stream) in [(accepted, to_guest), (connected, from_guest)] {
            let peer = host::exchange(stream, TOTAL);
            lab.guest.exchange(handle, TOTAL, TOTAL);
            lab.guest.until("the peer's end", |_| peer.is_finished().then_some(()));
            assert_eq!(peer.join().unwrap(), TOTAL);
        }
    });
}
