//! Frames through a whole transport, and front ends that do not behave.

use std::io::Write as _;
use std::os::fd::AsFd;

use super::super::features::{
    F_VERSION_1, NET_F_CSUM, NET_F_HOST_TSO4, NET_F_MRG_RXBUF, RING_F_EVENT_IDX, VHOST_F_LOG_ALL,
};
use super::memory::dirty;
use super::rig::{
    BUFFERS, Driver, GET_FEATURES, MODERN, RINGS_LEN, Rig, SET_LOG_BASE, SET_VRING_NUM, buffer, count, longs,
    message, words,
};
use super::{Entry, GUEST, Guest as _, Link, NEXT, NO_OFFLOAD, Ram, WRITE};
use crate::drop_reason::DropReason;
use crate::guest::{FRAME_MAX, SLICES_MAX};
use crate::iovec::Piece;

/// A driver of before virtio 1.0.
const LEGACY: u64 = MODERN & !(F_VERSION_1 | NET_F_MRG_RXBUF);

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8).to_le_bytes()[0]).collect()
}

/// The bytes in the buffer at descriptor `head`.
fn filled(rig: &Rig, head: u16, len: usize) -> Vec<u8> {
    rig.ram.read(RINGS_LEN + buffer(head) - BUFFERS, len)
}

#[test]
fn the_first_pair_of_rings_brings_the_link_up() {
    let mut rig = Rig::agreed(MODERN);
    rig.start(&Driver::new(0), 0);
    assert_eq!(rig.vhost.take_link(), Link::Unchanged);
    rig.start(&Driver::new(1), 0);
    assert_eq!(rig.vhost.take_link(), Link::Up);
    assert_eq!(rig.vhost.take_link(), Link::Unchanged);
    rig.vhost.on_event();
    drop(rig.front);
    rig.vhost.on_event();
    assert_eq!(rig.vhost.take_link(), Link::Down);
}

#[test]
fn all_buffers_of_a_merged_frame_are_shown_at_once() {
    let (mut rig, mut to_guest, _) = Rig::running(MODERN & !RING_F_EVENT_IDX);
    for head in [3, 1, 4, 5, 9] {
        to_guest.offer_buffer(&rig.ram, head, 100);
    }
    let room = rig.vhost.reserve(54, 300).unwrap();
    assert_eq!((room.headers.len(), room.payload_len()), (54, 300));
    assert_eq!(room.payload.pieces().iter().map(|piece| piece.len()).collect::<Vec<_>>(), [34, 100, 100, 66]);
    assert_eq!(to_guest.layout.used_index(&rig.ram), 0);
    rig.vhost.room().headers.fill(7);
    rig.vhost.publish(NO_OFFLOAD, 54, 0).unwrap();
    assert_eq!(to_guest.layout.used_index(&rig.ram), 1);
    rig.vhost.reserve(54, 200).unwrap();
    rig.vhost.publish(NO_OFFLOAD, 54, 200).unwrap();
    assert_eq!(to_guest.layout.used_index(&rig.ram), 4);
    let used: Vec<_> = (0..4).map(|index| to_guest.layout.used(&rig.ram, index)).collect();
    assert_eq!(used, [(3, 66), (1, 100), (4, 100), (5, 66)]);
    let [first, second] = [3, 1].map(|head| filled(&rig, head, 12));
    assert_eq!((&first[10..], &second[10..]), (&[1, 0][..], &[3, 0][..]));
    assert_eq!(filled(&rig, 3, 66)[12..], [7; 54]);
    // Interrupts wait for the end of a batch.
    assert_eq!(count(&to_guest.call), 0);
    rig.vhost.flush();
    assert_eq!(count(&to_guest.call), 1);
    rig.vhost.flush();
    assert_eq!(count(&to_guest.call), 0);
}

#[test]
fn a_frame_that_lies_elsewhere_is_cut_to_the_buffers() {
    let (mut rig, mut to_guest, _) = Rig::running(MODERN);
    for head in 0..4 {
        to_guest.offer_buffer(&rig.ram, head, 100);
    }
    let frame = bytes(250);
    let payload = [std::io::IoSlice::new(&frame[54..200]), std::io::IoSlice::new(&frame[200..])];
    rig.vhost.send(NO_OFFLOAD, &frame[..54], &payload).unwrap();
    assert_eq!(to_guest.layout.used_index(&rig.ram), 3);
    let seen = [filled(&rig, 0, 100), filled(&rig, 1, 100), filled(&rig, 2, 62)].concat();
    assert_eq!(seen[12..], frame);
    // One buffer is left: too little for another, and nothing of it is shown.
    assert!(rig.vhost.send(NO_OFFLOAD, &frame[..54], &payload).is_err());
    rig.vhost.flush();
    assert_eq!(to_guest.layout.used_index(&rig.ram), 3);
    assert!(rig.vhost.send(NO_OFFLOAD, &frame[..54], &[]).is_ok());
    assert_eq!(to_guest.layout.used(&rig.ram, 3), (3, 66));
}

