//! What there is to see of translators from outside, with the real passt-rs.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "the whole file is tests"
)]

mod translator_support;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use binding_sidecar::health::{Health, UnixSocket};
use binding_sidecar::metrics::{CONTENT_TYPE, HookCall, METRICS, Metrics, Source};
use binding_sidecar::status::{self, State, Status};
use binding_sidecar::translator::{Board, Phase, Translators, control};
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use translator_support::{Room, kill, until};

#[tokio::test]
async fn a_scrape_has_every_number_of_every_translator_in_openmetrics() {
    let room = Room::new();
    let mut translators = room.translators();
    translators.ensure(&[room.wanted("default"), room.wanted("second")]).await.unwrap();
    let (socket, _health) = serve(&room, translators.board()).await;
    let answer = get(&socket, "/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains(&format!("content-type: {CONTENT_TYPE}")), "{}", answer.head);
    let samples = parse_openmetrics(&answer.body);
    let told = control::stats(&room.wanted("default").control).await.unwrap();
    for pointer in numbers(&everything(&room.wanted("default").control).await, "") {
        let known = METRICS.iter().find(|metric| match metric.source {
            Source::Counter(known) | Source::Gauge(known) => known == pointer,
            Source::Drops => pointer.starts_with("/drops/"),
            _ => false,
        });
        let known = known.unwrap_or_else(|| panic!("no metric for {pointer}"));
        let reason =
            pointer.strip_prefix("/drops/").map_or_else(String::new, |name| format!(",reason=\"{name}\""));
        for interface in ["default", "second"] {
            let sample = format!("{}{{interface=\"{interface}\"{reason}}}", known.name);
            assert!(samples.contains(&sample), "{sample} is missing in:\n{}", answer.body);
        }
    }
    for metric in METRICS {
        let known = match metric.source {
            Source::Counter(pointer) | Source::Gauge(pointer) => told.number(pointer).is_some(),
            _ => true,
        };
        assert!(known, "passt-rs does not tell {}", metric.name);
    }
    translators.stop().await;
}

#[tokio::test]
async fn a_translator_that_hangs_is_down_and_holds_up_nobody() {
    let room = Room::new();
    let mut translators = room.translators();
    translators.ensure(&[room.wanted("default"), room.wanted("second")]).await.unwrap();
    kill(room.pid(&translators, "second"), Signal::STOP);
    let (socket, _health) = serve(&room, translators.board()).await;
    let begun = Instant::now();
    let body = get(&socket, "/metrics").await.body;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let samples = parse_openmetrics(&body);
    assert!(body.contains("sluice_translator_up{interface=\"default\"} 1\n"), "{body}");
    assert!(body.contains("sluice_translator_up{interface=\"second\"} 0\n"), "{body}");
    assert!(samples.contains("sluice_flows{interface=\"default\"}"));
    assert!(!samples.contains("sluice_flows{interface=\"second\"}"));
    translators.stop().await;
}

#[tokio::test]
async fn ready_is_who_listens_and_has_all_translators() {
    let room = Room::new();
    let broken = room.path("broken");
    let script = format!("[ ! -e {} ] || exit 3; exec {} \"$@\"", broken.display(), room.program().display());
    let mut translators = Translators::new(room.script(&script));
    let (socket, health) = serve(&room, translators.board()).await;
    let answer = get(&socket, "/readyz").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "hook calls are not answered\n"));
    health.set_hooks_listen(true);
    assert_eq!(get(&socket, "/readyz").await.status, 200);
    translators.ensure(&[room.wanted("default")]).await.unwrap();
    assert_eq!(get(&socket, "/readyz").await.status, 200);

    std::fs::write(&broken, "").unwrap();
    kill(room.pid(&translators, "default"), Signal::KILL);
    let board = translators.board();
    until("it has failed", || board.entries()[0].restarts.contains_key("exit_3")).await;
    let answer = get(&socket, "/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.starts_with("interface default: "), "{}", answer.body);
    assert_eq!(get(&socket, "/healthz").await.status, 200);
    std::fs::remove_file(&broken).unwrap();
    until("it serves", || matches!(board.entries()[0].phase, Phase::Running { .. })).await;
    assert_eq!(get(&socket, "/readyz").await.status, 200);

    std::fs::write(&broken, "").unwrap();
    assert!(translators.ensure(&[room.wanted("default"), room.wanted("second")]).await.is_err());
    let answer = get(&socket, "/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.starts_with("interface second: "), "{}", answer.body);
    translators.stop().await;
}

#[tokio::test]
async fn status_tells_a_person_and_a_program() {
    let room = Room::new();
    let mut translators = room.translators();
    translators.ensure(&[room.wanted("default")]).await.unwrap();
    let first = room.pid(&translators, "default");
    kill(first, Signal::KILL);
    let board = translators.board();
    until(
        "another one serves",
        || matches!(board.entries()[0].phase, Phase::Running { pid, .. } if pid != first),
    )
    .await;
    let (socket, health) = serve(&room, board).await;
    health.set_hooks_listen(true);
    let show = |json| {
        let socket = socket.clone();
        tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            status::run(&socket, json, &mut out).map(|()| String::from_utf8(out).unwrap())
        })
    };
    let told: Status = serde_json::from_str(&show(true).await.unwrap().unwrap()).unwrap();
    let interface = &told.interfaces[0];
    assert_eq!(told.not_ready, None);
    assert_eq!(interface.state, State::Running);
    assert_eq!(interface.pid, Some(room.pid(&translators, "default")));
    assert_eq!((interface.restarts, interface.last_end.as_deref()), (1, Some("SIGKILL")));
    assert_eq!(interface.counters.as_ref().unwrap().link_ups, 0);
    assert_eq!((told.hook_calls[0].call.as_str(), told.hook_calls[0].count), ("OnDefineDomain", 1));
    let table = show(false).await.unwrap().unwrap();
    for part in ["running", "1 (SIGKILL)", "not yet", interface.socket.to_str().unwrap(), "OnDefineDomain"] {
        assert!(table.contains(part), "{part} is not in:\n{table}");
    }
    translators.stop().await;
}

