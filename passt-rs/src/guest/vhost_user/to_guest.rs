//! Frames to the guest: buffers it gave us, filled where they are.

use std::io::IoSlice;

use super::chain::Direction;
use super::device::Device;
use super::inflight::Inflight;
use super::memory::{Memory, Part};
use super::queue::Queue;
use super::ring::Broken;
use super::{Full, Room, VhostUser, features};
use crate::drop_reason::DropReason;
use crate::guest::{FRAME_MAX, HEADERS_MAX, PIECES_MAX, Payload};
use crate::iovec::PieceMut;
use crate::wire::{Offload, VNET_HEADER_LEN};

/// The frame being built.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The ring that frames go to now.
    queue: u16,
    /// The device's header and the frame's headers, until they are copied to the guest.
    staging: [u8; VNET_HEADER_LEN + HEADERS_MAX],
    /// Length of the frame's headers reserved last.
    headers: usize,
    /// Where the payload reserved last goes.
    pieces: Vec<PieceMut<'static>>,
    /// Parts of the chain that is being taken.
    parts: Vec<Part>,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self {
            queue: 0,
            staging: [0; VNET_HEADER_LEN + HEADERS_MAX],
            headers: 0,
            pieces: Vec::with_capacity(PIECES_MAX),
            parts: Vec::new(),
        }
    }

    pub(super) fn steer(&mut self, pair: u16) {
        self.queue = pair.saturating_mul(2);
    }

    pub(super) fn room(&mut self) -> Room<'_> {
        let headers = self.staging.get_mut(VNET_HEADER_LEN..VNET_HEADER_LEN + self.headers);
        Room { headers: headers.unwrap_or_default(), payload: Payload::Many(&self.pieces) }
    }

    /// Forgets what was reserved; the memory may go.
    pub(super) fn forget(&mut self) {
        self.pieces.clear();
        self.parts.clear();
    }
}

/// Takes chains until a frame of `needed` bytes fits, or no more can be had. Without mergeable buffers a frame has
/// one chain.
fn fill(
    queue: &mut Queue,
    (memory, inflight): (&Memory, &mut Option<Inflight>),
    (needed, mergeable): (usize, bool),
    scratch: &mut Vec<Part>,
) -> Result<(), Broken> {
    while queue.supply.bytes() < needed
        && queue.supply.parts() < PIECES_MAX
        && (mergeable || queue.supply.chains() == 0)
    {
        let Some(head) = queue.take(inflight)? else { break };
        scratch.clear();
        // A chain that is no buffer is kept as an empty one: they go back in order.
        let len = queue.ring.follow(memory, head, Direction::ToDriver, scratch).unwrap_or(0);
        queue.supply.push(head, scratch, len);
        if len == 0 {
            break;
        }
    }
    Ok(())
}

/// Bytes of the first frame that the supply has room for, as far as `needed`. A chain that is no buffer ends it.
fn room(queue: &Queue, needed: usize, mergeable: bool) -> usize {
    let chains = if mergeable { usize::MAX } else { 1 };
    let mut room = 0;
    for len in queue.supply.lens().take(chains) {
        room += len;
        if len == 0 || room >= needed {
            break;
        }
    }
    room
}

impl VhostUser {
    /// The ring that frames go to: the one steered to, or the first while that one is not enabled.
    fn outgoing_ring(&self) -> u16 {
        let usable = |index: &u16| {
            let queue = self.device.queues.get(usize::from(*index));
            queue.is_some_and(|queue| queue.enabled && queue.is_active())
        };
        Some(self.outgoing.queue).filter(usable).unwrap_or(0)
    }

    /// Bytes of room in the ring `index` for one frame: `needed`, or what there is. 0: less than `least`, and the guest
    /// will say when there is more.
    fn supply(&mut self, index: u16, needed: usize, least: usize) -> usize {
        let mergeable = self.device.features & features::NET_F_MRG_RXBUF != 0;
        let Device { queues, memory, inflight, .. } = &mut self.device;
        let queue = queues.get_mut(usize::from(index)).filter(|queue| queue.enabled && queue.is_active());
        let Some(queue) = queue else { return 0 };
        for _ in 0..queue.ring.size() {
            let filled = fill(queue, (memory, inflight), (needed, mergeable), &mut self.outgoing.parts);
            let room = room(queue, needed, mergeable);
            if room >= least && filled.is_ok() {
                return room.min(needed);
            }
            // More would not help: a chain that is too short, or is no buffer at all, or too many small ones.
            let useless = if mergeable {
                room < queue.supply.bytes()
                    || queue.supply.lens().any(|len| len == 0)
                    || queue.supply.parts() >= PIECES_MAX
            } else {
                queue.supply.chains() > 0
            };
            let more = match filled {
                Ok(()) if useless => {
                    while let Some(chain) = queue.supply.pop() {
                        self.drops.count(DropReason::Descriptors);
                        queue.give_back(memory, inflight.as_ref(), chain.head, 0);
                    }
                    queue.touch(&mut self.touched);
                    continue;
                }
                Ok(()) => {
                    // A driver adds buffers when it is told of used ones: do not wait for it with news of those.
                    if queue.touched {
                        queue.publish(memory, inflight.as_ref());
                        queue.interrupt();
                    }
                    queue.ring.has_more(memory)
                }
                Err(broken) => Err(broken),
            };
            match more {
                Ok(true) => {}
                Ok(false) => return 0,
                Err(broken) => {
                    self.drops.count(DropReason::Descriptors);
                    queue.give_up(broken);
                    return 0;
                }
            }
        }
        // A ring full of nothing that could be filled.
        queue.wait(memory);
        0
    }