#[test]
fn a_legacy_driver_has_headers_of_ten_bytes() {
    let (mut rig, mut to_guest, mut from_guest) = Rig::running(LEGACY);
    let frame = bytes(300);
    from_guest.send_raw(&rig.ram, 0, &[&[0; 10], &frame[..]].concat());
    from_guest.kick();
    rig.vhost.on_event();
    assert_eq!(rig.receive_all(), std::slice::from_ref(&frame));
    to_guest.offer_buffer(&rig.ram, 0, 1600);
    rig.vhost.send(NO_OFFLOAD, &frame, &[]).unwrap();
    assert_eq!(to_guest.layout.used(&rig.ram, 0), (0, 310));
    assert_eq!(filled(&rig, 0, 310), [&[0; 10], &frame[..]].concat());
    // Without mergeable buffers a frame has one chain.
    to_guest.offer_buffer(&rig.ram, 1, 200);
    to_guest.offer_buffer(&rig.ram, 2, 200);
    assert!(rig.vhost.send(NO_OFFLOAD, &frame, &[]).is_err());
}

#[test]
fn a_frame_may_be_cut_into_descriptors_anywhere() {
    let (mut rig, _, mut from_guest) = Rig::running(MODERN);
    let frame = bytes(700);
    let raw = [&[0; 12], &frame[..]].concat();
    rig.ram.write(RINGS_LEN, &raw);
    let cuts = [0, 5, 12, 13, 280, 600, raw.len()];
    let pairs: Vec<_> = cuts.windows(2).map(|pair| (pair[0], pair[1] - pair[0])).collect();
    for (number, (at, len)) in (0..).zip(&pairs) {
        let more = usize::from(number) + 1 < pairs.len();
        let (guest, len) = (BUFFERS + *at as u64, u32::try_from(*len).unwrap());
        let entry = Entry { guest, len, flags: if more { NEXT } else { 0 }, next: number + 1 };
        from_guest.layout.describe(&rig.ram, number, entry);
    }
    from_guest.offer(&rig.ram, 0);
    from_guest.kick();
    rig.vhost.on_event();
    let received = rig.vhost.receive().unwrap();
    assert_eq!(received.place.len(), 700);
    let mut pieces = [Piece::EMPTY; SLICES_MAX];
    let used = rig.vhost.gather(received.place, 200..650, &mut pieces);
    let mut gathered = Vec::new();
    for piece in &pieces[..used] {
        let mut copy = vec![0; piece.len()];
        piece.copy_to(&mut copy);
        gathered.extend(copy);
    }
    assert_eq!(gathered, frame[200..650]);
    assert_eq!(rig.vhost.whole(received.place), frame);
}

#[test]
fn what_is_no_frame_is_counted_and_given_back() {
    let (mut rig, _, mut from_guest) = Rig::running(MODERN & !(NET_F_CSUM | NET_F_HOST_TSO4));
    // No whole header; nothing behind it is an empty frame.
    from_guest.send_raw(&rig.ram, 0, &[0; 11]);
    // For writing.
    from_guest.layout.describe(&rig.ram, 1, Entry { guest: BUFFERS, len: 100, flags: WRITE, next: 0 });
    from_guest.offer(&rig.ram, 1);
    // Longer than any frame.
    let len = u32::try_from(FRAME_MAX).unwrap() + 13;
    from_guest.layout.describe(&rig.ram, 2, Entry { guest: BUFFERS, len, flags: 0, next: 0 });
    from_guest.offer(&rig.ram, 2);
    // Offloads that were not accepted: a checksum, segmentation; and a kind that nobody knows.
    let header = |flags, kind| [&[flags, kind, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0], &[0; 60][..]].concat();
    for (head, flags, kind) in [(3, 1, 0), (4, 0, 1), (5, 0, 77)] {
        from_guest.send_raw(&rig.ram, head, &header(flags, kind));
    }
    from_guest.send(&rig.ram, 6, &[1; 60]);
    from_guest.kick();
    rig.vhost.on_event();
    assert_eq!(rig.receive_all(), [[1; 60]]);
    assert_eq!((rig.dropped(DropReason::Descriptors), rig.dropped(DropReason::Offload)), (3, 3));
    assert_eq!(from_guest.layout.used_index(&rig.ram), 7);
}

