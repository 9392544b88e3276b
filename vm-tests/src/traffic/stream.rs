//! TCP bulk transfer: `out` to a sink, `in` from a source, with or without verification of every byte.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::args::Args;
use super::{pattern, report, socket};

/// One flow's run.
#[derive(Debug, Clone, Copy)]
struct Plan {
    verify: bool,
    buffer_bytes: usize,
    /// Ends after so many bytes...
    bytes: Option<usize>,
    /// ...or at this time.
    deadline: Instant,
}

pub(super) fn run(mut args: Args) -> anyhow::Result<()> {
    let address: SocketAddr = args.required("connect")?;
    let direction = args.or("direction", "out".to_owned())?;
    let seconds = args.seconds(2.0)?;
    let flows = args.or("flows", 1_usize)?.clamp(1, 64);
    let verify = args.flag("verify")?;
    let bytes = args.optional("bytes")?;
    let buffer_bytes = args.or("buffer", 256 * 1024_usize)?.clamp(1, 16 << 20);
    args.finish()?;
    let transfer = match direction.as_str() {
        "out" => send,
        "in" => receive,
        other => anyhow::bail!("--direction: {other:?} is neither out nor in"),
    };

    let streams = (0..flows).map(|_| socket::connect(address)).collect::<anyhow::Result<Vec<_>>>()?;
    let start = Instant::now();
    let plan = Plan { verify, buffer_bytes, bytes, deadline: start + seconds };
    let moved = std::thread::scope(|scope| {
        let threads: Vec<_> =
            streams.into_iter().map(|stream| scope.spawn(move || transfer(stream, plan))).collect();
        let results = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        results.sum::<anyhow::Result<usize>>()
    })?;
    let elapsed = start.elapsed();
    report(&json!({
        "test": "stream",
        "direction": direction,
        "flows": flows,
        "verified": verify,
        "bytes": moved,
        "seconds": elapsed.as_secs_f64(),
        "bits_per_second": rate(moved, elapsed),
    }));
    Ok(())
}

/// Writes until the plan ends, closes this direction, and returns what the sink says has arrived.
fn send(mut stream: TcpStream, plan: Plan) -> anyhow::Result<usize> {
    let mut buffer = vec![0; plan.buffer_bytes];
    pattern::fill(&mut buffer, 0);
    let mut sent = 0;
    while Instant::now() < plan.deadline && plan.bytes.is_none_or(|bytes| sent < bytes) {
        let length = plan.bytes.map_or(buffer.len(), |bytes| buffer.len().min(bytes - sent));
        let piece = buffer.get_mut(..length).context("a piece of the buffer")?;
        if plan.verify {
            pattern::fill(piece, sent);
        }
        sent += stream.write(piece).with_context(|| format!("write after {sent} bytes"))?;
    }
    stream.shutdown(Shutdown::Write).context("close the writing side")?;
    let arrived =
        read_number(&mut stream).with_context(|| format!("read the sink's count of {sent} bytes"))?;
    anyhow::ensure!(arrived == sent as u64, "sent {sent} bytes, {arrived} arrived");
    if plan.verify {
        let wrong = read_number(&mut stream).context("read the sink's verdict")?;
        anyhow::ensure!(wrong == u64::MAX, "byte {wrong} of {sent} arrived wrong");
    }
    anyhow::ensure!(plan.bytes.is_none_or(|bytes| sent == bytes), "only {sent} bytes in time");
    Ok(sent)
}

/// Reads until the plan ends; returns how much.
fn receive(mut stream: TcpStream, plan: Plan) -> anyhow::Result<usize> {
    let mut buffer = vec![0; plan.buffer_bytes];
    if plan.verify {
        let request = plan.bytes.map_or(u64::MAX, |bytes| bytes as u64);
        stream.write_all(&request.to_le_bytes()).context("ask for bytes")?;
    }
    let mut received = 0;
    loop {
        let left = plan.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() && plan.bytes.is_none() {
            return Ok(received);
        }
        anyhow::ensure!(!left.is_zero(), "only {received} bytes in time");
        stream.set_read_timeout(Some(left)).context("set a read timeout")?;
        let count = match stream.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error).with_context(|| format!("read after {received} bytes")),
        };
        if count == 0 {
            anyhow::ensure!(plan.bytes == Some(received), "the stream ended after {received} bytes");
            return Ok(received);
        }
        if plan.verify {
            let wrong = pattern::first_wrong(buffer.get(..count).unwrap_or_default(), received);
            anyhow::ensure!(wrong.is_none(), "byte {wrong:?} arrived wrong");
        }
        received += count;
    }
}

fn read_number(stream: &mut TcpStream) -> std::io::Result<u64> {
    let mut number = [0; 8];
    stream.read_exact(&mut number)?;
    Ok(u64::from_le_bytes(number))
}

/// Bits per second.
pub(super) fn rate(bytes: usize, elapsed: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a measurement has fewer than 53 significant bits")]
    let bits = bytes as f64 * 8.0;
    bits / elapsed.as_secs_f64()
}