#[tokio::test]
async fn clients_that_send_nothing_do_not_lock_out_others() {
    let room = Room::new();
    let (socket, _health) = serve(&room, Board::default()).await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut client = UnixStream::connect(&socket).await.unwrap();
        client.write_all(b"GET /healthz HT").await.unwrap();
        slow.push(client);
    }
    let begun = Instant::now();
    assert_eq!(get(&socket, "/healthz").await.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// Time jumps to the next deadline when there is nothing to do.
#[tokio::test(start_paused = true)]
async fn a_client_that_sends_nothing_has_two_seconds() {
    let room = Room::new();
    let (socket, _health) = serve(&room, Board::default()).await;
    let mut client = UnixStream::connect(&socket).await.unwrap();
    let begun = tokio::time::Instant::now();
    client.read_to_end(&mut Vec::new()).await.unwrap();
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(2) && waited < Duration::from_secs(3), "{waited:?}");
}

#[tokio::test]
async fn garbage_is_refused_and_everything_goes_on() {
    let room = Room::new();
    let (socket, _health) = serve(&room, Board::default()).await;
    let long = format!("GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    for garbage in [
        &b"\0\xff\xfe\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        long.as_bytes(),
    ] {
        let mut client = UnixStream::connect(&socket).await.unwrap();
        // It may be cut off before it has said everything.
        let _ = client.write_all(garbage).await;
        let _ = client.shutdown().await;
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    for (request, status) in
        [("POST /healthz", 405), ("GET /", 404), ("GET /healthz?verbose", 200), ("HEAD /readyz", 503)]
    {
        assert_eq!(ask(&socket, request).await.status, status, "{request}");
    }
}

#[tokio::test]
async fn a_tcp_address_answers_too_and_only_a_dead_socket_is_replaced() {
    let room = Room::new();
    let path = room.path("http");
    std::os::unix::net::UnixListener::bind(&path).unwrap();
    let socket = UnixSocket::listen(&path).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(UnixSocket::listen(&path).await.unwrap_err().kind(), ErrorKind::AddrInUse);
    drop(socket);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(UnixSocket::listen(&path).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");

    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    tokio::spawn(Health::new(Board::default(), Metrics::new()).serve_tcp(tcp));
    // What translators say, and where things are, is for those in the container.
    for (path, status, body) in [
        ("/healthz", 200, "ok\n"),
        ("/readyz", 503, "not ready\n"),
        ("/status", 404, "there are /healthz, /readyz and /metrics\n"),
    ] {
        let answer = asked(TcpStream::connect(address).await.unwrap(), &format!("GET {path}")).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{path}");
    }
}

/// Time jumps to the next deadline when there is nothing to do.
#[tokio::test(start_paused = true)]
async fn an_address_that_is_in_use_is_served_when_it_is_free_and_left_when_another_is_wanted() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let (want, wanted) = watch::channel(Some(address));
    tokio::spawn(Health::new(Board::default(), Metrics::new()).serve_wanted(wanted));
    for _ in 0..10 {
        // It tries.
        tokio::task::yield_now().await;
    }
    drop(taken);
    let answers = |address: SocketAddr| std::net::TcpStream::connect(address).is_ok();
    assert!(!answers(address));
    until("metrics are served", || answers(address)).await;

    // Where it could not be bound as long as the one before is.
    let begun = tokio::time::Instant::now();
    want.send(Some((Ipv4Addr::UNSPECIFIED, address.port()).into())).unwrap();
    until("all addresses are served", || answers((Ipv4Addr::new(127, 0, 0, 2), address.port()).into())).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    want.send(None).unwrap();
    until("nothing is served", || !answers(address)).await;
}

/// With one hook call counted.
async fn serve(room: &Room, board: Board) -> (PathBuf, Health) {
    let socket = room.path("sluice.http");
    let metrics = Metrics::new();
    let call = HookCall { call: "OnDefineDomain", version: "v1alpha3", outcome: "ok" };
    metrics.hook_call(call, Duration::from_millis(30));
    let health = Health::new(board, metrics);
    tokio::spawn(health.clone().serve_unix(UnixSocket::listen(&socket).await.unwrap()));
    (socket, health)
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

async fn get(socket: &Path, path: &str) -> Answer {
    ask(socket, &format!("GET {path}")).await
}

async fn ask(socket: &Path, request: &str) -> Answer {
    asked(UnixStream::connect(socket).await.unwrap(), request).await
}

async fn asked(mut client: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    client.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// What a translator says of itself.
async fn everything(control: &Path) -> Value {
    let mut client = BufReader::new(UnixStream::connect(control).await.unwrap());
    client.write_all(b"{\"get\":\"stats\"}\n").await.unwrap();
    let mut answer = String::new();
    client.read_line(&mut answer).await.unwrap();
    serde_json::from_str(&answer).unwrap()
}

/// JSON pointers of all numbers.
fn numbers(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Object(members) => {
            members.iter().flat_map(|(name, value)| numbers(value, &format!("{at}/{name}"))).collect()
        }
        Value::Number(_) => vec![at.to_owned()],
        other => panic!("{at}: {other}"),
    }
}

/// Every sample's name with its labels. Panics where the text is not OpenMetrics 1.0: a family is told about before its
/// samples, which stand together, are named as its type wants, and are different; the end is marked.
fn parse_openmetrics(text: &str) -> BTreeSet<String> {
    let mut samples = BTreeSet::new();
    let mut families = BTreeSet::new();
    let mut family = (String::new(), String::new());
    let body = text.strip_suffix("# EOF\n").unwrap();
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(families.insert(name), "{name} twice");
            assert!(!help.is_empty());
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(families.contains(name), "{name}: no help");
            family = (name.to_owned(), kind.to_owned());
            continue;
        }
        let (sample, number) = line.rsplit_once(' ').unwrap();
        number.parse::<f64>().unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        for label in labels.strip_suffix('}').unwrap().split(',').filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once('=').unwrap();
            assert!(key.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
            assert!(value.len() >= 2 && value.starts_with('"') && value.ends_with('"'), "{line}");
        }
        let suffixes: &[&str] = match family.1.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_count", "_sum"],
            other => panic!("{other}"),
        };
        let suffix = name.strip_prefix(&family.0).unwrap_or_else(|| panic!("{line}: in {}", family.0));
        assert!(suffixes.contains(&suffix), "{line}");
        assert!(samples.insert(sample.to_owned()), "{line}: twice");
    }
    samples
}
