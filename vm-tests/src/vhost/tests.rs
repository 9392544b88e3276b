//! The driver's half of the rings against virtio-queue's device half.

use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueT as _};
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use super::feature::virtio;
use super::*;

const MODERN: u64 = virtio::VERSION_1 | virtio::MRG_RXBUF;

/// Both halves of a pair of rings.
struct Rig {
    pair: Pair,
    memory: GuestMemoryMmap,
    rx: Queue,
    tx: Queue,
    _driver_memory: Memory,
}

impl Rig {
    fn new(features: u64, options: Options) -> Self {
        let options = Options { region_len: 16 << 20, ..options };
        let mut memory = Memory::new(&options.regions, options.region_len).unwrap();
        let pair = Pair::new(&mut memory, &options, features).unwrap();
        let regions = memory.regions().iter().map(|region| {
            let file = region.file().try_clone_to_owned().unwrap().into();
            let len = usize::try_from(region.len()).unwrap();
            let offset = FileOffset::new(file, region.file_offset());
            GuestRegionMmap::from_range(GuestAddress(region.guest()), len, Some(offset)).unwrap()
        });
        let device_memory = GuestMemoryMmap::from_regions(regions.collect()).unwrap();
        let [rx, tx] = pair.rings().map(|ring| {
            let mut queue = Queue::new(1 << 15).unwrap();
            queue.set_size(ring.size());
            queue.set_event_idx(features & virtio::EVENT_IDX != 0);
            queue.try_set_desc_table_address(GuestAddress(ring.table().guest())).unwrap();
            queue.try_set_avail_ring_address(GuestAddress(ring.avail().guest())).unwrap();
            queue.try_set_used_ring_address(GuestAddress(ring.used().guest())).unwrap();
            queue.set_ready(true);
            assert!(queue.is_valid(&device_memory));
            queue
        });
        Self { pair, memory: device_memory, rx, tx, _driver_memory: memory }
    }

    /// Takes a chain as a device: its head, whether each descriptor is for writing, and what can be read.
    fn pop(&mut self) -> Option<(u16, Vec<u32>, Vec<u8>)> {
        let chain = self.tx.pop_descriptor_chain(&self.memory)?;
        let (head, mut lengths, mut bytes) = (chain.head_index(), Vec::new(), Vec::new());
        for descriptor in chain {
            assert!(!descriptor.is_write_only());
            let start = bytes.len();
            bytes.resize(start + descriptor.len() as usize, 0);
            self.memory.read_slice(&mut bytes[start..], descriptor.addr()).unwrap();
            lengths.push(descriptor.len());
        }
        Some((head, lengths, bytes))
    }

    /// As a device, fills the next chain with `bytes` as far as they go, and returns its head and their number.
    fn fill(&mut self, bytes: &[u8]) -> (u16, u32) {
        let chain = self.rx.pop_descriptor_chain(&self.memory).expect("a receive buffer");
        let (head, mut done) = (chain.head_index(), 0);
        for descriptor in chain {
            assert!(descriptor.is_write_only());
            let len = (descriptor.len() as usize).min(bytes.len() - done);
            self.memory.write_slice(&bytes[done..done + len], descriptor.addr()).unwrap();
            done += len;
        }
        (head, u32::try_from(done).unwrap())
    }

    fn use_rx(&mut self, (head, len): (u16, u32)) {
        self.rx.add_used(&self.memory, head, len).unwrap();
    }

