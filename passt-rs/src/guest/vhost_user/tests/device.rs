//! Messages, good and bad, by the front end's wire.

use std::os::fd::AsFd;

use super::super::features::{
    NET_F_MRG_RXBUF, OFFERED, PROTOCOL, RING_F_EVENT_IDX, VHOST_USER_F_PROTOCOL_FEATURES,
};
use super::rig::{
    ADD_MEM_REG, BUFFERS, BUFFERS_LEN, Driver, GET_QUEUE_NUM, MODERN, NEED_REPLY, REM_MEM_REG, RESET_DEVICE,
    RINGS_LEN, Rig, SET_FEATURES, SET_INFLIGHT_FD, SET_MEM_TABLE, SET_PROTOCOL_FEATURES, SET_VRING_ADDR,
    SET_VRING_BASE, SET_VRING_CALL, SET_VRING_KICK, SET_VRING_NUM, buffer, count, eventfd, longs, message,
    post, words,
};
use super::{Entry, GUEST, Guest as _, Link, NEXT, Ram, USER, WRITE};
use crate::drop_reason::DropReason;

/// Everything the device knows.
fn state(rig: &Rig) -> String {
    format!("{:?} {:?}", rig.vhost.device, rig.vhost.up)
}

fn ring_address(index: u32, descriptors: u64, used: u64, available: u64) -> Vec<u8> {
    let mut body = words(&[index, 0]);
    body.extend(longs(&[descriptors, used, available, 0]));
    body
}

#[test]
fn what_is_refused_leaves_the_device_as_it_was() {
    let (mut rig, ..) = Rig::running(MODERN);
    // Set up, not running.
    rig.set_up(&Driver::new(2), 7);
    let ram = rig.ram.0.try_clone().unwrap();
    let short = Ram::new(4096);
    let region = |guest, len, user, offset| longs(&[0, guest, len, user, offset]);
    let table = [words(&[1, 0]), longs(&[GUEST, 8192, USER, 0])].concat();
    let twice =
        [words(&[2, 0]), longs(&[GUEST, 8192, USER, 0]), longs(&[GUEST + 4096, 8192, USER, 0])].concat();
    let (ram, short) = (ram.as_fd(), short.0.as_fd());
    for (name, request, body, fds) in [
        ("a feature nobody offered", SET_FEATURES, longs(&[OFFERED | 1 << 40]), vec![]),
        ("a ring of no descriptor", SET_VRING_NUM, words(&[2, 0]), vec![]),
        ("a ring of one descriptor", SET_VRING_NUM, words(&[2, 1]), vec![]),
        ("a ring of three descriptors", SET_VRING_NUM, words(&[2, 3]), vec![]),
        ("a ring of 65536 descriptors", SET_VRING_NUM, words(&[2, 65_536]), vec![]),
        ("another length of a running ring", SET_VRING_NUM, words(&[1, 32]), vec![]),
        ("another base of a running ring", SET_VRING_BASE, words(&[1, 5]), vec![]),
        ("a base beyond 16 bits", SET_VRING_BASE, words(&[2, 65_536]), vec![]),
        ("the 257th ring's length", SET_VRING_NUM, words(&[256, 16]), vec![]),
        ("the 257th ring's base", SET_VRING_BASE, words(&[256, 0]), vec![]),
        ("the 257th ring's addresses", SET_VRING_ADDR, ring_address(256, USER, USER, USER), vec![]),
        ("the 257th ring enabled", super::rig::SET_VRING_ENABLE, words(&[256, 1]), vec![]),
        ("a ring beyond counting", SET_VRING_NUM, words(&[u32::MAX, 16]), vec![]),
        ("a table beyond its file", SET_MEM_TABLE, table, vec![short]),
        ("a table that overlaps itself", SET_MEM_TABLE, twice, vec![ram, ram]),
        ("a region that overlaps", ADD_MEM_REG, region(GUEST + 4096, 4096, USER, 0), vec![ram]),
        ("a region beyond its file", ADD_MEM_REG, region(GUEST - 8192, 8192, 0, 0), vec![short]),
        ("a region that is not there", REM_MEM_REG, region(GUEST, 4096, USER, 0), vec![]),
        ("inflight memory beyond its file", SET_INFLIGHT_FD, inflight(8192, 2, 16), vec![short]),
        ("inflight memory too small", SET_INFLIGHT_FD, inflight(320, 2, 16), vec![short]),
    ] {
        let before = state(&rig);
        assert_eq!(rig.tell(request, &body, &fds), 1, "{name}");
        assert_eq!(state(&rig), before, "{name}");
        assert!(rig.vhost.session.is_some(), "{name}");
    }
}

