//! Every kind of driver: any subset of the virtio features a back end may offer works.

use vm_tests::vhost::feature::virtio::{
    ALL, ANY_LAYOUT, CSUM, EVENT_IDX, GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6, GUEST_USO4, GUEST_USO6,
    HOST_ECN, HOST_TSO4, HOST_TSO6, HOST_USO, INDIRECT_DESC, LOG_ALL, MQ, MRG_RXBUF, PROTOCOL_FEATURES,
    VERSION_1,
};
use vm_tests::vhost::{Enable, FRAME_AND_HEADER_MAX, Layout, Options, Refill};

use crate::pod::Pod;
use crate::work;

/// Bytes of each connection, each way. Many segments, and several of the largest frames.
const BYTES: usize = 150_000;

/// Enough for any of the drivers here, in each of two regions.
const REGION: u64 = 48 << 20;

/// What must be on offer.
const OFFERED: u64 = VERSION_1
    | CSUM
    | GUEST_CSUM
    | HOST_TSO4
    | HOST_TSO6
    | GUEST_TSO4
    | GUEST_TSO6
    | MRG_RXBUF
    | INDIRECT_DESC
    | EVENT_IDX
    | MQ
    | LOG_ALL
    | PROTOCOL_FEATURES;

/// A driver with these features, and buffers as large as they oblige it to have (virtio 1.2 section 5.1.6.3.1).
pub(crate) fn driver(features: u64) -> Options {
    let is_given_segments = features & (GUEST_TSO4 | GUEST_TSO6 | GUEST_USO4 | GUEST_USO6) != 0;
    let rx_buffer_len = match (features & MRG_RXBUF != 0, is_given_segments) {
        (true, _) => 1536,
        (false, true) => FRAME_AND_HEADER_MAX,
        (false, false) => 1526,
    };
    Options {
        features: features | PROTOCOL_FEATURES,
        rx_buffer_len,
        tx_buffers: 64,
        region_len: REGION,
        ..Options::default()
    }
}

/// Runs one driver after the other in a guest that reboots in between.
fn run(drivers: impl IntoIterator<Item = Options>) {
    let mut pod = Pod::start();
    let mut guest = None;
    for options in drivers {
        eprintln!("{options:x?}");
        let mut next = match guest.take() {
            None => pod.guest(options),
            Some(guest) => crate::guest::Guest::reboot(guest, options),
        };
        work::all(&mut pod, &mut next, BYTES);
        guest = Some(next);
    }
}

/// Each offload alone, with what it cannot be without (virtio 1.2 section 5.1.3.1).
const OFFLOADS: [u64; 12] = [
    CSUM,
    GUEST_CSUM,
    CSUM | HOST_TSO4,
    CSUM | HOST_TSO6,
    CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN,
    CSUM | HOST_USO,
    GUEST_CSUM | GUEST_TSO4,
    GUEST_CSUM | GUEST_TSO6,
    GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN,
    GUEST_CSUM | GUEST_USO4 | GUEST_USO6,
    CSUM | GUEST_CSUM | HOST_TSO4 | GUEST_TSO4 | GUEST_TSO6,
    ALL,
];

#[test]
fn everything_is_offered_and_used() {
    let mut pod = Pod::start();
    let mut guest = pod.guest(Options::default());
    let missing = OFFERED & !guest.nic.front_end.offered();
    assert_eq!(missing, 0, "features {missing:#x} are not offered");
    work::all(&mut pod, &mut guest, 2_000_000);
    for large in [guest.nic.sent_large, guest.nic.received_large] {
        assert!(large.into_iter().all(|frames| frames > 10), "{large:?} frames were more than a segment");
    }
}

#[test]
fn legacy_drivers_work() {
    run([
        driver(0),
        driver(MRG_RXBUF),
        driver(ANY_LAYOUT),
        driver(ANY_LAYOUT | MRG_RXBUF),
        driver(INDIRECT_DESC | EVENT_IDX),
        driver(CSUM | GUEST_CSUM | HOST_TSO4 | GUEST_TSO4),
        Options { rx_layout: Layout::Pieces(500), tx_layout: Layout::Pieces(500), ..driver(0) },
    ]);
}

#[test]
fn drivers_with_mergeable_buffers_work_with_each_offload() {
    run([VERSION_1 | MRG_RXBUF]
        .into_iter()
        .chain(OFFLOADS.map(|offload| VERSION_1 | MRG_RXBUF | (offload & !(INDIRECT_DESC | EVENT_IDX))))
        .map(driver));
}

#[test]
fn drivers_without_mergeable_buffers_work_with_each_offload() {
    run([VERSION_1]
        .into_iter()
        .chain(OFFLOADS.map(|offload| VERSION_1 | (offload & !(MRG_RXBUF | INDIRECT_DESC | EVENT_IDX))))
        .map(driver));
}

#[test]
fn indirect_descriptors_and_event_indices_work_in_every_combination() {
    let mut drivers = Vec::new();
    for rings in [INDIRECT_DESC, EVENT_IDX, INDIRECT_DESC | EVENT_IDX] {
        for rest in [VERSION_1, VERSION_1 | MRG_RXBUF, ALL & !(INDIRECT_DESC | EVENT_IDX | LOG_ALL)] {
            drivers.push(driver(rings | rest));
            let (rx_layout, tx_layout) = (Layout::Pieces(300), Layout::Pieces(1100));
            drivers.push(Options { rx_layout, tx_layout, ..driver(rings | rest) });
        }
    }
    run(drivers);
}

#[test]
fn buffers_of_every_shape_and_order_work() {
    let all = ALL & !LOG_ALL;
    let mut drivers = Vec::new();
    for refill in [Refill::InOrder, Refill::Reversed, Refill::Shuffled(1)] {
        for layout in [Layout::Together, Layout::HeaderApart, Layout::Pieces(64)] {
            let shape = Options { refill, rx_layout: layout, tx_layout: layout, ..driver(all) };
            drivers.push(Options { indirect: false, ..shape.clone() });
            drivers.push(Options { rx_buffer_len: 300, ..shape });
        }
    }
    drivers.push(Options { rx_buffer_len: 65_536, rx_buffers: 64, ..driver(all) });
    run(drivers);
}

#[test]
fn protocol_without_its_features_works() {
    let mut pod = Pod::start();
    for protocol_features in [0, vm_tests::vhost::feature::protocol::REPLY_ACK] {
        for enable in [Enable::First, Enable::Last] {
            let options = Options { protocol_features, enable, ..driver(ALL & !(MQ | LOG_ALL)) };
            let mut guest = pod.guest(options);
            work::all(&mut pod, &mut guest, BYTES);
        }
    }
    let mut options = driver(VERSION_1 | MRG_RXBUF);
    options.features &= !PROTOCOL_FEATURES;
    let mut guest = pod.guest(options);
    work::all(&mut pod, &mut guest, BYTES);
}
