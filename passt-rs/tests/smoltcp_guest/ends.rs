//! How connections begin, pause and end, seen from both ends.

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;

use crate::support::host::{self, accept, listen, patient};
use crate::support::lab::{
    GATEWAY4, GUEST4, GUEST6, Lab, OTHER_PEER4, Options, PEER4, PEER6, forward, in_namespace, with,
};

const MIB: u64 = 1 << 20;

/// Closes with RST.
fn abort(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_refused_port_is_a_reset_at_once() {
    for peer in [PEER4, PEER6] {
        with(Options::default(), move |lab| {
            let (listener, address) = listen(peer);
            drop(listener);
            let start = Instant::now();
            let handle = lab.guest.connect(address, 4096);
            lab.guest.until_state(handle, State::Closed);
            assert!(start.elapsed() < Duration::from_secs(5));
            assert_eq!(lab.counter(&["tcp", "connect_failures_total"]), 1);
            assert!(lab.flows().is_empty());
        });
    }
}

#[test]
fn the_gateway_is_the_pods_loopback() {
    with(Options::default(), |lab| {
        let (listener, address) = listen("127.0.0.1");
        let handle = lab.guest.connected(SocketAddr::new(GATEWAY4.into(), address.port()), 4096);
        let peer = host::exchange(accept(&listener), 1000);
        lab.guest.exchange(handle, 1000, 1000);
        assert_eq!(peer.join().unwrap(), 1000);
    });
}

#[test]
fn the_guest_sees_who_connects() {
    let table = [
        (PEER4, PEER4, GUEST4.to_string()),
        (OTHER_PEER4, PEER4, GUEST4.to_string()),
        (PEER6, PEER6, GUEST6.to_string()),
    ];
    for (from, to, guest) in table {
        in_namespace(move || {
            let (listening, port) = forward(80);
            let mut lab = Lab::new(Options::default(), vec![listening]);
            let handle = lab.guest.listen(80, 64 << 10);
            lab.guest.idle(Duration::from_millis(20)); // The guest's address is learned from its frames.
            let family = if from.contains(':') {
                rustix::net::AddressFamily::INET6
            } else {
                rustix::net::AddressFamily::INET
            };
            let socket = rustix::net::socket(family, rustix::net::SocketType::STREAM, None).unwrap();
            rustix::net::bind(&socket, &SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
            rustix::net::connect(&socket, &SocketAddr::new(to.parse().unwrap(), port)).unwrap();
            let stream = patient(TcpStream::from(socket));
            lab.guest.until_open(handle);
            assert_eq!(lab.guest.remote(handle), stream.local_addr().unwrap());
            assert_eq!(lab.guest.local(handle).ip().to_string(), guest);
            let peer = host::exchange(stream, MIB);
            lab.guest.exchange(handle, MIB, MIB);
            assert_eq!(peer.join().unwrap(), MIB);
            lab.until_no_flows();
        });
    }
}

#[test]
fn a_port_nobody_serves_in_the_guest_resets_the_peer() {
    in_namespace(|| {
        let (listening, port) = forward(80);
        let mut lab = Lab::new(Options::default(), vec![listening]);
        let peer = std::thread::spawn(move || {
            let mut stream = patient(TcpStream::connect((PEER4, port)).unwrap());
            stream.read(&mut [0]).unwrap_err().kind()
        });
        lab.guest.until("the peer's reset", |_| peer.is_finished().then_some(()));
        assert_eq!(peer.join().unwrap(), ErrorKind::ConnectionReset);
        lab.until_no_flows();
        assert_eq!(lab.counter(&["half_open"]), 0);
    });
}

#[test]
fn a_host_that_closes_with_bytes_queued_is_read_to_the_end() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let handle = lab.guest.connected(address, 16 << 10);
        let mut stream = accept(&listener);
        let writer = std::thread::spawn(move || host::write_all(&mut stream, 2, MIB));
        lab.guest.idle(Duration::from_millis(700)); // Without reading.
        let mut received = 0;
        lab.guest.until("all bytes", |guest| {
            received += guest.receive_some(handle, received);
            (received == MIB).then_some(())
        });
        writer.join().unwrap();
        lab.guest.until_state(handle, State::CloseWait);
        lab.guest.socket(handle).close();
        lab.until_no_flows();
    });
}

