//! A receive and a transmit queue as one driver sets them up. It must never know how the back end is reached.

use super::feature::virtio;
use super::header::{HEADER_LEN, LEGACY_HEADER_LEN};
use super::layout::{Cut, Slot};
use super::memory::Memory;
use super::options::Options;
use super::ring::Ring;
use super::rx::RxQueue;
use super::tx::TxQueue;

/// A pair of queues.
#[derive(Debug)]
pub struct Pair {
    pub rx: RxQueue,
    pub tx: TxQueue,
}

impl Pair {
    /// Queues of a driver with `options` that has negotiated `features`, with no buffer available yet.
    pub fn new(memory: &mut Memory, options: &Options, features: u64) -> anyhow::Result<Self> {
        let has = |bits: u64| features & bits != 0;
        // Virtio 1.2 section 5.1.6.1: only a legacy device without mergeable buffers has the short header.
        let has_count = has(virtio::VERSION_1 | virtio::MRG_RXBUF);
        let header_len = if has_count { HEADER_LEN } else { LEGACY_HEADER_LEN };
        let tx = Cut {
            layout: options.tx_layout,
            header_len: u32::try_from(header_len)?,
            header_apart: !has(virtio::VERSION_1 | virtio::ANY_LAYOUT),
            indirect: options.indirect && has(virtio::INDIRECT_DESC),
        };
        // A mergeable buffer is one descriptor also for a legacy driver: section 5.1.6.3.1.
        let header_apart = tx.header_apart && !has(virtio::MRG_RXBUF);
        let rx = Cut { layout: options.rx_layout, header_apart, ..tx };
        let event_idx = has(virtio::EVENT_IDX);
        let rx_ring = Ring::new(memory, options.ring_size, event_idx)?;
        let tx_ring = Ring::new(memory, options.ring_size, event_idx)?;
        let rx = RxQueue::new(memory, rx_ring, rx, features, options)?;
        let tx = TxQueue::new(memory, tx_ring, tx, options.tx_buffers, options.tx_buffer_len)?;
        tx.ring().disarm();
        Ok(Self { rx, tx })
    }

    /// Bytes of guest memory a pair takes at most.
    pub fn footprint(options: &Options) -> u64 {
        2 * Ring::footprint(options.ring_size)
            + u64::from(options.rx_buffers) * Slot::footprint(options.rx_buffer_len)
            + u64::from(options.tx_buffers) * Slot::footprint(options.tx_buffer_len)
    }

    /// As a driver that starts anew: the device has no buffer.
    pub(super) fn reset(&mut self) {
        self.rx.reset();
        self.tx.reset();
        self.tx.disarm();
    }

    /// The rings in the order of their numbers: receive, transmit.
    pub(super) fn rings(&self) -> [&Ring; 2] {
        [self.rx.ring(), self.tx.ring()]
    }
}
