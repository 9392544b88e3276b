//! Opens many connections, reports what became of them, and holds them until standard input closes.

use std::io::Read as _;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use serde_json::json;

use super::args::Args;
use super::latency::Latencies;
use super::report;
use super::socket::Poll;

/// Attempts under way at the same time: many, but two clients together stay below the 1000 frames a tap queues.
const WINDOW: usize = 256;

/// An attempt under way for longer no longer keeps others from being made.
const ATTENTION: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    /// A byte was sent and is to come back.
    Echoing,
    Held,
    /// Closed here; `refused` by a reset.
    Gone,
}

#[derive(Debug)]
struct Attempt {
    socket: Option<OwnedFd>,
    begun: Instant,
    state: State,
}

impl Attempt {
    fn is_under_way(&self) -> bool {
        matches!(self.state, State::Connecting | State::Echoing)
    }
}

#[derive(Debug)]
struct Holder {
    address: SocketAddr,
    echo: bool,
    poll: Poll,
    /// By token.
    attempts: Vec<Attempt>,
    under_way: usize,
    /// Tokens below this have had their share of attention...
    aged: usize,
    /// ...and so many of them are still under way.
    overdue: usize,
    established: Latencies,
    refused: Latencies,
    failed: usize,
    /// The last failure that is not a refusal.
    failure: Option<Errno>,
}

pub(super) fn run(mut args: Args) -> anyhow::Result<()> {
    let address = args.required("connect")?;
    let count = args.or("count", 18_000_usize)?;
    let limit = args.seconds(30.0)?;
    let echo = args.flag("echo")?;
    args.finish()?;
    let mut holder = Holder {
        address,
        echo,
        poll: Poll::new()?,
        attempts: Vec::with_capacity(count),
        under_way: 0,
        aged: 0,
        overdue: 0,
        established: Latencies::default(),
        refused: Latencies::default(),
        failed: 0,
        failure: None,
    };
    let start = Instant::now();
    holder.open(count, start + limit)?;
    let unanswered = holder.give_up();
    let established = holder.established.count();
    report(&json!({
        "test": "hold",
        "asked": count,
        "established": established,
        "refused": holder.refused.count(),
        "failed": holder.failed,
        "failure": holder.failure.map(|errno| std::io::Error::from(errno).to_string()),
        "unanswered": unanswered,
        "not_tried": count - holder.attempts.len(),
        "seconds": start.elapsed().as_secs_f64(),
        "established_p50_us": holder.established.percentile_us(50),
        "established_p99_us": holder.established.percentile_us(99),
        "refused_p50_us": holder.refused.percentile_us(50),
        "refused_p99_us": holder.refused.percentile_us(99),
        "refused_max_us": holder.refused.percentile_us(100),
    }));
    std::io::stdin().read_to_end(&mut Vec::new()).context("wait for the end of standard input")?;
    let lost = holder.count_lost()?;
    report(&json!({ "test": "hold-end", "held": established - lost, "lost": lost }));
    Ok(())
}

impl Holder {
    /// Makes `count` attempts; returns when all have ended or at the deadline.
    fn open(&mut self, count: usize, deadline: Instant) -> anyhow::Result<()> {
        while (self.attempts.len() < count || self.under_way > 0) && Instant::now() < deadline {
            self.age();
            while self.attempts.len() < count && self.under_way - self.overdue < WINDOW {
                self.begin()?;
            }
            for (token, _) in self.poll.wait(Some(Duration::from_millis(20)))? {
                self.advance(token)?;
            }
        }
        Ok(())
    }

    fn age(&mut self) {
        while let Some(attempt) =
            self.attempts.get(self.aged).filter(|attempt| attempt.begun.elapsed() > ATTENTION)
        {
            self.overdue += usize::from(attempt.is_under_way());
            self.aged += 1;
        }
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        let family = if self.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)
            .context("open one more socket")?;
        let begun = Instant::now();
        let token = self.attempts.len();
        let result = rustix::net::connect(&socket, &self.address);
        self.poll.add(&socket, token, EventFlags::OUT)?;
        self.attempts.push(Attempt { socket: Some(socket), begun, state: State::Connecting });
        self.under_way += 1;
        match result {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => self.fail(token, errno),
        }
        Ok(())
    }

    fn advance(&mut self, token: usize) -> anyhow::Result<()> {
        let Some(attempt) = self.attempts.get_mut(token) else { return Ok(()) };
        let Some(socket) = &attempt.socket else { return Ok(()) };
        let result = match attempt.state {
            State::Connecting => match sockopt::socket_error(socket).unwrap_or_else(Err) {
                Ok(()) if self.echo => {
                    rustix::net::send(socket, b"?", SendFlags::NOSIGNAL).map(|_| State::Echoing)
                }
                other => other.map(|()| State::Held),
            },
            State::Echoing => match rustix::net::recv(socket, &mut [0], RecvFlags::empty()) {
                Ok((0, _)) => Err(Errno::CONNRESET),
                other => other.map(|_| State::Held),
            },
            State::Held | State::Gone => return Ok(()),
        };
        match result {
            Ok(state) => {
                attempt.state = state;
                let interest = if state == State::Echoing { EventFlags::IN } else { EventFlags::empty() };
                self.poll.modify(socket, token, interest)?;
                if state == State::Held {
                    self.established.push(attempt.begun.elapsed());
                    self.ended(token);
                }
            }
            Err(errno) => self.fail(token, errno),
        }
        Ok(())
    }

    fn fail(&mut self, token: usize, errno: Errno) {
        let Some(attempt) = self.attempts.get_mut(token) else { return };
        attempt.state = State::Gone;
        attempt.socket = None;
        if errno == Errno::CONNREFUSED || errno == Errno::CONNRESET {
            self.refused.push(attempt.begun.elapsed());
        } else {
            self.failed += 1;
            self.failure = Some(errno);
        }
        self.ended(token);
    }

    /// Counts an attempt that is no longer under way.
    fn ended(&mut self, token: usize) {
        self.under_way -= 1;
        self.overdue -= usize::from(token < self.aged);
    }

    /// Closes what is still under way; returns how many.
    fn give_up(&mut self) -> usize {
        let pending = self.attempts.iter_mut().filter(|attempt| attempt.is_under_way());
        pending.map(|attempt| attempt.socket = None).count()
    }

    /// How many of those that were held have been closed by the other end.
    fn count_lost(&self) -> anyhow::Result<usize> {
        let mut lost = 0;
        for attempt in self.attempts.iter().filter(|attempt| attempt.state == State::Held) {
            let socket = attempt.socket.as_ref().context("a held socket")?;
            // Nothing to read is what an open connection has.
            if rustix::net::recv(socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT) != Err(Errno::AGAIN)
            {
                lost += 1;
            }
        }
        Ok(lost)
    }
}