/// The end may come with the first bytes, before the guest's side of the handshake is done.
#[test]
fn hosts_that_answer_and_close_at_once_are_heard() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let server = std::thread::spawn(move || {
            for _ in 0..300 {
                let (mut stream, _) = listener.accept().unwrap();
                host::write_all(&mut stream, 2, 100);
            }
        });
        for _ in 0..300 {
            let handle = lab.guest.connect(address, 4096);
            let mut received = 0;
            lab.guest.until("the answer and its end", |guest| {
                received += guest.receive_some(handle, received);
                (guest.state(handle) == State::CloseWait && received == 100).then_some(())
            });
            lab.guest.socket(handle).close();
            lab.guest.until_state(handle, State::Closed);
            lab.guest.forget(handle);
        }
        server.join().unwrap();
        lab.until_no_flows();
    });
}

#[test]
fn an_abort_of_the_guest_is_a_reset_for_the_host() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let handle = lab.guest.connected(address, 4096);
        let mut stream = accept(&listener);
        lab.guest.socket(handle).abort();
        lab.until_no_flows();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(lab.counter(&["tcp", "resets_from_guest_total"]), 1);
    });
}

#[test]
fn an_abort_of_the_host_is_a_reset_for_the_guest() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let handle = lab.guest.connected(address, 4096);
        abort(accept(&listener));
        lab.guest.until_state(handle, State::Closed);
        lab.until_no_flows();
        assert_eq!(lab.counter(&["tcp", "resets_to_guest_total"]), 1);
    });
}

#[test]
fn bytes_before_an_abort_of_the_host_are_delivered() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let handle = lab.guest.connected(address, 64 << 10);
        let mut stream = accept(&listener);
        host::write_all(&mut stream, 2, 10_000);
        let mut received = 0;
        lab.guest.until("the bytes", |guest| {
            received += guest.receive_some(handle, received);
            (received == 10_000).then_some(())
        });
        abort(stream);
        lab.guest.until_state(handle, State::Closed);
    });
}

/// Nothing is left to read from the host then, so only the event tells.
#[test]
fn an_abort_of_the_host_after_its_end_reaches_the_guest() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let handle = lab.guest.connected(address, 4096);
        let stream = accept(&listener);
        stream.shutdown(Shutdown::Write).unwrap();
        lab.guest.until_state(handle, State::CloseWait);
        lab.guest.idle(Duration::from_millis(50));
        abort(stream);
        lab.guest.until_state(handle, State::Closed);
        lab.until_no_flows();
    });
}

#[test]
fn a_half_closed_guest_still_receives() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let handle = lab.guest.connected(address, 64 << 10);
        let mut stream = accept(&listener);
        lab.guest.socket(handle).close();
        lab.guest.until_state(handle, State::FinWait2);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        let writer = std::thread::spawn(move || host::write_all(&mut stream, 2, MIB));
        let mut received = 0;
        lab.guest.until("all bytes", |guest| {
            received += guest.receive_some(handle, received);
            (received == MIB).then_some(())
        });
        writer.join().unwrap();
        lab.until_no_flows();
    });
}

#[test]
fn a_half_closed_host_still_receives() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let handle = lab.guest.connected(address, 64 << 10);
        let mut stream = accept(&listener);
        stream.shutdown(Shutdown::Write).unwrap();
        lab.guest.until_state(handle, State::CloseWait);
        let reader = std::thread::spawn(move || host::read_all(&mut stream, 1));
        lab.guest.exchange(handle, MIB, 0);
        lab.until_no_flows();
        assert_eq!(reader.join().unwrap(), MIB);
    });
}

/// Waits until a sender that is not read from stands still.
fn until_still(lab: &mut Lab, handle: smoltcp::iface::SocketHandle, sent: &mut u64, total: u64) {
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(500) {
        let more = lab.guest.send_some(handle, *sent, total);
        *sent += more;
        if more > 0 {
            last = Instant::now();
        }
        lab.guest.turn();
    }
}

