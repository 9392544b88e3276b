//! The host's bytes: windows, manners, losses.

use super::*;

#[test]
fn segments_fill_the_guests_window_and_acknowledgments_free_it() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(ack(0).window(2500));
        assert_eq!(talk.host_sends(10_000), [Sent::New(0, 1000), Sent::New(1000, 2000)]);
        assert_eq!(talk.connection.in_flight(), 2000);
        assert_eq!(talk.hear(ack(2000).window(2500)).acked, 2000);
        assert_eq!(talk.connection.unacknowledged(), start.ours + 2001);
        assert_eq!(talk.plans(), [Sent::New(2000, 3000), Sent::New(3000, 4000)]);
    });
}

#[test]
fn large_frames_are_whole_segments() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.readable = 100_000;
        assert_eq!(talk.plan_up_to(5_600), Some(Sent::New(0, 5000)));
    });
}

#[test]
fn what_the_host_sent_late_goes_at_once() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        assert_eq!(talk.host_sends(10), [Sent::New(0, 10)]);
        assert_eq!(talk.host_sends(10), [Sent::New(10, 20)]);
    });
}

/// RFC 9293 3.8.6.2.1.
#[test]
fn no_small_segment_squeezes_into_a_closing_window() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(ack(0).window(1304));
        assert_eq!(talk.host_sends(5000), [Sent::New(0, 1000)]);
        talk.hear(ack(1000).window(304));
        assert_eq!(talk.plans(), []);
        talk.hear(ack(1000).window(1304));
        assert_eq!(talk.plans(), [Sent::New(1000, 2000)]);
    });
}

#[test]
fn a_guest_whose_whole_window_is_small_gets_small_segments() {
    everywhere(|start| {
        let mut talk = Talk::asked(start, Segment { window: 400, window_scale: None, ..syn(start) });
        talk.connection.host_connected(talk.now);
        talk.hear(ack(0).window(400));
        assert_eq!(talk.host_sends(1000), [Sent::New(0, 400)]);
        talk.hear(ack(400).window(250));
        assert_eq!(talk.plans(), [Sent::New(400, 650)], "more than half of what it ever was");
    });
}

#[test]
fn a_small_window_is_used_when_the_persist_timer_says_so() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(ack(0).window(304));
        assert_eq!(talk.host_sends(5000), []);
        assert_eq!(talk.fire(), (ms(200), TimerEvent::Plan));
        assert_eq!(talk.plans(), [Sent::New(0, 304)]);
    });
}

#[test]
fn a_stale_segment_does_not_move_the_window() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(0, 100).window(8000));
        talk.host_sends(1000);
        talk.hear(ack(1000).from(100).window(16_000));
        talk.hear(ack(500).from(100).window(24));
        talk.hear(ack(1000).from(0).window(24));
        assert_eq!(talk.connection.guest_window(), 16_000);
    });
}

/// Otherwise one wild segment would make us deaf to every later window.
#[test]
fn a_segment_beyond_our_window_says_nothing_about_the_guests() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(1000);
        let input = talk.hear(ack(1000).from(1 << 30).window(24));
        assert_eq!((input.acked, input.drop), (0, Some(DropReason::Window)));
        talk.hear(ack(0).window(24_000));
        assert_eq!(talk.connection.guest_window(), 24_000);
    });
}

#[test]
fn three_duplicates_resend_the_first_segment_once() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(10_000);
        for _ in 0..2 {
            talk.hear(ack(1000));
            assert_eq!(talk.plans(), []);
        }
        talk.hear(ack(1000));
        assert_eq!(talk.plans(), []);
        talk.hear(ack(1000));
        assert_eq!(talk.plans(), [Sent::Again(1000, 2000)]);
        talk.hear(ack(1000));
        assert_eq!(talk.plans(), [], "one loss is one segment");
        assert_eq!(talk.hear(ack(10_000)).acked, 9000);
        assert_eq!(talk.plans(), []);
    });
}

/// RFC 6582 3.2, step 3.
#[test]
fn without_sack_a_partial_acknowledgment_names_the_next_hole() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(10_000);
        for _ in 0..4 {
            talk.hear(ack(1000));
        }
        assert_eq!(talk.plans(), [Sent::Again(1000, 2000)]);
        talk.hear(ack(5000));
        assert_eq!(talk.plans(), [Sent::Again(5000, 6000)]);
        talk.hear(ack(10_000));
        assert_eq!(talk.host_sends(1000), [Sent::New(10_000, 11_000)]);
    });
}

