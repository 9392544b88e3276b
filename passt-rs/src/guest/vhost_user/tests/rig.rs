//! A front end and a driver, written by hand: messages as bytes, rings as offsets in a file.

use std::io::Read as _;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::EventfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use super::super::features::{self, OFFERED, PROTOCOL};
use super::super::{Guest as _, VhostUser};
use super::{Entry, GUEST, Layout, Ram, USER, WRITE};
use crate::drop_reason::{DropReason, Drops};

pub(super) const SET_FEATURES: u32 = 2;
pub(super) const SET_MEM_TABLE: u32 = 5;
pub(super) const SET_LOG_BASE: u32 = 6;
pub(super) const SET_VRING_NUM: u32 = 8;
pub(super) const SET_VRING_ADDR: u32 = 9;
pub(super) const SET_VRING_BASE: u32 = 10;
pub(super) const GET_VRING_BASE: u32 = 11;
pub(super) const SET_VRING_KICK: u32 = 12;
pub(super) const SET_VRING_CALL: u32 = 13;
pub(super) const SET_VRING_ERR: u32 = 14;
pub(super) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(super) const GET_QUEUE_NUM: u32 = 17;
pub(super) const SET_VRING_ENABLE: u32 = 18;
pub(super) const GET_INFLIGHT_FD: u32 = 31;
pub(super) const SET_INFLIGHT_FD: u32 = 32;
pub(super) const RESET_DEVICE: u32 = 34;
pub(super) const ADD_MEM_REG: u32 = 37;
pub(super) const REM_MEM_REG: u32 = 38;
pub(super) const GET_FEATURES: u32 = 1;
pub(super) const NEED_REPLY: u32 = 8;

/// Region of the rings, and where it lies in the file.
pub(super) const RINGS_LEN: u64 = 0x10_0000;
/// Region of the buffers, behind that of the rings in the file, not for the guest.
pub(super) const BUFFERS: u64 = GUEST + 0x100_0000;
pub(super) const BUFFERS_LEN: u64 = 0x10_0000;
/// Descriptors of each ring.
pub(super) const SIZE: u16 = 16;
/// All features that a driver of today accepts.
pub(super) const MODERN: u64 = OFFERED & !features::VHOST_F_LOG_ALL;

pub(super) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub(super) fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
}

pub(super) fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// Takes the count of an eventfd.
pub(super) fn count(fd: impl AsFd) -> u64 {
    let mut bytes = [0; 8];
    match rustix::io::read(fd, &mut bytes) {
        Ok(8) => u64::from_ne_bytes(bytes),
        Err(rustix::io::Errno::AGAIN) => 0,
        other => panic!("an eventfd gave {other:?}"),
    }
}

pub(super) fn post(socket: &UnixStream, message: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL);
    assert_eq!(sent, Ok(message.len()));
}

pub(super) fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut message = words(&[request, 1 | flags, u32::try_from(body.len()).unwrap()]);
    message.extend(body);
    message
}

/// The driver's half of one ring.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) index: u32,
    pub(super) layout: Layout,
    pub(super) available: u16,
    pub(super) kick: OwnedFd,
    pub(super) call: OwnedFd,
    pub(super) error: OwnedFd,
}

impl Driver {
    pub(super) fn new(index: u32) -> Self {
        let layout = Layout::at(0x4000 * u64::from(index), SIZE);
        Self { index, layout, available: 0, kick: eventfd(), call: eventfd(), error: eventfd() }
    }

    /// Makes the chain at `head` available.
    pub(super) fn offer(&mut self, ram: &Ram, head: u16) {
        self.layout.offer(ram, self.available, head);
        self.available = self.available.wrapping_add(1);
        self.layout.set_available(ram, self.available);
    }

    /// Makes one buffer of `len` bytes available, for the device to fill.
    pub(super) fn offer_buffer(&mut self, ram: &Ram, head: u16, len: u32) {
        self.layout.describe(ram, head, Entry { guest: buffer(head), len, flags: WRITE, next: 0 });
        self.offer(ram, head);
    }

    /// Makes a frame available, behind an empty header of 12 bytes.
    pub(super) fn send(&mut self, ram: &Ram, head: u16, frame: &[u8]) {
        self.send_raw(ram, head, &[&[0; 12], frame].concat());
    }

    pub(super) fn send_raw(&mut self, ram: &Ram, head: u16, bytes: &[u8]) {
        ram.write(RINGS_LEN + buffer(head) - BUFFERS, bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        self.layout.describe(ram, head, Entry { guest: buffer(head), len, flags: 0, next: 0 });
        self.offer(ram, head);
    }

    pub(super) fn kick(&self) {
        assert_eq!(rustix::io::write(&self.kick, &1u64.to_ne_bytes()), Ok(8));
    }
}

/// Guest address of the buffer that goes with descriptor `head`.
pub(super) fn buffer(head: u16) -> u64 {
    BUFFERS + 0x8000 * u64::from(head)
}

/// A transport with everything around it.
pub(super) struct Rig {
    pub(super) vhost: VhostUser,
    pub(super) front: UnixStream,
    pub(super) ram: Ram,
    pub(super) drops: Drops,
}

impl Rig {
    /// A connection; nothing was said.
    pub(super) fn connected() -> Self {
        Self::over(Ram::new(RINGS_LEN + BUFFERS_LEN))
    }

    pub(super) fn over(ram: Ram) -> Self {
        let (front, back) = UnixStream::pair().unwrap();
        front.set_nonblocking(true).unwrap();
        let mut vhost = VhostUser::connected(back).unwrap();
        vhost.on_event();
        Self { vhost, front, ram, drops: Drops::default() }
    }