#[test]
fn a_host_that_stops_reading_stops_the_guest_and_resumes() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let handle = lab.guest.connected(address, 256 << 10);
        let mut stream = accept(&listener);
        let (mut sent, total) = (0, 64 * MIB);
        until_still(lab, handle, &mut sent, total);
        assert!(sent < total, "somebody buffers without bound");
        assert!(lab.counter(&["spill_bytes"]) > 0);
        assert!(lab.counter(&["tcp", "spilled_bytes_total"]) > 0);
        let reader = std::thread::spawn(move || host::read_all(&mut stream, 1));
        lab.guest.until("the rest to go", |guest| {
            sent += guest.send_some(handle, sent, total);
            (sent == total && guest.socket(handle).send_queue() == 0).then_some(())
        });
        lab.guest.socket(handle).close();
        lab.guest.until("the host's end", |_| reader.is_finished().then_some(()));
        assert_eq!(reader.join().unwrap(), total);
        lab.until_no_flows();
        assert_eq!(lab.counter(&["spill_bytes"]), 0, "memory was given back");
    });
}

#[test]
fn a_relay_that_ends_resets_both_ends_of_what_is_not_complete() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let handle = lab.guest.connected(address, 256 << 10);
        let mut stream = accept(&listener);
        let mut sent = 0;
        until_still(lab, handle, &mut sent, 64 * MIB);
        assert!(lab.counter(&["spill_bytes"]) > 0);
        lab.stop().unwrap();
        lab.guest.until_state(handle, State::Closed);
        let mut buffer = vec![0; 1 << 20];
        let end = loop {
            match stream.read(&mut buffer) {
                Ok(0) => panic!("a short stream looks complete"),
                Ok(_) => {}
                Err(error) => break error.kind(),
            }
        };
        assert_eq!(end, ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_relay_that_ends_takes_nothing_back_that_is_complete() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let handle = lab.guest.connected(address, 64 << 10);
        let mut stream = accept(&listener);
        assert_eq!(lab.guest.send_some(handle, 0, 50_000), 50_000);
        lab.guest.socket(handle).close();
        lab.until_flow("from_guest=Shut");
        lab.stop().unwrap();
        lab.guest.until_state(handle, State::Closed);
        assert_eq!(host::read_all(&mut stream, 1), 50_000);
    });
}

#[test]
fn a_guest_that_stops_reading_stops_the_host_and_resumes() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let handle = lab.guest.connected(address, 64 << 10);
        let total = 64 * MIB;
        let peer = host::exchange(accept(&listener), total);
        lab.guest.idle(Duration::from_millis(1500));
        assert!(!peer.is_finished());
        lab.guest.exchange(handle, 0, total);
        assert_eq!(peer.join().unwrap(), 0);
        lab.until_no_flows();
    });
}

#[test]
fn a_paused_machine_stops_everything_and_resumes() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let handles: Vec<_> = (0..20).map(|_| lab.guest.connected(address, 256 << 10)).collect();
        let peers: Vec<_> = (0..20).map(|_| host::exchange(accept(&listener), MIB)).collect();
        lab.guest.cable.frozen = true;
        lab.guest.idle(Duration::from_millis(1500));
        assert!(lab.flows().len() == 20, "the relay serves its control socket meanwhile");
        lab.guest.cable.frozen = false;
        for handle in handles {
            lab.guest.exchange(handle, 1000, MIB);
        }
        for peer in peers {
            lab.guest.until("the peer's end", |_| peer.is_finished().then_some(()));
            assert_eq!(peer.join().unwrap(), 1000);
        }
        lab.until_no_flows();
    });
}