fn inflight(len: u64, queues: u16, size: u16) -> Vec<u8> {
    let mut body = longs(&[len, 0]);
    body.extend(queues.to_ne_bytes());
    body.extend(size.to_ne_bytes());
    body.extend([0; 4]);
    body
}

/// The message layer takes note of what was refused, so REPLY_ACK must be ours too.
#[test]
fn protocol_features_nobody_offered_are_refused_and_answers_go_on() {
    let mut rig = Rig::agreed(MODERN);
    let unknown = 1 << 45;
    assert_eq!(rig.tell(SET_PROTOCOL_FEATURES, &longs(&[PROTOCOL.bits() | unknown]), &[]), 1);
    assert_eq!(rig.tell(SET_FEATURES, &longs(&[MODERN]), &[]), 0);
}

#[test]
fn rings_may_have_2_to_32768_descriptors() {
    let mut rig = Rig::agreed(MODERN);
    for size in [2, 32_768] {
        assert_eq!(rig.tell(SET_VRING_NUM, &words(&[0, size]), &[]), 0, "{size}");
    }
}

#[test]
fn there_are_256_rings() {
    let mut rig = Rig::agreed(MODERN);
    let (reply, _) = rig.ask(GET_QUEUE_NUM, &[]);
    assert_eq!(reply, longs(&[128]));
    assert_eq!(rig.tell(SET_VRING_NUM, &words(&[255, 16]), &[]), 0);
    assert_eq!(rig.vhost.device.queues.len(), 256);
    // Asked for a base that there is not, nothing can be answered: the connection ends.
    rig.say(super::rig::GET_VRING_BASE, &words(&[256, 0]), &[]);
    assert_eq!(rig.vhost.take_link(), Link::Down);
}

#[test]
fn without_a_kick_a_ring_stands_still() {
    let (mut rig, _, mut from_guest) = Rig::running(MODERN);
    assert_eq!(rig.tell(SET_VRING_KICK, &longs(&[1 | 0x100]), &[]), 1);
    from_guest.send(&rig.ram, 0, &[1; 60]);
    from_guest.kick();
    rig.vhost.on_event();
    assert!(rig.receive_all().is_empty());
    assert!(!rig.vhost.up);
    rig.start(&from_guest, 0);
    assert_eq!(rig.receive_all(), [[1; 60]]);
}

#[test]
fn a_ring_outside_memory_stands_still_until_it_is_named_again() {
    let (mut rig, _, mut from_guest) = Rig::running(MODERN);
    let beyond = USER + RINGS_LEN + BUFFERS_LEN;
    assert_eq!(rig.tell(SET_VRING_ADDR, &ring_address(1, beyond, beyond, beyond), &[]), 1);
    from_guest.send(&rig.ram, 0, &[1; 60]);
    from_guest.kick();
    rig.vhost.on_event();
    assert!(rig.receive_all().is_empty());
    let layout = from_guest.layout;
    assert_eq!(rig.address(1, &layout, None), 0);
    assert_eq!(rig.receive_all(), [[1; 60]]);
}

#[test]
fn answers_come_only_where_they_were_asked_for() {
    let mut rig = Rig::connected();
    // Nobody negotiated answers yet.
    post(&rig.front, &message(SET_VRING_NUM, NEED_REPLY, &words(&[0, 3])), &[]);
    rig.vhost.on_event();
    assert!(rig.is_silent());
    rig.agree(MODERN);
    rig.say(SET_VRING_NUM, &words(&[0, 3]), &[]);
    rig.say(SET_VRING_NUM, &words(&[0, 4]), &[]);
    assert!(rig.is_silent());
}

