//! Rings of every size and number.

use vm_tests::vhost::feature::virtio;
use vm_tests::vhost::{Closed, FrontEnd, Options, Refused, Request};

use crate::matrix::driver;
use crate::pod::Pod;
use crate::work;

const MODERN: u64 = virtio::ALL & !virtio::LOG_ALL;

#[test]
fn rings_of_every_size_work() {
    let mut pod = Pod::start();
    for size in [2, 4, 256, 1024, 32_768] {
        for features in [MODERN, virtio::VERSION_1, 0] {
            eprintln!("ring size {size}, features {features:#x}");
            let buffers = size.min(256);
            let options = Options {
                ring_size: size,
                rx_buffers: if size > 1024 { 4096 } else { buffers },
                region_len: if size > 1024 { 256 << 20 } else { 48 << 20 },
                ..driver(features)
            };
            let mut guest = pod.guest(options);
            work::all(&mut pod, &mut guest, if size < 256 { 20_000 } else { 150_000 });
        }
    }
}

#[test]
fn rings_of_impossible_size_are_refused() {
    let mut pod = Pod::start();
    for size in [0, 1, 3, 255, 32_769, 65_535] {
        let options = Options { ring_size: size, rx_buffers: 1, tx_buffers: 1, ..Options::default() };
        let error = FrontEnd::connect(&pod.socket, options).expect_err("a ring of that size was accepted");
        let refused = error.downcast_ref::<Refused>().map(|refused| refused.request);
        let closed = error.downcast_ref::<Closed>().map(|closed| closed.request);
        assert_eq!(refused.or(closed), Some(Request::SetVringNum), "size {size}: {error:#}");
        pod.assert_alive();
    }
    let mut guest = pod.guest(Options::default());
    work::all(&mut pod, &mut guest, 100_000);
}

#[test]
fn pairs_of_every_number_work() {
    let mut pod = Pod::start();
    for pairs in [1, 2, 16, 128] {
        eprintln!("{pairs} pairs");
        let options = Options {
            pairs,
            ring_size: 64,
            rx_buffers: 32,
            tx_buffers: 16,
            region_len: 128 << 20,
            ..driver(MODERN)
        };
        let mut guest = pod.guest(options);
        for _ in 0..3 {
            work::all(&mut pod, &mut guest, 100_000);
        }
    }
}

#[test]
fn pairs_beyond_the_protocol_are_not_offered() {
    let pod = Pod::start();
    let guest = pod.guest(Options::default());
    let offered = guest.nic.front_end.pairs_offered();
    // A ring's number has eight bits in SET_VRING_KICK.
    assert!((1..=128).contains(&offered), "{offered} pairs are offered");
}
