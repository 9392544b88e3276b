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

mod stream;
mod tap;

use std::io;
use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use crate::wire::Offload;

pub use stream::Stream;
pub use tap::{Tap, TapError};

/// The largest frame either way: a full IP packet, its Ethernet header and a VLAN tag's worth of slack.
pub const FRAME_MAX: usize = 65_535 + 18;
/// Bytes of headers that [`Guest::reserve`] is asked for at most.
pub const HEADERS_MAX: usize = 256;
/// iovecs that one frame's payload needs at most; a kernel skb has 17 fragments and a head.
pub const SLICES_MAX: usize = 20;

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
    /// `None`: a segmentation kind we never negotiated.
    pub offload: Option<Offload>,
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

/// Room for one frame towards the guest.
#[derive(Debug)]
pub struct Room<'a> {
    /// As many bytes as were asked for.
    pub headers: &'a mut [u8],
    /// Follows the headers in the frame. May be filled short.
    pub payload: &'a mut [u8],
}

/// What the guest's end can be handed beside plain frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Frames with a partial transport checksum.
    pub checksum: bool,
    /// TCP segments larger than the MTU, cut by the device.
    pub tso: bool,
    /// UDP super-datagrams, cut by the device.
    pub uso: bool,
}

/// The frame could not be queued: the guest does not take any more at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest's end of the cable is full")]
pub struct Full;

/// A transport.
pub trait Guest {
    /// Registers the transport's descriptors, level triggered, under `token`. Called once.
    fn attach(&mut self, epoll: BorrowedFd<'_>, token: u64) -> io::Result<()>;

    /// Handles readiness; afterwards frames may be received and room may be there again.
    fn on_event(&mut self);

    /// What became of the cable since the last call. Asked after every batch of work.
    fn take_link(&mut self) -> Link;

    fn offloads(&self) -> Offloads;

    /// The next frame, or `None` when there is none at the moment. Frames received before stay valid until
    /// [`Self::release`] only if they were [held](Self::hold); others until the next call.
    fn receive(&mut self) -> Option<Received>;

    /// The frame's first bytes, all headers included, in memory nobody else writes.
    fn head(&self, place: Place) -> &[u8];

    /// Puts `range` of the frame into `slices`; gives how many were used.
    fn gather<'a>(
        &'a self,
        place: Place,
        range: Range<usize>,
        slices: &mut [IoSlice<'a>; SLICES_MAX],
    ) -> usize;

    /// Keeps the frame's bytes where they are until [`Self::release`]. `false`: this was the last one that
    /// can be kept; release before receiving again.
    fn hold(&mut self, place: Place) -> bool;

    /// Lets go of all held frames.
    fn release(&mut self);

    /// Room for a frame of `headers` plus at most `payload` bytes. `None`: full; see [`Self::on_event`].
    fn reserve(&mut self, headers: usize, payload: usize) -> Option<Room<'_>>;

    /// Hands over the frame in the room reserved last, with `headers` and `payload` bytes really filled;
    /// `headers` is what was reserved. [`Full`]: the frame is lost, as in a switch whose queue is full.
    fn publish(&mut self, offload: Offload, headers: usize, payload: usize) -> Result<(), Full>;

    /// Sends a frame that lies elsewhere.
    fn send(&mut self, offload: Offload, headers: &[u8], payload: &[IoSlice<'_>]) -> Result<(), Full>;

    /// Pushes out what was published since the last call.
    fn flush(&mut self);
}