#[test]
fn the_base_goes_round() {
    let mut rig = Rig::agreed(MODERN);
    for base in [0, 1, 32_768, 65_535] {
        let mut driver = Driver::new(1);
        rig.ram.set_half(driver.layout.used + 2, base);
        driver.available = base;
        rig.start(&driver, base);
        assert_eq!(rig.stop(1), u32::from(base));
        rig.start(&driver, base);
        driver.send(&rig.ram, 0, &[1; 60]);
        driver.kick();
        rig.vhost.on_event();
        assert_eq!(rig.receive_all(), [[1; 60]]);
        assert_eq!(rig.stop(1), u32::from(base.wrapping_add(1)));
        assert_eq!(driver.layout.used_index(&rig.ram), base.wrapping_add(1));
    }
}

#[test]
fn chains_taken_and_not_used_are_given_back_by_the_base() {
    let (mut rig, mut to_guest, mut from_guest) = Rig::running(MODERN);
    for head in 0..8 {
        to_guest.offer_buffer(&rig.ram, head, 100);
    }
    // Room of four buffers is taken for a frame that then has two.
    assert!(rig.vhost.reserve(54, 300).is_some());
    rig.vhost.publish(super::NO_OFFLOAD, 54, 100).unwrap();
    assert!(rig.vhost.device.queues[0].ring.base() > 2);
    assert_eq!(rig.stop(0), 2);
    assert_eq!(to_guest.layout.used_index(&rig.ram), 2);
    // A frame that is held goes back, and is done.
    from_guest.send(&rig.ram, 0, &[1; 60]);
    from_guest.kick();
    rig.vhost.on_event();
    let received = rig.vhost.receive().unwrap();
    rig.vhost.hold(received.place);
    assert_eq!(rig.stop(1), 1);
    assert_eq!(from_guest.layout.used_index(&rig.ram), 1);
    rig.start(&to_guest, 2);
    assert!(rig.vhost.reserve(54, 100).is_some());
    rig.vhost.publish(super::NO_OFFLOAD, 54, 100).unwrap();
    assert_eq!(to_guest.layout.used(&rig.ram, 2).0, 2);
}

#[test]
fn a_ring_that_is_named_after_its_kick_begins_where_its_used_ring_is() {
    let mut rig = Rig::agreed(MODERN);
    let mut driver = Driver::new(1);
    rig.ram.set_half(driver.layout.used + 2, 100);
    driver.available = 100;
    assert_eq!(rig.tell(SET_VRING_NUM, &words(&[1, 16]), &[]), 0);
    assert_eq!(rig.tell(SET_VRING_BASE, &words(&[1, 100]), &[]), 0);
    assert_eq!(rig.tell(SET_VRING_KICK, &longs(&[1]), &[driver.kick.as_fd()]), 0);
    assert_eq!(rig.enable(1, true), 0);
    let layout = driver.layout;
    assert_eq!(rig.address(1, &layout, None), 0);
    driver.send(&rig.ram, 0, &[1; 60]);
    driver.kick();
    rig.vhost.on_event();
    assert_eq!(rig.receive_all(), [[1; 60]]);
    assert_eq!(layout.used_index(&rig.ram), 101);
}

#[test]
fn a_reset_forgets_rings_and_features() {
    let (mut rig, mut to_guest, _) = Rig::running(MODERN);
    to_guest.offer_buffer(&rig.ram, 0, 2000);
    assert!(rig.vhost.reserve(54, 100).is_some());
    assert_eq!(rig.tell(RESET_DEVICE, &[], &[]), 0);
    assert_eq!(rig.vhost.device.features, 0);
    assert!(rig.vhost.device.queues.is_empty());
    assert!(rig.vhost.reserve(54, 100).is_none());
    assert_eq!(to_guest.layout.used_index(&rig.ram), 0);
    assert_eq!(rig.tell(SET_FEATURES, &longs(&[MODERN]), &[]), 0);
    rig.start(&to_guest, 0);
    rig.start(&Driver::new(1), 0);
    assert_eq!(rig.vhost.take_link(), Link::Up);
    assert!(rig.vhost.reserve(54, 100).is_some());
}

