//! Each direction ends for itself.

use super::*;

/// A connection whose guest sent FIN, and whose socket was shut.
fn shut_by_guest(start: Start) -> Talk {
    let mut talk = Talk::open(start);
    talk.hear(fin(0));
    assert!(talk.connection.wants_shutdown());
    talk.connection.shut();
    assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(1));
    talk
}

/// A connection whose host ended, and whose guest acknowledged that.
fn ended_by_host(start: Start) -> Talk {
    let mut talk = Talk::open(start);
    talk.connection.host_ended();
    assert_eq!(talk.plans(), [Sent::Fin(0)]);
    assert_eq!(talk.hear(ack(1)).acked, 0, "a FIN is no stream byte");
    talk
}

#[test]
fn guest_fin_half_closes_and_the_host_goes_on() {
    everywhere(|start| {
        let mut talk = shut_by_guest(start);
        assert_eq!(talk.connection.closing(), (Inbound::Shut, Outbound::Open));
        assert!(!talk.connection.wants_shutdown());
        assert_eq!(talk.host_sends(3000).len(), 3);
        assert_eq!(talk.hear(ack(3000).from(1)).acked, 3000);
        talk.connection.host_ended();
        assert_eq!(talk.plans(), [Sent::Fin(3000)]);
        assert!(!talk.connection.is_finished());
        talk.hear(ack(3001).from(1));
        assert!(talk.connection.is_finished());
    });
}

#[test]
fn host_end_half_closes_and_the_guest_goes_on() {
    everywhere(|start| {
        let mut talk = ended_by_host(start);
        assert_eq!(talk.connection.closing(), (Inbound::Open, Outbound::FinAcked));
        talk.hear(bytes(0, 5000).acks(1));
        assert_eq!(talk.acknowledgment(), Some(heard(5000, CAPACITY)));
        talk.hear(fin(5000).acks(1));
        talk.connection.shut();
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(5001));
        assert!(talk.connection.is_finished());
    });
}

#[test]
fn half_closed_connections_live_for_days_on_keepalives() {
    everywhere(|start| {
        for (mut talk, from, acked) in [(shut_by_guest(start), 1, 0), (ended_by_host(start), 0, 1)] {
            for _ in 0..36 {
                let (passed, event) = talk.fire();
                assert!(passed >= s(3600), "{passed:?}");
                if event == TimerEvent::Nothing {
                    continue; // The lazy deadline.
                }
                assert_eq!(event, TimerEvent::Probe);
                let probe = talk.connection.probe();
                assert_eq!(probe.seq, talk.connection.unacknowledged() - 1);
                talk.hear(ack(acked).from(from));
            }
        }
    });
}

#[test]
fn both_ends_close_at_once() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.connection.host_ended();
        assert_eq!(talk.plans(), [Sent::Fin(0)]);
        talk.hear(fin(0));
        talk.connection.shut();
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(1));
        assert!(!talk.connection.is_finished());
        talk.hear(ack(1).from(1));
        assert!(talk.connection.is_finished());
    });
}

#[test]
fn our_fin_is_sent_again_with_what_was_lost_before_it() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(1500);
        talk.connection.host_ended();
        assert_eq!(talk.plans(), [Sent::Fin(1500)]);
        assert_eq!(talk.fire().1, TimerEvent::Plan);
        assert_eq!(talk.plans(), [Sent::Again(0, 1000)]);
        talk.hear(ack(1000));
        assert_eq!(talk.plans(), [Sent::Again(1000, 1500), Sent::Fin(1500)]);
        talk.hear(ack(1500));
        assert_eq!(talk.connection.closing().1, Outbound::FinSent);
        talk.fire();
        assert_eq!(talk.plans(), [Sent::Fin(1500)]);
        talk.hear(ack(1501));
        assert_eq!(talk.connection.closing().1, Outbound::FinAcked);
        assert_eq!(talk.plans(), []);
    });
}

#[test]
fn a_fin_ends_the_stream_behind_the_guests_closed_window() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(ack(0).window(0));
        talk.connection.host_ended();
        assert_eq!(talk.plans(), [Sent::Fin(0)]);
    });
}

#[test]
fn a_fin_ahead_of_its_turn_waits_for_the_bytes_before() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(fin(1000));
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(0));
        assert!(!talk.connection.wants_shutdown());
        talk.hear(bytes(0, 600));
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(600));
        talk.hear(bytes(600, 400));
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(1001));
        assert!(talk.connection.wants_shutdown());
    });
}

#[test]
fn a_fin_on_bytes_that_lie_ahead_counts_when_the_gap_is_filled() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(Says { payload: 400, ..fin(600) });
        talk.hear(bytes(0, 600));
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(1001));
        assert!(talk.connection.wants_shutdown());
    });
}

/// The guest had no acknowledgment of its last bytes when it closed, and sends them again with its FIN.
#[test]
fn a_fin_behind_bytes_that_we_have_counts() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(0, 1000));
        let input = talk.hear(Says { payload: 1000, ..fin(0) });
        assert_eq!(input.take, None);
        assert!(talk.connection.wants_shutdown());
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(1001));
    });
}

#[test]
fn a_fin_waits_for_the_socket_to_take_what_precedes_it() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.socket_room = 0;
        talk.hear(Says { payload: 1000, ..fin(0) });
        assert_eq!(talk.connection.closing().0, Inbound::Finished);
        assert_eq!((talk.connection.spilled(), talk.connection.wants_shutdown()), (1000, false));
        talk.socket_room = 999;
        talk.drain();
        assert!(!talk.connection.wants_shutdown());
        talk.socket_room = 1;
        talk.drain();
        assert!(talk.connection.wants_shutdown());
    });
}

#[test]
fn a_guest_that_ended_in_order_hears_of_no_window_and_its_reset_takes_nothing_back() {
    everywhere(|start| {
        let mut talk = ended_by_host(start);
        talk.socket_room = 0;
        talk.hear(Says { payload: 60_000, ack: 1, ..fin(0) });
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(60_001));
        talk.socket_room = 30_000;
        talk.drain();
        assert_eq!(talk.acknowledgment(), None);
        let reset = Says { flags: Flags::RST, ..ack(1).from(60_001) };
        assert_eq!(talk.hear(reset).event, None);
        talk.socket_room = 30_000;
        talk.drain();
        assert!(talk.connection.wants_shutdown());
    });
}

#[test]
fn a_fin_at_the_very_edge_of_the_window_promises_nothing() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(0, 1));
        talk.acknowledgment();
        talk.socket_room = 0;
        talk.hear(Says { payload: CAPACITY, ..fin(1) });
        assert_eq!(talk.acknowledgment(), Some(heard(i64::from(CAPACITY) + 2, 0)));
    });
}

#[test]
fn a_repeated_fin_is_acknowledged_again() {
    everywhere(|start| {
        let mut talk = shut_by_guest(start);
        talk.hear(fin(0));
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(1));
        assert_eq!(talk.connection.closing().0, Inbound::Shut);
    });
}

#[test]
fn bytes_behind_the_fin_are_not_taken() {
    everywhere(|start| {
        let mut talk = shut_by_guest(start);
        assert_eq!(talk.hear(bytes(1, 100)).take, None);
        let mut talk = Talk::open(start);
        talk.hear(fin(100));
        assert_eq!(talk.hear(bytes(50, 100)).take, Some(Take { skip: 0, len: 50, offset: 50 }));
        assert_eq!(talk.hear(bytes(200, 100)).take, None);
    });
}
