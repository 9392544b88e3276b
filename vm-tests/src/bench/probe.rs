//! What is measured, and how: a probe runs traffic through a contender once and returns numbers by name.
//! It must never compare; that is the table's job.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use super::contender::{Contender, Running};
use super::plugin_calls::Attachment;
use super::{life, process};
use crate::lab::Child;
use crate::traffic::Role;
use crate::traffic::drive::{self, number};

/// How long a report of the traffic tool may take beyond its own limits.
const REPORT_LIMIT: Duration = Duration::from_secs(90);

/// How long connections are waited for.
const OPENING_SECONDS: u32 = 20;

/// Between the last connection's opening and silence.
const SETTLING: Duration = Duration::from_secs(1);

/// A translator's CPU time is too little to be seen in less.
const IDLE_LEAST: Duration = Duration::from_secs(5);

/// Added to the ports of the second server.
const SECOND_SERVER: u16 = 100;

const GIB: f64 = (1_u64 << 30) as f64;

/// Seen from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    Out,
    In,
}

/// One kind of run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Probe {
    Stream {
        direction: Direction,
        mtu: u32,
        flows: usize,
    },
    Rr,
    Crr {
        flows: usize,
    },
    UdpRr,
    UdpStream {
        direction: Direction,
        gbit_offered: u32,
    },
    /// Memory before any traffic.
    Start,
    /// Request and response on a connection that was there first, while so many others are asked for.
    Hold {
        count: usize,
    },
    /// So many connections are open, and nothing happens on them.
    Idle {
        count: usize,
    },
    Ping,
    /// A sidecar's, from start to end.
    Life,
    /// Calls of a CNI plugin.
    Attachment(Attachment),
}

/// Numbers by name, as the table asks for them.
pub(super) type Numbers = BTreeMap<&'static str, f64>;

impl Probe {
    pub(super) const fn mtu(self) -> u32 {
        match self {
            Self::Stream { mtu, .. } => mtu,
            Self::Rr
            | Self::Crr { .. }
            | Self::UdpRr
            | Self::UdpStream { .. }
            | Self::Start
            | Self::Hold { .. }
            | Self::Idle { .. }
            | Self::Ping
            | Self::Life
            | Self::Attachment(_) => 1500,
        }
    }

    /// Whether it needs a contender that has carried nothing before.
    pub(super) const fn wants_fresh_start(self) -> bool {
        matches!(self, Self::Start | Self::Hold { .. } | Self::Idle { .. } | Self::Life | Self::Attachment(_))
    }

    pub(super) fn id(self) -> String {
        let name = |direction| match direction {
            Direction::Out => "out",
            Direction::In => "in",
        };
        match self {
            Self::Stream { direction, mtu, flows } => format!("stream-{}-{mtu}-{flows}", name(direction)),
            Self::Rr => "rr".to_owned(),
            Self::Crr { flows } => format!("crr-{flows}"),
            Self::UdpRr => "udp-rr".to_owned(),
            Self::UdpStream { direction, gbit_offered } => {
                format!("udp-stream-{}-{gbit_offered}G", name(direction))
            }
            Self::Start => "start".to_owned(),
            Self::Hold { count } => format!("hold-{count}"),
            Self::Idle { count } => format!("idle-{count}"),
            Self::Ping => "ping".to_owned(),
            Self::Life => "life".to_owned(),
            Self::Attachment(attachment) => attachment.id().to_owned(),
        }
    }

    /// Why this contender cannot run this probe at all, if so.
    pub(super) fn cannot(self, contender: Contender) -> Option<&'static str> {
        match (self, contender) {
            (Self::Start | Self::Idle { .. }, Contender::KernelNat) => Some("no process"),
            (Self::Attachment(attachment), Contender::Plugin(maker)) => attachment.cannot(maker),
            (Self::UdpRr | Self::UdpStream { .. }, Contender::Relay) => Some("relays TCP only"),
            (Self::Hold { .. } | Self::Idle { .. }, Contender::Relay)
            | (Self::Idle { .. }, Contender::Peer(_)) => {
                Some("two descriptors for each connection: so many do not fit in the limit")
            }
            (
                Self::Stream { .. }
                | Self::Rr
                | Self::Crr { .. }
                | Self::UdpRr
                | Self::UdpStream { .. }
                | Self::Start
                | Self::Hold { .. }
                | Self::Idle { .. }
                | Self::Ping
                | Self::Life
                | Self::Attachment(_),
                Contender::KernelNat
                | Contender::Relay
                | Contender::Peer(_)
                | Contender::Ours(_)
                | Contender::Sidecar
                | Contender::Plugin(_)
                | Contender::Wired(_),
            ) => None,
        }
    }

    /// Runs it once.
    pub(super) fn run(self, running: &Running, seconds: f64) -> anyhow::Result<Numbers> {
        match self {
            Self::Stream { direction, flows, .. } => stream(running, direction, flows, seconds),
            Self::Rr => rr(running, seconds),
            Self::Crr { flows } => crr(running, flows, seconds),
            Self::UdpRr => udp_rr(running, seconds),
            Self::UdpStream { direction, gbit_offered } => {
                udp_stream(running, direction, gbit_offered, seconds)
            }
            Self::Start => {
                let mib = running.resident_mib_at_start.context("it has no process")?;
                Ok(Numbers::from([("resident_mib", mib)]))
            }
            Self::Hold { count } => hold(running, count, seconds),
            Self::Idle { count } => idle(running, count, seconds),
            Self::Ping => ping(running, seconds),
            Self::Life => life::live(running),
            Self::Attachment(attachment) => attachment.measure(running),
        }
    }
}

