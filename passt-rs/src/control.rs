//! The control socket: one JSON object per line in, one per line out.
//!
//! | request | answer |
//! |---|---|
//! | `{"get":"stats"}` | every counter; drops by reason |
//! | `{"get":"flows"}` | `{"flows":[...]}`, one object per flow |
//! | anything else | `{"error":"..."}` |
//!
//! The socket file has mode 0600. Clients are few and bounded; one that does not read its answers is
//! disconnected instead of growing us.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::host::unix;
use crate::reserve::Reserve;

/// Clients served at a time; more are turned away.
const CLIENTS_MAX: usize = 8;
/// Longest request line.
const LINE_MAX: usize = 4096;
/// Answers that may wait for a client to read them; a listing of 131 072 flows fits.
const OUTPUT_MAX: usize = 128 << 20;

/// The listening socket and its clients.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    /// For one client when descriptors are exhausted: then there is most to ask.
    reserve: Reserve,
    clients: Vec<Option<Client>>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of `output` that were written.
    written: usize,
}

/// What the listening socket gave.
#[derive(Debug)]
pub enum Accepted<'a> {
    /// `fd` is to be watched for edges.
    Client { number: u32, fd: BorrowedFd<'a> },
    /// Nobody waits, or who did was turned away.
    Nobody,
    /// Descriptors or memory are exhausted; the client still waits.
    Exhausted,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Stats,
    Flows,
    /// Not understood; the text says why.
    Unknown(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Get {
    get: What,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Stats,
    Flows,
}

impl Control {
    /// Listens at `path`, replacing a socket that an earlier process left there.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let listener = unix::listen(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, reserve: Reserve::new(), clients: Vec::new() })
    }

    /// Takes a waiting client.
    pub fn accept(&mut self) -> Accepted<'_> {
        let accepted = match self.listener.accept() {
            Err(error) if error.kind() != ErrorKind::WouldBlock && self.reserve.lend() => {
                self.listener.accept()
            }
            accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => match self.serve(stream) {
                Some(number) => self.client(number),
                None => {
                    self.reserve.refill();
                    Accepted::Nobody
                }
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => Accepted::Nobody,
            Err(_) => {
                self.reserve.refill();
                Accepted::Exhausted
            }
        }
    }

    fn client(&self, number: u32) -> Accepted<'_> {
        match self.clients.get(number as usize) {
            Some(Some(client)) => Accepted::Client { number, fd: client.stream.as_fd() },
            Some(None) | None => Accepted::Nobody,
        }
    }

    /// Gives a client a number, if one is free.
    fn serve(&mut self, stream: UnixStream) -> Option<u32> {
        stream.set_nonblocking(true).ok()?;
        let free = match self.clients.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.clients.len() < CLIENTS_MAX => {
                self.clients.push(None);
                self.clients.len() - 1
            }
            None => {
                tracing::warn!("more than {CLIENTS_MAX} control clients; one was turned away");
                return None;
            }
        };
        let slot = self.clients.get_mut(free)?;
        let client = Client { stream, input: Vec::new(), output: Vec::new(), written: 0 };
        *slot = Some(client);
        u32::try_from(free).ok()
    }

    /// Ends a client's connection; its descriptor may be the one held back.
    pub fn forget(&mut self, number: u32) {
        if let Some(slot) = self.clients.get_mut(number as usize) {
            *slot = None;
        }
        self.reserve.refill();
    }

    /// Handles readiness of a client: writes what waits, gives the requests that arrived.
    pub fn on_ready(&mut self, number: u32) -> Vec<Request> {
        let Some(Some(client)) = self.clients.get_mut(number as usize) else { return Vec::new() };
        let mut requests = Vec::new();
        if client.flush().is_err() || client.receive(&mut requests).is_err() {
            self.forget(number);
        }
        requests
    }

    /// Answers a client.
    pub fn reply(&mut self, number: u32, answer: &impl Serialize) {
        let Some(Some(client)) = self.clients.get_mut(number as usize) else { return };
        let fits = client.output.len() - client.written < OUTPUT_MAX;
        let serialised = serde_json::to_writer(&mut client.output, answer).is_ok();
        client.output.push(b'\n');
        if !fits || !serialised || client.flush().is_err() {
            self.forget(number);
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Client {
    fn flush(&mut self) -> io::Result<()> {
        while let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // A listing may have been large; do not keep its memory.
        self.output = Vec::new();
        self.written = 0;
        Ok(())
    }

    /// Reads until there is nothing more; an error or the end of the stream is an error.
    fn receive(&mut self, requests: &mut Vec<Request>) -> io::Result<()> {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    return if requests.is_empty() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) };
                }
                Ok(len) => {
                    self.input.extend_from_slice(buffer.get(..len).unwrap_or_default());
                    self.split_lines(requests);
                    if self.input.len() > LINE_MAX {
                        return Err(ErrorKind::InvalidData.into());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn split_lines(&mut self, requests: &mut Vec<Request>) {
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            if !line.trim_ascii().is_empty() {
                requests.push(parse(&line));
            }
        }
    }
}

fn parse(line: &[u8]) -> Request {
    match serde_json::from_slice(line) {
        Ok(Get { get: What::Stats }) => Request::Stats,
        Ok(Get { get: What::Flows }) => Request::Flows,
        Err(error) => Request::Unknown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_known_or_say_why_not() {
        assert_eq!(parse(br#"{"get":"stats"}"#), Request::Stats);
        assert_eq!(parse(br#"{"get":"flows"}"#), Request::Flows);
        for bad in [&br#"{"get":"flow"}"#[..], b"{", b"[]", br#"{"get":"stats","x":1}"#] {
            let Request::Unknown(why) = parse(bad) else { panic!("{bad:?} was understood") };
            assert!(!why.is_empty());
        }
    }

    #[test]
    fn only_its_owner_may_use_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let _control = Control::listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn answers_come_as_one_line_per_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let mut control = Control::listen(&path).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        let Accepted::Client { number, .. } = control.accept() else { panic!("nobody came") };
        client.write_all(b"{\"get\":\"stats\"}\n{\"get\":").unwrap();
        assert_eq!(control.on_ready(number), [Request::Stats]);
        client.write_all(b"\"flows\"}\n").unwrap();
        assert_eq!(control.on_ready(number), [Request::Flows]);
        control.reply(number, &[1, 2]);
        let mut answer = [0; 6];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"[1,2]\n");
    }
}
