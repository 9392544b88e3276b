//! The connection with a front end: whole messages in, one at a time.
//!
//! The message layer blocks until a message is whole and until its answer is taken. So it is called only when all of
//! a message is there, and only while the front end reads what we say; others are cut off.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::RecvFlags;
use rustix::time::Timespec;
use vhost::vhost_user::message::MAX_MSG_SIZE;
use vhost::vhost_user::{BackendReqHandler, Error};

use super::device::Device;

/// Request, flags and size of a message (vhost-user, "Header").
const HEADER_LEN: usize = 12;

/// What became of a look at the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// No whole message is there.
    Nothing,
    /// One was handled; there may be more.
    Message,
    /// The connection is of no more use.
    End,
}

/// A front end.
pub(super) struct Session {
    /// The message layer's own end, and a second name of it for what it does not offer.
    handler: BackendReqHandler<Mutex<Device>>,
    socket: OwnedFd,
    /// Holds the device while a message is handled.
    slot: Arc<Mutex<Device>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Session({})", self.handler.as_raw_fd())
    }
}

impl Session {
    pub(super) fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(false)?;
        let socket = OwnedFd::from(stream.try_clone()?);
        let slot = Arc::new(Mutex::new(Device::default()));
        Ok(Self { handler: BackendReqHandler::from_stream(stream, Arc::clone(&slot)), socket, slot })
    }

    /// Handles one message about `device`, if a whole one is there.
    pub(super) fn hear(&mut self, device: &mut Device) -> Heard {
        match self.is_message_there() {
            Ok(true) => {}
            Ok(false) => return Heard::Nothing,
            Err(reason) => {
                tracing::info!("the front end's connection ends: {reason}");
                return Heard::End;
            }
        }
        self.swap(device);
        let handled = self.handler.handle_request();
        self.swap(device);
        match handled {
            Ok(()) => Heard::Message,
            Err(Error::ReqHandlerError(reason)) => {
                tracing::warn!("refused what the front end asked for: {reason}");
                Heard::Message
            }
            Err(error) => {
                tracing::warn!("the front end sent what cannot be answered ({error}); its connection ends");
                Heard::End
            }
        }
    }

    fn swap(&self, device: &mut Device) {
        std::mem::swap(device, &mut *self.slot.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether the message layer can go on without waiting for the front end.
    fn is_message_there(&self) -> Result<bool, &'static str> {
        let mut header = [0; HEADER_LEN];
        let peeked = rustix::net::recv(&self.socket, &mut header, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        match peeked {
            Ok((0, _)) => return Err("it was closed"),
            Ok((HEADER_LEN, _)) => {}
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(false),
            Err(_) => return Err("it broke"),
        }
        let [.., s0, s1, s2, s3] = header;
        let size = u32::from_ne_bytes([s0, s1, s2, s3]) as usize;
        let there = rustix::io::ioctl_fionread(&self.socket).unwrap_or(0);
        // A size that no message has is refused with the header.
        if size <= MAX_MSG_SIZE && there < (HEADER_LEN + size) as u64 {
            return Ok(false);
        }
        let mut polled = [PollFd::new(&self.socket, PollFlags::OUT)];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let writable = poll(&mut polled, Some(&none)).is_ok_and(|ready| ready > 0)
            && polled.iter().all(|polled| polled.revents().contains(PollFlags::OUT));
        if writable { Ok(true) } else { Err("it does not take answers") }
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
