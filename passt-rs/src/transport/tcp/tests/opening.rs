//! Handshakes with both initiators, and their options.

use super::*;

fn syn_ack(start: Start) -> Segment {
    Segment { ack: start.ours + 1, flags: Flags::SYN.and(Flags::ACK), ..syn(start) }
}

#[test]
fn guest_syn_waits_for_the_host_and_gets_a_syn_ack() {
    everywhere(|start| {
        let mut talk = Talk::asked(start, syn(start));
        assert_eq!(talk.connection.phase(), Phase::Connecting);
        assert_eq!(talk.connection.deadline(), None, "the host's kernel times the connect");
        assert!(!talk.connection.owes_ack());
        talk.connection.host_connected(talk.now);
        let answer = talk.connection.syn();
        assert_eq!((answer.seq, answer.ack), (start.ours, start.guest + 1));
        assert_eq!(answer.flags, Flags::SYN.and(Flags::ACK));
        assert_eq!((answer.mss, answer.window_scale), (Some(LINK_MSS), Some(WINDOW_SCALE)));
        assert!(answer.sack_permitted);
        assert_eq!(talk.hear(ack(0)).event, Some(Event::Opened));
        assert_eq!((talk.connection.phase(), talk.connection.in_flight()), (Phase::Open, 0));
    });
}

#[test]
fn host_accept_asks_the_guest_and_acknowledges_its_answer() {
    everywhere(|start| {
        let mut talk = Talk::asking(start);
        let asked = talk.connection.syn();
        assert_eq!(
            (asked.seq, asked.flags, asked.window_scale),
            (start.ours, Flags::SYN, Some(WINDOW_SCALE))
        );
        assert!(asked.sack_permitted && asked.mss == Some(LINK_MSS));
        let input = talk.connection.on_segment(talk.now, &syn_ack(start), 0);
        assert_eq!(input, Input { event: Some(Event::Opened), ..Input::default() });
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(0));
        assert_eq!(talk.host_sends(MSS), [Sent::New(0, MSS)]);
    });
}

#[test]
fn options_are_answered_only_if_offered() {
    let base = syn(Start { guest: Seq(1), ours: Seq(2) });
    let table = [
        ("all", base, 1000, Some(WINDOW_SCALE), true),
        ("no MSS", Segment { mss: None, ..base }, 536, Some(WINDOW_SCALE), true),
        (
            "an MSS larger than the link's",
            Segment { mss: Some(9000), ..base },
            LINK_MSS,
            Some(WINDOW_SCALE),
            true,
        ),
        ("an MSS of zero", Segment { mss: Some(0), ..base }, MSS_MIN, Some(WINDOW_SCALE), true),
        ("no window scale", Segment { window_scale: None, ..base }, 1000, None, true),
        ("no SACK", Segment { sack_permitted: false, ..base }, 1000, Some(WINDOW_SCALE), false),
    ];
    everywhere(|start| {
        for (name, syn, mss, scale, sack) in table {
            let mut talk = Talk::asked(start, Segment { seq: start.guest, ..syn });
            talk.connection.host_connected(talk.now);
            let answer = talk.connection.syn();
            assert_eq!(talk.connection.mss(), mss, "{name}");
            assert_eq!((answer.window_scale, answer.sack_permitted), (scale, sack), "{name}");
        }
    });
}

#[test]
fn an_ipv6_guest_without_mss_gets_1220() {
    everywhere(|start| {
        let parameters = Parameters { ipv6: true, ..parameters(start) };
        let syn = Segment { mss: None, ..syn(start) };
        assert_eq!(Connection::from_guest_syn(Instant::default(), &syn, &parameters).mss(), 1220);
    });
}

#[test]
fn a_link_smaller_than_the_least_mss_does_not_panic() {
    everywhere(|start| {
        let parameters = Parameters { link_mss: 8, ..parameters(start) };
        assert_eq!(Connection::from_guest_syn(Instant::default(), &syn(start), &parameters).mss(), 8);
    });
}