/// However often its peer goes on talking.
#[test]
fn a_flow_waits_for_a_paused_machine_once() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let handles: Vec<_> = (0..20).map(|_| lab.guest.connected(address, 256 << 10)).collect();
        let mut streams: Vec<_> = (0..20).map(|_| accept(&listener)).collect();
        lab.guest.cable.frozen = true;
        for round in 0..100 {
            for stream in &mut streams {
                host::write_at(stream, 2, round * 5000, 5000);
            }
            lab.guest.turn();
        }
        lab.until_moved(&["waiting_for_guest"]);
        assert!(lab.counter(&["waiting_for_guest"]) <= 20, "{}", lab.stats());
        lab.guest.cable.frozen = false;
        for handle in handles {
            let mut received = 0;
            lab.guest.until("all bytes", |guest| {
                received += guest.receive_some(handle, received);
                (received == 500_000).then_some(())
            });
        }
        assert_eq!(lab.counter(&["waiting_for_guest"]), 0);
    });
}

#[test]
fn both_ends_stop_reading_and_resume() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        let handle = lab.guest.connected(address, 64 << 10);
        let mut stream = accept(&listener);
        let total = 32 * MIB;
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            host::write_all(&mut writer, 2, total);
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut sent = 0;
        until_still(lab, handle, &mut sent, total);
        let reading = std::thread::spawn(move || host::read_all(&mut stream, 1));
        let mut received = 0;
        lab.guest.until("the host's bytes", |guest| {
            received += guest.receive_some(handle, received);
            sent += guest.send_some(handle, sent, total);
            (received == total && sent == total).then_some(())
        });
        lab.guest.socket(handle).close();
        lab.guest
            .until("the end of both", |_| (writing.is_finished() && reading.is_finished()).then_some(()));
        writing.join().unwrap();
        assert_eq!(reading.join().unwrap(), total);
    });
}

/// RFC 6093 6: urgent bytes are bytes, and a read that stops at their mark loses nothing behind it.
#[test]
fn urgent_data_of_the_host_is_ordinary() {
    urgent_data_is_ordinary(false);
}

#[test]
fn urgent_data_of_the_host_is_ordinary_to_an_old_kernel() {
    urgent_data_is_ordinary(true);
}

fn urgent_data_is_ordinary(old_kernel: bool) {
    with(Options { old_kernel, ..Options::default() }, |lab| {
        let (listener, address) = listen(PEER4);
        let handle = lab.guest.connected(address, 64 << 10);
        let stream = accept(&listener);
        let mut position = 0;
        for round in 0..200 {
            let bytes = crate::support::pattern::at(2, position, 1 + round % 50);
            let flags =
                if round % 3 == 0 { rustix::net::SendFlags::OOB } else { rustix::net::SendFlags::empty() };
            position += rustix::net::send(stream.as_fd(), bytes, flags).unwrap() as u64;
        }
        let mut received = 0;
        lab.guest.until("all bytes", |guest| {
            received += guest.receive_some(handle, received);
            (received == position).then_some(())
        });
    });
}

#[test]
fn a_guest_that_comes_back_is_served_and_its_old_connections_are_reset() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        lab.guest.connected(address, 4096);
        let mut old = accept(&listener);
        for round in 1..=5u64 {
            // The old end is closed and the new one waits in the same moment.
            lab.guest.cable.reconnect(&lab.cable_path);
            lab.guest.forget_all();
            let handle = lab.guest.connected(address, 64 << 10);
            let peer = host::exchange(accept(&listener), MIB);
            lab.guest.exchange(handle, MIB, MIB);
            assert_eq!(peer.join().unwrap(), MIB);
            assert_eq!(lab.counter(&["cable", "link_ups"]), 1 + round);
        }
        // Its peer said nothing: the new guest was asked.
        lab.until_no_flows();
        assert_eq!(old.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

/// A rebooted guest may choose a port again whose connection we still hold.
#[test]
fn a_syn_on_an_existing_tuple_gets_its_connection() {
    with(Options::default(), |lab| {
        let (listener, address) = listen(PEER4);
        lab.guest.connected(address, 4096);
        let mut old = accept(&listener);
        lab.guest.forget_all();
        lab.guest.reuse_ports();
        let handle = lab.guest.connected(address, 4096);
        let peer = host::exchange(accept(&listener), 1000);
        lab.guest.exchange(handle, 1000, 1000);
        assert_eq!(peer.join().unwrap(), 1000);
        assert_eq!(old.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}