    pub(super) fn reserve_room(&mut self, headers: usize, payload: usize) -> Option<Room<'_>> {
        let before = features::header_len(self.device.features) + headers;
        let index = self.outgoing_ring();
        self.outgoing.pieces.clear();
        let room = self.supply(index, before + payload, before + payload.min(1));
        if headers > HEADERS_MAX || room < before + payload.min(1) {
            return None;
        }
        self.outgoing.queue = index;
        self.outgoing.headers = headers;
        let queue = self.device.queues.get(usize::from(index))?;
        let parts = queue.supply.range(before, room - before).take(PIECES_MAX);
        self.outgoing.pieces.extend(parts.map(|part| part.as_piece_mut()));
        Some(self.outgoing.room())
    }

    /// Copies the headers in front of the payload and gives the buffers to the guest.
    pub(super) fn publish_frame(&mut self, offload: Offload, headers: usize, payload: usize) {
        let header_len = features::header_len(self.device.features);
        let index = self.outgoing.queue;
        let Device { queues, memory, inflight, .. } = &mut self.device;
        let Some(queue) = queues.get_mut(usize::from(index)).filter(|queue| queue.is_active()) else {
            return;
        };
        let total = header_len + headers + payload;
        let (mut chains, mut room) = (0u16, 0);
        let mut lens = queue.supply.lens();
        while room < total {
            let Some(len) = lens.next() else { return };
            room += len;
            chains += 1;
        }
        drop(lens);
        let mut vnet = offload.emit();
        let [.., low, high] = &mut vnet;
        [*low, *high] = chains.to_le_bytes();
        let start = VNET_HEADER_LEN - header_len;
        for (place, byte) in self.outgoing.staging.iter_mut().skip(start).zip(vnet.iter().take(header_len)) {
            *place = *byte;
        }
        let mut rest = self.outgoing.staging.get(start..VNET_HEADER_LEN + headers).unwrap_or_default();
        for part in queue.supply.range(0, header_len + headers) {
            let copied = part.as_piece_mut().copy_from(rest);
            rest = rest.get(copied..).unwrap_or_default();
        }
        if memory.is_logging() {
            queue
                .supply
                .range(0, total)
                .for_each(|part| memory.note_written(part.guest, u64::from(part.len)));
        }
        let mut left = total;
        for _ in 0..chains {
            let Some(chain) = queue.supply.pop() else { break };
            let written = chain.len.min(left);
            left -= written;
            queue.give_back(
                memory,
                inflight.as_ref(),
                chain.head,
                u32::try_from(written).unwrap_or(u32::MAX),
            );
        }
        // All buffers of the frame become visible at once (virtio 1.2 section 5.1.6.4).
        queue.publish(memory, inflight.as_ref());
        queue.touch(&mut self.touched);
        self.outgoing.pieces.clear();
    }

    pub(super) fn send_frame(
        &mut self,
        offload: Offload,
        headers: &[u8],
        payload: &[IoSlice<'_>],
    ) -> Result<(), Full> {
        // All of it is payload here: an answer of ours is longer than any headers.
        let len = headers.len() + payload.iter().map(|slice| slice.len()).sum::<usize>();
        let room = self.reserve_room(0, len).ok_or(Full)?;
        if room.payload_len() < len {
            return Err(Full);
        }
        let mut pieces = self.outgoing.pieces.iter_mut();
        let mut piece = pieces.next();
        let mut at = 0;
        for part in std::iter::once(headers).chain(payload.iter().map(|slice| &**slice)) {
            let mut rest = part;
            while !rest.is_empty() {
                let Some(place) = &mut piece else { return Err(Full) };
                let copied = place.skip(at).copy_from(rest);
                at += copied;
                rest = rest.get(copied..).unwrap_or_default();
                if at >= place.len() {
                    piece = pieces.next();
                    at = 0;
                }
            }
        }
        self.publish_frame(offload, 0, len);
        Ok(())
    }

    pub(super) fn count_room(&mut self, len: usize, most: usize) -> usize {
        let before = features::header_len(self.device.features);
        let mergeable = self.device.features & features::NET_F_MRG_RXBUF != 0;
        let index = self.outgoing_ring();
        // A frame of any length, if it can be had: what is received may be that long.
        let room = self.supply(index, before + HEADERS_MAX + FRAME_MAX, before + HEADERS_MAX);
        if room == 0 {
            return 0;
        }
        let Device { queues, memory, .. } = &mut self.device;
        let Some(queue) = queues.get_mut(usize::from(index)) else { return 0 };
        let chains = usize::from(queue.ring.waiting_now().unwrap_or(0)) + usize::from(queue.supply.chains());
        queue.most_chains = queue.most_chains.max(chains);
        let each = queue.supply.first().map_or(1, |chain| chain.len.max(1));
        let of_frame = if mergeable { (before + len).div_ceil(each) } else { 1 };
        // The first chain may be a small one in front of large ones, and the parts may be as many as a frame can have.
        let lacking =
            chains < of_frame && queue.supply.bytes() < before + len && queue.supply.parts() < PIECES_MAX;
        // A driver that gave enough for such a frame before will do so again; of another this is all there is.
        if lacking && queue.most_chains >= of_frame {
            queue.wait(memory);
            return 0;
        }
        (chains / of_frame).max(1).min(most)
    }
}
