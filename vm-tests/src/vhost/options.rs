//! What a front end is to be like. Plain data.

use super::feature::{protocol, virtio};
use super::layout::Layout;
use super::rx::Refill;

/// When SET_VRING_ENABLE comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enable {
    /// Before features and rings are known, as QEMU's network device does it.
    First,
    /// After all else, as the protocol's text suggests.
    Last,
}

/// A guest and its driver. Start from [`Options::default`]: everything the back end offers, one pair of rings of 256.
#[derive(Debug, Clone)]
pub struct Options {
    /// Virtio features to accept, of those the back end offers: bits of [`virtio`].
    pub features: u64,
    /// Protocol features to accept, of those the back end offers: bits of [`protocol`]. Without
    /// [`virtio::PROTOCOL_FEATURES`] none are even asked for.
    pub protocol_features: u64,
    /// Pairs of a receive and a transmit ring. More than one needs [`protocol::MQ`], and as many in the back end.
    pub pairs: u16,
    /// Descriptors of a ring. A power of two from 2 to 32768 if it is to be accepted.
    pub ring_size: u16,
    /// How transmit and receive buffers become descriptors.
    pub tx_layout: Layout,
    pub rx_layout: Layout,
    /// Use indirect descriptors, if they are negotiated.
    pub indirect: bool,
    /// Buffers of each transmit and each receive queue. More than the ring has descriptors may not all be with the
    /// device at once.
    pub tx_buffers: u16,
    pub rx_buffers: u16,
    /// Bytes of a transmit and of a receive buffer, virtio-net header included. A driver with segmentation offload and
    /// without mergeable buffers owes the device 65562 (virtio 1.2 section 5.1.6.3.1).
    pub tx_buffer_len: u32,
    pub rx_buffer_len: u32,
    /// In which order used receive buffers go back to the device.
    pub refill: Refill,
    /// How many receive buffers the device may have at first; see [`super::RxQueue::set_limit`].
    pub rx_limit: u16,
    /// Guest-physical addresses of the memory's regions, which all have the same size.
    pub regions: Vec<u64>,
    /// Bytes of a region, or 0 for as many as the queues need. A guest that is to reboot with larger ones needs more.
    pub region_len: u64,
    /// When the back end is told that it may use the rings.
    pub enable: Enable,
    /// Overlook virtio-net headers that ask for what was not negotiated, as Linux does (DATA_VALID, say).
    pub any_header: bool,
    /// Log writes to guest memory from the start.
    pub log: bool,
    /// Give the back end a region for what is in flight, if it wants one.
    pub inflight: bool,
}

/// The largest frame with its virtio-net header: virtio 1.2 section 5.1.6.3.1.
pub const FRAME_AND_HEADER_MAX: u32 = 65_562;

impl Default for Options {
    fn default() -> Self {
        Self {
            features: virtio::ALL & !virtio::LOG_ALL,
            protocol_features: protocol::ALL,
            pairs: 1,
            ring_size: 256,
            tx_layout: Layout::Together,
            rx_layout: Layout::Together,
            indirect: true,
            tx_buffers: 128,
            rx_buffers: 256,
            tx_buffer_len: FRAME_AND_HEADER_MAX,
            rx_buffer_len: 4096,
            refill: Refill::InOrder,
            rx_limit: u16::MAX,
            // As QEMU splits a large guest's memory: below 4 GiB, and the rest above.
            regions: vec![0, 1 << 32],
            region_len: 0,
            enable: Enable::First,
            any_header: false,
            log: false,
            inflight: false,
        }
    }
}
