//! The guest's bytes: acknowledged, kept out of order, trimmed, and the window they may fill.

use super::*;

#[test]
fn a_burst_costs_one_acknowledgment() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        for at in 0..10 {
            talk.hear(bytes(at * 1000, 1000));
        }
        assert_eq!(talk.acknowledgment(), Some(heard(10_000, CAPACITY)));
        assert_eq!(talk.acknowledgment(), None);
    });
}

/// RFC 5681 4.2: a guest whose sender does not read SACK blocks counts duplicates.
#[test]
fn segments_ahead_of_their_turn_are_each_acknowledged_up_to_three() {
    everywhere(|start| {
        for (ahead, acknowledged) in [(1, 1), (2, 2), (3, 3), (20, 3)] {
            let mut talk = Talk::open(start);
            for at in 1..=ahead {
                talk.hear(bytes(at * 100, 100));
            }
            for _ in 0..acknowledged {
                assert_eq!(talk.acknowledgment().map(|heard| (heard.ack, heard.window)), Some((0, CAPACITY)));
            }
            assert_eq!(talk.acknowledgment(), None, "{ahead} ahead");
        }
        let mut talk = Talk::open(start);
        talk.hear(bytes(100, 100));
        talk.hear(bytes(200, 100));
        talk.hear(bytes(0, 100));
        assert_eq!(talk.acknowledgment(), Some(heard(300, CAPACITY)), "nothing is missing any more");
        assert_eq!(talk.acknowledgment(), None);
    });
}

#[test]
fn one_small_segment_waits_for_the_answer_and_the_next_does_not() {
    everywhere(|start| {
        let waiting = |talk: &Talk| (talk.connection.awaits_answer(), talk.connection.owes_ack());
        let mut talk = Talk::open(start);
        talk.hear(bytes(0, 100));
        assert_eq!(waiting(&talk), (true, false));
        talk.connection.data_header(start.ours + 1, Flags::PSH);
        assert_eq!(waiting(&talk), (false, false), "the answer carried it");
        talk.hear(bytes(100, 100));
        talk.hear(bytes(200, 100));
        assert_eq!(waiting(&talk), (false, true), "RFC 9293 3.8.6.3: at least every second segment");
        assert_eq!(talk.acknowledgment(), Some(heard(300, CAPACITY)));
        talk.hear(bytes(300, MSS));
        assert_eq!(waiting(&talk), (false, true), "part of a larger transfer");
    });
}

#[test]
fn data_to_the_guest_pays_the_acknowledgment() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(0, 1000));
        let header = talk.connection.data_header(start.ours + 1, Flags::PSH);
        assert_eq!(talk.read(&header), heard(1000, CAPACITY));
        assert_eq!(header.flags, Flags::PSH.and(Flags::ACK));
        assert!(!talk.connection.owes_ack());
    });
}

#[test]
fn a_bare_ack_is_not_acknowledged() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        assert_eq!(talk.hear(ack(0)), Input::default());
        assert_eq!(talk.acknowledgment(), None);
    });
}

#[test]
fn bytes_ahead_are_kept_reported_and_joined_when_the_gap_is_filled() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(0, 100));
        assert_eq!(talk.hear(bytes(200, 100)).take, Some(Take { skip: 0, len: 100, offset: 100 }));
        let reported = Heard { sack: vec![(200, 300)], ..heard(100, CAPACITY) };
        assert_eq!(talk.acknowledgment(), Some(reported));
        talk.hear(bytes(400, 100));
        let reported = Heard { sack: vec![(400, 500), (200, 300)], ..heard(100, CAPACITY) };
        assert_eq!(talk.acknowledgment(), Some(reported));
        talk.hear(bytes(100, 100));
        let reported = Heard { sack: vec![(400, 500)], ..heard(300, CAPACITY) };
        assert_eq!(talk.acknowledgment(), Some(reported));
        talk.hear(bytes(300, 100));
        assert_eq!(talk.acknowledgment(), Some(heard(500, CAPACITY)));
        assert!(!talk.connection.holds_ahead());
    });
}