    fn received(&mut self) -> Option<(Frame, Vec<u8>)> {
        let frame = self.pair.rx.receive().unwrap()?;
        let mut bytes = Vec::new();
        self.pair.rx.copy_frame(&mut bytes);
        assert_eq!(bytes.len(), frame.len);
        Some((frame, bytes))
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn with_header(buffers: u16, frame: &[u8]) -> Vec<u8> {
    let mut bytes = Header::default().emit().to_vec();
    bytes[10..].copy_from_slice(&buffers.to_le_bytes());
    bytes.extend(frame);
    bytes
}

#[test]
fn sent_frames_reach_the_device_in_every_layout() {
    let cases = [
        (MODERN, Layout::Together, vec![12 + 1000]),
        (MODERN, Layout::HeaderApart, vec![12, 1000]),
        (MODERN, Layout::Pieces(400), vec![400, 400, 212]),
        (virtio::VERSION_1, Layout::Together, vec![12 + 1000]),
        (virtio::MRG_RXBUF, Layout::Together, vec![12, 1000]),
        (0, Layout::Together, vec![10, 1000]),
        (0, Layout::Pieces(600), vec![10, 600, 400]),
        (virtio::ANY_LAYOUT, Layout::Together, vec![10 + 1000]),
        (MODERN | virtio::INDIRECT_DESC, Layout::Pieces(400), vec![400, 400, 212]),
        (MODERN | virtio::INDIRECT_DESC, Layout::Together, vec![12 + 1000]),
    ];
    for (features, layout, lengths) in cases {
        let mut rig = Rig::new(features, Options { tx_layout: layout, ..Options::default() });
        let frame = pattern(1000);
        let header =
            Header { flags: NEEDS_CSUM, checksum_start: 34, checksum_offset: 16, ..Header::default() };
        // More than the ring and the buffers hold: everything comes round again.
        for _ in 0..1000 {
            assert!(rig.pair.tx.send(header, &[&frame[..300], &frame[300..]]).unwrap());
            let (head, seen, bytes) = rig.pop().unwrap();
            assert_eq!(seen, lengths, "{features:#x} {layout:?}");
            let header_len = rig.pair.tx.header_len();
            assert_eq!(bytes[..header_len], header.emit()[..header_len]);
            assert_eq!(bytes[header_len..], frame);
            rig.tx.add_used(&rig.memory, head, 0).unwrap();
        }
        rig.pair.tx.reclaim().unwrap();
        assert_eq!((rig.pair.tx.counters().used, rig.pair.tx.outstanding()), (1000, 0));
    }
}

#[test]
fn queue_that_is_full_says_so_until_the_device_has_read() {
    for size in [2, 4, 256, 1024] {
        for features in [0, MODERN, MODERN | virtio::INDIRECT_DESC] {
            let options = Options {
                ring_size: size,
                tx_layout: Layout::HeaderApart,
                tx_buffers: 1024,
                tx_buffer_len: 2048,
                ..Options::default()
            };
            let mut rig = Rig::new(features, options);
            let per_frame = if features & virtio::INDIRECT_DESC == 0 { 2 } else { 1 };
            for round in 0..3 {
                let mut sent = 0;
                while rig.pair.tx.send(Header::default(), &[&pattern(100)]).unwrap() {
                    sent += 1;
                }
                assert_eq!(sent, size / per_frame, "size {size}, {features:#x}, round {round}");
                // Read out of order: the last becomes used first.
                let mut heads = Vec::new();
                while let Some((head, _, _)) = rig.pop() {
                    heads.push(head);
                }
                assert_eq!(heads.len(), usize::from(sent));
                for head in heads.into_iter().rev() {
                    rig.tx.add_used(&rig.memory, head, 0).unwrap();
                }
            }
        }
    }
}

#[test]
fn received_frames_are_put_together_from_their_buffers() {
    for (refill, layout) in [
        (Refill::InOrder, Layout::Together),
        (Refill::Reversed, Layout::HeaderApart),
        (Refill::Shuffled(7), Layout::Pieces(100)),
    ] {
        let options =
            Options { rx_buffer_len: 256, rx_buffers: 64, refill, rx_layout: layout, ..Options::default() };
        let mut rig = Rig::new(MODERN | virtio::INDIRECT_DESC, options);
        assert_eq!(rig.pair.rx.refill(), 64);
        for len in [1, 60, 244, 245, 1000, 5000].into_iter().cycle().take(600) {
            let frame = pattern(len);
            let bytes = with_header(u16::try_from((len + 12).div_ceil(256)).unwrap(), &frame);
            let filled: Vec<_> = bytes.chunks(256).map(|part| rig.fill(part)).collect();
            assert!(rig.received().is_none());
            for used in filled {
                rig.use_rx(used);
            }
            let (seen, received) = rig.received().unwrap();
            assert_eq!(usize::from(seen.header.buffers), bytes.len().div_ceil(256));
            assert_eq!(received, frame);
            assert!(rig.received().is_none());
            rig.pair.rx.refill();
            assert_eq!((rig.pair.rx.outstanding(), rig.pair.rx.stock()), (64, 0));
        }
    }
}

#[test]
fn legacy_buffers_have_a_short_header_of_its_own() {
    let mut rig = Rig::new(0, Options { rx_buffer_len: 2048, rx_buffers: 8, ..Options::default() });
    rig.pair.rx.refill();
    let bytes: Vec<u8> = [vec![0; 10], pattern(500)].concat();
    let used = rig.fill(&bytes);
    rig.use_rx(used);
    assert_eq!(rig.received().unwrap().1, pattern(500));
}

#[test]
fn starved_device_gets_buffers_when_the_limit_is_raised() {
    let mut rig = Rig::new(MODERN, Options { rx_limit: 3, ..Options::default() });
    assert_eq!(rig.pair.rx.refill(), 3);
    for _ in 0..3 {
        let used = rig.fill(&with_header(1, &pattern(60)));
        rig.use_rx(used);
    }
    rig.pair.rx.set_limit(0);
    while rig.received().is_some() {
        assert_eq!(rig.pair.rx.refill(), 0);
    }
    assert!(rig.rx.pop_descriptor_chain(&rig.memory).is_none());
    rig.pair.rx.set_limit(u16::MAX);
    assert_eq!(rig.pair.rx.refill(), 256);
}

#[test]
fn broken_rules_are_told_apart() {
    let fresh = || {
        let mut rig = Rig::new(MODERN, Options { rx_buffer_len: 256, rx_buffers: 8, ..Options::default() });
        rig.pair.rx.refill();
        rig
    };
    // Two buffers are said, one is used.
    let mut rig = fresh();
    let used = rig.fill(&with_header(2, &pattern(244)));
    rig.use_rx(used);
    assert_eq!(rig.pair.rx.receive(), Err(Violation::BufferCount { count: 2, visible: 1 }));

    let mut rig = fresh();
    let used = rig.fill(&with_header(0, &pattern(60)));
    rig.use_rx(used);
    assert_eq!(rig.pair.rx.receive(), Err(Violation::BufferCount { count: 0, visible: 1 }));

    let mut rig = fresh();
    let (head, _) = rig.fill(&with_header(1, &pattern(60)));
    rig.use_rx((head, 257));
    assert_eq!(rig.pair.rx.receive(), Err(Violation::UsedLength { len: 257, capacity: 256 }));

    let mut rig = fresh();
    let (head, _) = rig.fill(&with_header(1, &pattern(60)));
    rig.use_rx((head, 11));
    assert_eq!(rig.pair.rx.receive(), Err(Violation::NoHeader { len: 11 }));

    let mut rig = fresh();
    let (head, len) = rig.fill(&with_header(1, &pattern(60)));
    rig.use_rx((head + 100, len));
    assert_eq!(rig.pair.rx.receive(), Err(Violation::UsedHead { head: u32::from(head) + 100 }));

    let mut rig = fresh();
    let (head, len) = rig.fill(&with_header(1, &pattern(60)));
    rig.use_rx((head, len));
    rig.use_rx((head, len));
    assert!(rig.pair.rx.receive().unwrap().is_some());
    assert_eq!(rig.pair.rx.receive(), Err(Violation::UsedHead { head: head.into() }));

    let rig = fresh();
    rig.pair.rx.used_ring().store_u16(2, 9, Ordering::Release);
    let mut rig = rig;
    assert_eq!(rig.pair.rx.receive(), Err(Violation::UsedIndex { seen: 0, index: 9, outstanding: 8 }));

    for (flags, kind) in [(NEEDS_CSUM, GSO_NONE), (DATA_VALID, GSO_NONE), (0, GSO_TCPV4), (0, 9)] {
        let mut rig = fresh();
        let mut bytes = with_header(1, &pattern(60));
        (bytes[0], bytes[1]) = (flags, kind);
        let used = rig.fill(&bytes);
        rig.use_rx(used);
        assert_eq!(rig.pair.rx.receive(), Err(Violation::Offload { flags, kind }));
    }
}

#[test]
fn kicks_are_spared_while_the_device_looks_anyway() {
    let mut rig = Rig::new(MODERN, Options::default());
    rig.tx.disable_notification(&rig.memory).unwrap();
    rig.pair.tx.send(Header::default(), &[&pattern(60)]).unwrap();
    assert_eq!((rig.pair.tx.counters().kicks, rig.pair.tx.counters().kicks_spared), (0, 1));
    rig.tx.enable_notification(&rig.memory).unwrap();
    rig.pair.tx.send(Header::default(), &[&pattern(60)]).unwrap();
    assert_eq!(rig.pair.tx.counters().kicks, 1);

    let mut rig = Rig::new(MODERN | virtio::EVENT_IDX, Options::default());
    // The device wants to know of the next one, once.
    assert!(!rig.tx.enable_notification(&rig.memory).unwrap());
    for _ in 0..10 {
        rig.pair.tx.send(Header::default(), &[&pattern(60)]).unwrap();
    }
    assert_eq!((rig.pair.tx.counters().kicks, rig.pair.tx.counters().kicks_spared), (1, 9));
    while rig.pop().is_some() {}
    assert!(!rig.tx.enable_notification(&rig.memory).unwrap());
    for _ in 0..5 {
        rig.pair.tx.queue(Header::default(), &[&pattern(60)]).unwrap();
    }
    rig.pair.tx.flush();
    assert_eq!(rig.pair.tx.counters().kicks, 2);
}

#[test]
fn calls_are_asked_for_only_when_wanted() {
    let mut rig = Rig::new(MODERN | virtio::EVENT_IDX, Options::default());
    rig.pair.rx.refill();
    let fill = |rig: &mut Rig| {
        let used = rig.fill(&with_header(1, &pattern(60)));
        rig.use_rx(used);
        rig.rx.needs_notification(&rig.memory).unwrap()
    };
    assert!(!rig.pair.rx.arm());
    assert!(fill(&mut rig));
    assert!(!fill(&mut rig), "told of the first already");
    assert!(rig.pair.rx.arm(), "there are two to look at");
    while rig.received().is_some() {}
    rig.pair.rx.disarm();
    assert!(!fill(&mut rig));
    while rig.received().is_some() {}
    assert!(!rig.pair.rx.arm());
    assert!(fill(&mut rig));

    let mut rig = Rig::new(MODERN, Options::default());
    rig.pair.rx.disarm();
    assert_eq!(rig.pair.rings()[0].avail().load_u16(0, Ordering::Relaxed), 1);
    rig.pair.rx.arm();
    assert_eq!(rig.pair.rings()[0].avail().load_u16(0, Ordering::Relaxed), 0);
}

#[test]
fn transmit_queue_is_told_when_half_of_it_is_read() {
    let mut rig = Rig::new(MODERN | virtio::EVENT_IDX, Options { ring_size: 8, ..Options::default() });
    while rig.pair.tx.send(Header::default(), &[&pattern(60)]).unwrap() {}
    assert!(!rig.pair.tx.arm(false));
    let told: Vec<bool> = (0..8)
        .map(|_| {
            let (head, _, _) = rig.pop().unwrap();
            rig.tx.add_used(&rig.memory, head, 0).unwrap();
            rig.tx.needs_notification(&rig.memory).unwrap()
        })
        .collect();
    assert_eq!(told.iter().position(|told| *told), Some(3));
    assert!(rig.pair.tx.arm(true));
}

#[test]
fn ring_indices_wrap() {
    let mut rig = Rig::new(MODERN | virtio::EVENT_IDX, Options { ring_size: 4, ..Options::default() });
    rig.pair.rx.refill();
    for at in 0..70_000_u32 {
        assert!(rig.pair.tx.send(Header::default(), &[&at.to_le_bytes()]).unwrap());
        let (head, _, bytes) = rig.pop().unwrap();
        rig.tx.add_used(&rig.memory, head, 0).unwrap();
        let used = rig.fill(&with_header(1, &bytes[12..]));
        rig.use_rx(used);
        assert_eq!(rig.received().unwrap().1, at.to_le_bytes());
        rig.pair.rx.refill();
    }
}

#[test]
fn frames_pass_between_descriptors_and_guest_memory() {
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut rig = Rig::new(MODERN, Options { rx_buffer_len: 256, ..Options::default() });
    rig.pair.rx.refill();
    assert_eq!(rig.pair.tx.read_from(std::os::fd::AsFd::as_fd(&ours)).unwrap(), Taken::Nothing);
    let frame = with_header(0, &pattern(3000));
    theirs.send(&frame).unwrap();
    assert_eq!(rig.pair.tx.read_from(std::os::fd::AsFd::as_fd(&ours)).unwrap(), Taken::Frame(3012));
    assert!(rig.pop().is_none());
    rig.pair.tx.flush();
    assert_eq!(rig.pop().unwrap().2, frame);

    let bytes = with_header(12, &pattern(3000));
    let filled: Vec<_> = bytes.chunks(256).map(|part| rig.fill(part)).collect();
    for used in filled {
        rig.use_rx(used);
    }
    assert!(rig.pair.rx.receive().unwrap().is_some());
    assert_eq!(rig.pair.rx.write_to(std::os::fd::AsFd::as_fd(&ours)).unwrap(), 3012);
    let mut received = vec![0; 4000];
    let len = theirs.recv(&mut received).unwrap();
    assert_eq!(received[..len], bytes);
}