impl Running {
    /// Where whoever starts the traffic of this direction finds the other.
    fn address(&self, direction: Direction) -> IpAddr {
        match direction {
            Direction::Out => self.outbound,
            Direction::In => self.inbound,
        }
    }

    fn run(&self, direction: Direction, command: &str, role: Role, more: &str) -> anyhow::Result<Value> {
        let at = SocketAddr::new(self.address(direction), role.port());
        let line = format!("{command} --connect {at} {more}");
        match direction {
            Direction::Out => self.run_in_guest(&line),
            Direction::In => self.run_in_world(&line),
        }
    }
}

fn stream(running: &Running, direction: Direction, flows: usize, seconds: f64) -> anyhow::Result<Numbers> {
    let pid = running.process.as_ref().map(Child::pid);
    let used = || pid.map(process::cpu_seconds).transpose();
    let (process_before, machine_before) = (used()?, process::machine_cpu_seconds()?);
    let line = format!("--flows {flows} --seconds {seconds}");
    let result = running.run(direction, "stream", Role::Sink, &line)?;
    let gib = number(&result, "bytes")? / GIB;
    let mut numbers = Numbers::from([
        ("gbit_per_second", number(&result, "bits_per_second")? / 1e9),
        ("machine_cpu_seconds_per_gib", (process::machine_cpu_seconds()? - machine_before) / gib),
    ]);
    if let (Some(before), Some(after)) = (process_before, used()?) {
        numbers.insert("cpu_seconds_per_gib", (after - before) / gib);
    }
    Ok(numbers)
}

fn rr(running: &Running, seconds: f64) -> anyhow::Result<Numbers> {
    let result = running.run(Direction::Out, "rr", Role::Echo, &format!("--seconds {seconds}"))?;
    exchange(&result)
}

fn crr(running: &Running, flows: usize, seconds: f64) -> anyhow::Result<Numbers> {
    let line = format!("--flows {flows} --seconds {seconds}");
    exchange(&running.run(Direction::Out, "crr", Role::OneShot, &line)?)
}

fn udp_rr(running: &Running, seconds: f64) -> anyhow::Result<Numbers> {
    exchange(&running.run(Direction::Out, "udp-rr", Role::UdpEcho, &format!("--seconds {seconds}"))?)
}

fn exchange(result: &Value) -> anyhow::Result<Numbers> {
    Ok(Numbers::from([
        ("per_second", number(result, "per_second")?),
        ("p50_us", number(result, "p50_us")?),
        ("p99_us", number(result, "p99_us")?),
    ]))
}

fn udp_stream(
    running: &Running,
    direction: Direction,
    gbit_offered: u32,
    seconds: f64,
) -> anyhow::Result<Numbers> {
    let count_at = SocketAddr::new(running.address(direction), Role::UdpCounters.port());
    let line = format!("--count-at {count_at} --rate {gbit_offered}G --size 1400 --seconds {seconds}");
    let result = running.run(direction, "udp-stream", Role::UdpSink, &line)?;
    Ok(Numbers::from([
        ("sent_gbit_per_second", number(&result, "sent_bits_per_second")? / 1e9),
        ("delivered_gbit_per_second", number(&result, "delivered_bits_per_second")? / 1e9),
    ]))
}

