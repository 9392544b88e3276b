//! Regions and the log of what is written to them.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::memory::{Memory, MemoryError, REGIONS_MAX};
use super::{GUEST, Layout, Ram, USER, memory, region};

const PAGE: u64 = 4096;

/// Everything that can be asked of a memory about its regions.
fn parts(memory: &Memory) -> Vec<Option<u32>> {
    (0..64).map(|page| memory.part(GUEST + page * PAGE, u32::MAX).map(|part| part.len)).collect()
}

#[test]
fn regions_side_by_side_are_not_one() {
    let ram = Ram::new(4 * PAGE);
    ram.write(3 * PAGE, b"second");
    let memory = memory(&ram, &[region(GUEST, 0, PAGE), region(GUEST + PAGE, 3 * PAGE, PAGE)]);
    let first = memory.part(GUEST + PAGE - 10, 16).unwrap();
    assert_eq!((first.len, first.guest), (10, GUEST + PAGE - 10));
    let second = memory.part(GUEST + PAGE, 6).unwrap();
    let mut bytes = [0; 6];
    second.as_piece().copy_to(&mut bytes);
    assert_eq!(&bytes, b"second");
    // A ring is whole in one region.
    assert!(memory.of_user(USER + PAGE - 10, 10).is_some());
    assert!(memory.of_user(USER + PAGE - 10, 11).is_none());
    assert!(memory.of_user(USER + PAGE, 1).is_none());
    assert!(memory.part(GUEST + 2 * PAGE, 1).is_none());
    assert!(memory.part(GUEST - 1, 2).is_none());
}

#[test]
fn a_region_that_overlaps_another_is_refused() {
    let ram = Ram::new(16 * PAGE);
    let mut memory = memory(&ram, &[region(GUEST + 4 * PAGE, 0, 4 * PAGE)]);
    let before = parts(&memory);
    for (start, len) in [(4, 4), (3, 2), (7, 2), (5, 1), (0, 16)] {
        let added = memory.add(region(GUEST + start * PAGE, 0, len * PAGE), ram.0.as_fd());
        assert!(matches!(added, Err(MemoryError::Overlap { .. })), "{len} pages at {start}: {added:?}");
        assert_eq!(parts(&memory), before);
    }
    for (start, len) in [(3, 1), (8, 1)] {
        memory.add(region(GUEST + start * PAGE, 8 * PAGE, len * PAGE), ram.0.as_fd()).unwrap();
    }
}

#[test]
fn a_region_beyond_the_end_of_its_file_is_refused() {
    let ram = Ram::new(4 * PAGE);
    let mut memory = Memory::default();
    for (offset, len) in [(0, 4 * PAGE + 1), (PAGE, 4 * PAGE), (4 * PAGE, 1), (1, 4 * PAGE)] {
        let added = memory.add(region(GUEST, offset, len), ram.0.as_fd());
        assert!(matches!(added, Err(MemoryError::Short { .. })), "{len} bytes at {offset}: {added:?}");
    }
    let added = memory.add(region(GUEST, u64::MAX, 2), ram.0.as_fd());
    assert!(matches!(added, Err(MemoryError::Map { .. })), "{added:?}");
    assert!(memory.part(GUEST, 1).is_none());
    memory.add(region(GUEST, PAGE, 3 * PAGE), ram.0.as_fd()).unwrap();
}

#[test]
fn a_region_may_begin_within_a_page_of_its_file() {
    let ram = Ram::new(4 * PAGE);
    ram.write(PAGE + 100, b"here");
    let memory = memory(&ram, &[region(GUEST, PAGE + 100, PAGE)]);
    let mut bytes = [0; 4];
    memory.part(GUEST, 4).unwrap().as_piece().copy_to(&mut bytes);
    assert_eq!(&bytes, b"here");
    assert_eq!(memory.part(GUEST, u32::MAX).unwrap().len, 4096);
}