#[test]
fn duplicates_with_data_or_another_window_are_no_sign_of_loss() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(10_000);
        talk.hear(ack(1000));
        for at in 0..5 {
            talk.hear(bytes(at * 10, 10).acks(1000));
        }
        for window in 1..5 {
            talk.hear(ack(1000).from(50).window(50_000 - 800 * window));
        }
        assert_eq!(talk.plans(), []);
    });
}

#[test]
fn with_sack_only_the_holes_are_sent_again() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(10_000);
        talk.hear(ack(1000).sacks(&[(2000, 3000)]));
        talk.hear(ack(1000).sacks(&[(2000, 3000), (4000, 6000)]));
        assert_eq!(talk.plans(), []);
        talk.hear(ack(1000).sacks(&[(7000, 9000), (2000, 3000), (4000, 6000)]));
        assert_eq!(talk.plan(), Some(Sent::Again(1000, 2000)));
        talk.hear(ack(1000).sacks(&[(7000, 10_000), (2000, 3000), (4000, 6000)]));
        assert_eq!(talk.plan(), Some(Sent::Again(3000, 4000)));
        talk.hear(ack(4000).sacks(&[(7000, 10_000), (4000, 6000)]));
        assert_eq!(talk.plan(), Some(Sent::Again(6000, 7000)));
        assert_eq!(talk.plan(), None);
        talk.hear(ack(10_000));
        assert_eq!(talk.connection.in_flight(), 0);
    });
}

#[test]
fn a_timeout_starts_over_from_the_exact_byte_and_doubles() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(8_000);
        talk.hear(ack(300));
        let (_, event) = talk.fire();
        assert_eq!(event, TimerEvent::Plan);
        assert_eq!(talk.plans(), [Sent::Again(300, 1300)]);
        talk.hear(ack(1300));
        assert_eq!(talk.plan_up_to(10_000), Some(Sent::Again(1300, 3300)));
        assert_eq!(talk.plan(), None);
        talk.hear(ack(3300));
        assert_eq!(talk.plan_up_to(10_000), Some(Sent::Again(3300, 7300)));
        talk.hear(ack(8000));
        assert_eq!(talk.plans(), []);
    });
}

/// RFC 2018 8: after a timeout what was reported counts for nothing.
#[test]
fn a_guest_that_reneges_gets_everything_again() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(4000);
        talk.hear(ack(0).sacks(&[(1000, 4000)]));
        talk.plans();
        assert_eq!(talk.fire().1, TimerEvent::Plan);
        assert_eq!(talk.plans(), [Sent::Again(0, 1000)]);
        talk.hear(ack(1000));
        assert_eq!(talk.plans(), [Sent::Again(1000, 2000), Sent::Again(2000, 3000)]);
        talk.hear(ack(3000));
        assert_eq!(talk.plans(), [Sent::Again(3000, 4000)]);
    });
}

#[test]
fn after_a_timeout_fresh_reports_are_believed() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(6000);
        talk.fire();
        assert_eq!(talk.plans(), [Sent::Again(0, 1000)]);
        talk.hear(ack(1000).sacks(&[(2000, 5000)]));
        assert_eq!(talk.plans(), [Sent::Again(1000, 2000), Sent::Again(5000, 6000)]);
    });
}

#[test]
fn a_retransmission_fits_a_window_that_closed_meanwhile() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(8000);
        talk.hear(ack(1000).window(0));
        talk.fire();
        assert_eq!(talk.plans(), [Sent::Again(1000, 2000)], "one segment, as a probe");
        talk.hear(ack(2000).window(1200));
        assert_eq!(talk.plan_up_to(10_000), Some(Sent::Again(2000, 3200)));
    });
}

#[test]
fn sack_of_what_was_never_sent_is_ignored() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(1000);
        for _ in 0..3 {
            talk.hear(ack(0).sacks(&[(500, 90_000), (800, 200)]));
        }
        talk.fire();
        assert_eq!(talk.plans(), [Sent::Again(0, 1000)]);
    });
}