/// RFC 2018 4.
#[test]
fn the_range_that_changed_last_is_reported_first() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        for at in [200, 400, 600, 800, 1000, 1200] {
            talk.hear(bytes(at, 100));
        }
        talk.hear(bytes(1100, 50));
        let blocks = vec![(1000, 1150), (200, 300), (400, 500), (600, 700)];
        assert_eq!(talk.acknowledgment().map(|heard| heard.sack), Some(blocks));
    });
}

#[test]
fn bytes_ahead_are_not_reported_to_a_guest_that_did_not_ask() {
    everywhere(|start| {
        let mut talk = Talk::asked(start, Segment { sack_permitted: false, ..syn(start) });
        talk.connection.host_connected(talk.now);
        talk.hear(ack(0));
        talk.hear(bytes(200, 100));
        assert_eq!(talk.acknowledgment(), Some(heard(0, CAPACITY)));
        talk.hear(bytes(0, 200));
        assert_eq!(talk.acknowledgment(), Some(heard(300, CAPACITY)));
    });
}

#[test]
fn data_to_the_guest_leaves_the_report_of_a_gap_owed() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(200, 100));
        let header = talk.connection.data_header(start.ours + 1, Flags::default());
        assert!(header.sack.is_empty(), "no room beside data");
        assert_eq!(talk.acknowledgment().map(|heard| heard.sack), Some(vec![(200, 300)]));
    });
}

#[test]
fn a_range_too_many_is_not_named_and_comes_again() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        for range in 1..=17 {
            talk.hear(bytes(range * 200, 100));
        }
        let lowest = vec![(200, 300), (400, 500), (600, 700), (800, 900)];
        assert_eq!(talk.acknowledgment().map(|heard| heard.sack), Some(lowest), "as many as fit");
        talk.hear(bytes(0, 200));
        for gap in 1..=16 {
            talk.hear(bytes(gap * 200 + 100, 100));
        }
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(3400), "the last was forgotten");
        talk.hear(bytes(3400, 100));
        assert_eq!(talk.acknowledgment(), Some(heard(3500, CAPACITY)));
    });
}

#[test]
fn duplicates_are_trimmed() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(0, 1000));
        talk.acknowledgment();
        let input = talk.hear(bytes(0, 1000));
        assert_eq!((input.take, input.drop), (None, Some(DropReason::Window)));
        assert_eq!(talk.acknowledgment(), Some(heard(1000, CAPACITY)), "RFC 9293 3.10.7.4: an old duplicate");
        assert_eq!(talk.hear(bytes(400, 1000)).take, Some(Take { skip: 600, len: 400, offset: 0 }));
        assert_eq!(talk.acknowledgment(), Some(heard(1400, CAPACITY)));
    });
}

#[test]
fn bytes_that_cover_what_lay_ahead_count_once() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(500, 100));
        talk.hear(bytes(0, 1000));
        assert_eq!(talk.acknowledgment(), Some(heard(1000, CAPACITY)));
        assert_eq!(talk.connection.spilled(), 0);
    });
}

#[test]
fn bytes_beyond_the_window_are_trimmed() {
    everywhere(|start| {
        let mut talk = Talk::asked(start, Segment { window_scale: None, ..syn(start) });
        talk.guest_shift = 0;
        talk.connection.host_connected(talk.now);
        let input = talk.hear(bytes(60_000, 10_000));
        assert_eq!(input.take, Some(Take { skip: 0, len: 5_535, offset: 60_000 }));
        assert_eq!(talk.hear(bytes(65_535, 10)).take, None);
        let input = talk.hear(fin(60_000).and(Flags::PSH));
        assert_eq!(input.take, None);
    });
}

#[test]
fn bytes_before_and_beyond_the_window_at_once_are_trimmed_on_both_sides() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.socket_room = 0;
        talk.hear(bytes(0, 38_400));
        talk.acknowledgment();
        talk.connection.set_capacity(1000);
        talk.hear(bytes(38_000, 300_000));
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(i64::from(CAPACITY)));
    });
}