#[test]
fn without_protocol_features_a_ring_is_enabled_by_its_kick() {
    for (features, enabled) in [(MODERN, false), (MODERN & !VHOST_USER_F_PROTOCOL_FEATURES, true)] {
        let mut rig = Rig::agreed(features);
        let driver = Driver::new(0);
        rig.set_up(&driver, 0);
        assert_eq!(rig.tell(SET_VRING_KICK, &longs(&[0]), &[driver.kick.as_fd()]), 0);
        assert_eq!(rig.vhost.device.queues[0].enabled, enabled);
    }
}

#[test]
fn a_disabled_ring_is_emptied_without_effect_and_nothing_goes_into_one() {
    let (mut rig, mut to_guest, mut from_guest) = Rig::running(MODERN);
    to_guest.offer_buffer(&rig.ram, 0, 2000);
    assert_eq!(rig.enable(0, false), 0);
    assert_eq!(rig.enable(1, false), 0);
    from_guest.send(&rig.ram, 0, &[1; 60]);
    from_guest.send(&rig.ram, 1, &[1; 60]);
    from_guest.kick();
    rig.vhost.on_event();
    assert!(rig.receive_all().is_empty());
    assert_eq!(rig.dropped(DropReason::QueueDisabled), 2);
    assert_eq!(from_guest.layout.used_index(&rig.ram), 2);
    assert!(rig.vhost.reserve(54, 100).is_none());
    assert_eq!(rig.vhost.frames_that_fit(100, 10), 0);
    assert!(rig.vhost.send(super::NO_OFFLOAD, &[0; 60], &[]).is_err());
    assert_eq!(to_guest.layout.used_index(&rig.ram), 0);
    assert_eq!(rig.vhost.device.queues[0].ring.base(), 0);
    assert_eq!(rig.enable(0, true), 0);
    assert!(rig.vhost.send(super::NO_OFFLOAD, &[0; 60], &[]).is_ok());
}

#[test]
fn a_ring_that_contradicts_itself_stands_still_and_says_so() {
    for broken in ["head", "index"] {
        let (mut rig, _, mut from_guest) = Rig::running(MODERN & !RING_F_EVENT_IDX);
        match broken {
            "head" => from_guest.offer(&rig.ram, 99),
            _ => from_guest.layout.set_available(&rig.ram, 17),
        }
        from_guest.kick();
        rig.vhost.on_event();
        assert!(rig.receive_all().is_empty());
        assert_eq!(rig.dropped(DropReason::Descriptors), 1, "{broken}");
        assert_eq!(count(&from_guest.error), 1, "{broken}");
        from_guest.layout.set_available(&rig.ram, 0);
        from_guest.available = 0;
        from_guest.send(&rig.ram, 0, &[1; 60]);
        from_guest.kick();
        rig.vhost.on_event();
        assert!(rig.receive_all().is_empty(), "{broken}");
        assert_eq!(rig.stop(1), 0);
        rig.start(&from_guest, 0);
        assert_eq!(rig.receive_all(), [[1; 60]], "{broken}");
    }
}

