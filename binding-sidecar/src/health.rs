//! HTTP for kubelet, Prometheus and `sluice-sidecar status`: on a Unix socket in our own folder, and on a TCP address where one
//! is given. It must never hold up anything else, nor be held up by a client.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 while the sidecar answers at all |
//! | `/readyz` | 200 when it listens for hook calls and every wanted translator serves, else 503; the reason on the socket only |
//! | `/metrics` | OpenMetrics text |
//! | `/status` | JSON, as [`Status`]; on the socket only |
//!
//! Who reaches the TCP address may be anybody in the cluster, and is not told of paths, processes and what translators
//! print.
//!
//! One request per connection. A client has two seconds for its headers and five in all. Where there are too many,
//! the oldest has to go, so that slow ones cannot lock others out; each listener has clients of its own.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::metrics::{self, Metrics};
use crate::status::{Counters, HookCalls, Interface, State, Status};
use crate::translator::control::Stats;
use crate::translator::{Board, Entry, Phase};

/// What is told. Copies tell the same.
#[derive(Debug, Clone)]
pub struct Health {
    board: Board,
    metrics: Metrics,
    hooks_listen: Arc<AtomicBool>,
}

impl Health {
    /// Not ready yet.
    pub fn new(board: Board, metrics: Metrics) -> Self {
        Self { board, metrics, hooks_listen: Arc::default() }
    }

    /// Hook calls are answered, or are not any more.
    pub fn set_hooks_listen(&self, listen: bool) {
        self.hooks_listen.store(listen, Ordering::Relaxed);
    }

    /// Why the sidecar is not ready; none: it is.
    pub fn not_ready(&self) -> Option<String> {
        if !self.hooks_listen.load(Ordering::Relaxed) {
            return Some("hook calls are not answered".to_owned());
        }
        let reasons: Vec<_> = self.board.entries().iter().filter_map(Entry::not_running).collect();
        if reasons.is_empty() { None } else { Some(reasons.join("; ")) }
    }

    /// Everything.
    pub async fn status(&self) -> Status {
        let interfaces = self.board.read().await.into_iter().map(interface).collect();
        let hook_calls = self.metrics.hook_calls().into_iter().map(|(call, count)| HookCalls {
            call: call.call.to_owned(),
            version: call.version.to_owned(),
            outcome: call.outcome.to_owned(),
            count,
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.metrics.started().elapsed().unwrap_or_default().as_secs(),
            not_ready: self.not_ready(),
            interfaces,
            hook_calls: hook_calls.collect(),
        }
    }

    /// Answers at a Unix socket, until dropped.
    pub async fn serve_unix(self, socket: UnixSocket) {
        let mut clients = Clients::default();
        loop {
            match socket.listener.accept().await {
                Ok((stream, _)) => clients.serve(stream, self.clone(), Reach::Container),
                Err(error) => refused(error).await,
            }
        }
    }

    /// Answers at a TCP address, until dropped.
    pub async fn serve_tcp(self, listener: TcpListener) {
        let mut clients = Clients::default();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => clients.serve(stream, self.clone(), Reach::Network),
                Err(error) => refused(error).await,
            }
        }
    }

    /// Answers at the TCP address that is `wanted` at the time, until nobody can want one.
    pub async fn serve_wanted(self, mut wanted: watch::Receiver<Option<SocketAddr>>) {
        loop {
            let address = *wanted.borrow_and_update();
            let serving = address.map(|address| tokio::spawn(self.clone().serve_at(address)));
            let changed = wanted.changed().await;
            if let Some(serving) = serving {
                serving.abort();
                // Until its listener is closed: the next address may be the same port's.
                let _ = serving.await;
            }
            if changed.is_err() {
                return;
            }
        }
    }

    /// Answers at a TCP address as soon as it can be had. A VM without metrics is better than no VM.
    async fn serve_at(self, address: SocketAddr) {
        let mut told = false;
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(error) if !told => warn!(%address, "no metrics there yet: {error}"),
                Err(_) => {}
            }
            told = true;
            sleep(BIND_PAUSE).await;
        };
        info!(%address, "metrics are served");
        self.serve_tcp(listener).await;
    }

    async fn answer(
        self,
        reach: Reach,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Ok(response);
        }
        Ok(match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => match self.not_ready() {
                None => text(StatusCode::OK, "ok\n".to_owned()),
                Some(why) => match reach {
                    Reach::Container => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
                    Reach::Network => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
                },
            },
            "/metrics" => {
                let read = self.board.read().await;
                typed(StatusCode::OK, metrics::CONTENT_TYPE, self.metrics.text(read))
            }
            "/status" if reach == Reach::Container => {
                match serde_json::to_string_pretty(&self.status().await) {
                    Ok(json) => typed(StatusCode::OK, "application/json", json + "\n"),
                    Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
                }
            }
            _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n".to_owned()),
        })
    }
}