fn hold(running: &Running, count: usize, seconds: f64) -> anyhow::Result<Numbers> {
    let (lab, guest) = (&running.lab, running.lab.guest());
    let echo = SocketAddr::new(running.outbound, Role::Echo.port());
    let line = format!("rr --rounds --connect {echo} --seconds {seconds}");
    let mut requests = drive::start(lab, guest, "rr-beside-hold", &line)?;
    requests.wait_for_line(REPORT_LIMIT, "connected")?;
    let mut round = |number: u32| {
        requests.write("\n")?;
        drive::result(&mut requests, REPORT_LIMIT, &format!("rr-round-{number}"))
    };
    round(0)?; // warms up
    let before = round(1)?;
    let pid = running.process.as_ref().map(Child::pid);
    let descriptors_before = pid.map(process::descriptors).transpose()?;

    let mut crowd = Crowd::open(running, count)?;
    let opened = crowd.wait_until_asked()?;
    let during = round(2)?;
    let each = |field| opened.iter().map(|result| number(result, field)).collect::<anyhow::Result<Vec<_>>>();
    let sum = |field| Ok::<f64, anyhow::Error>(each(field)?.iter().sum());
    let worst = |field| Ok::<f64, anyhow::Error>(each(field)?.into_iter().fold(0.0, f64::max));
    let established = sum("established")?;
    anyhow::ensure!(established > 0.0, "no connection could be opened: {opened:?}");

    let mut numbers = Numbers::from([
        ("established", established),
        ("refused", sum("refused")?),
        ("unanswered", sum("unanswered")? + sum("failed")? + sum("not_tried")?),
        ("opening_seconds", worst("seconds")?),
        ("rr_before_per_second", number(&before, "per_second")?),
        ("rr_during_per_second", number(&during, "per_second")?),
        ("rr_kept", number(&during, "per_second")? / number(&before, "per_second")?),
        ("rr_before_p99_us", number(&before, "p99_us")?),
        ("rr_during_p99_us", number(&during, "p99_us")?),
        ("rr_p99_growth", number(&during, "p99_us")? / number(&before, "p99_us")?),
    ]);
    for name in ["refused_p50_us", "refused_p99_us"] {
        if let Ok(us) = worst(name) {
            numbers.insert(name, us);
        }
    }
    let after =
        pid.map(|pid| anyhow::Ok((process::descriptors(pid)?, process::resident_mib(pid)?))).transpose()?;
    let held = crowd.close()?;
    numbers.insert("held", held);
    if let (Some((descriptors, resident_mib)), Some(before)) = (after, descriptors_before) {
        numbers.insert("resident_mib", resident_mib);
        if held > 0.0 {
            #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
            let added = descriptors.saturating_sub(before) as f64;
            numbers.insert("descriptors_per_connection", added / held);
        }
    }
    Ok(numbers)
}

/// CPU time of a translator whose guest has so many connections and says nothing.
fn idle(running: &Running, count: usize, seconds: f64) -> anyhow::Result<Numbers> {
    let pid = running.process.as_ref().map(Child::pid).context("it has no process")?;
    let mut crowd = Crowd::open(running, count)?;
    crowd.wait_until_asked()?;
    // What opening left to be done, such as acknowledgements that were put off.
    std::thread::sleep(SETTLING);
    let (start, before) = (Instant::now(), process::cpu_seconds(pid)?);
    std::thread::sleep(Duration::from_secs_f64(seconds).max(IDLE_LEAST));
    let share = (process::cpu_seconds(pid)? - before) / start.elapsed().as_secs_f64();
    Ok(Numbers::from([("held", crowd.close()?), ("percent_of_a_core", share * 100.0)]))
}

fn ping(running: &Running, seconds: f64) -> anyhow::Result<Numbers> {
    // -A: the next as soon as the last one is answered.
    let line = format!("ping -A -w {} {}", seconds.ceil(), running.outbound);
    let text = running.shell_in_vm(&line, REPORT_LIMIT)?;
    let times = text.lines().filter_map(|line| line.split_once("time=")?.1.split_once(" ms"));
    let mut us: Vec<f64> = times.filter_map(|(ms, _)| ms.parse::<f64>().ok()).map(|ms| ms * 1000.0).collect();
    us.sort_unstable_by(f64::total_cmp);
    let p50 = us.get(us.len() / 2).with_context(|| format!("no answer: {text}"))?;
    Ok(Numbers::from([("p50_us", *p50)]))
}

/// Open connections from the guest to the world's echo servers.
///
/// A process may have fewer descriptors than connections are asked for: two clients, two servers.
struct Crowd {
    holders: [Child; 2],
    _second_server: Child,
}

impl Crowd {
    /// Asks for so many.
    fn open(running: &Running, count: usize) -> anyhow::Result<Self> {
        let lab = &running.lab;
        let second_server = drive::serve_shifted(lab, lab.world(), &lab.servers(), SECOND_SERVER)?;
        let holder = |name, shift| {
            let at = SocketAddr::new(running.outbound, Role::Echo.port() + shift);
            let line =
                format!("hold --echo --count {} --seconds {OPENING_SECONDS} --connect {at}", count / 2);
            drive::start(lab, lab.guest(), name, &line)
        };
        let holders = [holder("hold-1", 0)?, holder("hold-2", SECOND_SERVER)?];
        Ok(Self { holders, _second_server: second_server })
    }

    /// What became of them, by client.
    fn wait_until_asked(&mut self) -> anyhow::Result<Vec<Value>> {
        self.holders.iter_mut().map(|holder| drive::result(holder, REPORT_LIMIT, "asked")).collect()
    }

    /// Ends them; how many were still open.
    fn close(&mut self) -> anyhow::Result<f64> {
        let mut held = 0.0;
        for holder in &mut self.holders {
            holder.close_stdin();
            held += number(&drive::result(holder, REPORT_LIMIT, "hold-end")?, "held")?;
        }
        Ok(held)
    }
}
