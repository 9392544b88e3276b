//! The receive queue: empty buffers go to the device, and come back with frames, some of several buffers.
//! It must never look further into a frame than its virtio-net header.
#![expect(unsafe_code, reason = "writev from guest memory has no safe wrapper; see each block")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::feature::virtio;
use super::header::{HEADER_LEN, Header, LEGACY_HEADER_LEN};
use super::layout::{Cut, Slot};
use super::memory::{Memory, Window};
use super::options::Options;
use super::ring::{Counters, Ring, Violation};

/// Which of the free buffers is given to the device next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refill {
    /// The one that has been free longest.
    InOrder,
    /// The one that became free last.
    Reversed,
    /// Any; the number is the seed.
    Shuffled(u64),
}

/// A received frame. Its bytes stay in guest memory until the next [`RxQueue::receive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub header: Header,
    /// Bytes without the virtio-net header.
    pub len: usize,
}

/// Frames from the device.
#[derive(Debug)]
pub struct RxQueue {
    ring: Ring,
    cut: Cut,
    features: u64,
    any_header: bool,
    slots: Vec<Slot>,
    /// Buffers that the device does not have.
    stock: VecDeque<u16>,
    refill: Refill,
    /// How many buffers the device may have at a time.
    limit: u16,
    /// Elements known to be used and not yet taken.
    ready: u16,
    /// The buffers of the frame last received.
    current: Vec<Part>,
    vectors: Vectors,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    token: u16,
    len: u32,
}

/// Kept only for its capacity.
struct Vectors(Vec<libc::iovec>);

// SAFETY: it is empty but within one call; the addresses are of no thread in particular.
unsafe impl Send for Vectors {}

impl std::fmt::Debug for Vectors {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Vectors")
    }
}

impl RxQueue {
    pub(super) fn new(
        memory: &mut Memory,
        ring: Ring,
        cut: Cut,
        features: u64,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let buffers = options.rx_buffers;
        let mut slots = Vec::with_capacity(buffers.into());
        for _ in 0..buffers {
            slots.push(Slot::new(memory, options.rx_buffer_len, cut)?);
        }
        Ok(Self {
            ring,
            cut,
            features,
            any_header: options.any_header,
            slots,
            stock: (0..buffers).collect(),
            refill: options.refill,
            limit: options.rx_limit,
            ready: 0,
            current: Vec::with_capacity(64),
            vectors: Vectors(Vec::with_capacity(64)),
        })
    }

    /// Takes the next whole frame, if there is one, and first puts the buffers of the last one back into stock; they go
    /// to the device with [`RxQueue::refill`]. Fails when the device broke a rule.
    pub fn receive(&mut self) -> Result<Option<Frame>, Violation> {
        self.release();
        if self.ready == 0 {
            self.ready = self.ring.visible()?;
            if self.ready == 0 {
                return Ok(None);
            }
        }
        let visible = self.ready;
        let first = self.take()?;
        let header_len = self.cut.header_len;
        if first.len < header_len {
            return Err(Violation::NoHeader { len: first.len });
        }
        let mut bytes = [0; HEADER_LEN];
        if let (Some(slot), Some(place)) =
            (self.slots.get(usize::from(first.token)), bytes.get_mut(..header_len as usize))
        {
            slot.buffer.read(0, place);
        }
        let header = Header::parse(bytes, header_len as usize > LEGACY_HEADER_LEN);
        if !self.any_header {
            header.check(self.features)?;
        }
        // What was seen to be used together with the first buffer must hold the whole frame. A driver without mergeable
        // buffers is told of exactly one.
        let count = header.buffers;
        let most = if self.features & virtio::MRG_RXBUF == 0 { 1 } else { visible };
        if count == 0 || count > most {
            return Err(Violation::BufferCount { count, visible });
        }
        let mut len = first.len - header_len;
        for _ in 1..count {
            len = len.saturating_add(self.take()?.len);
        }
        Ok(Some(Frame { header, len: len as usize }))
    }

    /// Replaces `to` by the bytes of the frame last received, without its virtio-net header.
    pub fn copy_frame(&self, to: &mut Vec<u8>) {
        to.clear();
        let mut skip = self.cut.header_len as usize;
        for part in &self.current {
            if let Some(slot) = self.slots.get(usize::from(part.token)) {
                slot.buffer.append(skip, (part.len as usize).saturating_sub(skip), to);
            }
            skip = 0;
        }
    }

    /// Copies bytes of the frame last received, from its start, as far as they are in its first buffer.
    pub fn head(&self, to: &mut [u8]) -> usize {
        let header_len = self.cut.header_len as usize;
        let Some(part) = self.current.first() else { return 0 };
        let len = to.len().min((part.len as usize).saturating_sub(header_len));
        let place = to.get_mut(..len).unwrap_or_default();
        self.slots
            .get(usize::from(part.token))
            .map_or(0, |slot| if slot.buffer.read(header_len, place) { len } else { 0 })
    }

    /// Writes another virtio-net header over that of the frame last received; its buffers are ours for now.
    pub fn replace_header(&self, header: Header) {
        let bytes = header.emit();
        let bytes = bytes.get(..LEGACY_HEADER_LEN).unwrap_or_default();
        if let Some(slot) = self.current.first().and_then(|part| self.slots.get(usize::from(part.token))) {
            slot.buffer.write(0, bytes);
        }
    }

