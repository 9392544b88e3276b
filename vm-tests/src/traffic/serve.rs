//! Every role on its port, in one thread that can hold tens of thousands of connections.

mod connection;
mod udp;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use anyhow::Context as _;
use rustix::event::epoll::EventFlags;
use serde_json::json;

use super::args::Args;
use super::role::Role;
use super::socket::Poll;
use super::{pattern, report};
use connection::{Connection, Next};
use udp::{Counters, UdpService};

/// Bytes read or written at a time: enough that system calls do not count.
const BUFFER_BYTES: usize = 256 * 1024;

/// Runs until it is killed.
pub(super) fn run(mut args: Args) -> anyhow::Result<()> {
    let mut addresses = Vec::new();
    for text in args.all("bind")? {
        addresses
            .push(text.parse::<IpAddr>().with_context(|| format!("--bind: {text:?} is not an address"))?);
    }
    let shift = args.or("shift", 0_u16)?;
    args.finish()?;
    if addresses.is_empty() {
        addresses.push(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    }
    let mut server = Server::bind(&addresses, shift)?;
    report(&json!({ "ready": true }));
    loop {
        server.turn()?;
    }
}

/// What a token of the poll stands for.
#[derive(Debug)]
enum Source {
    Listener(TcpListener, Role),
    Udp(UdpService),
    Connection(Connection),
    Vacant,
}

#[derive(Debug)]
struct Server {
    poll: Poll,
    /// By token.
    sources: Vec<Source>,
    vacant: Vec<usize>,
    counters: Counters,
    scratch: Vec<u8>,
    /// What sources write.
    content: Vec<u8>,
}

impl Server {
    fn bind(addresses: &[IpAddr], shift: u16) -> anyhow::Result<Self> {
        let mut content = vec![0; BUFFER_BYTES];
        pattern::fill(&mut content, 0);
        let mut server = Self {
            poll: Poll::new()?,
            sources: Vec::new(),
            vacant: Vec::new(),
            counters: Counters::default(),
            scratch: vec![0; BUFFER_BYTES],
            content,
        };
        for &address in addresses {
            for role in Role::TCP {
                let at = SocketAddr::new(address, role.port() + shift);
                let listener = TcpListener::bind(at).with_context(|| format!("listen on TCP {at}"))?;
                listener.set_nonblocking(true).context("make a listener non-blocking")?;
                server.poll.add(&listener, server.sources.len(), EventFlags::IN)?;
                server.sources.push(Source::Listener(listener, role));
            }
            for role in Role::UDP {
                let service = UdpService::bind(SocketAddr::new(address, role.port() + shift), role)?;
                server.poll.add(service.socket(), server.sources.len(), EventFlags::IN)?;
                server.sources.push(Source::Udp(service));
            }
        }
        Ok(server)
    }

    fn turn(&mut self) -> anyhow::Result<()> {
        for (token, _) in self.poll.wait(None)? {
            let mut accepted = Vec::new();
            match self.sources.get_mut(token) {
                Some(Source::Listener(listener, role)) => {
                    // A failed accept (descriptors are out) leaves the client in the backlog; the next event retries.
                    while let Ok((stream, _)) = listener.accept() {
                        accepted.push((stream, *role));
                    }
                }
                Some(Source::Udp(service)) => service.serve(&mut self.counters, &mut self.scratch),
                Some(Source::Connection(connection)) => {
                    match connection.serve(&mut self.scratch, &self.content, &self.counters) {
                        Next::Stay => {}
                        Next::Watch(interest) => self.poll.modify(connection.stream(), token, interest)?,
                        Next::Close => {
                            if let Some(slot) = self.sources.get_mut(token) {
                                *slot = Source::Vacant;
                            }
                            self.vacant.push(token);
                        }
                    }
                }
                Some(Source::Vacant) | None => {}
            }
            for (stream, role) in accepted {
                self.adopt(stream, role)?;
            }
        }
        Ok(())
    }

    fn adopt(&mut self, stream: TcpStream, role: Role) -> anyhow::Result<()> {
        // The client may be gone already; its connection then ends at its first event.
        let _ = stream.set_nonblocking(true);
        let _ = stream.set_nodelay(true);
        let connection = Connection::new(stream, role);
        let token = self.vacant.pop().unwrap_or(self.sources.len());
        self.poll.add(connection.stream(), token, connection.interest())?;
        match self.sources.get_mut(token) {
            Some(slot) => *slot = Source::Connection(connection),
            None => self.sources.push(Source::Connection(connection)),
        }
        Ok(())
    }
}
