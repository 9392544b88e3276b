//! Messages of the vhost-user protocol, front end's side: one request, its descriptors, and its answer.
//!
//! Written for the labs instead of taken from the `vhost` crate: that one's front end takes the answer to GET_QUEUE_NUM
//! for a count of rings where QEMU's network device counts pairs, waits for ever, and cannot say anything wrong on
//! purpose. It must never know in which order requests belong.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context as _;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// No answer is larger; a vhost-user message is a page at most.
const BODY_MAX: usize = 4096;

/// Descriptors in one message at most: one for each region of a memory table.
const DESCRIPTORS_MAX: usize = 8;

/// A request by its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    GetFeatures = 1,
    SetFeatures = 2,
    SetOwner = 3,
    SetMemTable = 5,
    SetLogBase = 6,
    SetVringNum = 8,
    SetVringAddr = 9,
    SetVringBase = 10,
    GetVringBase = 11,
    SetVringKick = 12,
    SetVringCall = 13,
    SetVringErr = 14,
    GetProtocolFeatures = 15,
    SetProtocolFeatures = 16,
    GetQueueNum = 17,
    SetVringEnable = 18,
    GetInflightFd = 31,
    SetInflightFd = 32,
    ResetDevice = 34,
    GetMaxMemSlots = 36,
    AddMemReg = 37,
    RemMemReg = 38,
}

/// The back end answered a request with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub request: Request,
}

/// The back end closed the connection instead of answering this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    pub request: Request,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the back end refused {:?}", self.request)
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the back end closed the connection at {:?}", self.request)
    }
}

impl std::error::Error for Refused {}
impl std::error::Error for Closed {}

/// A connection to a back end.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// REPLY_ACK was negotiated: every request without an answer of its own asks for one.
    pub(super) acknowledged: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> anyhow::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE)).context("limit the wait for answers")?;
        stream.set_write_timeout(Some(PATIENCE)).context("limit the wait for requests")?;
        Ok(Self { stream, acknowledged: false })
    }

    /// Sends a request that has no answer of its own, and waits until it is done where the protocol lets us.
    pub(super) fn tell(
        &self,
        request: Request,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> anyhow::Result<()> {
        let flags = if self.acknowledged { NEED_REPLY } else { 0 };
        self.send(request, flags, body, descriptors)?;
        if self.acknowledged {
            let (answer, _) = self.receive(request)?;
            anyhow::ensure!(answer.u64(0)? == 0, Refused { request });
        }
        Ok(())
    }

    /// Sends a request and returns its answer, with the descriptor that came along.
    pub(super) fn ask(
        &self,
        request: Request,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> anyhow::Result<(Answer, Option<OwnedFd>)> {
        self.send(request, 0, body, descriptors)?;
        self.receive(request)
    }

    /// Sends a request as it is, right or wrong, and waits for nothing.
    pub fn send(
        &self,
        request: Request,
        flags: u32,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> anyhow::Result<()> {
        let mut message = Vec::with_capacity(12 + body.len());
        message.extend((request as u32).to_ne_bytes());
        message.extend((VERSION | flags).to_ne_bytes());
        message.extend(u32::try_from(body.len()).context("a body that long")?.to_ne_bytes());
        message.extend(body);
        self.send_raw(&message, descriptors).map_err(|error| {
            if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
                Closed { request }.into()
            } else {
                anyhow::Error::new(error).context(format!("send {request:?}"))
            }
        })
    }

    /// Sends any bytes with at most 8 descriptors, for being wrong on purpose.
    pub fn send_raw(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut sent = loop {
            let slices = [IoSlice::new(message)];
            match rustix::net::sendmsg(&self.stream, &slices, &mut control, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result?,
            }
        };
        while let Some(rest) = message.get(sent..).filter(|rest| !rest.is_empty()) {
            sent += rustix::io::retry_on_intr(|| rustix::net::send(&self.stream, rest, SendFlags::NOSIGNAL))?;
        }
        Ok(())
    }

    pub(super) fn close(&self) -> anyhow::Result<()> {
        self.stream.shutdown(Shutdown::Both).context("close the connection")
    }

    pub(super) fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn receive(&self, request: Request) -> anyhow::Result<(Answer, Option<OwnedFd>)> {
        let mut header = [0; 12];
        let descriptor = self.fill(&mut header, request)?;
        let [r0, r1, r2, r3, f0, f1, f2, f3, l0, l1, l2, l3] = header;
        let number = u32::from_ne_bytes([r0, r1, r2, r3]);
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        anyhow::ensure!(
            number == request as u32 && flags & 3 == VERSION && flags & REPLY != 0 && len <= BODY_MAX,
            "not an answer to {request:?}: request {number}, flags {flags:#x}, {len} bytes"
        );
        let mut body = vec![0; len];
        self.fill(&mut body, request)?;
        Ok((Answer { request, body }, descriptor))
    }

    fn fill(&self, mut to: &mut [u8], request: Request) -> anyhow::Result<Option<OwnedFd>> {
        let mut descriptor = None;
        while !to.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = rustix::net::recvmsg(
                &self.stream,
                &mut [IoSliceMut::new(to)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            );
            let bytes = match received {
                Ok(received) => received.bytes,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::CONNRESET) => 0,
                Err(error) => return Err(error).with_context(|| format!("wait for {request:?}'s answer")),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptor = rights.last().or(descriptor);
                }
            }
            anyhow::ensure!(bytes > 0, Closed { request });
            to = to.split_at_mut_checked(bytes).map(|(_, rest)| rest).unwrap_or_default();
        }
        Ok(descriptor)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A program being started by another thread has a copy of every descriptor until it runs; closing ours would
        // then say nothing to the back end yet.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    request: Request,
    body: Vec<u8>,
}

impl Answer {
    pub(super) fn u64(&self, offset: usize) -> anyhow::Result<u64> {
        let rest = self.body.get(offset..).and_then(|rest| rest.first_chunk());
        rest.map(|bytes| u64::from_ne_bytes(*bytes)).with_context(|| self.too_short())
    }

    pub(super) fn u32(&self, offset: usize) -> anyhow::Result<u32> {
        let rest = self.body.get(offset..).and_then(|rest| rest.first_chunk());
        rest.map(|bytes| u32::from_ne_bytes(*bytes)).with_context(|| self.too_short())
    }

    fn too_short(&self) -> String {
        format!("the answer to {:?} has only {} bytes", self.request, self.body.len())
    }
}

/// The body of a request, written field by field.
#[derive(Debug, Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
