//! How TCP connections begin and end: refused, unanswered, half closed, closed with bytes still queued.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use vm_tests::lab::Variant;

use crate::tap::{FREE_PORT, LIMIT, Tap, Way, connect};

/// More than a reader's socket buffers at first.
const BYTES: usize = 1 << 20;
/// Enough for a socket to take all of [`BYTES`] at once, with what the kernel adds to each.
const SEND_BUFFER: usize = 4 * BYTES;

/// Any byte tells its position, to 251 bytes.
fn content() -> Vec<u8> {
    (0..=250).cycle().take(BYTES).collect()
}

/// Each way and address of a dual-stack pod.
fn for_each_connection(check: impl Fn(TcpStream, TcpStream)) {
    let mut tap = Tap::start(Variant::DualStack);
    for way in Way::BOTH {
        for address in tap.initiator(way).1 {
            let (guest, world) = tap.connection(way, address);
            check(guest, world);
        }
    }
    tap.assert_alive();
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn peer_that_refuses_is_refused_to_the_guest_at_once() {
    let mut tap = Tap::start(Variant::DualStack);
    for (server, count) in tap.lab.servers().into_iter().zip(1..) {
        let error = connect(tap.lab.guest(), SocketAddr::new(server, 9)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{server}: {error}");
        // The guest did not have to ask again.
        for counter in ["from_guest_total", "connect_failures_total"] {
            assert!(tap.stat("tcp", counter).is_none_or(|value| value == count), "{server}: {counter}");
        }
    }
    tap.assert_alive();
}

#[test]
fn guest_that_refuses_is_refused_to_the_peer() {
    let mut tap = Tap::start(Variant::DualStack);
    for address in tap.lab.pod_addresses() {
        let to = SocketAddr::new(address, FREE_PORT);
        // The translator has to accept before it can ask the guest, so the refusal may come as a reset.
        let result = connect(tap.lab.world(), to).and_then(|mut stream| {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.read(&mut [0])
        });
        match result {
            Ok(count) => assert_eq!(count, 0, "{address}"),
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset),
                "{address}: {error}"
            ),
        }
    }
    tap.assert_alive();
}

#[test]
fn peer_that_never_answers_leaves_the_guest_to_time_out_and_others_alone() {
    let mut tap = Tap::start(Variant::DualStack);
    tap.lab
        .world()
        .nft(
            "table inet hole {
 chain input {
 type filter hook input priority 0
 tcp dport 7777 drop
 }
}
",
        )
        .unwrap();
    for server in tap.lab.servers() {
        let to = SocketAddr::new(server, 7777);
        let error = tap
            .lab
            .guest()
            .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))
            .unwrap()
            .unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable),
            "{server}: {error}"
        );
        let (mut guest, mut world) = tap.connection(Way::FromGuest, server);
        guest.write_all(b"still here").unwrap();
        guest.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut world), b"still here");
    }
    tap.assert_alive();
}

#[test]
fn guest_that_has_finished_sending_still_receives() {
    for_each_connection(|mut guest, mut world| {
        guest.write_all(b"request").unwrap();
        guest.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut world), b"request");
        let sender = std::thread::spawn(move || world.write_all(&content()));
        assert!(read_to_end(&mut guest) == content(), "the response differs");
        sender.join().unwrap().unwrap();
    });
}

#[test]
fn peer_that_has_finished_sending_still_receives() {
    for_each_connection(|mut guest, mut world| {
        world.write_all(b"request").unwrap();
        world.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut guest), b"request");
        let sender = std::thread::spawn(move || guest.write_all(&content()));
        assert!(read_to_end(&mut world) == content(), "the response differs");
        sender.join().unwrap().unwrap();
    });
}

#[test]
fn bytes_queued_when_the_peer_closes_all_reach_the_guest() {
    for_each_connection(|guest, world| close_while_queued(world, guest));
}

#[test]
fn bytes_queued_when_the_guest_closes_all_reach_the_peer() {
    for_each_connection(close_while_queued);
}

/// The reader reads nothing until the writer has closed: the writer's own socket takes what the way does not.
fn close_while_queued(mut writer: TcpStream, mut reader: TcpStream) {
    rustix::net::sockopt::set_socket_send_buffer_size_force(&writer, SEND_BUFFER).unwrap();
    writer.write_all(&content()).unwrap();
    drop(writer);
    assert!(read_to_end(&mut reader) == content(), "the bytes differ");
}

#[test]
fn reset_by_the_peer_is_a_reset_to_the_guest() {
    for_each_connection(|mut guest, world| {
        // Closing with unread bytes is a reset.
        guest.write_all(b"never read").unwrap();
        let mut seen = [0; 10];
        while world.peek(&mut seen).unwrap() < seen.len() {}
        drop(world);
        let error = guest.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn reset_by_the_guest_is_a_reset_to_the_peer() {
    for_each_connection(|guest, mut world| {
        world.write_all(b"never read").unwrap();
        let mut seen = [0; 10];
        while guest.peek(&mut seen).unwrap() < seen.len() {}
        drop(guest);
        let error = world.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}
