//! Every byte arrives once and in order, whatever the cable does.

use crate::support::cable::Faults;
use crate::support::host;
use crate::support::lab::{Options, PEER4, PEER6, with};

const MIB: u64 = 1 << 20;

fn transfer(options: Options, peer: &'static str, buffer: usize, (up, down): (u64, u64)) {
    with(options, move |lab| {
        let (listener, address) = host::listen(peer);
        let handle = lab.guest.connected(address, buffer);
        let peer = host::exchange(host::accept(&listener), down);
        lab.guest.exchange(handle, up, down);
        assert_eq!(peer.join().unwrap(), up);
        lab.until_no_flows();
        let lost = options.faults.lost > 0 && down > MIB;
        assert!(!lost || lab.counter(&["tcp", "retransmits_total"]) > 0, "{}", lab.stats());
    });
}

fn faults(lost: u16, duplicated: u16, delayed: u16) -> Faults {
    Faults { lost, duplicated, delayed }
}

#[test]
fn a_gigabyte_up() {
    transfer(Options { mtu: 65_520, ..Options::default() }, PEER4, 4 << 20, (1024 * MIB, 0));
}

#[test]
fn a_gigabyte_down() {
    transfer(Options { mtu: 65_520, ..Options::default() }, PEER4, 4 << 20, (0, 1024 * MIB));
}

#[test]
fn a_gigabyte_both_ways_at_once_over_ipv6() {
    transfer(Options { mtu: 9000, ..Options::default() }, PEER6, 1 << 20, (512 * MIB, 512 * MIB));
}

#[test]
fn every_mtu_and_buffer() {
    for mtu in [576, 1500, 9000, 65_520] {
        for buffer in [2 << 10, 16 << 10, 64 << 10] {
            let amount = buffer as u64 * 64;
            transfer(Options { mtu, ..Options::default() }, PEER4, buffer, (amount, amount));
        }
    }
}

#[test]
fn one_percent_lost() {
    let options = Options { faults: faults(10, 0, 0), ..Options::default() };
    transfer(options, PEER4, 256 << 10, (16 * MIB, 0));
    transfer(options, PEER4, 256 << 10, (0, 16 * MIB));
}

#[test]
fn five_percent_lost() {
    let options = Options { faults: faults(50, 0, 0), seed: 2, ..Options::default() };
    transfer(options, PEER6, 64 << 10, (0, 8 * MIB));
    // smoltcp's least timeout is a second, and it doubles until new bytes are measured.
    transfer(options, PEER6, 64 << 10, (MIB / 8, 0));
}

#[test]
fn a_tenth_late() {
    let options = Options { faults: faults(0, 0, 100), seed: 3, ..Options::default() };
    transfer(options, PEER4, 64 << 10, (8 * MIB, 8 * MIB));
}

#[test]
fn a_tenth_twice() {
    let options = Options { faults: faults(0, 100, 0), seed: 4, ..Options::default() };
    transfer(options, PEER4, 256 << 10, (16 * MIB, 16 * MIB));
}

#[test]
fn everything_at_once_with_tiny_windows() {
    for seed in 5..8 {
        let options = Options { faults: faults(20, 20, 50), seed, mtu: 576, ..Options::default() };
        transfer(options, PEER4, 4 << 10, (MIB / 4, MIB / 4));
    }
}

/// Linux before 6.9: what lies before a peek is copied away each time.
#[test]
fn an_old_kernel_carries_the_same_bytes() {
    let plain = Options { old_kernel: true, ..Options::default() };
    for mtu in [1500, 65_520] {
        transfer(Options { mtu, ..plain }, PEER4, 2 << 20, (16 * MIB, 16 * MIB));
    }
    let bad = Options { faults: faults(10, 10, 20), seed: 8, ..plain };
    transfer(bad, PEER6, 64 << 10, (MIB / 4, 4 * MIB));
}
