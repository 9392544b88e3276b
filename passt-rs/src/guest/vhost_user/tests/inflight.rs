//! Records of what was taken (vhost-user, "Inflight I/O tracking", split virtqueue), and who comes after a crash.

use std::fs::File;
use std::os::fd::AsFd;

use proptest::prelude::*;

use super::rig::{Driver, GET_INFLIGHT_FD, MODERN, Rig, SET_INFLIGHT_FD, SIZE, longs};
use super::{Guest as _, NO_OFFLOAD, Ram};

/// A queue's region: 16 bytes and 16 for each descriptor, up to a multiple of 64.
const QUEUE_LEN: u64 = 320;

fn body(len: u64) -> Vec<u8> {
    let mut body = longs(&[len, 0]);
    body.extend(2u16.to_ne_bytes());
    body.extend(SIZE.to_ne_bytes());
    body.extend([0; 4]);
    body
}

/// The records, as the specification's structures say.
struct Records(Ram);

/// `struct DescStateSplit`.
#[derive(Debug, PartialEq, Eq)]
struct State {
    inflight: u8,
    next: u16,
    counter: u64,
}

impl Records {
    /// Asks the device for them.
    fn ask(rig: &mut Rig) -> Self {
        let (reply, fd) = rig.ask(GET_INFLIGHT_FD, &body(0));
        assert_eq!(reply, body(2 * QUEUE_LEN));
        Self(Ram(File::from(fd.unwrap())))
    }

    fn give(&self, rig: &mut Rig) {
        assert_eq!(rig.tell(SET_INFLIGHT_FD, &body(2 * QUEUE_LEN), &[self.0.0.as_fd()]), 0);
    }

    fn state(&self, queue: u64, head: u16) -> State {
        let at = QUEUE_LEN * queue + 16 + 16 * u64::from(head);
        let bytes = self.0.read(at, 16);
        let counter = u64::from_le_bytes(bytes[8..].try_into().unwrap());
        State { inflight: bytes[0], next: self.0.half(at + 6), counter }
    }

    /// Version, number of descriptors, head of the last batch, used index.
    fn header(&self, queue: u64) -> [u16; 4] {
        [8, 10, 12, 14].map(|at| self.0.half(QUEUE_LEN * queue + at))
    }

    fn in_flight(&self, queue: u64) -> Vec<u16> {
        (0..SIZE).filter(|head| self.state(queue, *head).inflight == 1).collect()
    }
}

fn frame(number: u8) -> Vec<u8> {
    vec![number; 60]
}

/// Takes up to `count` frames and keeps them.
fn take(rig: &mut Rig, count: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while frames.len() < count
        && let Some(received) = rig.vhost.receive()
    {
        assert!(received.offload.is_ok());
        frames.push(rig.vhost.whole(received.place).to_vec());
        assert!(rig.vhost.hold(received.place));
    }
    frames
}

#[test]
fn records_say_what_is_taken_given_back_and_shown() {
    let mut rig = Rig::agreed(MODERN);
    let records = Records::ask(&mut rig);
    let mut driver = Driver::new(1);
    assert_eq!(records.header(1), [0; 4]);
    rig.start(&driver, 0);
    assert_eq!(records.header(1), [1, SIZE, 0, 0]);
    for head in [5, 3, 9] {
        driver.send(&rig.ram, head, &frame(1));
    }
    driver.kick();
    rig.vhost.on_event();
    assert_eq!(take(&mut rig, 2).len(), 2);
    assert_eq!(records.in_flight(1), [3, 5]);
    assert!(records.state(1, 5).counter < records.state(1, 3).counter);
    assert_eq!(records.header(1), [1, SIZE, 0, 0]);
    // Given back, not shown: the last of the batch, linked to those before it.
    rig.vhost.release();
    assert_eq!(records.in_flight(1), [3, 5]);
    assert_eq!(records.header(1), [1, SIZE, 3, 0]);
    assert_eq!(records.state(1, 3).next, 5);
    rig.vhost.flush();
    assert!(records.in_flight(1).is_empty());
    assert_eq!(records.header(1), [1, SIZE, 3, 2]);
    assert_eq!(take(&mut rig, 9).len(), 1);
    assert_eq!(records.in_flight(1), [9]);
    rig.vhost.release();
    rig.vhost.flush();
    assert_eq!(records.header(1), [1, SIZE, 9, 3]);
    assert!(records.in_flight(0).is_empty());
}

