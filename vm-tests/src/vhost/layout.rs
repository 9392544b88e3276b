//! Buffers of a queue: each is one stretch of guest memory, cut into the descriptors that the options ask for.
//! It must never know which way frames go.

use super::memory::{Memory, Window};
use super::ring::{DESCRIPTOR, Piece, Ring};

/// The most descriptors of one chain; Linux drivers use up to 19.
const PIECES_MAX: usize = 64;

/// How a frame's buffer becomes descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One descriptor for header and frame, where the negotiated features allow it (a legacy driver needs ANY_LAYOUT).
    Together,
    /// The virtio-net header in a descriptor of its own, the frame in another.
    HeaderApart,
    /// Descriptors of at most so many bytes; larger where the chain would have more than 64 or than the ring has.
    Pieces(u32),
}

/// How buffers are cut, once features are known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) layout: Layout,
    pub(super) header_len: u32,
    /// The header must have a descriptor of its own.
    pub(super) header_apart: bool,
    /// Chains are in tables of their own.
    pub(super) indirect: bool,
}

/// One buffer, and its place for an indirect table.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) buffer: Window,
    table: Option<Window>,
}

impl Slot {
    pub(super) fn new(memory: &mut Memory, len: u32, cut: Cut) -> anyhow::Result<Self> {
        let buffer = memory.allocate(len as usize, 64)?;
        let table = if cut.indirect { Some(memory.allocate(PIECES_MAX * DESCRIPTOR, 16)?) } else { None };
        Ok(Self { buffer, table })
    }

    /// Bytes of guest memory a slot takes at most, with its alignments.
    pub(super) fn footprint(len: u32) -> u64 {
        u64::from(len).next_multiple_of(64) + (PIECES_MAX * DESCRIPTOR + 16) as u64
    }

    /// Adds the first `len` bytes of the buffer to `ring`, or nothing when that lacks descriptors.
    pub(super) fn add_to(&self, ring: &mut Ring, cut: Cut, len: u32, write: bool, token: u16) -> bool {
        let limit = match self.table {
            Some(_) => PIECES_MAX,
            None => PIECES_MAX.min(usize::from(ring.size())),
        };
        let mut pieces = [Piece::default(); PIECES_MAX];
        let count = cut.pieces(&self.buffer, len, write, pieces.get_mut(..limit).unwrap_or_default());
        let pieces = pieces.get(..count).unwrap_or_default();
        match &self.table {
            // A table for one buffer would only cost a look-up.
            Some(table) if count > 1 => ring.add_indirect(pieces, table, token),
            Some(_) | None => ring.add(pieces, token),
        }
    }
}

impl Cut {
    /// Fills `pieces` from the start and returns how many it took.
    fn pieces(self, buffer: &Window, len: u32, write: bool, pieces: &mut [Piece]) -> usize {
        let most = match self.layout {
            Layout::Together | Layout::HeaderApart => u32::MAX,
            Layout::Pieces(most) => most.max(1),
        };
        let header_apart = self.header_apart || self.layout == Layout::HeaderApart;
        let last = pieces.len().saturating_sub(1);
        let (mut offset, mut count) = (0, 0);
        for (at, place) in pieces.iter_mut().enumerate() {
            let left = len - offset;
            if left == 0 {
                break;
            }
            let wanted = if at == 0 && header_apart { self.header_len } else { most };
            let taken = if at == last { left } else { wanted.min(left) };
            *place = Piece { guest: buffer.guest() + u64::from(offset), len: taken, write };
            offset += taken;
            count = at + 1;
        }
        count
    }
}
