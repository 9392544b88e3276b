//! The other end of the vhost-user cable, as targets play it, and what it shares.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use passt_rs::guest::{Guest, VhostUser};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// Requests by the numbers of the specification (vhost-user, "Front-end message types").
pub(crate) mod request {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_LOG_BASE: u32 = 6;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const SET_VRING_ERR: u32 = 14;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    pub(crate) const GET_INFLIGHT_FD: u32 = 31;
    pub(crate) const SET_INFLIGHT_FD: u32 = 32;
    pub(crate) const ADD_MEM_REG: u32 = 37;
    pub(crate) const REM_MEM_REG: u32 = 38;
}

/// Flags of a message: version 1, and with the wish for an answer.
pub(crate) const VERSION: u32 = 1;
pub(crate) const NEED_REPLY: u32 = 9;

/// Most descriptors that one message of a unix socket has (unix(7), SCM_RIGHTS).
pub(crate) const DESCRIPTORS_MAX: usize = 253;

/// A transport and its front end.
#[derive(Debug)]
pub(crate) struct Cable {
    pub(crate) guest: VhostUser,
    socket: Option<UnixStream>,
    _epoll: OwnedFd,
}

impl Cable {
    pub(crate) fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let mut guest = VhostUser::connected(theirs).expect("a transport");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        guest.attach(epoll.as_fd(), 1).expect("a registration");
        ours.set_nonblocking(true).expect("a socket that does not block");
        Self { guest, socket: Some(ours), _epoll: epoll }
    }

    /// Sends bytes with descriptors, if there is room.
    pub(crate) fn raw(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let Some(socket) = &self.socket else { return };
        let mut space =
            vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags);
    }

    /// Sends a whole message.
    pub(crate) fn say(&self, request: u32, flags: u32, payload: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let len = u32::try_from(payload.len()).expect("a short payload");
        let mut message: Vec<u8> = [request, flags, len].into_iter().flat_map(u32::to_ne_bytes).collect();
        message.extend(payload);
        self.raw(&message, descriptors);
    }

    /// What the transport answered, as far as it fits. Descriptors that come with it are closed.
    pub(crate) fn hear(&self) -> Vec<u8> {
        let mut bytes = [0; 4096];
        let Some(socket) = &self.socket else { return Vec::new() };
        let len = std::io::Read::read(&mut &*socket, &mut bytes).unwrap_or(0);
        bytes[..len].to_vec()
    }

    /// No more comes from here, but answers are still read.
    pub(crate) fn say_no_more(&self) {
        if let Some(socket) = &self.socket {
            let _ = socket.shutdown(std::net::Shutdown::Write);
        }
    }

    /// The front end goes.
    pub(crate) fn close(&mut self) {
        self.socket = None;
    }

    /// Messages and kicks are handled, all of them.
    pub(crate) fn turn(&mut self) {
        for _ in 0..4 {
            self.guest.on_event();
        }
    }
}

/// A file in memory that a front end shares.
#[derive(Debug)]
pub(crate) struct Shared(OwnedFd);

impl Shared {
    pub(crate) fn new(len: usize) -> Self {
        let fd = rustix::fs::memfd_create("shared", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .expect("a file in memory");
        let shared = Self(fd);
        shared.cut(len);
        shared
    }

    /// Makes the file `len` bytes long.
    pub(crate) fn cut(&self, len: usize) {
        rustix::fs::ftruncate(&self.0, len as u64).expect("another length");
    }

    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        let _ = rustix::io::pwrite(&self.0, bytes, at as u64);
    }

    pub(crate) fn read(&self, at: usize, bytes: &mut [u8]) {
        let _ = rustix::io::pread(&self.0, bytes, at as u64);
    }

    /// Whether somebody has it mapped for writing: such a file cannot be sealed.
    pub(crate) fn is_mapped(&self) -> bool {
        rustix::fs::fcntl_add_seals(&self.0, SealFlags::WRITE).is_err()
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An eventfd.
pub(crate) fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd")
}

pub(crate) fn signal(event: impl AsFd) {
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub(crate) fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
}
