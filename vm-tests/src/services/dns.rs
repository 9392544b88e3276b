//! A name server that knows one name.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::{Namespace, SERVER_V4, SERVER_V6};

/// The name it knows; it is that of the outside's servers.
pub const NAME: &str = "web.sluice.test";

/// How long a server may live on after it was dropped.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// RFC 1035 4.1.1: the header's length; a response to a question, authoritative; no such name.
const HEADER: usize = 12;
const RESPONSE: u8 = 0x84;
const NAME_ERROR: u8 = 3;

/// RFC 1035 3.2.2 and RFC 3596.
const TYPE_A: [u8; 2] = [0, 1];
const TYPE_AAAA: [u8; 2] = [0, 28];

/// Answers until it is dropped.
#[derive(Debug)]
pub struct DnsServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DnsServer {
    /// Listens on port 53 of the outside's IPv4 server address.
    pub fn start(world: &Namespace) -> anyhow::Result<Self> {
        let socket = world.run(|| UdpSocket::bind((SERVER_V4, 53)))??;
        socket.set_read_timeout(Some(STOP_INTERVAL))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut buffer = [0; 512];
                if let Ok((length, peer)) = socket.recv_from(&mut buffer)
                    && let Some(reply) = buffer.get(..length).and_then(answer)
                {
                    let _ = socket.send_to(&reply, peer);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The reply to a message of one question; nothing to anything else.
fn answer(message: &[u8]) -> Option<Vec<u8>> {
    let name = wire_name(NAME);
    let question = message.get(HEADER..)?;
    let length = question.iter().position(|byte| *byte == 0)? + 1;
    let asked = question.get(..length)?;
    let kind = question.get(length..length + 2)?;
    let known = asked.eq_ignore_ascii_case(&name);
    let address: Option<Vec<u8>> = match kind {
        _ if !known => None,
        kind if kind == TYPE_A => Some(Ipv4Addr::octets(&SERVER_V4).to_vec()),
        kind if kind == TYPE_AAAA => Some(Ipv6Addr::octets(&SERVER_V6).to_vec()),
        _ => None,
    };

    let mut reply = message.get(..2)?.to_vec();
    reply.extend([RESPONSE | message.get(2)? & 1, if known { 0 } else { NAME_ERROR }]);
    reply.extend([0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]); // one question, this many answers
    reply.extend(question.get(..length + 4)?);
    if let Some(address) = address {
        reply.extend([0xc0, 12]); // the name is where the question has it
        reply.extend(kind);
        reply.extend([0, 1, 0, 0, 0, 60, 0, u8::try_from(address.len()).ok()?]); // IN, for a minute
        reply.extend(address);
    }
    Some(reply)
}

fn wire_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.extend(u8::try_from(label.len()));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}