#[test]
fn a_full_socket_fills_the_spill_and_the_window_closes() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(0, 1));
        talk.acknowledgment();
        talk.socket_room = 0;
        let input = talk.hear(bytes(1, CAPACITY));
        assert_eq!(input.take.map(|take| take.len), Some(CAPACITY));
        assert_eq!(talk.acknowledgment(), Some(heard(i64::from(CAPACITY) + 1, 0)));
        assert_eq!(talk.connection.spilled(), CAPACITY);
        let input = talk.hear(bytes(i64::from(CAPACITY) + 1, 1));
        assert_eq!((input.take, input.drop), (None, Some(DropReason::Window)), "a probe");
        assert_eq!(talk.acknowledgment(), Some(heard(i64::from(CAPACITY) + 1, 0)));
    });
}

/// RFC 9293 3.8.6.2.2.
#[test]
fn the_window_opens_by_steps_worth_a_segment() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(0, 1));
        talk.acknowledgment();
        talk.socket_room = 0;
        talk.hear(bytes(1, CAPACITY));
        talk.acknowledgment();
        let end = i64::from(CAPACITY) + 1;
        talk.socket_room = 500;
        talk.drain();
        assert_eq!(talk.acknowledgment(), None, "half a segment is not worth a word");
        talk.hear(bytes(end, 1));
        assert_eq!(talk.acknowledgment(), Some(heard(end, 0)), "nor a tiny window to a probe");
        talk.socket_room = 2000;
        talk.drain();
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(end));
        talk.connection.ack_due = true;
        assert_eq!(talk.acknowledgment(), Some(heard(end, 2500 / 128 * 128)));
    });
}

#[test]
fn the_window_reopens_fully_when_the_spill_is_drained() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.socket_room = 0;
        talk.hear(bytes(0, 60_000));
        talk.acknowledgment();
        talk.socket_room = u32::MAX;
        talk.drain();
        assert_eq!(talk.acknowledgment(), Some(heard(60_000, CAPACITY)));
    });
}

#[test]
fn a_capacity_taken_back_never_shrinks_the_window() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(0, 1000));
        assert_eq!(talk.acknowledgment(), Some(heard(1000, CAPACITY)));
        talk.connection.set_capacity(1024);
        let mut edge = i64::from(CAPACITY) + 1000;
        let mut at = 1000;
        while at < edge {
            talk.hear(bytes(at, 1024));
            at += 1024;
            let said = talk.acknowledgment().unwrap();
            assert_eq!(said.ack, at.min(edge));
            // 127 bytes are lost to the scale's steps, not to us: we still take them.
            assert!(said.ack + i64::from(said.window) + 127 >= edge, "{said:?} after {edge}");
            edge = edge.max(said.ack + i64::from(said.window));
            if at > i64::from(CAPACITY) * 2 {
                break;
            }
        }
        talk.connection.set_capacity(CAPACITY);
        talk.hear(bytes(at, 1));
        assert_eq!(talk.acknowledgment(), Some(heard(at + 1, CAPACITY)));
    });
}

/// RFC 6093 6: the flag is not even parsed; its bytes are bytes.
#[test]
fn urgent_data_is_ordinary() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        let mut header = [0; 60];
        talk.segment(bytes(0, 10)).emit(&mut header, 0);
        header[13] |= 0x20;
        let (segment, _) = Segment::parse(&header).unwrap();
        let input = talk.connection.on_segment(talk.now, &segment, 10);
        assert_eq!(input.take, Some(Take { skip: 0, len: 10, offset: 0 }));
    });
}

/// RFC 9293 3.8.4: with and without a byte of garbage.
#[test]
fn keepalive_probes_of_the_guest_are_answered() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(0, 1000));
        talk.acknowledgment();
        for probe in [ack(0).from(999), bytes(999, 1)] {
            assert_eq!(talk.hear(probe).take, None);
            assert_eq!(talk.acknowledgment(), Some(heard(1000, CAPACITY)));
        }
    });
}

#[test]
fn a_segment_outside_the_window_still_acknowledges() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(0, 100));
        talk.host_sends(500);
        let input = talk.hear(bytes(0, 100).acks(500));
        assert_eq!((input.acked, input.drop), (500, Some(DropReason::Window)));
    });
}
