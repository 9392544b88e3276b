//! What TCP flows lean on in Linux, each on real sockets.
//!
//! - A peek with SO_PEEK_OFF starts behind the last one and moves on; a read moves the offset back by as much;
//!   it can be set anywhere, also when bytes are queued already (TCP since Linux 6.9).
//! - Without it a peek always starts at the head.
//! - A read with MSG_TRUNC drops bytes without copying them, also into no buffer, and gives how many.
//! - A peek behind the last byte says "nothing yet" until the peer's FIN came, then "end".
//! - An edge-triggered watch reports new bytes although older ones were never read, and the end of the stream
//!   although it was watched for all along; room to send once after a send fell short.
//! - A connect that is refused becomes writable with an error; one that succeeds, writable without.
//! - A close with SO_LINGER 0 is a RST; so is one with unread bytes.
//! - Bytes that came before a RST are read before the error.
//! - Urgent bytes stay in the stream with SO_OOBINLINE, which accepted sockets inherit; a read stops at their mark.
//! - At RLIMIT_NOFILE accept fails and leaves the connection in the queue (tested with the limits of the relay).
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::tests_outside_test_module,
    reason = "the whole file is a test"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use passt_rs::host::epoll::{Epoll, Ready};
use passt_rs::host::tcp::{self, Accepted, Connecting, Peeked, Sent, Socket};
use passt_rs::iovec::{Piece, PieceMut};
use rustix::io::Errno;

const ANY: &str = "127.0.0.1:0";
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket of ours and the peer's.
fn pair() -> (Socket, TcpStream) {
    let listener = TcpListener::bind(ANY).unwrap();
    let to = listener.local_addr().unwrap();
    let socket = tcp::open(&to).unwrap();
    assert_ne!(socket.connect(&to), Connecting::Failed(Errno::CONNREFUSED));
    let (peer, _) = listener.accept().unwrap();
    peer.set_nodelay(true).unwrap();
    (socket, peer)
}

fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// Waits for an event on `epoll`.
fn event(epoll: &mut Epoll) -> Ready {
    until("an event", || {
        epoll.wait(Some(Duration::from_millis(100))).unwrap();
        epoll.event(0)
    })
}

fn watched(socket: impl AsFd) -> Epoll {
    let epoll = Epoll::new().unwrap();
    epoll.watch_edges(socket, 7).unwrap();
    epoll
}

fn no_event(epoll: &mut Epoll) -> bool {
    epoll.wait(Some(Duration::from_millis(50))).unwrap() == 0
}

/// Peeks up to `len` bytes at `offset`, once they are there.
fn peek(socket: &mut Socket, offset: u32, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    let bytes = until("bytes to peek", || match socket.peek(offset, &[PieceMut::new(&mut buffer)], None) {
        Peeked::Bytes(bytes) => Some(bytes),
        Peeked::Empty => None,
        other @ (Peeked::End | Peeked::Failed(_)) => panic!("{other:?}"),
    });
    buffer.truncate(bytes);
    buffer
}

/// The same without SO_PEEK_OFF.
fn peek_by_copy(socket: &mut Socket, offset: u32, scratch: &mut [u8]) -> Peeked {
    socket.peek(offset, &[PieceMut::new(&mut [0; 4])], Some(scratch))
}

#[test]
fn peeks_start_anywhere_and_discards_move_the_head() {
    assert!(tcp::has_peek_offset(), "this kernel has none: a test on Linux 6.9 is needed");
    let (mut socket, mut peer) = pair();
    peer.write_all(b"0123456789").unwrap();
    until("all bytes", || (peek(&mut socket, 0, 20).len() == 10).then_some(()));
    assert_eq!(peek(&mut socket, 0, 4), b"0123");
    assert_eq!(peek(&mut socket, 4, 4), b"4567", "on from there");
    assert_eq!(peek(&mut socket, 2, 3), b"234", "back");
    assert_eq!(peek(&mut socket, 8, 4), b"89", "forth");
    assert_eq!(socket.discard(3), 3);
    assert_eq!(peek(&mut socket, 0, 3), b"345");
    assert_eq!(peek(&mut socket, 3, 3), b"678");
    assert_eq!(socket.discard(5), 5);
    assert_eq!(peek(&mut socket, 1, 4), b"9");
    assert_eq!(socket.peek(2, &[PieceMut::new(&mut [0; 4])], None), Peeked::Empty);
    peer.write_all(b"ab").unwrap();
    assert_eq!(peek(&mut socket, 2, 1), b"a");
    assert_eq!(socket.discard(1000), 4, "no more than there is");
    assert_eq!(socket.peek(0, &[PieceMut::new(&mut [0; 4])], None), Peeked::Empty);
}