#[test]
fn windows_in_syns_are_not_scaled() {
    everywhere(|start| {
        let mut talk = Talk::asked(start, syn(start));
        assert_eq!(talk.connection.guest_window(), 60_000);
        talk.connection.host_connected(talk.now);
        assert_eq!(talk.connection.syn().window, u16::MAX);
        talk.hear(ack(0).window(200_000));
        assert_eq!(talk.connection.guest_window(), 200_000);
        talk.connection.ack_due = true;
        assert_eq!(talk.acknowledgment(), Some(heard(0, CAPACITY)));
    });
}

#[test]
fn a_guest_without_window_scale_is_promised_what_16_bits_hold() {
    everywhere(|start| {
        let mut talk = Talk::asked(start, Segment { window_scale: None, ..syn(start) });
        talk.connection.host_connected(talk.now);
        talk.hear(bytes(0, 1));
        assert_eq!(talk.acknowledgment(), Some(heard(1, u32::from(u16::MAX))));
        talk.connection.set_capacity(CAPACITY);
        talk.hear(bytes(1, 1));
        assert_eq!(talk.acknowledgment(), Some(heard(2, u32::from(u16::MAX))));
    });
}

#[test]
fn a_repeated_syn_is_patient_while_the_host_connects() {
    everywhere(|start| {
        let mut talk = Talk::asked(start, syn(start));
        assert_eq!(talk.connection.on_segment(talk.now, &syn(start), 0), Input::default());
        assert_eq!((talk.connection.phase(), talk.connection.deadline()), (Phase::Connecting, None));
    });
}

#[test]
fn a_repeated_syn_repeats_the_syn_ack_at_once_and_costs_no_try() {
    everywhere(|start| {
        let mut talk = Talk::asked(start, syn(start));
        talk.connection.host_connected(talk.now);
        for _ in 0..20 {
            talk.pass(ms(300));
            assert_eq!(talk.connection.on_segment(talk.now, &syn(start), 0), Input::default());
            assert_eq!(talk.fire(), (Duration::ZERO, TimerEvent::Syn));
        }
        assert_eq!(talk.hear(ack(0)).event, Some(Event::Opened));
    });
}

#[test]
fn a_repeated_syn_ack_is_acknowledged_again() {
    everywhere(|start| {
        let mut talk = Talk::asking(start);
        talk.connection.on_segment(talk.now, &syn_ack(start), 0);
        talk.acknowledgment();
        talk.connection.on_segment(talk.now, &syn_ack(start), 0);
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(0));
    });
}

#[test]
fn our_syn_backs_off_and_gives_up() {
    everywhere(|start| {
        let mut connecting = Talk::asked(start, syn(start));
        connecting.connection.host_connected(connecting.now);
        for mut talk in [connecting, Talk::asking(start)] {
            for expected in [1, 2, 4, 8, 16] {
                assert_eq!(talk.fire(), (s(expected), TimerEvent::Syn));
            }
            assert_eq!(talk.fire(), (s(32), TimerEvent::GiveUp));
        }
    });
}

#[test]
fn data_on_the_ack_that_opens_is_taken() {
    everywhere(|start| {
        let mut talk = Talk::asked(start, syn(start));
        talk.connection.host_connected(talk.now);
        let input = talk.hear(bytes(0, 100));
        assert_eq!(input.event, Some(Event::Opened));
        assert_eq!(input.take, Some(Take { skip: 0, len: 100, offset: 0 }));
        assert_eq!(talk.acknowledgment().map(|heard| heard.ack), Some(100));
    });
}

#[test]
fn a_lost_ack_of_the_syn_ack_is_made_up_by_the_next_segment() {
    everywhere(|start| {
        let mut talk = Talk::asked(start, syn(start));
        talk.connection.host_connected(talk.now);
        let input = talk.hear(bytes(500, 100));
        assert_eq!((input.event, input.take.map(|take| take.offset)), (Some(Event::Opened), Some(500)));
    });
}