#[test]
fn as_many_frames_fit_as_were_promised() {
    for (features, buffers, len, expected) in [
        (MODERN, 2000, 1500, 16),
        (MODERN, 2000, 1988, 16),
        (MODERN, 2000, 1989, 8),
        (MODERN, 1000, 4900, 3),
        (MODERN & !NET_F_MRG_RXBUF, 2000, 1500, 16),
    ] {
        let (mut rig, mut to_guest, _) = Rig::running(features);
        assert_eq!(rig.vhost.frames_that_fit(len, 64), 0);
        for head in 0..16 {
            to_guest.offer_buffer(&rig.ram, head, buffers);
        }
        assert_eq!(rig.vhost.frames_that_fit(len, 2), 2);
        let promised = rig.vhost.frames_that_fit(len, 64);
        assert_eq!(promised, expected, "{len} bytes in buffers of {buffers}");
        for number in 0..promised {
            let sent = rig.vhost.send(NO_OFFLOAD, &bytes(len), &[]);
            assert!(sent.is_ok(), "{number} of {promised} frames of {len} bytes in buffers of {buffers}");
        }
    }
}

/// A ring whose driver gave 16 buffers before, all of them filled; what is given next begins with descriptor 0.
fn emptied() -> (Rig, Driver) {
    let (mut rig, mut to_guest, _) = Rig::running(MODERN);
    for head in 0..16 {
        to_guest.offer_buffer(&rig.ram, head, 1000);
    }
    assert_eq!(rig.vhost.frames_that_fit(900, 64), 16);
    for _ in 0..16 {
        rig.vhost.send(NO_OFFLOAD, &bytes(900), &[]).unwrap();
    }
    rig.vhost.flush();
    assert_eq!(rig.vhost.frames_that_fit(900, 64), 0);
    (rig, to_guest)
}

/// By the length of the first there would be too few.
#[test]
fn a_small_buffer_in_front_of_large_ones_does_not_hide_them() {
    let (mut rig, mut to_guest) = emptied();
    for (head, len) in [(0, 300), (1, 0x7000), (2, 0x7000), (3, 0x7000), (4, 0x7000)] {
        to_guest.offer_buffer(&rig.ram, head, len);
    }
    assert_eq!(rig.vhost.frames_that_fit(4000, 64), 1);
    rig.vhost.send(NO_OFFLOAD, &bytes(4000), &[]).unwrap();
}

/// The driver says nothing of buffers that were there when we asked it to.
#[test]
fn whoever_waits_for_more_room_hears_of_what_is_there_already() {
    let (mut rig, mut to_guest) = emptied();
    to_guest.kick();
    assert!(rig.vhost.on_event());
    // Looking ends at what is no buffer.
    for (head, len) in [(0, 400), (1, 0), (2, 0x7000)] {
        to_guest.offer_buffer(&rig.ram, head, len);
    }
    assert_eq!(rig.vhost.frames_that_fit(4000, 64), 0);
    assert!(rig.vhost.on_event(), "nobody says that there is more");
}

#[test]
fn a_flow_without_its_queue_goes_through_the_first() {
    let (mut rig, mut first, _) = Rig::running(MODERN);
    let mut second = Driver::new(2);
    rig.start(&second, 0);
    for head in 0..4 {
        first.offer_buffer(&rig.ram, head, 200);
        second.offer_buffer(&rig.ram, 8 + head, 200);
    }
    let send = |rig: &mut Rig, pair| {
        rig.vhost.steer(pair);
        rig.vhost.send(NO_OFFLOAD, &[0; 60], &[]).unwrap();
        [&first, &second].map(|driver| driver.layout.used_index(&rig.ram))
    };
    assert_eq!(send(&mut rig, 1), [0, 1]);
    assert_eq!(send(&mut rig, 0), [1, 1]);
    // There is no such pair; one that is not enabled; one again enabled.
    assert_eq!(send(&mut rig, 90), [2, 1]);
    assert_eq!(rig.enable(2, false), 0);
    assert_eq!(send(&mut rig, 1), [3, 1]);
    assert_eq!(rig.enable(2, true), 0);
    assert_eq!(send(&mut rig, 1), [3, 2]);
    assert_eq!(rig.stop(2), 2);
    assert_eq!(send(&mut rig, 1), [4, 2]);
}

#[test]
fn frames_say_which_pair_they_came_through() {
    let (mut rig, _, mut first) = Rig::running(MODERN);
    let mut second = Driver::new(3);
    rig.start(&second, 0);
    first.send(&rig.ram, 0, &[1; 60]);
    second.send(&rig.ram, 8, &[2; 60]);
    second.kick();
    first.kick();
    rig.vhost.on_event();
    let mut seen = Vec::new();
    while let Some(received) = rig.vhost.receive() {
        seen.push((received.queue, rig.vhost.head(received.place)[0]));
    }
    seen.sort_unstable();
    assert_eq!(seen, [(0, 1), (1, 2)]);
}

