//! The guest's end of the cable: bytes in, bytes out, not protocols.
//!
//! A transport gives frames by place, not by slice: headers are private memory that the guest cannot change
//! any more, the rest is gathered as iovecs for a system call. Towards the guest, room is reserved, the
//! host's bytes are read straight into it, headers are written in front, and the frame is published.
//! The relay is compiled once per transport; nothing here knows what is inside a frame.
//!
//! | transport | from the guest | to the guest | offloads |
//! |---|---|---|---|
//! | [`Tap`] | one `read` per frame | one `write` per frame | checksum, TSO, USO |
//! | [`Stream`] | one `recv` for many frames | one `send` for a batch | none |
//! | [`VhostUser`] | shared memory | shared memory | checksum, TSO, USO |

mod door;
mod stream;
mod tap;
mod vhost_user;

use std::io;
use std::io::IoSlice;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use crate::drop_reason::{DropReason, Drops};
use crate::iovec::{Piece, PieceMut};
use crate::wire::Offload;

pub use stream::Stream;
pub use tap::{Tap, TapError};
pub use vhost_user::VhostUser;

/// The largest frame either way: a full IP packet, its Ethernet header and a VLAN tag's worth of slack.
pub const FRAME_MAX: usize = 65_535 + 18;
/// Bytes of headers that [`Guest::reserve`] is asked for at most.
pub const HEADERS_MAX: usize = 256;
/// iovecs that one frame's payload needs at most; a kernel skb has 17 fragments and a head.
pub const SLICES_MAX: usize = 20;
/// iovecs that one frame's room has at most.
pub const PIECES_MAX: usize = 128;

/// A frame's bytes in the transport's buffers, as plain numbers. The default is an empty frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    buffer: u32,
    offset: u32,
    len: u32,
}

impl Place {
    /// Length of the frame in bytes.
    pub fn len(self) -> usize {
        self.len as usize
    }

    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// One frame from the guest.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    pub place: Place,
    /// What was left to us, or why there is no frame.
    pub offload: Result<Offload, DropReason>,
    /// Which of the transport's queues it came through; see [`Guest::steer`].
    pub queue: u16,
}

/// What became of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Unchanged,
    /// A guest was attached; announce ourselves.
    Up,
    /// The guest's end went away; it may come back.
    Down,
    /// The guest's end went away, and another is attached already.
    Replaced,
    /// The guest's end went away and cannot come back.
    Gone,
}

impl Link {
    /// What is to be told of a guest that was attached, where `self` is still to be told.
    fn attached(self) -> Self {
        match self {
            Self::Down | Self::Replaced => Self::Replaced,
            Self::Unchanged | Self::Up | Self::Gone => Self::Up,
        }
    }
}

/// Room for one frame towards the guest.
#[derive(Debug, Default)]
pub struct Room<'a> {
    /// As many bytes as were asked for, in memory of ours.
    pub headers: &'a mut [u8],
    /// Follows the headers in the frame. May be filled short.
    pub payload: Payload<'a>,
}

/// Where a frame's payload goes.
#[derive(Debug)]
pub enum Payload<'a> {
    One(PieceMut<'a>),
    /// Some transports' buffers are smaller than a frame; at most [`PIECES_MAX`].
    Many(&'a [PieceMut<'a>]),
}

impl<'a> Payload<'a> {
    pub fn pieces(&self) -> &[PieceMut<'a>] {
        match self {
            Self::One(piece) => std::slice::from_ref(piece),
            Self::Many(pieces) => pieces,
        }
    }
}

impl Default for Payload<'_> {
    fn default() -> Self {
        Self::Many(&[])
    }
}

impl Room<'_> {
    /// Bytes of payload that there is room for.
    pub fn payload_len(&self) -> usize {
        self.payload.pieces().iter().map(PieceMut::len).sum()
    }
}

