//! No memory for the guest's bytes: refused in silence, and asked for as soon as there is some.

use super::super::from_guest::REFUSALS_MAX;
use super::*;

/// Everything owed, in order.
fn acknowledgments(talk: &mut Talk) -> Vec<Heard> {
    std::iter::from_fn(|| talk.acknowledgment()).collect()
}

/// What is left at `at` of the window that was promised at 1, in the steps of its scale.
fn promised(at: u32) -> u32 {
    (CAPACITY + 1 - at) >> WINDOW_SCALE << WINDOW_SCALE
}

/// A connection whose first segment is kept, the socket taking none of it, and for whose second there is no memory.
fn refused(start: Start) -> Talk {
    let mut talk = Talk::open(start);
    talk.hear(bytes(0, 1));
    assert_eq!(talk.acknowledgment(), Some(heard(1, CAPACITY)));
    (talk.socket_room, talk.spill_room) = (0, MSS - 1);
    talk.hear(bytes(1, MSS - 1));
    talk.connection.set_capacity(0);
    assert_eq!(talk.acknowledgment(), Some(heard(1000, promised(1000))));
    talk.hear(bytes(1000, MSS));
    talk.connection.set_capacity(0);
    talk
}

/// The socket has room, and all that waits goes there.
fn resume(talk: &mut Talk) {
    (talk.socket_room, talk.spill_room) = (u32::MAX, u32::MAX);
    talk.drain();
    talk.connection.set_capacity(CAPACITY);
    talk.connection.resume();
}

#[test]
fn what_is_refused_is_not_answered() {
    everywhere(|start| {
        let mut talk = refused(start);
        assert_eq!(talk.acknowledgment(), None);
        for at in 2..20 {
            talk.hear(bytes(at * 1000, MSS));
            talk.connection.set_capacity(0);
            assert_eq!(talk.acknowledgment(), None, "each would be a duplicate");
        }
    });
}

#[test]
fn what_was_owed_before_a_refusal_stays_owed() {
    everywhere(|start| {
        for (len, waits) in [(100, true), (MSS, false)] {
            let mut talk = Talk::open(start);
            talk.hear(bytes(0, len));
            (talk.socket_room, talk.spill_room) = (0, 0);
            talk.hear(bytes(i64::from(len), MSS));
            assert_eq!((talk.connection.awaits_answer(), talk.connection.owes_ack()), (waits, !waits));
            assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(i64::from(len)));
            assert_eq!(talk.acknowledgment(), None);
        }
    });
}

/// RFC 5681 3.2: the third duplicate has the guest resend.
#[test]
fn when_the_socket_takes_bytes_the_guest_hears_the_window_and_three_duplicates() {
    everywhere(|start| {
        let mut talk = refused(start);
        resume(&mut talk);
        assert_eq!(acknowledgments(&mut talk), vec![heard(1000, promised(1000)); 4]);
        talk.connection.resume();
        assert_eq!(talk.acknowledgment(), None, "told once");
    });
}

#[test]
fn data_to_the_guest_does_not_stand_for_the_duplicates() {
    everywhere(|start| {
        let mut talk = refused(start);
        resume(&mut talk);
        talk.connection.data_header(start.ours + 1, Flags::default());
        assert_eq!(acknowledgments(&mut talk).len(), 4);
    });
}

/// A guest without SACK learns of one loss at a time. The window grows when nothing is missing any more.
#[test]
fn each_of_several_refused_segments_is_asked_for_in_turn() {
    everywhere(|start| {
        let mut talk = refused(start);
        for at in 2..5 {
            talk.hear(bytes(at * 1000, MSS));
        }
        resume(&mut talk);
        acknowledgments(&mut talk);
        for at in [1000, 2000, 3000] {
            talk.hear(bytes(at, MSS));
            talk.hear(bytes(5000 + at, MSS));
            talk.connection.set_capacity(CAPACITY);
            let said = acknowledgments(&mut talk);
            let of = |heard: &Heard| (heard.ack, heard.window);
            let next = at + 1000;
            assert_eq!(
                said.iter().map(of).collect::<Vec<_>>(),
                [(next, promised(u32::try_from(next).unwrap())); 4]
            );
        }
        talk.hear(bytes(4000, MSS));
        talk.connection.set_capacity(CAPACITY);
        let said = acknowledgments(&mut talk);
        assert_eq!(
            (said.len(), said[0].ack, said[0].window),
            (1, 5000, CAPACITY),
            "all that was refused is here"
        );
        talk.hear(bytes(5000, MSS));
        assert_eq!(acknowledgments(&mut talk), [heard(9000, CAPACITY)]);
    });
}

