//! What several commands need of the system: descriptor limits, epoll, patient connections.

use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::Context as _;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough for 25 000 connections and then some.
const DESCRIPTORS: u64 = 65_536;

/// How long an end of a connection may be silent before a run counts as failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// As many descriptors as we may have: root may exceed the hard limit, others get it.
pub(super) fn raise_descriptor_limit() {
    let wanted = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < DESCRIPTORS)
        && setrlimit(Resource::Nofile, wanted).is_err()
    {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// A blocking connection that gives up when the other end is silent for long.
pub(super) fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE)).context("set a read timeout")?;
    stream.set_write_timeout(Some(PATIENCE)).context("set a write timeout")?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    Ok(stream)
}

/// Level-triggered readiness, with a token for each descriptor.
pub(super) struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl fmt::Debug for Poll {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Poll").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

impl Poll {
    pub(super) fn new() -> anyhow::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("create an epoll descriptor")?;
        Ok(Self { epoll, events: Vec::with_capacity(256) })
    }

    pub(super) fn add(&self, source: impl AsFd, token: usize, interest: EventFlags) -> anyhow::Result<()> {
        epoll::add(&self.epoll, source, EventData::new_u64(token as u64), interest)
            .context("watch a descriptor")
    }

    pub(super) fn modify(&self, source: impl AsFd, token: usize, interest: EventFlags) -> anyhow::Result<()> {
        epoll::modify(&self.epoll, source, EventData::new_u64(token as u64), interest)
            .context("watch it otherwise")
    }

    /// Tokens and flags of what is ready. Empty when `limit` passed first.
    pub(super) fn wait(&mut self, limit: Option<Duration>) -> anyhow::Result<Vec<(usize, EventFlags)>> {
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for events"),
        }
        let events = self.events.iter().map(|event| {
            let (data, flags) = (event.data, event.flags);
            (usize::try_from(data.u64()).unwrap_or(usize::MAX), flags)
        });
        Ok(events.collect())
    }
}
