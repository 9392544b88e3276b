//! A long stream whose every byte is known from its place, so that loss, repetition and disorder are all found, and the
//! first wrong byte is named.

use std::io::{Read as _, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::lab::Namespace;

/// What is written and compared at once; a multiple of a word.
const BLOCK: usize = 64 * 1024;

/// Longer than any stall a working translator has.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// A stream that arrived whole.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    pub bytes: u64,
    /// From the connection to its last byte.
    pub elapsed: Duration,
}

/// Takes one stream and compares it.
#[derive(Debug)]
pub struct Sink {
    thread: JoinHandle<anyhow::Result<Received>>,
}

impl Sink {
    /// Waits for one connection on `port` of every address of `world`.
    pub fn start(world: &Namespace, port: u16) -> anyhow::Result<Self> {
        let listener = world.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))??;
        let thread = std::thread::spawn(move || receive(&accept(&listener)?));
        Ok(Self { thread })
    }

    /// The stream, once it ended; an error after a long silence.
    pub fn finish(self) -> anyhow::Result<Received> {
        self.thread.join().ok().context("the sink panicked")?
    }
}

pub(super) fn send(mut connection: impl Write, bytes: u64) -> anyhow::Result<()> {
    let mut block = vec![0; BLOCK];
    let mut sent = 0;
    while sent < bytes {
        fill(&mut block, sent);
        let length = usize::try_from(bytes - sent).unwrap_or(usize::MAX).min(BLOCK);
        connection.write_all(block.get(..length).unwrap_or_default())?;
        sent += length as u64;
    }
    Ok(())
}

/// What `md5sum` says of a stream of `bytes`.
pub fn md5(bytes: u64) -> anyhow::Result<String> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = Command::new("md5sum").stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).spawn();
    let child = child.context("md5sum")?;
    send(&ours, bytes)?;
    drop(ours);
    let said = String::from_utf8(child.wait_with_output()?.stdout)?;
    Ok(said.split_whitespace().next().context("md5sum says nothing")?.to_owned())
}

fn accept(listener: &TcpListener) -> anyhow::Result<TcpStream> {
    let limit = Timespec::try_from(SILENCE_LIMIT)?;
    let mut ready = [PollFd::new(listener, PollFlags::IN)];
    anyhow::ensure!(poll(&mut ready, Some(&limit))? > 0, "nobody sends");
    Ok(listener.accept()?.0)
}

fn receive(connection: &TcpStream) -> anyhow::Result<Received> {
    connection.set_read_timeout(Some(SILENCE_LIMIT))?;
    let start = Instant::now();
    let (mut expected, mut got) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut bytes = 0;
    loop {
        let length = read_block(connection, &mut got).with_context(|| format!("after {bytes} bytes"))?;
        fill(&mut expected, bytes);
        let wrong = expected.iter().zip(&got).take(length).position(|(expected, got)| expected != got);
        if let Some(place) = wrong {
            anyhow::bail!("byte {} of the stream is wrong", bytes + place as u64);
        }
        bytes += length as u64;
        if length < BLOCK {
            return Ok(Received { bytes, elapsed: start.elapsed() });
        }
    }
}

/// Reads until the block is full or the stream ends.
fn read_block(mut connection: &TcpStream, block: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = block.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match connection.read(rest)? {
            0 => break,
            count => length += count,
        }
    }
    Ok(length)
}

/// The stream's bytes from `offset`, a multiple of a word: each word is a mix of its number (splitmix64).
fn fill(block: &mut [u8], offset: u64) {
    for (word, number) in block.chunks_exact_mut(8).zip(offset / 8..) {
        let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
}