#[test]
fn a_region_may_go_and_come_back_under_running_rings() {
    let (mut rig, mut to_guest, mut from_guest) = Rig::running(MODERN);
    let ram = rig.ram.0.try_clone().unwrap();
    let ram = ram.as_fd();
    let buffers = longs(&[0, BUFFERS, BUFFERS_LEN, USER + RINGS_LEN, RINGS_LEN]);
    let rings = longs(&[0, GUEST, RINGS_LEN, USER, 0]);
    to_guest.offer_buffer(&rig.ram, 0, 2000);
    assert!(rig.vhost.reserve(54, 100).is_some());
    // Without its buffers a chain is none.
    assert_eq!(rig.tell(REM_MEM_REG, &buffers, &[]), 0);
    from_guest.send(&rig.ram, 0, &[1; 60]);
    from_guest.kick();
    rig.vhost.on_event();
    assert!(rig.receive_all().is_empty());
    assert_eq!(rig.dropped(DropReason::Descriptors), 1);
    assert_eq!(from_guest.layout.used_index(&rig.ram), 1);
    assert!(rig.vhost.reserve(54, 100).is_none());
    rig.vhost.flush();
    assert_eq!(rig.dropped(DropReason::Descriptors), 2);
    assert_eq!(to_guest.layout.used(&rig.ram, 0), (0, 0));
    // Without its rings nothing happens.
    assert_eq!(rig.tell(REM_MEM_REG, &rings, &[]), 0);
    from_guest.send(&rig.ram, 1, &[2; 60]);
    from_guest.kick();
    rig.vhost.on_event();
    assert!(rig.receive_all().is_empty());
    assert!(rig.vhost.reserve(54, 100).is_none());
    assert_eq!(from_guest.layout.used_index(&rig.ram), 1);
    // All goes on when both are there again.
    assert_eq!(rig.tell(ADD_MEM_REG, &buffers, &[ram]), 0);
    assert_eq!(rig.tell(ADD_MEM_REG, &rings, &[ram]), 0);
    to_guest.offer_buffer(&rig.ram, 1, 2000);
    assert_eq!(rig.receive_all(), [[2; 60]]);
    assert_eq!(from_guest.layout.used_index(&rig.ram), 2);
    assert!(rig.vhost.send(super::NO_OFFLOAD, &[0; 60], &[]).is_ok());
    assert_eq!(to_guest.layout.used(&rig.ram, 1), (1, 72));
}

#[test]
fn interrupts_go_to_whoever_is_named_last() {
    let (mut rig, mut to_guest, _) = Rig::running(MODERN & !RING_F_EVENT_IDX);
    for head in 0..3 {
        to_guest.offer_buffer(&rig.ram, head, 2000);
    }
    let send = |rig: &mut Rig| {
        rig.vhost.send(super::NO_OFFLOAD, &[0; 60], &[]).unwrap();
        rig.vhost.flush();
    };
    send(&mut rig);
    assert_eq!(count(&to_guest.call), 1);
    let other = eventfd();
    assert_eq!(rig.tell(SET_VRING_CALL, &longs(&[0]), &[other.as_fd()]), 0);
    assert_eq!(count(&other), 1, "what was said last may have been lost");
    send(&mut rig);
    assert_eq!((count(&to_guest.call), count(&other)), (0, 1));
    to_guest.layout.set_interrupts_off(&rig.ram, true);
    send(&mut rig);
    assert_eq!(count(&other), 0);
}

#[test]
fn a_chain_to_the_guest_that_is_none_is_given_back_empty() {
    let (mut rig, mut to_guest, _) = Rig::running(MODERN & !NET_F_MRG_RXBUF);
    // For reading, a loop, too short, good.
    to_guest.layout.describe(&rig.ram, 0, Entry { guest: buffer(0), len: 2000, flags: 0, next: 0 });
    to_guest.layout.describe(
        &rig.ram,
        1,
        Entry { guest: buffer(1), len: 2000, flags: WRITE | NEXT, next: 1 },
    );
    to_guest.offer(&rig.ram, 0);
    to_guest.offer(&rig.ram, 1);
    to_guest.offer_buffer(&rig.ram, 2, 12);
    to_guest.offer_buffer(&rig.ram, 3, 2000);
    assert!(rig.vhost.send(super::NO_OFFLOAD, &[0; 60], &[]).is_ok());
    let used: Vec<_> = (0..4).map(|index| to_guest.layout.used(&rig.ram, index)).collect();
    assert_eq!(used, [(0, 0), (1, 0), (2, 0), (3, 72)]);
    assert_eq!(to_guest.layout.used_index(&rig.ram), 4);
    assert_eq!(rig.dropped(DropReason::Descriptors), 3);
}
