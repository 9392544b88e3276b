//! Bytes from guests that a host socket does not take yet, or that arrived ahead of their turn.
//!
//! A flow names its queue by id. A queue maps positions, counted from the first byte that the socket did not
//! take, to chunks of a pool with a fixed limit; when the pool is empty bytes are refused and the guest
//! sends them again.

use std::collections::VecDeque;

use crate::iovec::Piece;

/// Size of a chunk. A whole segment of 64 KiB takes two or three.
pub(super) const CHUNK_LEN: usize = 32 * 1024;
/// Free chunks kept for the next burst; the others go back to the allocator.
const SPARE_CHUNKS: usize = 32;

/// Names a queue; plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueId(u32);

/// All queues and their memory.
#[derive(Debug)]
pub(super) struct Spill {
    queues: Vec<Queue>,
    free_queues: Vec<u32>,
    spare: Vec<Box<[u8]>>,
    used_chunks: usize,
    limit_chunks: usize,
}

#[derive(Debug, Default)]
struct Queue {
    /// Position 0 lies this far into the first chunk.
    start: usize,
    /// `None`: nothing was stored there.
    chunks: VecDeque<Option<Box<[u8]>>>,
}

impl Spill {
    /// A pool of at most `limit_bytes`.
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self {
            queues: Vec::new(),
            free_queues: Vec::new(),
            spare: Vec::new(),
            used_chunks: 0,
            limit_chunks: limit_bytes / CHUNK_LEN,
        }
    }

    /// Bytes of memory in use by queues.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_chunks * CHUNK_LEN
    }

    /// Less than a quarter of the pool is left: new promises should be small.
    pub(super) fn is_short(&self) -> bool {
        self.used_chunks * 4 > self.limit_chunks * 3
    }

    /// Less than an eighth of the pool is left: flows that would need it get no more promises.
    pub(super) fn is_exhausted(&self) -> bool {
        self.used_chunks * 8 >= self.limit_chunks * 7
    }

    pub(super) fn open(&mut self) -> QueueId {
        if let Some(id) = self.free_queues.pop() {
            return QueueId(id);
        }
        self.queues.push(Queue::default());
        QueueId(u32::try_from(self.queues.len() - 1).unwrap_or(u32::MAX))
    }

    pub(super) fn close(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id.0 as usize) else { return };
        let Queue { chunks, .. } = std::mem::take(queue);
        for chunk in chunks.into_iter().flatten() {
            self.put_back(chunk);
        }
        self.free_queues.push(id.0);
    }

    /// Copies `pieces` to `position` and on; gives how many bytes found room.
    pub(super) fn store(&mut self, id: QueueId, position: usize, pieces: &[Piece<'_>]) -> usize {
        let mut stored = 0;
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let Some(place) = self.place(id, position + stored) else { return stored };
                let copied = rest.copy_to(place);
                stored += copied;
                rest = rest.skip(copied);
            }
        }
        stored
    }

    /// Memory from `position` to the end of its chunk.
    fn place(&mut self, id: QueueId, position: usize) -> Option<&mut [u8]> {
        let start = self.queues.get(id.0 as usize)?.start + position;
        let (number, offset) = (start / CHUNK_LEN, start % CHUNK_LEN);
        let missing = self.queues.get(id.0 as usize)?.chunks.get(number).is_none_or(Option::is_none);
        let chunk = if missing { Some(self.take_out()?) } else { None };
        let queue = self.queues.get_mut(id.0 as usize)?;
        while queue.chunks.len() <= number {
            queue.chunks.push_back(None);
        }
        let place = queue.chunks.get_mut(number)?;
        if chunk.is_some() {
            *place = chunk;
        }
        place.as_mut()?.get_mut(offset..)
    }

    /// The first chunk's bytes, at most `len`, for a system call.
    pub(super) fn front(&self, id: QueueId, len: usize) -> &[u8] {
        let Some(queue) = self.queues.get(id.0 as usize) else { return &[] };
        let Some(Some(chunk)) = queue.chunks.front() else { return &[] };
        let end = queue.start.saturating_add(len).min(CHUNK_LEN);
        chunk.get(queue.start..end).unwrap_or_default()
    }

    /// Forgets the first `bytes` positions.
    pub(super) fn advance(&mut self, id: QueueId, bytes: usize) {
        let Some(queue) = self.queues.get_mut(id.0 as usize) else { return };
        queue.start += bytes;
        let mut gone = Vec::new();
        while queue.start >= CHUNK_LEN {
            queue.start -= CHUNK_LEN;
            gone.extend(queue.chunks.pop_front().flatten());
        }
        for chunk in gone {
            self.put_back(chunk);
        }
    }

    fn take_out(&mut self) -> Option<Box<[u8]>> {
        if self.used_chunks >= self.limit_chunks {
            return None;
        }
        self.used_chunks += 1;
        Some(self.spare.pop().unwrap_or_else(|| vec![0; CHUNK_LEN].into_boxed_slice()))
    }

    fn put_back(&mut self, chunk: Box<[u8]>) {
        self.used_chunks -= 1;
        if self.spare.len() < SPARE_CHUNKS {
            self.spare.push(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_limit_refuses_bytes_and_freed_memory_serves_again() {
        let mut spill = Spill::new(2 * CHUNK_LEN);
        let (a, b) = (spill.open(), spill.open());
        let bytes = vec![7; 3 * CHUNK_LEN];
        assert_eq!(spill.store(a, 0, &[Piece::new(&bytes)]), 2 * CHUNK_LEN);
        assert_eq!(spill.store(b, 0, &[Piece::new(&bytes)]), 0);
        spill.close(a);
        assert_eq!(spill.store(b, 0, &[Piece::new(b"x")]), 1);
        assert_eq!(spill.used_bytes(), CHUNK_LEN);
    }

    proptest! {
        /// Bytes stored anywhere and in any order come out where they belong.
        #[test]
        fn agrees_with_a_flat_buffer(
            steps in proptest::collection::vec((0usize..100_000, 1usize..40_000, any::<u8>()), 1..12), cut in 0usize..60_000,
        ) {
            let mut spill = Spill::new(1 << 20);
            let queue = spill.open();
            let mut model = vec![0u8; 140_000];
            spill.store(queue, 0, &[Piece::new(&model)]);
            for (position, len, byte) in steps {
                let bytes = vec![byte; len];
                prop_assert_eq!(spill.store(queue, position, &[Piece::new(&bytes)]), len);
                model[position..position + len].fill(byte);
            }
            spill.advance(queue, cut);
            let mut out = Vec::new();
            loop {
                let front = spill.front(queue, 10_000);
                if front.is_empty() {
                    break;
                }
                out.extend_from_slice(front);
                let len = front.len();
                spill.advance(queue, len);
            }
            prop_assert_eq!(&out[..140_000 - cut], &model[cut..]);
            spill.close(queue);
            prop_assert_eq!(spill.used_bytes(), 0);
        }
    }
}
