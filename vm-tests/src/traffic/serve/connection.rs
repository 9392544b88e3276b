//! One TCP connection of the server, in its role.
//!
//! state    | may happen        | leads to              | sends
//! reading  | bytes             | reading or answering  |
//! reading  | end of stream     | answering or closed   | count, in the roles that count
//! writing  | room              | writing or closed     | pattern
//! answering| room              | reading or closed     | what is queued

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use rustix::event::epoll::EventFlags;

use super::udp::Counters;
use crate::traffic::pattern;
use crate::traffic::role::Role;

/// What the server does with the connection after an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Stay,
    Watch(EventFlags),
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// Writing until this position; `None` is for ever.
    Writing {
        end: Option<usize>,
    },
    Answering {
        then_close: bool,
    },
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    role: Role,
    state: State,
    /// Bytes of the bulk direction so far.
    position: usize,
    first_wrong: Option<usize>,
    /// A request that is not complete yet, or an answer not yet sent.
    queue: Vec<u8>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, role: Role) -> Self {
        let state = if role == Role::Source { State::Writing { end: None } } else { State::Reading };
        Self { stream, role, state, position: 0, first_wrong: None, queue: Vec::new() }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn interest(&self) -> EventFlags {
        match self.state {
            State::Reading => EventFlags::IN,
            State::Writing { .. } | State::Answering { .. } => EventFlags::OUT,
        }
    }

    /// Does one read or write. `content` is what a source writes.
    pub(super) fn serve(&mut self, scratch: &mut [u8], content: &[u8], counters: &Counters) -> Next {
        let before = self.interest();
        let done = match self.state {
            State::Reading => self.read(scratch, counters),
            State::Writing { end } => self.write(end, scratch, content),
            State::Answering { then_close } => self.answer(then_close),
        };
        match done {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Next::Stay,
            Err(_) | Ok(Next::Close) => Next::Close,
            Ok(_) if self.interest() != before => Next::Watch(self.interest()),
            Ok(next) => next,
        }
    }

    fn read(&mut self, scratch: &mut [u8], counters: &Counters) -> std::io::Result<Next> {
        let count = self.stream.read(scratch)?;
        let bytes = scratch.get(..count).unwrap_or_default();
        if count == 0 {
            return self.end_of_stream();
        }
        match self.role {
            Role::Sink => {}
            Role::VerifySink => {
                self.first_wrong = self.first_wrong.or_else(|| pattern::first_wrong(bytes, self.position));
            }
            Role::Echo => return self.send(bytes, false),
            Role::OneShot => return self.send(bytes.get(..1).unwrap_or_default(), true),
            Role::VerifySource | Role::UdpCounters => {
                self.queue.extend_from_slice(bytes);
                if let Some(request) = self.queue.first_chunk::<8>().copied() {
                    self.queue.clear();
                    return self.request(u64::from_le_bytes(request), counters);
                }
            }
            Role::Source | Role::UdpSink | Role::UdpEcho => return Ok(Next::Close),
        }
        self.position += count;
        Ok(Next::Stay)
    }

    fn end_of_stream(&mut self) -> std::io::Result<Next> {
        let mut answer = (self.position as u64).to_le_bytes().to_vec();
        match self.role {
            Role::Sink => self.send(&answer, true),
            Role::VerifySink => {
                let wrong = self.first_wrong.map_or(u64::MAX, |at| at as u64);
                answer.extend_from_slice(&wrong.to_le_bytes());
                self.send(&answer, true)
            }
            Role::Source
            | Role::Echo
            | Role::OneShot
            | Role::VerifySource
            | Role::UdpCounters
            | Role::UdpSink
            | Role::UdpEcho => Ok(Next::Close),
        }
    }

    fn request(&mut self, number: u64, counters: &Counters) -> std::io::Result<Next> {
        if self.role == Role::UdpCounters {
            return self.send(&counters.answer(number), false);
        }
        self.state = State::Writing { end: Some(usize::try_from(number).unwrap_or(usize::MAX)) };
        Ok(Next::Stay)
    }

    fn write(&mut self, end: Option<usize>, scratch: &mut [u8], content: &[u8]) -> std::io::Result<Next> {
        let Some(end) = end else {
            self.position += self.stream.write(content)?;
            return Ok(Next::Stay);
        };
        let length = scratch.len().min(end - self.position);
        let piece = scratch.get_mut(..length).unwrap_or_default();
        pattern::fill(piece, self.position);
        self.position += self.stream.write(piece)?;
        Ok(if self.position == end { Next::Close } else { Next::Stay })
    }

    fn send(&mut self, bytes: &[u8], then_close: bool) -> std::io::Result<Next> {
        self.queue.extend_from_slice(bytes);
        match self.answer(then_close) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.state = State::Answering { then_close };
                Ok(Next::Stay)
            }
            other => other,
        }
    }

    fn answer(&mut self, then_close: bool) -> std::io::Result<Next> {
        while !self.queue.is_empty() {
            let sent = self.stream.write(&self.queue)?;
            self.queue.drain(..sent);
        }
        self.state = State::Reading;
        Ok(if then_close { Next::Close } else { Next::Stay })
    }
}
