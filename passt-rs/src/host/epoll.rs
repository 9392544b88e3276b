//! Readiness of many descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use std::{fmt, io};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

/// Events fetched at once.
const BATCH: usize = 128;

/// An epoll instance and the events fetched last.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<Event>,
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    pub token: u64,
    pub readable: bool,
    /// The peer sends no more: the end of its stream is in the receive queue.
    pub ended: bool,
    /// Urgent data is in the receive queue.
    pub urgent: bool,
    pub writable: bool,
    /// An error, also one in the error queue.
    pub error: bool,
    /// Both directions of a socket are closed.
    pub hangup: bool,
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(BATCH) })
    }

    /// Watches `fd` for everything, edge triggered: one system call per socket and life.
    pub fn watch_edges(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::PRI | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.fd, fd, EventData::new_u64(token), flags)?)
    }

    /// Watches `fd` for input, level triggered.
    pub fn watch_input(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Stops watching `fd`, which is watched for input, or starts again.
    pub fn change_input(&self, fd: impl AsFd, token: u64, watch: bool) -> io::Result<()> {
        let flags = if watch { EventFlags::IN } else { EventFlags::empty() };
        Ok(epoll::modify(&self.fd, fd, EventData::new_u64(token), flags)?)
    }

    /// Waits until something is ready, at most `timeout` (`None`: forever), and keeps the events.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.events.clear();
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.fd, spare, timeout.as_ref()) {
            Ok(count) => Ok(count),
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// The event at `index` of those fetched last.
    pub fn event(&self, index: usize) -> Option<Ready> {
        let Event { data, flags } = *self.events.get(index)?;
        Some(Ready {
            token: data.u64(),
            readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::PRI),
            ended: flags.contains(EventFlags::RDHUP),
            urgent: flags.contains(EventFlags::PRI),
            writable: flags.contains(EventFlags::OUT),
            error: flags.contains(EventFlags::ERR),
            hangup: flags.contains(EventFlags::HUP),
        })
    }
}

impl fmt::Debug for Epoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoll").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