/// What the guest's end can be handed beside plain frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Frames with a partial transport checksum.
    pub checksum: bool,
    /// TCP segments larger than the MTU, cut by the device; over IPv4 and over IPv6.
    pub tso4: bool,
    pub tso6: bool,
    /// UDP super-datagrams, cut by the device; over IPv4 and over IPv6.
    pub uso4: bool,
    pub uso6: bool,
}

impl Offloads {
    /// Everything there is.
    pub const ALL: Self = Self { checksum: true, tso4: true, tso6: true, uso4: true, uso6: true };

    /// Whether TCP segments of packets with addresses like `address` may be larger than the MTU.
    pub fn tso(&self, address: IpAddr) -> bool {
        self.checksum && if address.is_ipv4() { self.tso4 } else { self.tso6 }
    }

    /// The same for UDP super-datagrams.
    pub fn uso(&self, address: IpAddr) -> bool {
        self.checksum && if address.is_ipv4() { self.uso4 } else { self.uso6 }
    }
}

/// The frame could not be queued: the guest does not take any more at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest's end of the cable is full")]
pub struct Full;

/// A transport.
pub trait Guest {
    /// Registers the transport's descriptors, level triggered, under `token`. Called once.
    fn attach(&mut self, epoll: BorrowedFd<'_>, token: u64) -> io::Result<()>;

    /// Handles readiness; afterwards frames may be received. `true`: room may be there again, too.
    fn on_event(&mut self) -> bool;

    /// Whether [`Self::on_event`] tells of room each time some was lacking. Others are asked again after each turn.
    fn tells_of_room(&self) -> bool {
        false
    }

    /// What became of the cable since the last call. Asked after every batch of work.
    fn take_link(&mut self) -> Link;

    fn offloads(&self) -> Offloads;

    /// The next frame, or `None` when there is none at the moment. Frames received before stay valid until
    /// [`Self::release`] only if they were [held](Self::hold); others until the next call.
    fn receive(&mut self) -> Option<Received>;

    /// The frame's first bytes, all headers included, in memory nobody else writes. The whole frame if its
    /// transport checksum has to be verified.
    fn head(&self, place: Place) -> &[u8];

    /// All of the frame in memory nobody else writes, for the few kinds whose payload is looked at.
    fn whole(&mut self, place: Place) -> &[u8];

    /// Puts `range` of the frame into `pieces`; gives how many were used.
    fn gather<'a>(&'a self, place: Place, range: Range<usize>, pieces: &mut [Piece<'a>; SLICES_MAX])
    -> usize;

    /// Keeps the frame's bytes where they are until [`Self::release`]. `false`: this was the last one that
    /// can be kept; release before receiving again.
    fn hold(&mut self, place: Place) -> bool;

    /// Lets go of all held frames.
    fn release(&mut self);

    /// From here on frames go to the guest through `queue`, the one that frames of the same flow came through.
    fn steer(&mut self, _queue: u16) {}

    /// Room for a frame of `headers` plus at most `payload` bytes; there may be less for the payload, but never
    /// none. `None`: full; see [`Self::on_event`].
    fn reserve(&mut self, headers: usize, payload: usize) -> Option<Room<'_>>;

    /// The room reserved last, until it is published.
    fn room(&mut self) -> Room<'_>;

    /// How many frames of `len` bytes surely fit now, as far as `most`. 0: full; see [`Self::on_event`].
    fn frames_that_fit(&mut self, len: usize, most: usize) -> usize;

    /// Hands over the frame in the room reserved last, with `headers` and `payload` bytes really filled;
    /// `headers` is what was reserved. [`Full`]: the frame is lost, as in a switch whose queue is full.
    fn publish(&mut self, offload: Offload, headers: usize, payload: usize) -> Result<(), Full>;

    /// Sends a frame that lies elsewhere.
    fn send(&mut self, offload: Offload, headers: &[u8], payload: &[IoSlice<'_>]) -> Result<(), Full>;

    /// Pushes out what was published since the last call.
    fn flush(&mut self);

    /// Counts in `drops` what the transport refused since the last call and did not receive.
    fn report(&mut self, _drops: &mut Drops) {}
}