#[test]
fn a_discard_copies_nothing_and_opens_the_peers_window() {
    let (mut socket, mut peer) = pair();
    peer.set_nonblocking(true).unwrap();
    let chunk = vec![7; 1 << 20];
    let mut sent = 0_usize;
    let mut moved = 0;
    for _ in 0..20 {
        // Until both kernels' queues are full.
        let mut still = Instant::now();
        while still.elapsed() < Duration::from_millis(20) {
            match peer.write(&chunk) {
                Ok(bytes) => (sent, still) = (sent + bytes, Instant::now()),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        moved += socket.discard(u32::MAX / 2) as usize;
    }
    assert!(moved > 1 << 20 && moved <= sent, "{moved} of {sent}");
}

#[test]
fn the_end_shows_behind_peeked_bytes_and_not_before_the_fin() {
    let (mut socket, mut peer) = pair();
    let mut scratch = [0; 16];
    peer.write_all(b"abc").unwrap();
    assert_eq!(peek(&mut socket, 0, 10), b"abc");
    assert_eq!(socket.peek(3, &[PieceMut::new(&mut [0; 4])], None), Peeked::Empty);
    peer.shutdown(Shutdown::Write).unwrap();
    until("the end", || (socket.peek(3, &[PieceMut::new(&mut [0; 4])], None) == Peeked::End).then_some(()));
    assert_eq!(peek(&mut socket, 1, 10), b"bc", "what came before is there still");
    assert_eq!(socket.discard(3), 3);
    assert_eq!(socket.peek(0, &[PieceMut::new(&mut [0; 4])], None), Peeked::End);

    let (mut socket, mut peer) = pair();
    peer.write_all(b"abc").unwrap();
    until("bytes", || (peek_by_copy(&mut socket, 0, &mut scratch) == Peeked::Bytes(3)).then_some(()));
    assert_eq!(peek_by_copy(&mut socket, 1, &mut scratch), Peeked::Bytes(2));
    assert_eq!(peek_by_copy(&mut socket, 3, &mut scratch), Peeked::Empty);
    peer.shutdown(Shutdown::Write).unwrap();
    until("the end", || (peek_by_copy(&mut socket, 3, &mut scratch) == Peeked::End).then_some(()));
    assert_eq!(peek_by_copy(&mut socket, 1, &mut scratch), Peeked::Bytes(2));
}

#[test]
fn edges_come_with_new_bytes_though_older_ones_stay_queued() {
    let (mut socket, mut peer) = pair();
    let mut epoll = watched(&socket);
    event(&mut epoll); // Writable.
    for round in 1..20 {
        peer.write_all(b"x").unwrap();
        let ready = event(&mut epoll);
        assert!(ready.readable && !ready.ended, "{ready:?}");
        assert_eq!(peek(&mut socket, 0, 100).len(), round);
        assert!(no_event(&mut epoll), "no bytes, no edge");
    }
    peer.shutdown(Shutdown::Write).unwrap();
    let ready = event(&mut epoll);
    assert!(ready.ended && !ready.hangup, "{ready:?}");
    assert!(no_event(&mut epoll));
}

#[test]
fn bytes_that_came_before_the_watch_are_its_first_edge() {
    let (socket, mut peer) = pair();
    peer.write_all(b"x").unwrap();
    let mut epoll = watched(&socket);
    until("the byte", || event(&mut epoll).readable.then_some(()));
}

#[test]
fn room_raises_an_edge_after_a_send_fell_short() {
    let (mut socket, mut peer) = pair();
    let mut epoll = watched(&socket);
    assert!(event(&mut epoll).writable);
    let chunk = vec![0; 1 << 20];
    until("a short send", || match socket.send(&[Piece::new(&chunk)]) {
        Sent::Bytes(bytes) => (bytes < chunk.len()).then_some(()),
        Sent::Full => panic!("only after a short one"),
        Sent::Failed(error) => panic!("{error}"),
    });
    while !no_event(&mut epoll) {} // The peer's window opened meanwhile.
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while peer.read(&mut buffer).unwrap() > 0 {}
    });
    assert!(event(&mut epoll).writable);
    socket.finish();
    reader.join().unwrap();
}

