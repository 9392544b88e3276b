//! Somebody outside who has one endless connection with the guest, and tells how it ended.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vm_tests::lab::{Namespace, SERVER_V4, wait_for};

use crate::room::{Room, SOON};

/// What is read or written at once.
const BLOCK: usize = 64 * 1024;

/// Enough that both ends are past the beginning.
const LOAD_BYTES: u64 = 8 << 20;

const DOWNLOAD_PORT: u16 = 9100;
const UPLOAD_PORT: u16 = 9101;

/// A server of one connection.
#[derive(Debug)]
pub(crate) struct Peer {
    name: &'static str,
    bytes: Arc<AtomicU64>,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Peer {
    /// Answers the first request on `port` with a page that does not end.
    pub(crate) fn sending(world: &Namespace, port: u16) -> Result<Self> {
        Self::start("the sender outside", world, port, |connection, bytes| {
            let mut request = BufReader::new(connection);
            let mut line = String::new();
            while request.read_line(&mut line)? > 2 {
                line.clear();
            }
            let mut connection = connection;
            write!(connection, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", 1_u64 << 50)?;
            let block = vec![0x5a; BLOCK];
            loop {
                connection.write_all(&block)?;
                bytes.fetch_add(BLOCK as u64, Ordering::Relaxed);
            }
        })
    }

    /// Takes what the first connection on `port` sends.
    pub(crate) fn receiving(world: &Namespace, port: u16) -> Result<Self> {
        Self::start("the receiver outside", world, port, |mut connection, bytes| {
            let mut block = vec![0; BLOCK];
            loop {
                match connection.read(&mut block)? {
                    0 => return Ok(()),
                    count => bytes.fetch_add(count as u64, Ordering::Relaxed),
                };
            }
        })
    }

    fn start(
        name: &'static str,
        world: &Namespace,
        port: u16,
        talk: impl Fn(&TcpStream, &AtomicU64) -> std::io::Result<()> + Send + 'static,
    ) -> Result<Self> {
        let listener = world.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))??;
        let bytes = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&bytes);
        let thread = std::thread::spawn(move || talk(&listener.accept()?.0, &counter));
        Ok(Self { name, bytes, thread })
    }

    /// Waits until many more bytes have passed than now.
    pub(crate) fn wait_for_load(&self) -> Result<()> {
        let goal = self.bytes.load(Ordering::Relaxed) + LOAD_BYTES;
        wait_for(SOON, self.name, || self.thread.is_finished() || self.bytes.load(Ordering::Relaxed) > goal)?;
        ensure!(!self.thread.is_finished(), "the connection of {} ended", self.name);
        Ok(())
    }

    /// Waits until the connection ends: why, in words.
    pub(crate) fn end(self, limit: Duration) -> Result<String> {
        wait_for(limit, &format!("an end of the connection of {}", self.name), || self.thread.is_finished())?;
        let ended = self.thread.join().ok().context("a peer panicked")?;
        Ok(ended.map_or_else(|error| error.to_string(), |()| "closed".to_owned()))
    }
}

/// A download and an upload of the guest's that do not end by themselves.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) sending: Peer,
    pub(crate) receiving: Peer,
}

impl Load {
    /// Starts both, as `download` and `upload` in the guest, and waits until they are well under way.
    pub(crate) fn start(room: &mut Room<'_>) -> Result<Self> {
        let world = room.lab.world();
        let load = Self {
            sending: Peer::sending(world, DOWNLOAD_PORT)?,
            receiving: Peer::receiving(world, UPLOAD_PORT)?,
        };
        room.start("download", &format!("wget -q -O /dev/null http://{SERVER_V4}:{DOWNLOAD_PORT}/"))?;
        room.start("upload", &format!("nc {SERVER_V4} {UPLOAD_PORT} -e cat /dev/zero"))?;
        load.sending.wait_for_load()?;
        load.receiving.wait_for_load()?;
        Ok(load)
    }

    /// How both peers' connections end, which they must.
    pub(crate) fn ends(self) -> Result<[String; 2]> {
        Ok([self.sending.end(SOON)?, self.receiving.end(SOON)?])
    }
}
