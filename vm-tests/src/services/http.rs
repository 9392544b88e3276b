//! A page and a long stream over HTTP, and a client that fetches a page.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use super::stream::send;
use crate::lab::Namespace;

/// What `/` holds. `/stream/BYTES` is that much of the deterministic stream.
pub const PAGE: &str = "hello from the world";

/// Longer than any stall a working translator has.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// Serves until it is dropped.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Listens on `port` of every address of `world`.
    pub fn start(world: &Namespace, port: u16) -> anyhow::Result<Self> {
        let listener = world.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))??;
        let accepting = listener.try_clone()?;
        let thread = std::thread::spawn(move || {
            while let Ok((connection, _)) = accepting.accept() {
                // A client that goes away early is the test's to notice.
                std::thread::spawn(move || serve(connection));
            }
        });
        Ok(Self { listener, thread: Some(thread) })
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // Ends the thread's accept().
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn serve(connection: TcpStream) -> anyhow::Result<()> {
    connection.set_read_timeout(Some(SILENCE_LIMIT))?;
    connection.set_write_timeout(Some(SILENCE_LIMIT))?;
    let mut reader = BufReader::new(&connection);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let path = request.split_whitespace().nth(1).context("not a request")?;
    let length = path.strip_prefix("/stream/").and_then(|bytes| bytes.parse::<u64>().ok());
    let size = length.unwrap_or(PAGE.len() as u64);
    write!(&connection, "HTTP/1.0 200 OK\r\nContent-Length: {size}\r\n\r\n")?;
    match length {
        Some(bytes) => send(&connection, bytes)?,
        None => (&connection).write_all(PAGE.as_bytes())?,
    }
    connection.shutdown(Shutdown::Write)?;
    Ok(())
}

/// Fetches `path` from `server`, as a program in `namespace` would; the body.
pub fn get(namespace: &Namespace, server: SocketAddr, path: &str) -> anyhow::Result<String> {
    get_within(namespace, server, path, SILENCE_LIMIT)
}

/// The same, given up when nothing comes for `limit`.
pub fn get_within(
    namespace: &Namespace,
    server: SocketAddr,
    path: &str,
    limit: Duration,
) -> anyhow::Result<String> {
    let connection = namespace.run(|| TcpStream::connect_timeout(&server, limit))??;
    connection.set_read_timeout(Some(limit))?;
    write!(&connection, "GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
    let mut response = String::new();
    (&connection).read_to_string(&mut response)?;
    let (head, body) =
        response.split_once("\r\n\r\n").with_context(|| format!("no HTTP response: {response:?}"))?;
    anyhow::ensure!(head.split_whitespace().nth(1) == Some("200"), "HTTP response {head:?}");
    Ok(body.to_owned())
}