#[test]
fn a_connect_that_is_refused_is_writable_with_an_error() {
    let refusing = TcpListener::bind(ANY).unwrap();
    let to = refusing.local_addr().unwrap();
    drop(refusing);
    let socket = tcp::open(&to).unwrap();
    let connecting = socket.connect(&to);
    let mut epoll = watched(&socket);
    let ready = event(&mut epoll);
    assert!(ready.writable && ready.error && ready.hangup, "{ready:?} {connecting:?}");
    assert_eq!(socket.take_error(), Err(Errno::CONNREFUSED));
    assert_eq!(socket.take_error(), Ok(()), "told once");
}

#[test]
fn a_connect_that_succeeds_is_writable_without_an_error() {
    let (socket, _peer) = pair();
    let mut epoll = watched(&socket);
    let ready = event(&mut epoll);
    assert!(ready.writable && !ready.error && !ready.hangup, "{ready:?}");
    assert_eq!(socket.take_error(), Ok(()));
}

#[test]
fn a_close_with_linger_zero_is_a_reset() {
    let (socket, mut peer) = pair();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(socket); // As a kill would.
    assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_close_with_every_byte_discarded_is_a_fin_and_with_one_unread_a_reset() {
    for (discarded, is_reset) in [(3, false), (2, true)] {
        let (mut socket, mut peer) = pair();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        peer.write_all(b"abc").unwrap();
        until("all bytes", || (peek(&mut socket, 0, 9).len() == 3).then_some(()));
        assert_eq!(socket.discard(discarded), discarded);
        socket.finish();
        assert_eq!(peer.read(&mut [0]).is_err(), is_reset, "{discarded}");
    }
}

#[test]
fn bytes_before_a_reset_are_read_before_the_error() {
    let (mut socket, mut peer) = pair();
    let mut epoll = watched(&socket);
    peer.write_all(b"last words").unwrap();
    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    drop(peer);
    until("the error", || event(&mut epoll).error.then_some(()));
    assert_eq!(peek(&mut socket, 0, 4), b"last");
    assert_eq!(peek(&mut socket, 4, 40), b" words");
    assert_eq!(socket.peek(10, &[PieceMut::new(&mut [0; 4])], None), Peeked::Failed(Errno::CONNRESET));
}

fn send_urgent(peer: BorrowedFd<'_>, bytes: &[u8]) {
    rustix::net::send(peer, bytes, rustix::net::SendFlags::OOB).unwrap();
}

#[test]
fn urgent_bytes_stay_in_the_stream_and_end_a_read_at_their_mark() {
    let listener = tcp::listen(&ANY.parse().unwrap(), false, None).unwrap();
    let to = SocketAddr::try_from(rustix::net::getsockname(&listener).unwrap()).unwrap();
    let connected = TcpStream::connect(to).unwrap();
    let accepted = until("the connection", || match tcp::accept(listener.as_fd()) {
        Accepted::Connection { socket, .. } => Some(socket),
        Accepted::Nothing => None,
        other @ (Accepted::Exhausted | Accepted::Failed(_)) => panic!("{other:?}"),
    });
    for (mut socket, mut peer) in [pair(), (accepted, connected)] {
        let mut epoll = watched(&socket);
        peer.write_all(b"ab").unwrap();
        send_urgent(peer.as_fd(), b"cU");
        peer.write_all(b"de").unwrap();
        until("the mark", || event(&mut epoll).urgent.then_some(()));
        let mut buffer = [0; 9];
        until("short of the mark", || {
            (socket.peek(0, &[PieceMut::new(&mut buffer)], None) == Peeked::Bytes(3)).then_some(())
        });
        assert_eq!(&buffer[..3], b"abc");
        until("the rest", || (peek(&mut socket, 3, 9) == b"Ude").then_some(()));
        assert_eq!(socket.discard(6), 6);
    }
}