/// RFC 9293 3.10.7.4: what does not acknowledge our SYN opens nothing.
#[test]
fn nothing_but_an_ack_of_our_syn_opens() {
    everywhere(|start| {
        for wrong in [ack(1), ack(-1), ack(0).from(-1), ack(0).from(100_000), bytes(0, 5).acks(7)] {
            let mut talk = Talk::asked(start, syn(start));
            talk.connection.host_connected(talk.now);
            let input = talk.hear(wrong);
            assert_eq!((input.event, input.drop), (None, Some(DropReason::Window)), "{wrong:?}");
            assert_eq!(talk.connection.phase(), Phase::SynAckSent, "{wrong:?}");
        }
    });
}

#[test]
fn the_guest_takes_its_syn_back_with_a_reset() {
    everywhere(|start| {
        let mut talk = Talk::asked(start, syn(start));
        assert_eq!(talk.hear(rst(5)).event, None);
        assert_eq!(talk.hear(rst(0)).event, Some(Event::Reset));
        talk.connection.host_connected(talk.now);
        assert_eq!(talk.hear(rst(0)).event, Some(Event::Reset));
    });
}

#[test]
fn a_refused_host_connect_is_a_reset_that_the_guest_accepts() {
    everywhere(|start| {
        let mut talk = Talk::asked(start, syn(start));
        let reset = talk.connection.reset();
        assert_eq!((reset.ack, reset.flags), (start.guest + 1, Flags::RST.and(Flags::ACK)));
    });
}

#[test]
fn the_guest_refuses_with_a_reset_that_acknowledges_our_syn() {
    everywhere(|start| {
        let mut talk = Talk::asking(start);
        let reset = Segment { seq: Seq(0), flags: Flags::RST.and(Flags::ACK), ..syn_ack(start) };
        let blind = Segment { ack: start.ours, ..reset };
        assert_eq!(talk.connection.on_segment(talk.now, &blind, 0).event, None);
        let naked = Segment { flags: Flags::RST, ..reset };
        assert_eq!(talk.connection.on_segment(talk.now, &naked, 0).event, None);
        assert_eq!(talk.connection.on_segment(talk.now, &reset, 0).event, Some(Event::Reset));
    });
}

/// RFC 9293 3.10.7.3 and 3.5.1, figure 9: the guest still has a connection that we forgot. Its answer to our
/// SYN is reset, so that the next SYN finds it ready.
#[test]
fn a_guest_that_answers_our_syn_out_of_an_old_connection_is_reset() {
    everywhere(|start| {
        let mut talk = Talk::asking(start);
        let stale = Segment { seq: Seq(77), ack: start.ours + 5000, flags: Flags::ACK, ..Segment::default() };
        let input = talk.connection.on_segment(talk.now, &stale, 0);
        assert_eq!((input.event, input.drop), (Some(Event::Stale), Some(DropReason::Window)));
        let reset = refuse(&stale, 0).unwrap();
        assert_eq!((reset.seq, reset.flags), (stale.ack, Flags::RST));
        assert_eq!(talk.connection.phase(), Phase::SynSent);
        assert_eq!(talk.fire().1, TimerEvent::Syn);
        assert_eq!(talk.connection.on_segment(talk.now, &syn_ack(start), 0).event, Some(Event::Opened));
    });
}

#[test]
fn a_window_that_our_syn_offered_stays_promised_when_memory_runs_short() {
    everywhere(|start| {
        let mut talk = Talk::asking(start);
        talk.connection.set_capacity(1000);
        talk.connection.on_segment(talk.now, &syn_ack(start), 0);
        assert_eq!(talk.acknowledgment().map(|heard| heard.window), Some(65_535 / 128 * 128));
        assert_eq!(talk.hear(bytes(60_000, 100)).take.map(|take| take.offset), Some(60_000));
    });
}

#[test]
fn a_window_that_grew_before_our_syn_ack_is_taken_at_its_word() {
    everywhere(|start| {
        let short = Parameters { capacity: 1000, ..parameters(start) };
        let mut talk = Talk::asked(start, syn(start));
        talk.connection = Connection::from_guest_syn(talk.now, &syn(start), &short);
        talk.connection.set_capacity(CAPACITY);
        talk.connection.host_connected(talk.now);
        assert_eq!(talk.connection.syn().window, 65_535);
        talk.hear(ack(0));
        assert_eq!(talk.hear(bytes(60_000, 100)).take.map(|take| take.offset), Some(60_000));
    });
}