/// Who can ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Our user, in this container.
    Container,
    Network,
}

/// A listening Unix socket; dropped, its file goes.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    /// Listens at `path`, for our user only, replacing a socket that nobody serves any more. `AddrInUse`: somebody
    /// does; `AlreadyExists`: what is there is no socket.
    pub async fn listen(path: &Path) -> io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
            Ok(_) if UnixStream::connect(path).await.is_ok() => return Err(io::ErrorKind::AddrInUse.into()),
            Ok(_) => std::fs::remove_file(path)?,
            Err(_) => {}
        }
        let socket = Self { listener: UnixListener::bind(path)?, path: path.to_owned() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(socket)
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // The folder may be gone.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Of one listener. Dropped, they are cut off.
#[derive(Debug, Default)]
struct Clients {
    tasks: JoinSet<()>,
    /// The oldest first.
    order: VecDeque<AbortHandle>,
}

impl Clients {
    fn serve(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        health: Health,
        reach: Reach,
    ) {
        while self.tasks.try_join_next().is_some() {}
        self.order.retain(|client| !client.is_finished());
        if self.order.len() >= CLIENTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
        }
        self.order.push_back(self.tasks.spawn(client(stream, health, reach)));
    }
}

/// One connection from its start to its end.
async fn client(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, health: Health, reach: Reach) {
    let service = service_fn(move |request| health.clone().answer(reach, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .keep_alive(false)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // What goes wrong is the client's business.
    let _ = timeout(CLIENT_DEADLINE, connection).await;
}

/// Nobody could be let in: descriptors are exhausted, mostly. To try again at once would be to spin.
async fn refused(error: io::Error) {
    warn!("health: a client cannot be let in: {error}");
    sleep(REFUSED_PAUSE).await;
}

fn interface((entry, stats): (Entry, Option<Stats>)) -> Interface {
    let (state, pid, since) = match entry.phase {
        Phase::Starting { pid } => (State::Starting, pid, None),
        Phase::Running { pid, since } => (State::Running, Some(pid), Some(since)),
        Phase::Waiting => (State::Waiting, None, None),
        Phase::Failed { .. } => (State::Failed, None, None),
    };
    Interface {
        restarts: entry.restarts_total(),
        interface: entry.interface,
        pod_interface: entry.pod_interface,
        socket: entry.socket,
        state,
        pid,
        uptime_seconds: since.map(|since| since.elapsed().as_secs()),
        last_end: entry.last_end.map(|end| end.to_string()),
        counters: stats.map(|stats| {
            let number = |pointer| stats.number(pointer).unwrap_or_default();
            let drops = stats.drops().filter(|(_, count)| *count > 0);
            Counters {
                link_ups: number("/cable/link_ups"),
                flows: number("/flows"),
                from_guest_bytes: number("/cable/from_guest_bytes"),
                to_guest_bytes: number("/cable/to_guest_bytes"),
                drops: drops.map(|(reason, count)| (reason.to_owned(), count)).collect(),
            }
        }),
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", text)
}

fn typed(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Connections of one listener; kubelet, Prometheus and a person are three.
const CLIENTS_MAX: usize = 16;
/// How long headers may take.
const HEADER_DEADLINE: Duration = Duration::from_secs(2);
/// How long a connection may take.
const CLIENT_DEADLINE: Duration = Duration::from_secs(5);
/// Memory of a connection, and so the longest headers; the least that hyper takes.
const BUFFER_BYTES: usize = 8192;
/// Before the next is let in.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// Until an address is tried again that could not be had: it may be another's now, or not the pod's yet.
const BIND_PAUSE: Duration = Duration::from_secs(3);