    /// Features, memory and no ring yet.
    pub(super) fn agreed(features: u64) -> Self {
        let mut rig = Self::connected();
        rig.agree(features);
        rig
    }

    pub(super) fn agree(&mut self, features: u64) {
        self.ask(GET_FEATURES, &[]);
        self.say(SET_PROTOCOL_FEATURES, &longs(&[PROTOCOL.bits()]), &[]);
        assert_eq!(self.tell(SET_FEATURES, &longs(&[features]), &[]), 0);
        self.give_memory();
    }

    pub(super) fn give_memory(&mut self) {
        let fd = self.ram.0.try_clone().unwrap();
        let mut table = words(&[2, 0]);
        table.extend(longs(&[GUEST, RINGS_LEN, USER, 0]));
        table.extend(longs(&[BUFFERS, BUFFERS_LEN, USER + RINGS_LEN, RINGS_LEN]));
        assert_eq!(self.tell(SET_MEM_TABLE, &table, &[fd.as_fd(), fd.as_fd()]), 0);
    }

    /// With rings 0 and 1 running.
    pub(super) fn running(features: u64) -> (Self, Driver, Driver) {
        let mut rig = Self::agreed(features);
        let (to_guest, from_guest) = (Driver::new(0), Driver::new(1));
        rig.start(&to_guest, 0);
        rig.start(&from_guest, 0);
        // A ring that starts interrupts once, whoever served it before may have died before it did.
        assert!([&to_guest, &from_guest].into_iter().all(|driver| count(&driver.call) > 0));
        (rig, to_guest, from_guest)
    }

    pub(super) fn set_up(&mut self, driver: &Driver, base: u16) {
        let Driver { index, layout, .. } = driver;
        assert_eq!(self.tell(SET_VRING_NUM, &words(&[*index, u32::from(SIZE)]), &[]), 0);
        assert_eq!(self.tell(SET_VRING_BASE, &words(&[*index, u32::from(base)]), &[]), 0);
        assert_eq!(self.address(*index, layout, None), 0);
    }

    pub(super) fn address(&mut self, index: u32, layout: &Layout, log: Option<u64>) -> u64 {
        let mut body = words(&[index, u32::from(log.is_some())]);
        let addresses = layout.addresses();
        body.extend(longs(&[addresses.descriptors, addresses.used, addresses.available, log.unwrap_or(0)]));
        self.tell(SET_VRING_ADDR, &body, &[])
    }

    /// Sets a ring up, starts and enables it.
    pub(super) fn start(&mut self, driver: &Driver, base: u16) {
        self.set_up(driver, base);
        let index = u64::from(driver.index);
        assert_eq!(self.tell(SET_VRING_CALL, &longs(&[index]), &[driver.call.as_fd()]), 0);
        assert_eq!(self.tell(SET_VRING_ERR, &longs(&[index]), &[driver.error.as_fd()]), 0);
        assert_eq!(self.tell(SET_VRING_KICK, &longs(&[index]), &[driver.kick.as_fd()]), 0);
        assert_eq!(self.enable(driver.index, true), 0);
    }

    pub(super) fn enable(&mut self, index: u32, enable: bool) -> u64 {
        self.tell(SET_VRING_ENABLE, &words(&[index, u32::from(enable)]), &[])
    }

    /// Stops a ring; gives its base.
    pub(super) fn stop(&mut self, index: u32) -> u32 {
        let (reply, _) = self.ask(GET_VRING_BASE, &words(&[index, 0]));
        u32::from_ne_bytes(reply[4..8].try_into().unwrap())
    }

    /// Says something without asking for an answer.
    pub(super) fn say(&mut self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        post(&self.front, &message(request, 0, body), fds);
        self.vhost.on_event();
    }

    /// Says something and gives the answer: 0 is yes.
    pub(super) fn tell(&mut self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> u64 {
        post(&self.front, &message(request, NEED_REPLY, body), fds);
        self.vhost.on_event();
        let (reply, _) = self.reply(request);
        u64::from_ne_bytes(reply.try_into().unwrap())
    }

    /// Asks for something.
    pub(super) fn ask(&mut self, request: u32, body: &[u8]) -> (Vec<u8>, Option<OwnedFd>) {
        post(&self.front, &message(request, 0, body), &[]);
        self.vhost.on_event();
        self.reply(request)
    }

    fn reply(&self, request: u32) -> (Vec<u8>, Option<OwnedFd>) {
        let mut header = [0; 12];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.front,
            &mut [IoSliceMut::new(&mut header)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        assert_eq!(received.map(|received| received.bytes), Ok(12), "no answer to request {request}");
        let fds = control.drain().filter_map(|message| {
            if let RecvAncillaryMessage::ScmRights(fds) = message { Some(fds) } else { None }
        });
        let fd = fds.flatten().next();
        assert_eq!(header[..4], request.to_ne_bytes());
        // Version 1, a reply.
        assert_eq!(header[4..8], 5u32.to_ne_bytes());
        let mut body = vec![0; u32::from_ne_bytes(header[8..].try_into().unwrap()) as usize];
        (&self.front).read_exact(&mut body).unwrap();
        (body, fd)
    }

    /// Nothing was answered.
    pub(super) fn is_silent(&self) -> bool {
        let read = (&self.front).read(&mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// All frames that the guest sent, given back and shown; refused ones are counted.
    pub(super) fn receive_all(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some(received) = self.vhost.receive() {
            match received.offload {
                Ok(_) => frames.push(self.vhost.whole(received.place).to_vec()),
                Err(reason) => self.drops.count(reason),
            }
        }
        self.vhost.release();
        self.vhost.flush();
        frames
    }

    pub(super) fn dropped(&mut self, reason: DropReason) -> u64 {
        self.vhost.report(&mut self.drops);
        self.drops.of(reason)
    }
}
