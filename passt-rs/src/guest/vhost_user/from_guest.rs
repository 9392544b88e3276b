//! Frames from the guest: chains followed, headers copied, payload left where it is.

use std::ops::Range;

use super::chain::Direction;
use super::device::Device;
use super::features;
use super::memory::Part;
use super::{Place, Received, SLICES_MAX, VhostUser};
use crate::drop_reason::DropReason;
use crate::guest::FRAME_MAX;
use crate::iovec::{self, Piece};
use crate::wire::{Checksum, Offload, Segmentation, VNET_HEADER_LEN};

/// Frames that can be held for a batch.
const FRAMES_MAX: usize = 64;
/// Bytes of a frame that are always copied: all headers.
const HEAD_LEN: usize = 256;
/// Bytes of frames copied whole, beyond which no more are held.
const COPIES_MAX: usize = 512 * 1024;
/// Frames taken from one ring before the next gets its turn.
const FRAMES_PER_TURN: usize = 32;

/// One frame in the guest's memory.
#[derive(Debug)]
struct Frame {
    head: [u8; HEAD_LEN],
    len: usize,
    /// Its parts, header of the device included, in [`Frames::parts`].
    parts: Range<usize>,
    /// Length of that header.
    skip: usize,
    /// Where its copy begins in [`Frames::copies`].
    copy: Option<usize>,
    /// Length of all copies with this one.
    copies: usize,
}

/// Frames taken from the rings and not given back yet.
#[derive(Debug)]
pub(super) struct Frames {
    frames: Vec<Frame>,
    /// How many of them are held; the next one is built behind those.
    held: usize,
    parts: Vec<Part>,
    copies: Vec<u8>,
    /// Every chain taken since frames were given back: ring and first descriptor, in order.
    taken: Vec<(u16, u16)>,
    /// Frames taken from the ring at the front of those that are ready.
    turn: usize,
}

impl Frames {
    pub(super) fn new() -> Self {
        let empty = || Frame { head: [0; HEAD_LEN], len: 0, parts: 0..0, skip: 0, copy: None, copies: 0 };
        let frames = std::iter::repeat_with(empty).take(FRAMES_MAX).collect();
        Self { frames, held: 0, parts: Vec::new(), copies: Vec::new(), taken: Vec::new(), turn: 0 }
    }

    fn frame(&self, place: Place) -> Option<&Frame> {
        self.frames.get(place.buffer as usize)
    }

    pub(super) fn head(&self, place: Place) -> &[u8] {
        let Some(frame) = self.frame(place) else { return &[] };
        match frame.copy {
            Some(start) => self.copies.get(start..start + frame.len).unwrap_or_default(),
            None => frame.head.get(..frame.len.min(HEAD_LEN)).unwrap_or_default(),
        }
    }

    pub(super) fn whole(&mut self, place: Place) -> &[u8] {
        if let Some(frame) = self.frames.get_mut(place.buffer as usize)
            && frame.copy.is_none()
            && frame.len > HEAD_LEN
        {
            copy_whole(frame, &self.parts, &mut self.copies);
        }
        self.head(place)
    }

    pub(super) fn gather<'a>(
        &'a self,
        place: Place,
        range: Range<usize>,
        pieces: &mut [Piece<'a>; SLICES_MAX],
    ) -> usize {
        let Some(frame) = self.frame(place) else { return 0 };
        if frame.copy.is_some() || frame.len <= HEAD_LEN {
            let [first, ..] = pieces;
            *first = Piece::new(self.head(place).get(range).unwrap_or_default());
            return 1;
        }
        let mut skip = frame.skip + range.start;
        let mut left = range.len();
        let mut used = 0;
        for part in self.parts.get(frame.parts.clone()).unwrap_or_default() {
            let piece = part.as_piece();
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let piece = piece.skip(skip).first(left);
            skip = 0;
            left -= piece.len();
            let Some(place) = pieces.get_mut(used).filter(|_| !piece.is_empty()) else { break };
            *place = piece;
            used += 1;
        }
        used
    }

    pub(super) fn hold(&mut self) -> bool {
        self.held += 1;
        self.held < FRAMES_MAX && self.copies.len() < COPIES_MAX
    }

    /// Forgets what the frame behind the held ones left.
    fn rewind(&mut self) {
        let before = self.held.checked_sub(1).and_then(|last| self.frames.get(last));
        self.parts.truncate(before.map_or(0, |frame| frame.parts.end));
        self.copies.truncate(before.map_or(0, |frame| frame.copies));
    }