#[test]
fn a_table_is_taken_whole_or_not_at_all() {
    let ram = Ram::new(8 * PAGE);
    let mut memory = memory(&ram, &[region(GUEST, 0, PAGE)]);
    let before = parts(&memory);
    let fd = ram.0.as_fd();
    let overlapping = [(region(GUEST + PAGE, 0, 2 * PAGE), fd), (region(GUEST + 2 * PAGE, 0, PAGE), fd)];
    assert!(memory.replace(&overlapping).is_err());
    assert_eq!(parts(&memory), before);
    memory.replace(&[(region(GUEST + PAGE, PAGE, 2 * PAGE), fd)]).unwrap();
    assert!(memory.part(GUEST, 1).is_none());
    assert!(memory.part(GUEST + PAGE, 1).is_some());
}

#[test]
fn a_region_goes_by_its_addresses_and_length() {
    let ram = Ram::new(8 * PAGE);
    let mut memory = memory(&ram, &[region(GUEST, 0, PAGE), region(GUEST + PAGE, PAGE, PAGE)]);
    let before = parts(&memory);
    for wrong in [region(GUEST, 0, 2 * PAGE), region(GUEST, PAGE, PAGE), region(GUEST + 2 * PAGE, 0, PAGE)] {
        assert!(matches!(memory.remove(wrong), Err(MemoryError::Unknown { .. })));
        assert_eq!(parts(&memory), before);
    }
    let mut elsewhere = region(GUEST, 0, PAGE);
    // The place in a descriptor is no part of a region's name.
    elsewhere.offset = 5 * PAGE;
    memory.remove(elsewhere).unwrap();
    assert!(memory.part(GUEST, 1).is_none());
    assert!(memory.part(GUEST + PAGE, 1).is_some());
}

#[test]
fn there_are_as_many_regions_as_slots_and_no_more() {
    let ram = Ram::new(PAGE);
    let mut memory = Memory::default();
    for number in 0..REGIONS_MAX as u64 {
        memory.add(region(GUEST + number * PAGE, 0, PAGE), ram.0.as_fd()).unwrap();
    }
    let one_more = memory.add(region(GUEST - PAGE, 0, PAGE), ram.0.as_fd());
    assert!(matches!(one_more, Err(MemoryError::TooMany)));
}

#[test]
fn rings_lie_aligned_and_whole_in_memory() {
    let ram = Ram::new(8 * PAGE);
    let memory = memory(&ram, &[region(GUEST, 0, 8 * PAGE)]);
    let layout = Layout::at(PAGE, 8);
    let placed = |shift: &dyn Fn(&mut super::Addresses)| {
        let mut ring = super::Ring::default();
        assert!(ring.set_size(8));
        let mut addresses = layout.addresses();
        shift(&mut addresses);
        ring.place(&memory, &addresses)
    };
    assert!(placed(&|_| {}));
    assert!(!placed(&|addresses| addresses.descriptors += 8));
    assert!(!placed(&|addresses| addresses.available += 1));
    assert!(!placed(&|addresses| addresses.used += 2));
    let end = USER + 8 * PAGE;
    for (room, fits) in [(0, true), (16, false)] {
        assert_eq!(placed(&|addresses| addresses.descriptors = end - 16 * 8 + room), fits);
    }
    for (room, fits) in [(0, true), (2, false)] {
        assert_eq!(placed(&|addresses| addresses.available = end - (4 + 2 * 8 + 2) + room), fits);
    }
    // Its 70 bytes need an address of a multiple of 4.
    for (room, fits) in [(0, true), (4, false)] {
        assert_eq!(placed(&|addresses| addresses.used = end - 72 + room), fits);
    }
    assert!(!placed(&|addresses| addresses.descriptors = u64::MAX - 15));
}

/// A log of `bytes` bytes, and a memory that writes it.
fn logged(ram: &Ram, bytes: u64) -> (Ram, Memory) {
    let log = Ram::new(PAGE);
    let mut memory = memory(ram, &[region(GUEST, 0, 64 * PAGE)]);
    memory.set_log(log.0.as_fd(), 0, bytes).unwrap();
    memory.set_logging(true);
    (log, memory)
}

