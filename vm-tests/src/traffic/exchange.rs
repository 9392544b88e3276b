//! TCP request and response of one byte: on one connection (`rr`), or on a new one each time (`crr`).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::args::Args;
use super::latency::Latencies;
use super::{report, socket};

pub(super) fn rr(mut args: Args) -> anyhow::Result<()> {
    let address: SocketAddr = args.required("connect")?;
    let seconds = args.seconds(1.0)?;
    let rounds = args.flag("rounds")?;
    args.finish()?;
    let mut stream = socket::connect(address)?;
    if !rounds {
        return exchange_for(&mut stream, seconds, "rr");
    }
    report(&json!({ "connected": true }));
    for (round, line) in std::io::stdin().lines().enumerate() {
        line.context("read standard input")?;
        exchange_for(&mut stream, seconds, &format!("rr-round-{round}"))?;
    }
    Ok(())
}

fn exchange_for(stream: &mut TcpStream, seconds: Duration, name: &str) -> anyhow::Result<()> {
    let mut latencies = Latencies::default();
    let start = Instant::now();
    while start.elapsed() < seconds {
        let sent = Instant::now();
        exchange(stream)?;
        latencies.push(sent.elapsed());
    }
    report_exchanges(name, latencies, start.elapsed());
    Ok(())
}

pub(super) fn crr(mut args: Args) -> anyhow::Result<()> {
    let address: SocketAddr = args.required("connect")?;
    let seconds = args.seconds(1.0)?;
    let flows = args.or("flows", 1_usize)?.clamp(1, 64);
    let count = args.or("count", usize::MAX)?;
    args.finish()?;
    let start = Instant::now();
    let latencies = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..flows)
            .map(|_| scope.spawn(|| connect_and_exchange(address, start + seconds, count / flows)))
            .collect();
        let mut all = Latencies::default();
        for thread in threads {
            all.append(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        anyhow::Ok(all)
    })?;
    report_exchanges("crr", latencies, start.elapsed());
    Ok(())
}

fn connect_and_exchange(address: SocketAddr, deadline: Instant, count: usize) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::default();
    while Instant::now() < deadline && latencies.count() < count {
        let begun = Instant::now();
        let mut stream = socket::connect(address)?;
        exchange(&mut stream).with_context(|| format!("connection {}", latencies.count()))?;
        // The server closes first, so that used-up ports wait there and not here.
        let end = stream.read(&mut [0]).context("read the end of the stream")?;
        anyhow::ensure!(end == 0, "the answer is too long");
        drop(stream);
        latencies.push(begun.elapsed());
    }
    Ok(latencies)
}

fn exchange(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(b"?").context("send a request")?;
    stream.read_exact(&mut [0]).context("receive the response")
}

/// Reports how many, how many per second, and how long one took.
pub(super) fn report_exchanges(test: &str, mut latencies: Latencies, elapsed: Duration) {
    #[expect(clippy::cast_precision_loss, reason = "a measurement has fewer than 53 significant bits")]
    let count = latencies.count() as f64;
    report(&json!({
        "test": test,
        "count": latencies.count(),
        "seconds": elapsed.as_secs_f64(),
        "per_second": count / elapsed.as_secs_f64(),
        "p50_us": latencies.percentile_us(50),
        "p99_us": latencies.percentile_us(99),
        "max_us": latencies.percentile_us(100),
    }));
}
