//! UDP: request and response, and a paced stream whose receiver counts.

use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use serde_json::json;

use super::args::Args;
use super::exchange::report_exchanges;
use super::latency::Latencies;
use super::stream::rate;
use super::{pattern, report, socket};

/// After which a response counts as lost.
const RESPONSE_LIMIT: Duration = Duration::from_secs(1);

/// Datagrams handed to the kernel at a time; above that a pause would show as a burst to the receiver.
const BATCH: usize = 32;

/// Id and number, little endian, at the start of each datagram.
const HEADER_BYTES: usize = 16;

pub(super) fn rr(mut args: Args) -> anyhow::Result<()> {
    let address: SocketAddr = args.required("connect")?;
    let seconds = args.seconds(1.0)?;
    let size = args.or("size", 1_usize)?.clamp(1, 65_507);
    let count = args.or("count", usize::MAX)?;
    args.finish()?;
    let socket = connect(address)?;
    socket.set_read_timeout(Some(RESPONSE_LIMIT)).context("set a read timeout")?;
    let mut latencies = Latencies::default();
    let mut lost = 0;
    let (mut request, mut response) = (vec![0; size], vec![0; size + 1]);
    let start = Instant::now();
    while start.elapsed() < seconds && latencies.count() < count {
        let sent = Instant::now();
        pattern::fill(&mut request, latencies.count() * size);
        socket.send(&request).context("send a request")?;
        match socket.recv(&mut response) {
            Ok(length) => {
                anyhow::ensure!(response.get(..length) == Some(&*request), "the response is not the request");
                latencies.push(sent.elapsed());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => lost += 1,
            Err(error) => return Err(error).context("receive the response"),
        }
        anyhow::ensure!(lost < 5, "{lost} responses lost, {} received", latencies.count());
    }
    report_exchanges("udp-rr", latencies, start.elapsed());
    Ok(())
}

pub(super) fn stream(mut args: Args) -> anyhow::Result<()> {
    let address: SocketAddr = args.required("connect")?;
    let count_at: SocketAddr = args.required("count-at")?;
    let seconds = args.seconds(1.0)?;
    let bits_per_second = args.scaled("rate", 2_000_000_000)?.max(1);
    let size = args.or("size", 1400_usize)?.clamp(HEADER_BYTES, 65_507);
    args.finish()?;
    let mut counters = socket::connect(count_at)?;
    let socket = connect(address)?;
    let stream = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let stream = (u64::from(std::process::id()) << 32) | u64::from(stream);

    let start = Instant::now();
    let interval = Duration::from_secs_f64(rate(size, Duration::from_secs(1)) / to_f64(bits_per_second));
    let sent = send_paced(&socket, stream, size, interval, start + seconds)?;
    let elapsed = start.elapsed();

    // The last datagrams are still on their way: ask until the count stands still.
    let mut arrived = ask(&mut counters, stream)?;
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let again = ask(&mut counters, stream)?;
        if again == arrived {
            break;
        }
        arrived = again;
    }
    let [datagrams, bytes, us] = arrived;
    report(&json!({
        "test": "udp-stream",
        "size": size,
        "sent": sent,
        "sent_bits_per_second": to_f64(sent) * rate(size, elapsed),
        "delivered": datagrams,
        "delivered_bits_per_second": to_f64(bytes) * 8.0 / (to_f64(us) / 1e6).max(elapsed.as_secs_f64()),
    }));
    Ok(())
}

fn connect(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let any: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).context("bind a socket")?;
    socket.connect(address).with_context(|| format!("connect to UDP {address}"))?;
    Ok(socket)
}

/// Sends a datagram each `interval`, in batches where the clock says several are due; returns how many.
fn send_paced(
    socket: &UdpSocket,
    stream: u64,
    size: usize,
    interval: Duration,
    deadline: Instant,
) -> anyhow::Result<u64> {
    let mut datagrams = vec![vec![0; size]; BATCH];
    let start = Instant::now();
    let mut sent = 0_u64;
    loop {
        let now = Instant::now();
        if now >= deadline {
            return Ok(sent);
        }
        let due = (now - start).as_nanos() / interval.as_nanos().max(1);
        let due = usize::try_from(due.saturating_sub(sent.into())).unwrap_or(BATCH).min(BATCH);
        if due == 0 {
            // Spinning would take the core the receiver may need.
            std::thread::sleep(interval.min(Duration::from_micros(50)));
            continue;
        }
        for (datagram, number) in datagrams.iter_mut().zip(sent..).take(due) {
            let header = stream.to_le_bytes().into_iter().chain(number.to_le_bytes());
            datagram.iter_mut().zip(header).for_each(|(to, from)| *to = from);
        }
        let slices: Vec<_> = datagrams.iter().take(due).map(|datagram| [IoSlice::new(datagram)]).collect();
        let mut controls: Vec<_> = slices.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let mut headers: Vec<_> =
            slices.iter().zip(&mut controls).map(|(slice, control)| MMsgHdr::new(slice, control)).collect();
        match sendmmsg(socket, &mut headers, SendFlags::empty()) {
            Ok(count) => sent += count as u64,
            // A full queue on the way out is loss like any other; what was due is due again.
            Err(rustix::io::Errno::NOBUFS) => {}
            Err(error) => return Err(error).with_context(|| format!("send after {sent} datagrams")),
        }
    }
}

/// Datagrams, bytes, microseconds from the first to the last.
fn ask(counters: &mut std::net::TcpStream, stream: u64) -> anyhow::Result<[u64; 3]> {
    counters.write_all(&stream.to_le_bytes()).context("ask for the count")?;
    let mut answer = [0; 24];
    counters.read_exact(&mut answer).context("read the count")?;
    let mut numbers = [0; 3];
    for (number, bytes) in numbers.iter_mut().zip(answer.chunks_exact(8)) {
        *number = u64::from_le_bytes(bytes.try_into().context("eight bytes")?);
    }
    Ok(numbers)
}

#[expect(clippy::cast_precision_loss, reason = "a measurement has fewer than 53 significant bits")]
fn to_f64(number: u64) -> f64 {
    number as f64
}