/// Numbers of the pages whose bits are set.
pub(super) fn dirty(log: &Ram) -> BTreeSet<u64> {
    let bits =
        |(at, byte): (u64, u8)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| 8 * at + bit);
    (0..).zip(log.read(0, log.len())).flat_map(bits).collect()
}

#[test]
fn bits_are_set_for_the_bytes_written_and_no_others() {
    let ram = Ram::new(64 * PAGE);
    for (at, len, pages) in [
        (0, 1, vec![0]),
        (4095, 1, vec![0]),
        (4095, 2, vec![0, 1]),
        (4096, 4096, vec![1]),
        (4096, 4097, vec![1, 2]),
        (7 * 4096 + 5, 2 * 4096, vec![7, 8, 9]),
        (12_288, 0, vec![]),
        // The log has 16 pages: what lies behind them is none of the guest's.
        (15 * 4096, 3 * 4096, vec![15]),
        (u64::MAX, 1, vec![]),
        (u64::MAX - 4095, u64::MAX, vec![]),
    ] {
        let (log, memory) = logged(&ram, 2);
        memory.note_written(at, len);
        assert_eq!(dirty(&log).into_iter().collect::<Vec<_>>(), pages, "{len} bytes at {at}");
    }
}

#[test]
fn nothing_is_logged_that_was_not_asked_for() {
    let ram = Ram::new(64 * PAGE);
    let (log, mut memory) = logged(&ram, 16);
    memory.set_logging(false);
    assert!(!memory.is_logging());
    memory.note_written(0, 10);
    assert!(dirty(&log).is_empty());
    let mut without = Memory::default();
    without.set_logging(true);
    assert!(!without.is_logging());
    without.note_written(0, 10);
}

proptest! {
    #[test]
    fn the_log_has_the_pages_of_all_writes(writes in vec((0u64..64 * PAGE, 0u64..3 * PAGE), 0..20)) {
        let ram = Ram::new(64 * PAGE);
        let (log, memory) = logged(&ram, 8);
        let mut expected = BTreeSet::new();
        for (at, len) in writes {
            memory.note_written(at, len);
            expected.extend((at..at + len).map(|byte| byte / PAGE).filter(|page| *page < 64));
        }
        prop_assert_eq!(dirty(&log), expected);
    }
}

#[test]
fn what_is_written_to_a_used_ring_is_logged_where_the_guest_has_it() {
    for event_idx in [false, true] {
        let ram = Ram::new(64 * PAGE);
        // Element 511 ends on the second page of the used ring; the event index lies on its third.
        let layout = Layout::at(0, 1024);
        let (log, memory) = logged(&ram, 64);
        let mut ring = layout.ring(&memory, 0, event_idx, false);
        let mut addresses = layout.addresses();
        addresses.log = Some(100 * PAGE);
        assert!(ring.place(&memory, &addresses));
        assert_eq!(layout.used % PAGE, 0);
        let expect = |pages: &[u64], what: &str| {
            assert_eq!(dirty(&log), pages.iter().map(|page| 100 + page).collect(), "{what}");
            log.write(0, &[0; 64]);
        };
        ring.give_back(&memory, 0, 0);
        expect(&[0], "an element");
        ring.publish(&memory);
        expect(&[0], "the index");
        ring.publish(&memory);
        expect(&[], "nothing new");
        for _ in 1..512 {
            ring.give_back(&memory, 0, 0);
        }
        // Element 511 begins four bytes before the page ends.
        expect(&[0, 1], "an element across pages");
        ring.ask_for_kicks(&memory).unwrap();
        expect(if event_idx { &[2] } else { &[0] }, "a wish for kicks");
        ring.do_without_kicks(&memory);
        expect(if event_idx { &[] } else { &[0] }, "none");
        addresses.log = None;
        assert!(ring.place(&memory, &addresses));
        ring.give_back(&memory, 0, 0);
        expect(&[], "without VHOST_VRING_F_LOG");
    }
}
