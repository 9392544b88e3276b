//! At each limit new work is refused at once, and old work goes on.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use passt_rs::relay::Limits;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use smoltcp::socket::tcp::State;

use crate::support::host::{self, accept, listen, patient};
use crate::support::lab::{Lab, Options, PEER4, forward, in_namespace, with};

fn is_reset(stream: &mut TcpStream) -> bool {
    stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn beyond_the_flow_limit_the_guest_is_refused_before_the_peer_hears_of_it() {
    let limits = Limits { flows: 3, ..Limits::default() };
    with(Options { limits, ..Options::default() }, |lab| {
        let (listener, address) = listen(PEER4);
        let handles: Vec<_> = (0..3).map(|_| lab.guest.connected(address, 64 << 10)).collect();
        let mut streams: Vec<_> = (0..3).map(|_| accept(&listener)).collect();
        let refused = lab.guest.connect(address, 4096);
        lab.guest.until_state(refused, State::Closed);
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "the peer was bothered");
        assert_eq!(lab.counter(&["drops", "flow_limit"]), 1);
        assert_eq!(lab.counter(&["tcp", "refused_at_limit_total"]), 1);
        for handle in handles {
            let peer = host::exchange(streams.remove(0), 100_000);
            lab.guest.exchange(handle, 100_000, 100_000);
            assert_eq!(peer.join().unwrap(), 100_000);
        }
        lab.until_no_flows();
        lab.guest.connected(address, 4096);
    });
}

#[test]
fn beyond_the_flow_limit_a_peer_is_reset() {
    in_namespace(|| {
        let (listening, port) = forward(80);
        let limits = Limits { flows: 1, ..Limits::default() };
        let mut lab = Lab::new(Options { limits, ..Options::default() }, vec![listening]);
        let (listener, address) = listen(PEER4);
        lab.guest.connected(address, 4096);
        let _held = accept(&listener);
        let mut refused = patient(TcpStream::connect((PEER4, port)).unwrap());
        assert!(is_reset(&mut refused));
        assert_eq!(lab.counter(&["tcp", "refused_at_limit_total"]), 1);
    });
}

#[test]
fn beyond_the_half_open_limit_the_oldest_gives_way() {
    in_namespace(|| {
        let (listening, port) = forward(80);
        let limits = Limits { half_open: 2, ..Limits::default() };
        let mut lab = Lab::new(Options { limits, ..Options::default() }, vec![listening]);
        let handles: Vec<_> = (0..8).map(|_| lab.guest.listen(80, 4096)).collect();
        lab.guest.idle(Duration::from_millis(20));
        lab.guest.cable.frozen = true;
        let connect = || patient(TcpStream::connect((PEER4, port)).unwrap());
        let mut waiting: Vec<_> = (0..7).map(|_| connect()).collect();
        for evicted in &mut waiting[..5] {
            assert!(is_reset(evicted));
        }
        assert_eq!(lab.counter(&["half_open"]), 2);
        assert_eq!(lab.counter(&["tcp", "half_open_evicted_total"]), 5);
        assert_eq!(lab.counter(&["tcp", "refused_at_limit_total"]), 0);
        lab.guest.cable.frozen = false;
        lab.until_counter(&["half_open"], 0);
        for stream in waiting.drain(5..) {
            let port = stream.local_addr().unwrap().port();
            let peer = host::exchange(stream, 1000);
            let taken = lab.guest.until("its socket", |guest| {
                let mut remote = |handle| guest.socket(handle).remote_endpoint().map(|end| end.port);
                handles.iter().copied().find(|handle| remote(*handle) == Some(port))
            });
            lab.guest.exchange(taken, 1000, 1000);
            assert_eq!(peer.join().unwrap(), 1000);
        }
        lab.until_no_flows();
    });
}

/// Ids of connections that opened are forgotten, and the limit still holds.
#[test]
fn connections_that_opened_are_not_the_oldest_half_open_ones() {
    in_namespace(|| {
        let (listening, port) = forward(80);
        let limits = Limits { half_open: 2, ..Limits::default() };
        let mut lab = Lab::new(Options { limits, ..Options::default() }, vec![listening]);
        let connect = || patient(TcpStream::connect((PEER4, port)).unwrap());
        let mut open = Vec::new();
        for _ in 0..6 {
            let handle = lab.guest.listen(80, 4096);
            lab.guest.turn();
            let stream = connect();
            lab.guest.until_open(handle);
            open.push((handle, stream));
        }
        lab.until_counter(&["half_open"], 0);
        lab.guest.cable.frozen = true;
        let mut waiting: Vec<_> = (0..3).map(|_| connect()).collect();
        assert!(is_reset(&mut waiting[0]));
        assert_eq!(lab.counter(&["tcp", "half_open_evicted_total"]), 1);
        lab.guest.cable.frozen = false;
        for (handle, stream) in open {
            let peer = host::exchange(stream, 1000);
            lab.guest.exchange(handle, 1000, 1000);
            assert_eq!(peer.join().unwrap(), 1000);
        }
    });
}