#[test]
fn a_segment_refused_again_waits_in_silence_for_the_next_time() {
    everywhere(|start| {
        let mut talk = refused(start);
        talk.hear(bytes(2000, MSS));
        talk.spill_room = 500;
        talk.connection.set_capacity(CAPACITY);
        assert_eq!(talk.acknowledgment(), None, "others may take that memory first");
        talk.connection.resume();
        assert_eq!(acknowledgments(&mut talk).len(), 4);
        talk.hear(bytes(1000, MSS));
        talk.connection.set_capacity(0);
        let half = acknowledgments(&mut talk);
        assert_eq!((half.len(), half[0].ack), (1, 1500), "what is kept is acknowledged, once");
        resume(&mut talk);
        assert_eq!(acknowledgments(&mut talk), vec![heard(1500, promised(1500)); 4]);
    });
}

/// The hole is what the guest must hear of, and for that there is memory.
#[test]
fn a_segment_ahead_that_is_refused_still_reports_the_hole() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(0, 1));
        talk.acknowledgment();
        talk.spill_room = 0;
        talk.hear(bytes(1000, MSS));
        assert_eq!(acknowledgments(&mut talk), [heard(1, CAPACITY)]);
        talk.hear(bytes(1, MSS - 1));
        assert_eq!(acknowledgments(&mut talk), vec![heard(1000, promised(1000)); 4]);
    });
}

#[test]
fn bytes_for_which_there_is_no_memory_are_not_acknowledged_and_come_again() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        (talk.socket_room, talk.spill_room) = (100, 50);
        talk.hear(bytes(0, 1000));
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(150));
        talk.hear(bytes(500, 100));
        assert_eq!(talk.acknowledgment(), None);
        (talk.socket_room, talk.spill_room) = (u32::MAX, u32::MAX);
        talk.drain();
        talk.hear(bytes(150, 850));
        assert_eq!(talk.acknowledgment(), Some(heard(1000, CAPACITY)));
    });
}

#[test]
fn without_memory_the_window_is_closed_and_opens_when_memory_returns() {
    everywhere(|start| {
        let mut talk = refused(start);
        for _ in 2..REFUSALS_MAX {
            talk.hear(bytes(1000, MSS));
            talk.connection.set_capacity(0);
            assert_eq!(talk.acknowledgment(), None, "too early");
        }
        // The last, and probes: with a byte, without any, and old ones.
        for probe in [bytes(1000, MSS), bytes(1000, 1), ack(0).from(999), bytes(999, 1)] {
            talk.hear(probe);
            talk.connection.set_capacity(0);
            assert_eq!(acknowledgments(&mut talk), [heard(1000, 0)], "{probe:?}");
        }
        talk.hear(bytes(2000, MSS));
        assert_eq!(talk.acknowledgment(), None, "no probe");
        resume(&mut talk);
        assert_eq!(acknowledgments(&mut talk), vec![heard(1000, promised(1000)); 4]);
        talk.hear(bytes(1000, MSS));
        talk.connection.set_capacity(CAPACITY);
        talk.hear(bytes(2000, MSS));
        assert_eq!(acknowledgments(&mut talk), [heard(3000, CAPACITY)]);
    });
}

/// Nothing of its own drains then, so only the capacity tells.
#[test]
fn a_closed_window_without_spilled_bytes_opens_with_the_capacity() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.connection.set_capacity(0);
        (talk.socket_room, talk.spill_room) = (0, 0);
        for _ in 0..REFUSALS_MAX {
            talk.hear(bytes(0, MSS));
            talk.connection.set_capacity(0);
        }
        assert_eq!(acknowledgments(&mut talk), [heard(0, 0)]);
        talk.connection.set_capacity(0);
        assert_eq!(talk.acknowledgment(), None);
        talk.socket_room = u32::MAX;
        talk.connection.set_capacity(64 * 1024);
        talk.connection.resume();
        let opened = acknowledgments(&mut talk);
        assert!(opened.len() == 4 && opened.iter().all(|heard| heard.ack == 0 && heard.window >= 60_000));
    });
}