#[test]
fn one_ring_does_not_keep_another_waiting() {
    let (mut rig, _, mut first) = Rig::running(MODERN);
    let mut second = Driver::new(3);
    rig.start(&second, 0);
    second.send(&rig.ram, 8, &[2; 60]);
    second.kick();
    let mut before = 0;
    // The first is filled as fast as it is emptied.
    loop {
        assert!(before < 200, "{before} frames, and none from the other ring");
        first.send(&rig.ram, 0, &[1; 60]);
        first.kick();
        rig.vhost.on_event();
        let received = rig.vhost.receive().unwrap();
        if received.queue == 1 {
            break;
        }
        before += 1;
        rig.vhost.release();
        rig.vhost.flush();
    }
}

#[test]
fn what_is_written_is_logged_while_a_log_is_asked_for() {
    let mut rig = Rig::agreed(MODERN | VHOST_F_LOG_ALL);
    let log = Ram::new(0x1_0000);
    let body = longs(&[0x1_0000, 0]);
    let fd = log.0.try_clone().unwrap();
    super::rig::post(&rig.front, &message(SET_LOG_BASE, 0, &body), &[fd.as_fd()]);
    rig.vhost.on_event();
    assert!(!rig.is_silent());
    let mut rest = [0; 64];
    let _ = std::io::Read::read(&mut &rig.front, &mut rest);
    let mut to_guest = Driver::new(0);
    rig.start(&to_guest, 0);
    rig.start(&Driver::new(1), 0);
    let layout = to_guest.layout;
    assert_eq!(rig.address(0, &layout, Some(GUEST + layout.used)), 0);
    to_guest.offer_buffer(&rig.ram, 0, 0x2000);
    to_guest.offer_buffer(&rig.ram, 1, 0x2000);
    log.write(0, &[0; 0x1_0000]);
    let page = |guest: u64| guest / 4096;
    // Ends with the first page.
    rig.vhost.send(NO_OFFLOAD, &bytes(4096 - 12), &[]).unwrap();
    let used = page(GUEST + layout.used);
    assert_eq!(dirty(&log), [used, page(BUFFERS)].into());
    log.write(0, &[0; 0x1_0000]);
    rig.vhost.send(NO_OFFLOAD, &bytes(4096 - 11), &[]).unwrap();
    assert_eq!(dirty(&log), [used, page(buffer(1)), page(buffer(1)) + 1].into());
    // The migration failed; the guest goes on here.
    assert_eq!(rig.tell(super::rig::SET_FEATURES, &longs(&[MODERN]), &[]), 0);
    log.write(0, &[0; 0x1_0000]);
    to_guest.offer_buffer(&rig.ram, 2, 0x2000);
    rig.vhost.send(NO_OFFLOAD, &bytes(100), &[]).unwrap();
    assert!(dirty(&log).iter().all(|dirty| *dirty == used), "the front end has named no ring anew");
}

/// If the transport waited for the rest, the test would never end.
#[test]
fn half_a_message_is_waited_for_by_nobody() {
    let (mut rig, _, mut from_guest) = Rig::running(MODERN);
    let message = message(SET_VRING_NUM, super::rig::NEED_REPLY, &words(&[2, 16]));
    for (at, byte) in message.iter().enumerate() {
        assert!(rig.is_silent(), "an answer after {at} bytes");
        (&rig.front).write_all(&[*byte]).unwrap();
        rig.vhost.on_event();
        if at == 15 {
            from_guest.send(&rig.ram, 0, &[1; 60]);
            from_guest.kick();
            rig.vhost.on_event();
            assert_eq!(rig.receive_all(), [[1; 60]]);
        }
    }
    assert!(!rig.is_silent());
    assert_eq!(rig.vhost.device.queues[2].ring.size(), 16);
}

#[test]
fn a_message_of_no_size_ends_the_connection() {
    let (mut rig, ..) = Rig::running(MODERN);
    rig.vhost.take_link();
    (&rig.front).write_all(&words(&[SET_VRING_NUM, 1, u32::MAX])).unwrap();
    rig.vhost.on_event();
    assert_eq!(rig.vhost.take_link(), Link::Down);
    assert!(rig.vhost.device.queues.is_empty());
}

#[test]
fn a_front_end_that_reads_no_answers_is_cut_off() {
    let (mut rig, ..) = Rig::running(MODERN);
    rig.vhost.take_link();
    let question = message(GET_FEATURES, 0, &[]);
    let mut asked = 0;
    while rig.vhost.session.is_some() {
        super::rig::post(&rig.front, &question, &[]);
        rig.vhost.on_event();
        asked += 1;
        assert!(asked < 100_000, "still answered");
    }
    assert_eq!(rig.vhost.take_link(), Link::Down);
}