    /// Writes the frame last received, virtio-net header first, to `sink` (a tap) straight from guest memory.
    pub fn write_to(&mut self, sink: BorrowedFd<'_>) -> io::Result<usize> {
        let vectors = &mut self.vectors.0;
        vectors.clear();
        for part in &self.current {
            let slot = self.slots.get(usize::from(part.token));
            vectors.extend(slot.and_then(|slot| slot.buffer.vector(0, part.len as usize)));
        }
        let count = libc::c_int::try_from(vectors.len()).unwrap_or(libc::c_int::MAX);
        let written = loop {
            // SAFETY: writev needs vectors of memory that stays valid meanwhile; the slots' buffers are mapped as long as
            // the slots live, and `count` is the length of `vectors`.
            let written = unsafe { libc::writev(sink.as_raw_fd(), vectors.as_ptr(), count) };
            match usize::try_from(written) {
                Ok(written) => break Ok(written),
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => break Err(error),
                },
            }
        };
        vectors.clear();
        written
    }

    /// Puts the buffers of the frame last received back into stock.
    pub fn release(&mut self) {
        for part in self.current.drain(..) {
            self.stock.push_back(part.token);
        }
    }

    /// Gives the device as many buffers from stock as the ring has room for and [`RxQueue::set_limit`] allows, and tells
    /// it unless it asked not to be told. Returns how many.
    pub fn refill(&mut self) -> usize {
        let mut count = 0;
        while self.ring.outstanding() < self.limit {
            let Some(token) = self.next_from_stock() else { break };
            let added = self.slots.get(usize::from(token)).is_some_and(|slot| {
                let len = u32::try_from(slot.buffer.len()).unwrap_or(0);
                slot.add_to(&mut self.ring, self.cut, len, true, token)
            });
            if !added {
                self.stock.push_back(token);
                break;
            }
            count += 1;
        }
        self.ring.publish();
        count
    }

    /// How many buffers the device may have at a time; 0 starves it once it has used those it has.
    pub fn set_limit(&mut self, limit: u16) {
        self.limit = limit;
    }

    /// In which order later refills take from stock.
    pub fn set_refill(&mut self, refill: Refill) {
        self.refill = refill;
    }

    /// Buffers the device has.
    pub fn outstanding(&self) -> u16 {
        self.ring.outstanding()
    }

    /// Buffers in stock, those of the frame last received not counted.
    pub fn stock(&self) -> usize {
        self.stock.len()
    }

    /// Asks to be told of the next frame. True when there is one already, so that the caller must look instead of sleep.
    pub fn arm(&mut self) -> bool {
        self.ready > 0 || self.ring.arm(1)
    }

    /// Asks not to be told.
    pub fn disarm(&mut self) {
        self.ring.disarm();
    }

    /// Tells the device, whether or not it wants to know.
    pub fn kick(&mut self) {
        self.ring.kick();
    }

    /// Becomes readable when the device tells us; empty it with [`RxQueue::drain_calls`].
    pub fn call(&self) -> BorrowedFd<'_> {
        self.ring.call()
    }

    /// How often the device told us since last asked.
    pub fn drain_calls(&self) -> u64 {
        self.ring.drain_calls()
    }

    pub fn counters(&self) -> Counters {
        self.ring.counters()
    }

    /// Guest-physical address and length of each part of the frame last received, virtio-net header included: what a dirty
    /// log must show.
    pub fn places(&self) -> impl Iterator<Item = (u64, u32)> {
        self.current
            .iter()
            .filter_map(|part| Some((self.slots.get(usize::from(part.token))?.buffer.guest(), part.len)))
    }

    /// The used ring, which a device that received a frame has written too.
    pub fn used_ring(&self) -> &Window {
        self.ring.used()
    }

    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }

    pub(super) fn reset(&mut self) {
        self.ring.reset();
        self.current.clear();
        self.ready = 0;
        self.stock = (0..u16::try_from(self.slots.len()).unwrap_or(0)).collect();
    }

    fn take(&mut self) -> Result<Part, Violation> {
        let used = self.ring.take()?;
        self.ready = self.ready.saturating_sub(1);
        let part = Part { token: used.token, len: used.len };
        self.current.push(part);
        let capacity = self.slots.get(usize::from(used.token)).map_or(0, |slot| slot.buffer.len());
        if used.len as usize > capacity {
            let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
            return Err(Violation::UsedLength { len: used.len, capacity });
        }
        Ok(part)
    }

    fn next_from_stock(&mut self) -> Option<u16> {
        match &mut self.refill {
            Refill::InOrder => self.stock.pop_front(),
            Refill::Reversed => self.stock.pop_back(),
            Refill::Shuffled(state) => {
                // xorshift64; 0 would stay 0.
                *state = (*state).max(1);
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                let at = *state % u64::try_from(self.stock.len()).ok().filter(|len| *len > 0)?;
                self.stock.swap_remove_back(usize::try_from(at).ok()?)
            }
        }
    }
}
