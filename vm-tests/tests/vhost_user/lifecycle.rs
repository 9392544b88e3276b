//! What happens to a NIC besides frames: pauses, resets, other memory, migration, a back end and a QEMU that come back.

use std::os::unix::net::UnixStream;

use vm_tests::lab::SERVER_V4;
use vm_tests::vhost::feature::{protocol, virtio};
use vm_tests::vhost::{Layout, Options};

use crate::matrix::driver;
use crate::pod::Pod;
use crate::work;

const BYTES: usize = 100_000;

#[test]
fn paused_guest_goes_on_where_it_stopped() {
    let mut pod = Pod::start();
    let mut guest = pod.guest(Options::default());
    for _ in 0..5 {
        work::all(&mut pod, &mut guest, BYTES);
        let bases = guest.nic.front_end.stop().unwrap();
        // A stopped ring has nothing in flight: all that was taken was used.
        for (ring, base) in bases.iter().enumerate() {
            let pair = &guest.nic.front_end.pairs()[ring / 2];
            let counters = if ring % 2 == 0 { pair.rx.counters() } else { pair.tx.counters() };
            let available = u64::from(*base);
            assert!(available <= counters.available, "ring {ring} goes on at {base}, {counters:?}");
        }
        guest.nic.front_end.resume(&bases).unwrap();
    }
    work::all(&mut pod, &mut guest, BYTES);
}

#[test]
fn driver_that_starts_anew_finds_a_fresh_device() {
    let mut pod = Pod::start();
    let mut guest = pod.guest(Options::default());
    for _ in 0..5 {
        work::all(&mut pod, &mut guest, BYTES);
        guest.nic.front_end.reset().unwrap();
    }
    work::all(&mut pod, &mut guest, BYTES);
}

#[test]
fn qemu_that_comes_back_goes_on_with_its_rings() {
    let mut pod = Pod::start();
    let mut guest = pod.guest(Options { inflight: true, ..Options::default() });
    for _ in 0..5 {
        work::tcp_from_guest(&mut guest, SERVER_V4.into(), BYTES);
        guest.nic.front_end.disconnect().unwrap();
        let stream = UnixStream::connect(&pod.socket).unwrap();
        guest.nic.front_end.reconnect(stream).unwrap();
    }
    work::all(&mut pod, &mut guest, BYTES);
}

#[test]
fn memory_comes_and_goes_while_frames_pass() {
    let mut pod = Pod::start();
    for slots in [protocol::CONFIGURE_MEM_SLOTS, 0] {
        let options = Options {
            protocol_features: (protocol::ALL & !protocol::CONFIGURE_MEM_SLOTS) | slots,
            regions: vec![0x4000_0000, 0, 0x7_0000_0000, 0x8000_0000],
            tx_layout: Layout::HeaderApart,
            ..Options::default()
        };
        let mut guest = pod.guest(options);
        for at in [0x10_0000_0000, 0x20_0000_0000] {
            guest.nic.front_end.add_region(at, 64 << 20).unwrap();
            work::all(&mut pod, &mut guest, BYTES);
        }
        for at in [0x20_0000_0000, 0x10_0000_0000] {
            guest.nic.front_end.remove_region(at).unwrap();
            work::all(&mut pod, &mut guest, BYTES);
        }
    }
}

#[test]
fn every_page_that_is_written_is_in_the_log() {
    let mut pod = Pod::start();
    for features in [virtio::ALL, virtio::VERSION_1 | virtio::LOG_ALL, virtio::LOG_ALL] {
        let mut guest = pod.guest(driver(features));
        work::all(&mut pod, &mut guest, BYTES);
        guest.nic.front_end.start_log().unwrap();
        guest.nic.written_pages = Some(Vec::new());
        work::all(&mut pod, &mut guest, BYTES);
        guest.nic.front_end.stop().unwrap();
        let dirty = guest.nic.front_end.take_dirty_pages();
        let mut written = guest.nic.written_pages.take().unwrap();
        written.sort_unstable();
        written.dedup();
        assert!(written.len() > 10, "only {} pages were written", written.len());
        let missing: Vec<_> = written.iter().filter(|page| dirty.binary_search(page).is_err()).collect();
        assert!(missing.is_empty(), "{} of {} pages are not in the log", missing.len(), written.len());
    }
}
