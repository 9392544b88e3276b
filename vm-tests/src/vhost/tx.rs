//! The transmit queue: frames go into buffers, buffers to the device, and come back when it has read them.
//! It must never look into a frame.
#![expect(unsafe_code, reason = "readv into guest memory has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::header::Header;
use super::layout::{Cut, Slot};
use super::memory::{Memory, Window};
use super::ring::{Counters, Ring, Violation};

/// What became of an attempt to read a frame into the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A frame of so many bytes, header included; the device sees it after [`TxQueue::flush`].
    Frame(usize),
    /// The source has none.
    Nothing,
    /// No buffer is free: ask to be told with [`TxQueue::arm`].
    Full,
}

/// Frames towards the device.
#[derive(Debug)]
pub struct TxQueue {
    ring: Ring,
    cut: Cut,
    slots: Vec<Slot>,
    free: Vec<u16>,
}

impl TxQueue {
    pub(super) fn new(
        memory: &mut Memory,
        ring: Ring,
        cut: Cut,
        buffers: u16,
        buffer_len: u32,
    ) -> anyhow::Result<Self> {
        let mut slots = Vec::with_capacity(buffers.into());
        for _ in 0..buffers {
            slots.push(Slot::new(memory, buffer_len, cut)?);
        }
        Ok(Self { ring, cut, slots, free: (0..buffers).rev().collect() })
    }

    /// Sends one frame at once. False when no buffer or no descriptor is free; then nothing was sent.
    pub fn send(&mut self, header: Header, frame: &[&[u8]]) -> Result<bool, Violation> {
        let queued = self.queue(header, frame)?;
        if queued {
            self.flush();
        }
        Ok(queued)
    }

    /// As [`TxQueue::send`], but the device sees it after [`TxQueue::flush`].
    pub fn queue(&mut self, header: Header, frame: &[&[u8]]) -> Result<bool, Violation> {
        self.reclaim_when_low()?;
        let Some((token, slot)) = self.next_slot() else { return Ok(false) };
        let header = header.emit();
        let header_len = self.cut.header_len as usize;
        let mut fits = slot.buffer.write(0, header.get(..header_len).unwrap_or_default());
        let mut len = header_len;
        for piece in frame {
            fits &= slot.buffer.write(len, piece);
            len += piece.len();
        }
        let Some(len) = u32::try_from(len).ok().filter(|_| fits) else { return Ok(false) };
        Ok(self.commit(token, len))
    }

    /// Reads one frame, virtio-net header first, from `source` (a tap) straight into guest memory. The source's header
    /// must have the queue's length, [`TxQueue::header_len`].
    pub fn read_from(&mut self, source: BorrowedFd<'_>) -> io::Result<Taken> {
        self.reclaim_when_low().map_err(io::Error::other)?;
        let Some((token, slot)) = self.next_slot() else { return Ok(Taken::Full) };
        // At the least one chain of any layout must fit, or the frame just read would be lost.
        if self.ring.room() < self.chain_max() {
            return Ok(Taken::Full);
        }
        let Some(vector) = slot.buffer.vector(0, slot.buffer.len()) else { return Ok(Taken::Full) };
        let len = loop {
            // SAFETY: readv needs vectors of memory that stays valid and that nobody else relies on; the slot's buffer
            // is mapped as long as the slot lives, and it is free, so the device does not read it.
            let read = unsafe { libc::readv(source.as_raw_fd(), &raw const vector, 1) };
            match usize::try_from(read) {
                Ok(len) => break len,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error if error.kind() == io::ErrorKind::WouldBlock => return Ok(Taken::Nothing),
                    error => return Err(error),
                },
            }
        };
        if len <= self.cut.header_len as usize {
            return Ok(Taken::Nothing);
        }
        self.commit(token, u32::try_from(len).unwrap_or(0));
        Ok(Taken::Frame(len))
    }

    /// Shows the device what was queued, and tells it unless it asked not to be told.
    pub fn flush(&mut self) {
        self.ring.publish();
    }

    /// Tells the device, whether or not it wants to know.
    pub fn kick(&mut self) {
        self.ring.kick();
    }

    /// Takes back what the device has read; returns how many frames.
    pub fn reclaim(&mut self) -> Result<usize, Violation> {
        let count = self.ring.visible()?;
        for _ in 0..count {
            let used = self.ring.take()?;
            // A device writes nothing into buffers that it reads; some count the bytes all the same.
            self.free.push(used.token);
        }
        Ok(count.into())
    }

    /// Asks to be told once half of what the device has is read, or all of it when that is `everything`. True when that
    /// is so already.
    pub fn arm(&mut self, everything: bool) -> bool {
        let outstanding = self.ring.outstanding();
        self.ring.arm(if everything { outstanding } else { outstanding / 2 })
    }

    /// Asks not to be told.
    pub fn disarm(&mut self) {
        self.ring.disarm();
    }

    /// Frames the device has not finished with.
    pub fn outstanding(&self) -> u16 {
        self.ring.outstanding()
    }

    /// Becomes readable when the device tells us; empty it with [`TxQueue::drain_calls`].
    pub fn call(&self) -> BorrowedFd<'_> {
        self.ring.call()
    }

    /// How often the device told us since last asked.
    pub fn drain_calls(&self) -> u64 {
        self.ring.drain_calls()
    }

    /// Bytes of the virtio-net header: 12, or 10 for a legacy driver without mergeable buffers.
    pub fn header_len(&self) -> usize {
        self.cut.header_len as usize
    }

    pub fn counters(&self) -> Counters {
        self.ring.counters()
    }

    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Windows onto all buffers, for looking at the dirty log.
    pub fn buffers(&self) -> impl Iterator<Item = &Window> {
        self.slots.iter().map(|slot| &slot.buffer)
    }

    pub(super) fn reset(&mut self) {
        self.ring.reset();
        self.free = (0..u16::try_from(self.slots.len()).unwrap_or(0)).rev().collect();
    }

    fn reclaim_when_low(&mut self) -> Result<(), Violation> {
        if self.free.is_empty() || self.ring.room() < self.chain_max() {
            self.reclaim()?;
        }
        Ok(())
    }

    /// Descriptors a chain takes at most.
    fn chain_max(&self) -> u16 {
        let most = match (self.cut.indirect, self.cut.layout) {
            (true, _) => 1,
            (false, super::Layout::Pieces(_)) => 64,
            (false, super::Layout::Together | super::Layout::HeaderApart) => 2,
        };
        most.min(self.ring.size())
    }

    fn next_slot(&self) -> Option<(u16, &Slot)> {
        let token = *self.free.last()?;
        Some((token, self.slots.get(usize::from(token))?))
    }

    /// Adds the slot that [`TxQueue::next_slot`] named.
    fn commit(&mut self, token: u16, len: u32) -> bool {
        let Some(slot) = self.slots.get(usize::from(token)) else { return false };
        let added = slot.add_to(&mut self.ring, self.cut, len, false, token);
        if added {
            self.free.pop();
        }
        added
    }
}
