//! A listening socket at which one guest at a time is let in.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::time::Timespec;

use crate::reserve::Reserve;

/// A door; one that has no listener lets nobody in.
#[derive(Debug)]
pub(super) struct Door {
    listener: Option<UnixListener>,
    /// Turns a connection away, or serves it, when descriptors are exhausted; a waiting one would never let us sleep.
    reserve: Reserve,
    registration: Option<(OwnedFd, u64)>,
    /// Whoever waits at the listener cannot be turned away for want of a descriptor, and waits for the guest to leave.
    paused: bool,
}

impl Door {
    pub(super) fn new(listener: Option<UnixListener>) -> io::Result<Self> {
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
        }
        Ok(Self { listener, reserve: Reserve::new(), registration: None, paused: false })
    }

    /// Watches the listener, level triggered, under `token`.
    pub(super) fn attach(&mut self, epoll: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        if let Some(listener) = &self.listener {
            epoll::add(epoll, listener, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        }
        self.registration = Some((epoll.try_clone_to_owned()?, token));
        Ok(())
    }

    /// The next connection that waits. `served`: the one that we have.
    pub(super) fn next(&mut self, served: Option<impl AsFd>) -> Option<UnixStream> {
        if self.paused {
            return None;
        }
        let listener = self.listener.as_ref()?;
        match listener.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) if self.reserve.lend() => listener.accept().ok().map(|(stream, _)| stream),
            Err(_) if served.is_some_and(|connection| !is_closed(connection)) => {
                self.pause(true);
                None
            }
            Err(_) => None,
        }
    }

    /// Stops or goes on watching the listener.
    fn pause(&mut self, pause: bool) {
        let (Some((epoll, token)), Some(listener)) = (&self.registration, &self.listener) else { return };
        let flags = if pause { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
        if self.paused != pause
            && epoll::modify(epoll, listener, epoll::EventData::new_u64(*token), flags).is_ok()
        {
            self.paused = pause;
        }
    }

    /// Nobody else is at the door.
    pub(super) fn close(&mut self) {
        self.reserve.refill();
    }

    /// The guest left; whoever waits may come in.
    pub(super) fn open(&mut self) {
        self.reserve.refill();
        self.pause(false);
    }
}

/// The other end is gone, though what it sent last may not be read yet: nobody waits for answers to that.
pub(super) fn is_closed(connection: impl AsFd) -> bool {
    let connection = connection.as_fd();
    let mut polled = [PollFd::new(&connection, PollFlags::empty())];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&none)).is_ok()
        && polled.iter().any(|polled| polled.revents().contains(PollFlags::HUP))
}
