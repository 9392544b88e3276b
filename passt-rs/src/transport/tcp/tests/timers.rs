//! What happens when nothing happens.

use super::*;

#[test]
fn a_guest_that_does_not_answer_is_given_up_after_many_minutes() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(1000);
        let mut waited = Duration::ZERO;
        let mut before = Duration::ZERO;
        for _ in 0..15 {
            let (passed, event) = talk.fire();
            assert_eq!(event, TimerEvent::Plan);
            assert_eq!(talk.plans(), [Sent::Again(0, 1000)]);
            assert!(passed >= before.max(s(1)) && passed <= s(120), "{passed:?}");
            (waited, before) = (waited + passed, passed);
        }
        let (passed, event) = talk.fire();
        assert_eq!(event, TimerEvent::GiveUp);
        assert!((s(15 * 60)..s(25 * 60)).contains(&(waited + passed)), "{waited:?}");
    });
}

#[test]
fn timeouts_follow_the_round_trip_within_bounds() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(10);
        assert_eq!(talk.fire().0, s(1), "RFC 6298 2.1");
        let mut talk = Talk::open(start);
        for round in 0..20 {
            talk.host_sends(10);
            talk.pass(ms(1));
            talk.hear(ack(10 * (round + 1)));
        }
        talk.host_sends(10);
        assert_eq!(talk.fire().0, ms(200));
        let mut talk = Talk::open(start);
        for round in 0..50 {
            talk.host_sends(10);
            talk.pass(ms(900));
            talk.hear(ack(10 * (round + 1)));
        }
        talk.host_sends(10);
        let (passed, _) = talk.fire();
        assert!((ms(900)..ms(1200)).contains(&passed), "{passed:?}");
    });
}

/// RFC 6298 3: what was sent twice measures nothing.
#[test]
fn a_retransmission_is_not_measured() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(10);
        talk.fire();
        talk.plans();
        talk.pass(s(50));
        talk.hear(ack(10));
        talk.host_sends(10);
        assert_eq!(talk.fire().0, s(1));
    });
}

#[test]
fn progress_starts_the_timeout_anew() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(3000);
        let (deadline, _) = (talk.connection.deadline(), talk.pass(ms(700)));
        talk.hear(ack(0));
        assert_eq!(talk.connection.deadline(), deadline, "a duplicate is no progress");
        talk.hear(ack(1000));
        assert!(talk.connection.deadline() > deadline);
        talk.hear(ack(3000));
        assert_eq!(talk.fire().0, s(7200), "RFC 6298 5.2: nothing in flight, nothing to send again");
    });
}

/// RFC 9293 3.8.6.1.
#[test]
fn a_closed_window_is_probed_with_back_off_for_as_long_as_the_guest_answers() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(ack(0).window(0));
        assert_eq!(talk.host_sends(1000), []);
        let mut passed = Vec::new();
        for _ in 0..200 {
            let (after, event) = talk.fire();
            assert_eq!(event, TimerEvent::Probe);
            let probe = talk.connection.probe();
            assert_eq!(probe.seq, start.ours, "an old byte's number, so that any TCP answers");
            passed.push(after);
            talk.hear(ack(0).window(0));
            assert_eq!(talk.plans(), []);
        }
        assert_eq!(passed[..5], [ms(200), ms(400), ms(800), ms(1600), ms(3200)]);
        assert!(passed.iter().all(|after| *after <= s(60)));
        talk.hear(ack(0).window(1000));
        assert_eq!(talk.plans(), [Sent::New(0, 1000)]);
    });
}

#[test]
fn a_closed_window_of_a_guest_that_is_gone_is_given_up() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(ack(0).window(0));
        talk.host_sends(1000);
        for _ in 0..15 {
            assert_eq!(talk.fire().1, TimerEvent::Probe);
        }
        assert_eq!(talk.fire().1, TimerEvent::GiveUp);
    });
}

#[test]
fn a_window_that_opens_by_itself_needs_no_probe() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(ack(0).window(0));
        talk.host_sends(1000);
        talk.hear(ack(0).window(8000));
        assert_eq!(talk.plans(), [Sent::New(0, 1000)]);
        assert_eq!(talk.fire().1, TimerEvent::Plan, "the retransmission timer");
    });
}

/// A guest short of memory may drop what its window once allowed. While it answers it lives.
#[test]
fn bytes_in_flight_behind_a_closed_window_wait_for_as_long_as_the_guest_answers() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(2000);
        for _ in 0..100 {
            talk.hear(ack(0).window(0));
            assert_eq!(talk.fire().1, TimerEvent::Plan);
            assert_eq!(talk.plans(), [Sent::Again(0, 1000)]);
        }
    });
}

#[test]
fn an_idle_connection_is_probed_and_lives_if_the_guest_answers() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.pass(s(3600));
        talk.hear(bytes(0, 10));
        assert_eq!(talk.fire(), (s(3600), TimerEvent::Nothing), "heard of an hour ago");
        assert_eq!(talk.fire(), (s(3600), TimerEvent::Probe));
        talk.hear(ack(0).from(10));
        assert_eq!(talk.fire(), (s(7200), TimerEvent::Probe));
    });
}

#[test]
fn an_idle_guest_that_is_gone_is_given_up_after_nine_probes() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        assert_eq!(talk.fire(), (s(7200), TimerEvent::Probe));
        for _ in 0..8 {
            assert_eq!(talk.fire(), (s(75), TimerEvent::Probe));
        }
        assert_eq!(talk.fire(), (s(75), TimerEvent::GiveUp));
    });
}

#[test]
fn a_timer_asked_too_early_does_nothing() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(10);
        talk.pass(ms(999));
        assert_eq!(talk.connection.on_timer(talk.now), TimerEvent::Nothing);
    });
}