    /// Makes a frame of the parts from `start` on, `total` bytes with the device's header of `header_len` in front.
    fn build(&mut self, start: usize, total: usize, header_len: usize, features: u64) -> Option<Received> {
        let len = total.checked_sub(header_len).filter(|len| *len <= FRAME_MAX)?;
        let frame = self.frames.get_mut(self.held)?;
        let mut bytes = [0; VNET_HEADER_LEN + HEAD_LEN];
        let all = self.parts.get(start..).unwrap_or_default();
        iovec::copy_all(all.iter().map(Part::as_piece), &mut bytes);
        let (header, head) = bytes.split_at_checked(header_len)?;
        frame.head.copy_from_slice(head.get(..HEAD_LEN)?);
        frame.len = len;
        frame.parts = start..self.parts.len();
        frame.skip = header_len;
        frame.copy = None;
        let mut vnet = [0; VNET_HEADER_LEN];
        vnet.get_mut(..header_len)?.copy_from_slice(header);
        let offload = Offload::parse(&vnet).filter(|offload| is_accepted(offload, features));
        let to_verify = offload.is_some_and(|offload| offload.checksum == Checksum::Complete);
        frame.copies = self.copies.len();
        if len > HEAD_LEN && (to_verify || all.len() > SLICES_MAX) {
            copy_whole(frame, &self.parts, &mut self.copies);
        }
        let place =
            Place { buffer: u32::try_from(self.held).ok()?, offset: 0, len: u32::try_from(len).ok()? };
        Some(Received { place, offload: offload.ok_or(DropReason::Offload), queue: 0 })
    }
}

fn copy_whole(frame: &mut Frame, parts: &[Part], copies: &mut Vec<u8>) {
    let start = copies.len();
    copies.resize(start + frame.len, 0);
    let mut skip = frame.skip;
    let parts = parts.get(frame.parts.clone()).unwrap_or_default();
    let pieces = parts.iter().map(|part| {
        let piece = part.as_piece();
        let skipped = skip.min(piece.len());
        skip -= skipped;
        piece.skip(skipped)
    });
    iovec::copy_all(pieces, copies.get_mut(start..).unwrap_or_default());
    // What was looked at must not differ from what the copy says.
    for (to, from) in copies.iter_mut().skip(start).zip(&frame.head) {
        *to = *from;
    }
    frame.copy = Some(start);
    frame.copies = copies.len();
}

/// Whether the guest may leave this to us.
fn is_accepted(offload: &Offload, accepted: u64) -> bool {
    let checksum = match offload.checksum {
        Checksum::Partial { .. } => features::NET_F_CSUM,
        Checksum::Complete | Checksum::Valid => 0,
    };
    let segmentation = match offload.segmentation {
        Segmentation::None => 0,
        Segmentation::Tcp4 { .. } => features::NET_F_HOST_TSO4,
        Segmentation::Tcp6 { .. } => features::NET_F_HOST_TSO6,
        Segmentation::Udp { .. } => features::NET_F_HOST_USO,
    };
    accepted & (checksum | segmentation) == checksum | segmentation
}

impl VhostUser {
    /// The next frame of the rings that may hold any, which take turns.
    pub(super) fn next_frame(&mut self) -> Option<Received> {
        while let Some(&index) = self.ready.front() {
            match self.frame_of(index) {
                Some(received) => {
                    self.frames.turn += 1;
                    if self.frames.turn >= FRAMES_PER_TURN {
                        self.frames.turn = 0;
                        self.ready.rotate_left(1);
                    }
                    return Some(received);
                }
                None => {
                    self.frames.turn = 0;
                    self.ready.pop_front();
                    if let Some(queue) = self.device.queues.get_mut(usize::from(index)) {
                        queue.listed = false;
                    }
                }
            }
        }
        None
    }

    /// The next frame of the ring `index`. `None`: it is empty, and the guest will say when it is not.
    fn frame_of(&mut self, index: u16) -> Option<Received> {
        let header_len = features::header_len(self.device.features);
        let Device { queues, memory, inflight, features, .. } = &mut self.device;
        let queue = queues.get_mut(usize::from(index)).filter(|queue| queue.is_active())?;
        loop {
            let head = match queue.take(inflight) {
                Ok(Some(head)) => head,
                Ok(None) => match queue.ring.has_more(memory) {
                    Ok(true) => continue,
                    Ok(false) => return None,
                    Err(broken) => {
                        queue.give_up(broken);
                        return None;
                    }
                },
                Err(broken) => {
                    queue.give_up(broken);
                    self.drops.count(DropReason::Descriptors);
                    return None;
                }
            };
            self.frames.rewind();
            self.frames.taken.push((index, head));
            let start = self.frames.parts.len();
            let followed = queue.ring.follow(memory, head, Direction::FromDriver, &mut self.frames.parts);
            let refused = |reason| Received { place: Place::default(), offload: Err(reason), queue: 0 };
            let built = match followed {
                // A ring that is not enabled is emptied without effect (vhost-user, "Ring states").
                _ if !queue.enabled => refused(DropReason::QueueDisabled),
                Ok(total) => {
                    let built = self.frames.build(start, total, header_len, *features);
                    built.unwrap_or_else(|| refused(DropReason::Descriptors))
                }
                Err(_) => refused(DropReason::Descriptors),
            };
            return Some(Received { queue: index / 2, ..built });
        }
    }

    /// Gives all frames back to the guest; they are visible after the next flush.
    pub(super) fn give_frames_back(&mut self) {
        let Device { queues, memory, inflight, .. } = &mut self.device;
        let frames = &mut self.frames;
        for (index, head) in frames.taken.drain(..) {
            if let Some(queue) = queues.get_mut(usize::from(index)) {
                queue.give_back(memory, inflight.as_ref(), head, 0);
                queue.touch(&mut self.touched);
            }
        }
        frames.parts.clear();
        frames.copies.clear();
        frames.held = 0;
    }
}
