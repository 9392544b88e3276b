//! The yardstick: a plain user-space TCP relay. It reads up to 64 KiB from one socket and writes them to another, in
//! one thread with epoll, and does nothing clever. What a translator adds to this is what the translator costs.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use anyhow::Context as _;
use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde_json::json;

use super::args::Args;
use super::report;
use super::socket::Poll;

/// What the plain loop reads at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// Runs until it is killed.
pub(super) fn run(mut args: Args) -> anyhow::Result<()> {
    let mut relay = Relay { poll: Poll::new()?, sources: Vec::new(), vacant: Vec::new() };
    for map in args.all("map")? {
        let (listen, connect) = map.split_once('=').with_context(|| format!("--map: {map:?} has no ="))?;
        let listen: SocketAddr =
            listen.parse().with_context(|| format!("--map: {listen:?} is not an address"))?;
        let connect: SocketAddr =
            connect.parse().with_context(|| format!("--map: {connect:?} is not an address"))?;
        let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
        listener.set_nonblocking(true).context("make a listener non-blocking")?;
        relay.poll.add(&listener, relay.sources.len(), EventFlags::IN)?;
        relay.sources.push(Source::Listener(listener, connect));
    }
    args.finish()?;
    report(&json!({ "ready": true }));
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        relay.turn(&mut buffer)?;
    }
}

/// What a token of the poll stands for.
#[derive(Debug)]
enum Source {
    Listener(TcpListener, SocketAddr),
    End(End),
    Vacant,
}

/// One of the two sockets of a relayed connection.
#[derive(Debug)]
struct End {
    stream: TcpStream,
    /// Token of the other end.
    other: usize,
    /// Read from the other end, not yet written here.
    unsent: Vec<u8>,
    /// Nothing more will be read here: its end was seen.
    read_closed: bool,
    /// Nothing more will be written here.
    write_closed: bool,
    /// What the poll was last told, so that the loop makes no call that changes nothing.
    interest: EventFlags,
}

impl End {
    fn new(stream: TcpStream, other: usize) -> Self {
        Self {
            stream,
            other,
            unsent: Vec::new(),
            read_closed: false,
            write_closed: false,
            interest: EventFlags::IN,
        }
    }
}

#[derive(Debug)]
struct Relay {
    poll: Poll,
    sources: Vec<Source>,
    vacant: Vec<usize>,
}

impl Relay {
    fn turn(&mut self, buffer: &mut [u8]) -> anyhow::Result<()> {
        for (token, flags) in self.poll.wait(None)? {
            if let Some(Source::Listener(..)) = self.sources.get(token) {
                self.accept(token)?;
                continue;
            }
            let mut alive = true;
            if flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) {
                alive &= self.flush(token);
            }
            if alive && flags.intersects(EventFlags::IN | EventFlags::ERR | EventFlags::HUP) {
                alive &= self.pump(token, buffer);
            }
            if !alive {
                self.close(token);
            }
        }
        Ok(())
    }

    fn accept(&mut self, token: usize) -> anyhow::Result<()> {
        loop {
            let Some(Source::Listener(listener, connect)) = self.sources.get(token) else { return Ok(()) };
            let connect = *connect;
            let Ok((here, _)) = listener.accept() else { return Ok(()) };
            // Without a socket for the other side the client is told at once, by the closing of this one.
            let Ok(there) = begin_connect(connect) else { continue };
            here.set_nonblocking(true).context("make a connection non-blocking")?;
            let _ = here.set_nodelay(true);
            let _ = there.set_nodelay(true);
            let (near, far) = (self.vacancy(), self.vacancy());
            self.poll.add(&here, near, EventFlags::IN)?;
            self.poll.add(&there, far, EventFlags::IN)?;
            self.put(near, Source::End(End::new(here, far)));
            self.put(far, Source::End(End::new(there, near)));
        }
    }

    /// Reads once from `token` and writes to its other end. False when the connection is broken or over.
    fn pump(&mut self, token: usize, buffer: &mut [u8]) -> bool {
        let Some(Source::End(from)) = self.sources.get_mut(token) else { return true };
        let other = from.other;
        if from.read_closed {
            return true;
        }
        let count = match from.stream.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        };
        from.read_closed = count == 0;
        let Some(Source::End(to)) = self.sources.get_mut(other) else { return false };
        to.unsent.extend_from_slice(
            // Straight from the buffer if the socket takes it all, which it mostly does.
            match to.stream.write(buffer.get(..count).unwrap_or_default()) {
                Ok(written) => buffer.get(written..count).unwrap_or_default(),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    buffer.get(..count).unwrap_or_default()
                }
                Err(_) => return false,
            },
        );
        self.finish(token) && self.watch(token, other)
    }

    /// Writes what is left for `token`. False when the connection is broken or over.
    fn flush(&mut self, token: usize) -> bool {
        let Some(Source::End(to)) = self.sources.get_mut(token) else { return true };
        let other = to.other;
        while !to.unsent.is_empty() {
            match to.stream.write(&to.unsent) {
                Ok(written) => drop(to.unsent.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        self.finish(other) && self.watch(other, token)
    }

    /// Passes on the end of the stream read from `from` once all before it is written. False when both are over.
    fn finish(&mut self, from: usize) -> bool {
        let Some(Source::End(end)) = self.sources.get(from) else { return false };
        let (other, read_closed, write_closed) = (end.other, end.read_closed, end.write_closed);
        let Some(Source::End(to)) = self.sources.get_mut(other) else { return false };
        if read_closed && to.unsent.is_empty() && !to.write_closed {
            to.write_closed = true;
            let _ = to.stream.shutdown(Shutdown::Write);
        }
        !(to.write_closed && write_closed)
    }

    /// Stops reading from `from` while its other end has bytes to write, and wakes up when it may.
    fn watch(&mut self, from: usize, to: usize) -> bool {
        for token in [from, to] {
            let Some(Source::End(end)) = self.sources.get(token) else { return false };
            let Some(Source::End(other)) = self.sources.get(end.other) else { return false };
            let mut interest = EventFlags::empty();
            interest.set(EventFlags::IN, !end.read_closed && other.unsent.is_empty());
            interest.set(EventFlags::OUT, !end.unsent.is_empty());
            if interest == end.interest {
                continue;
            }
            if self.poll.modify(&end.stream, token, interest).is_err() {
                return false;
            }
            if let Some(Source::End(end)) = self.sources.get_mut(token) {
                end.interest = interest;
            }
        }
        true
    }

    fn close(&mut self, token: usize) {
        let Some(Source::End(end)) = self.sources.get(token) else { return };
        for token in [token, end.other] {
            self.put(token, Source::Vacant);
            self.vacant.push(token);
        }
    }

    fn vacancy(&mut self) -> usize {
        self.vacant.pop().unwrap_or_else(|| {
            self.sources.push(Source::Vacant);
            self.sources.len() - 1
        })
    }

    fn put(&mut self, token: usize, source: Source) {
        if let Some(slot) = self.sources.get_mut(token) {
            *slot = source;
        }
    }
}

/// Begins a connection without waiting for it, which std cannot.
fn begin_connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(socket.into())
}