#[test]
fn buffers_to_the_guest_are_recorded_until_they_are_shown() {
    let mut rig = Rig::agreed(MODERN);
    let records = Records::ask(&mut rig);
    let mut driver = Driver::new(0);
    rig.start(&driver, 0);
    for head in [7, 2, 4] {
        driver.offer_buffer(&rig.ram, head, 100);
    }
    assert!(rig.vhost.reserve(54, 200).is_some());
    assert_eq!(records.in_flight(0), [2, 4, 7]);
    rig.vhost.publish(NO_OFFLOAD, 54, 100).unwrap();
    assert_eq!(records.in_flight(0), [4]);
    assert_eq!(records.header(0), [1, SIZE, 2, 2]);
}

#[test]
fn what_was_taken_is_filled_after_a_crash() {
    let mut rig = Rig::agreed(MODERN);
    let records = Records::ask(&mut rig);
    let mut driver = Driver::new(0);
    rig.start(&driver, 0);
    for head in 0..6 {
        driver.offer_buffer(&rig.ram, head, 100);
    }
    assert!(rig.vhost.reserve(54, 200).is_some());
    rig.vhost.publish(NO_OFFLOAD, 54, 10).unwrap();
    let Rig { vhost, ram, .. } = rig;
    drop(vhost);
    let mut rig = Rig::over(ram);
    rig.agree(MODERN);
    records.give(&mut rig);
    rig.start(&driver, 3);
    assert!(records.in_flight(0).is_empty());
    assert!(rig.vhost.reserve(54, 10).is_some());
    rig.vhost.publish(NO_OFFLOAD, 54, 10).unwrap();
    assert_eq!(driver.layout.used_index(&rig.ram), 2);
    assert_eq!(driver.layout.used(&rig.ram, 1), (1, 76));
}

#[test]
fn memory_that_nobody_used_changes_no_base() {
    let mut rig = Rig::agreed(MODERN);
    let records = Records(Ram::new(2 * QUEUE_LEN));
    records.give(&mut rig);
    let mut driver = Driver::new(1);
    driver.available = 9;
    rig.start(&driver, 9);
    driver.send(&rig.ram, 0, &frame(1));
    driver.kick();
    rig.vhost.on_event();
    assert_eq!(rig.receive_all(), [frame(1)]);
    assert_eq!(records.header(1), [1, SIZE, 0, 1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// `shown` frames were done, `lost` more given back and not shown, `held` more only taken.
    #[test]
    fn after_a_crash_all_that_was_not_shown_is_taken_again_once(
        start in prop_oneof![Just(0u16), any::<u16>(), 65_525..=u16::MAX],
        shown in 0usize..5, lost in 0usize..4, held in 0usize..4, rest in 0usize..4,
        base in any::<u16>(),
    ) {
        let mut rig = Rig::agreed(MODERN);
        let records = Records::ask(&mut rig);
        let mut driver = Driver::new(1);
        driver.available = start;
        driver.layout.set_available(&rig.ram, start);
        rig.ram.set_half(driver.layout.used + 2, start);
        rig.start(&driver, start);
        let frames: Vec<_> = (0..16).take(shown + lost + held + rest).map(frame).collect();
        for (head, frame) in (0..).zip(&frames) {
            // Heads out of order, as after a while.
            driver.send(&rig.ram, head * 7 % SIZE, frame);
        }
        driver.kick();
        rig.vhost.on_event();
        prop_assert_eq!(&take(&mut rig, shown), &frames[..shown]);
        rig.vhost.release();
        rig.vhost.flush();
        prop_assert_eq!(take(&mut rig, lost).len(), lost);
        rig.vhost.release();
        prop_assert_eq!(take(&mut rig, held).len(), held);
        prop_assert_eq!(records.in_flight(1).len(), lost + held);
        // The crash: nothing is given back, nothing is shown.
        let Rig { vhost, ram, .. } = rig;
        drop(vhost);
        let done = u16::try_from(shown).unwrap();
        prop_assert_eq!(driver.layout.used_index(&ram), start.wrapping_add(done));
        let mut rig = Rig::over(ram);
        rig.agree(MODERN);
        records.give(&mut rig);
        // A front end may not know the base any more.
        rig.start(&driver, base);
        prop_assert_eq!(rig.receive_all(), &frames[shown..]);
        let all = u16::try_from(frames.len()).unwrap();
        prop_assert_eq!(driver.layout.used_index(&rig.ram), start.wrapping_add(all));
        let heads: Vec<_> = (0..all).map(|at| driver.layout.used(&rig.ram, start.wrapping_add(at)).0).collect();
        let sent: Vec<_> = (0..u32::from(all)).map(|head| head * 7 % u32::from(SIZE)).collect();
        prop_assert_eq!(heads, sent);
        prop_assert!(records.in_flight(1).is_empty());
    }
}