#[test]
fn beyond_the_limit_of_retained_bytes_a_flow_has_one_frame_in_flight() {
    const FLOWS: u64 = 8;
    const TOTAL: u64 = 1 << 20;
    const LIMIT: u64 = 64 << 10;
    let limits = Limits { retained_bytes: LIMIT, ..Limits::default() };
    with(Options { limits, ..Options::default() }, |lab| {
        let (listener, address) = listen(PEER4);
        let handles: Vec<_> = (0..FLOWS).map(|_| lab.guest.connected(address, 64 << 10)).collect();
        let streams: Vec<_> = (0..FLOWS).map(|_| accept(&listener)).collect();
        lab.guest.cable.frozen = true;
        let peers: Vec<_> = streams.into_iter().map(|stream| host::exchange(stream, TOTAL)).collect();
        lab.until_at_least(&["retained_bytes"], LIMIT);
        lab.guest.idle(Duration::from_millis(100));
        let retained = lab.counter(&["retained_bytes"]);
        assert!((LIMIT..=LIMIT + FLOWS * 1500).contains(&retained), "{retained}");
        lab.guest.cable.frozen = false;
        for handle in handles {
            lab.guest.exchange(handle, 1000, TOTAL);
        }
        for peer in peers {
            lab.guest.until("the peer's end", |_| peer.is_finished().then_some(()));
            assert_eq!(peer.join().unwrap(), 1000);
        }
        lab.until_no_flows();
        assert_eq!(lab.counter(&["retained_bytes"]), 0);
    });
}

/// Runs in a process of its own: descriptors are counted per process.
#[test]
fn beyond_the_descriptor_limit_both_ends_are_refused_and_old_flows_go_on() {
    const CHILD: &str = "SLUICE_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        in_namespace(descriptors);
        return;
    }
    let name = "limits::beyond_the_descriptor_limit_both_ends_are_refused_and_old_flows_go_on";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stdout));
}

fn descriptors() {
    let (listening, port) = forward(80);
    let mut lab = Lab::new(Options::default(), vec![listening]);
    let (listener, address) = listen(PEER4);
    let old = lab.guest.connected(address, 64 << 10);
    let stream = accept(&listener);
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), maximum: hard }).unwrap();
    // Descriptors this test needs later: the relay and the peers share its process.
    let mut reserve: Vec<_> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();

    let mut opened = Vec::new();
    loop {
        let handle = lab.guest.connect(address, 2048);
        let state = lab.guest.until("an answer", |guest| {
            let state = guest.state(handle);
            (state != State::SynSent).then_some(state)
        });
        if state == State::Closed {
            break;
        }
        opened.push(handle);
        assert!(opened.len() < 128, "no limit");
    }
    assert!(opened.len() > 10, "{}", opened.len());

    // A peer takes the only descriptor that is left, so the relay has none to accept with.
    reserve.pop();
    let mut refused = patient(TcpStream::connect((PEER4, port)).unwrap());
    assert!(is_reset(&mut refused));
    drop(refused);

    clients_wait_without_work(&lab, &mut reserve);

    // `exchange` duplicates its socket.
    let peer = host::exchange(stream, 1 << 20);
    lab.guest.exchange(old, 1 << 20, 1 << 20);
    assert_eq!(peer.join().unwrap(), 1 << 20);

    reserve.clear();
    assert_eq!(lab.counter(&["drops", "flow_limit"]), 1);
    assert!(lab.counter(&["tcp", "refused_at_limit_total"]) >= 2);
    lab.guest.connected(address, 2048);
}

/// The first control client is served with the descriptor that was held back, the second when the first has left.
fn clients_wait_without_work(lab: &Lab, reserve: &mut Vec<File>) {
    // Sockets first: the relay shares the descriptors of this process.
    reserve.truncate(reserve.len() - 2);
    let clients = [(); 2].map(|()| socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap());
    reserve.extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
    let [first, second] = clients.map(|client| {
        connect(&client, &SocketAddrUnix::new(lab.control_path()).unwrap()).unwrap();
        let client = UnixStream::from(client);
        asks(&client);
        client
    });
    first.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(is_answered(&first));
    let before = clock_gettime(ClockId::ProcessCPUTime);
    second.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(!is_answered(&second), "with what descriptor?");
    let spent = clock_gettime(ClockId::ProcessCPUTime) - before;
    assert!((spent.tv_sec, spent.tv_nsec) < (0, 100_000_000), "the relay does not sleep: {spent:?}");
    drop(first);
    second.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(is_answered(&second));
}

fn asks(mut client: &UnixStream) {
    client.write_all(b"{\"get\":\"stats\"}\n").unwrap();
}

fn is_answered(mut client: &UnixStream) -> bool {
    client.read(&mut [0]).is_ok_and(|bytes| bytes == 1)
}
