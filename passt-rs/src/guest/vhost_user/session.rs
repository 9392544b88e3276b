//! The connection with a front end: whole messages in, one at a time.
//!
//! The message layer blocks until a message is whole and until its answer is taken. So it is called only when all of
//! a message is there, and only while the front end reads what we say; others are cut off. So is who sends descriptors
//! that do not fit: more than the message layer takes at once, or than the process may have.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, RecvMsg, ReturnFlags, SendFlags};
use rustix::time::Timespec;
use vhost::vhost_user::message::{MAX_ATTACHED_FD_ENTRIES, MAX_MSG_SIZE};
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserBackendReqHandlerMut as _};

use super::device::Device;

/// Request, flags and size of a message (vhost-user, "Header").
const HEADER_LEN: usize = 12;

/// With index and value of a ring's state.
const START_LEN: usize = HEADER_LEN + 8;
/// How to look once more at what was looked at.
const AGAIN: RecvFlags = RecvFlags::PEEK.union(RecvFlags::DONTWAIT);
const SET_VRING_ENABLE: u32 = 18;
/// Bits of a message's flags.
const VERSION: u32 = 1;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;

/// The first bytes of a message; beyond its end anything.
struct Start([u8; START_LEN]);

impl Start {
    fn word(&self, at: usize) -> u32 {
        self.0.as_chunks::<4>().0.get(at).map_or(0, |word| u32::from_ne_bytes(*word))
    }

    fn request(&self) -> u32 {
        self.word(0)
    }

    fn needs_reply(&self) -> bool {
        self.word(1) & NEED_REPLY != 0
    }
}

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
        #[expect(
            clippy::arc_with_non_send_sync,
            reason = "the message layer takes nothing else; one thread has it"
        )]
        let slot = Arc::new(Mutex::new(Device::default()));
        Ok(Self { handler: BackendReqHandler::from_stream(stream, Arc::clone(&slot)), socket, slot })
    }

    /// Handles one message about `device`, if a whole one is there.
    pub(super) fn hear(&mut self, device: &mut Device) -> Heard {
        let start = match self.next_message() {
            Ok(Some(start)) => start,
            Ok(None) => return Heard::Nothing,
            Err(reason) => {
                tracing::info!("the front end's connection ends: {reason}");
                return Heard::End;
            }
        };
        self.swap(device);
        let handled = self.handler.handle_request();
        self.swap(device);
        match handled {
            Ok(()) => Heard::Message,
            Err(Error::ReqHandlerError(reason)) => {
                tracing::warn!("refused what the front end asked for: {reason}");
                Heard::Message
            }
            Err(Error::InactiveFeature(_)) if start.request() == SET_VRING_ENABLE => {
                self.enable_early(&start, device)
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

    /// QEMU says which rings are enabled before it says that features were accepted, and the message layer has none
    /// enabled before that.
    fn enable_early(&self, start: &Start, device: &mut Device) -> Heard {
        let (index, enable) = (start.word(3), start.word(4));
        let enabled = match enable {
            0 | 1 => device.set_vring_enable(index, enable == 1),
            _ => return Heard::End,
        };
        if start.needs_reply() && device.replies {
            let mut reply = Vec::with_capacity(HEADER_LEN + 8);
            for word in [SET_VRING_ENABLE, VERSION | REPLY, 8] {
                reply.extend(word.to_ne_bytes());
            }
            reply.extend(u64::from(enabled.is_err()).to_ne_bytes());
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            if rustix::net::send(&self.socket, &reply, flags) != Ok(reply.len()) {
                return Heard::End;
            }
        }
        Heard::Message
    }

    /// How the next message begins, if the message layer can take it without waiting for the front end.
    fn next_message(&self) -> Result<Option<Start>, &'static str> {
        let mut start = Start([0; START_LEN]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_ATTACHED_FD_ENTRIES))];
        // What it holds are copies, closed when they are counted.
        let mut descriptors = RecvAncillaryBuffer::new(&mut space);
        let peeked = rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut start.0)],
            &mut descriptors,
            RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        );
        let peeked_bytes = match peeked {
            // The message layer would take that for a message to be read again, and wait for it.
            Ok(peeked)
                if peeked.flags.contains(ReturnFlags::CTRUNC)
                    || count(&mut descriptors) > MAX_ATTACHED_FD_ENTRIES =>
            {
                return Err("it sent more descriptors than we can take");
            }
            Ok(RecvMsg { bytes: 0, .. }) => return Err("it was closed"),
            Ok(RecvMsg { bytes, .. }) if bytes >= HEADER_LEN => bytes,
            Ok(_) => return self.rest_can_come(),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(_) => return Err("it broke"),
        };
        let size = start.word(2) as usize;
        let there = rustix::io::ioctl_fionread(&self.socket).unwrap_or(0);
        // A size that no message has is refused with the header.
        if size <= MAX_MSG_SIZE && there < (HEADER_LEN + size) as u64 {
            return self.rest_can_come();
        }
        // Header and body may have been sent apart; there they are, but not yet here.
        if peeked_bytes < START_LEN.min(HEADER_LEN + size)
            && rustix::net::recv(&self.socket, &mut start.0, AGAIN).is_err()
        {
            return Err("it broke");
        }
        let mut polled = [PollFd::new(&self.socket, PollFlags::OUT)];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let writable = poll(&mut polled, Some(&none)).is_ok_and(|ready| ready > 0)
            && polled.iter().all(|polled| polled.revents().contains(PollFlags::OUT));
        if writable { Ok(Some(start)) } else { Err("it does not take answers") }
    }

    /// Part of a message is there. The rest never comes if the front end sends no more.
    fn rest_can_come(&self) -> Result<Option<Start>, &'static str> {
        let mut polled = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut polled, Some(&none)) {
            Ok(ready) if ready > 0 => Err("it was closed in the middle of a message"),
            Ok(_) | Err(_) => Ok(None),
        }
    }
}

/// Closes `descriptors`; gives how many there were. Their space may have had room for some more than it was made for.
fn count(descriptors: &mut RecvAncillaryBuffer<'_>) -> usize {
    let count = |message| {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message { descriptors.count() } else { 0 }
    };
    descriptors.drain().map(count).sum()
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
