//! Segments that should not be: resets, SYNs, acknowledgments of the future (RFC 5961).

use super::*;

#[test]
fn only_a_reset_at_the_exact_next_byte_resets() {
    everywhere(|start| {
        let table = [
            ("next", 1000, Some(Event::Reset), false),
            ("one before", 999, None, false),
            ("one after: in the window", 1001, None, true),
            ("last of the window", i64::from(CAPACITY) + 999, None, true),
            ("behind the window", i64::from(CAPACITY) + 1000, None, false),
            ("half the circle away", 1 << 31, None, false),
        ];
        for (name, at, event, challenged) in table {
            let mut talk = Talk::open(start);
            talk.hear(bytes(0, 1000));
            talk.acknowledgment();
            let input = talk.hear(rst(at));
            assert_eq!(input.event, event, "{name}");
            assert_eq!(input.drop, event.is_none().then_some(DropReason::Window), "{name}");
            let answer = talk.acknowledgment();
            assert_eq!(answer, challenged.then(|| heard(1000, CAPACITY)), "{name}");
        }
    });
}

/// The way out for a guest that reset with bytes of its own still unheard: the challenge gives it the number.
#[test]
fn a_guest_that_is_challenged_resets_with_the_number_it_was_told() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        assert_eq!(talk.hear(rst(5000)).event, None);
        let challenge = talk.acknowledgment().unwrap();
        assert_eq!(talk.hear(rst(challenge.ack)).event, Some(Event::Reset));
    });
}

/// RFC 5961 4.2: whatever its number.
#[test]
fn a_syn_on_an_open_connection_is_challenged() {
    everywhere(|start| {
        for at in [-1, 0, 1, 1000, -70_000, 1 << 30] {
            let mut talk = Talk::open(start);
            talk.host_sends(1000);
            let naked = Says { flags: Flags::SYN, ack: 600, ..says().from(at) };
            for says in [naked, naked.and(Flags::ACK)] {
                let input = talk.hear(says);
                assert_eq!((input.acked, input.take, input.event), (0, None, None), "{at}");
                assert_eq!(input.drop, Some(DropReason::Window), "{at}");
                assert_eq!(talk.acknowledgment(), Some(heard(0, CAPACITY)), "{at}");
            }
        }
    });
}

/// A guest that rebooted and reuses its port: challenge, reset, and the way is free for its next SYN.
#[test]
fn a_rebooted_guest_gets_rid_of_its_old_connection() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(Says { flags: Flags::SYN, ..says().from(1 << 28) });
        let challenge = talk.acknowledgment().unwrap();
        assert_eq!(talk.hear(rst(challenge.ack)).event, Some(Event::Reset));
    });
}

/// Half the sequence space away, a number is before and after the window at once.
#[test]
fn a_segment_from_the_far_side_of_the_numbers_brings_nothing() {
    everywhere(|start| {
        for at in [1 << 31, (1 << 31) - 1, (1 << 31) + 180, (1 << 31) + i64::from(CAPACITY)] {
            for says in [fin(at), bytes(at, 1), bytes(at, 1400)] {
                let mut talk = Talk::open(start);
                let input = talk.hear(says);
                assert_eq!((input.take, input.drop), (None, Some(DropReason::Window)), "{says:?}");
            }
        }
    });
}

/// RFC 5961 5.2.
#[test]
fn an_acknowledgment_of_what_was_never_sent_is_challenged() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(1000);
        let input = talk.hear(bytes(0, 10).acks(1001));
        assert_eq!(input, Input { drop: Some(DropReason::Window), ..Input::default() });
        assert_eq!(talk.acknowledgment(), Some(heard(0, CAPACITY)));
        assert_eq!(talk.connection.in_flight(), 1000);
    });
}

#[test]
fn a_segment_without_ack_is_dropped() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.host_sends(1000);
        let mut naked = bytes(0, 10).acks(700);
        naked.flags = Flags::PSH;
        let input = talk.hear(naked);
        assert_eq!((input.take, input.acked, input.drop), (None, 0, Some(DropReason::Window)));
        let input = talk.hear(naked.from(-500));
        assert_eq!((input.take, input.acked, input.drop), (None, 0, Some(DropReason::Window)));
    });
}

#[test]
fn our_reset_carries_the_next_byte_and_acknowledges() {
    everywhere(|start| {
        let mut talk = Talk::open(start);
        talk.hear(bytes(0, 10));
        talk.host_sends(1000);
        let reset = talk.connection.reset();
        assert_eq!((reset.seq, reset.ack), (start.ours + 1001, start.guest + 11));
        assert_eq!(reset.flags, Flags::RST.and(Flags::ACK));
    });
}

/// RFC 9293 3.10.7.1.
#[test]
fn a_segment_of_no_connection_is_refused_with_the_number_it_expects() {
    everywhere(|start| {
        let talk = Talk::open(start);
        let refused = |says: Says| refuse(&talk.segment(says), says.payload);
        assert_eq!(refused(rst(0)), None);
        let answer = refused(bytes(0, 10).acks(77)).unwrap();
        assert_eq!((answer.seq, answer.flags), (start.ours + 78, Flags::RST));
        let naked = Says { flags: Flags::SYN, payload: 5, ..says() };
        let answer = refused(naked).unwrap();
        assert_eq!((answer.seq, answer.ack), (Seq(0), start.guest + 1 + 6));
        assert_eq!(answer.flags, Flags::RST.and(Flags::ACK));
        assert_eq!(refused(naked.and(Flags::FIN)).unwrap().ack, start.guest + 1 + 7);
    });
}
