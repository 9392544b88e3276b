use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::super::fragment::{self, Piece};
use super::*;

fn at(seconds: u64) -> Instant {
    Instant::from_micros(seconds * 1_000_000)
}

fn key(ident: u32) -> Key {
    Key { src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 2].into(), protocol: protocol::UDP, ident }
}

fn part(offset: u16, more: bool) -> Fragment {
    Fragment { ident: 0, offset, more }
}

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

fn data<'a>(payload: &'a [u8], piece: &Piece) -> &'a [u8] {
    let start = usize::from(piece.fragment.offset);
    &payload[start..start + piece.len]
}

mod gathering {
    use super::*;

    #[test]
    fn parts_in_reverse_order_complete_the_payload() {
        let payload = pattern(3008);
        let mut pieces: Vec<_> = fragment::plan(1, key(1).src, payload.len(), 1500).collect();
        pieces.reverse();
        let mut reassembly = Reassembly::new(BYTES_MAX);
        for piece in &pieces[..2] {
            let outcome = reassembly.insert(at(0), key(1), piece.fragment, data(&payload, piece));
            assert_eq!(outcome, Outcome::Waiting);
        }
        let outcome = reassembly.insert(at(0), key(1), pieces[2].fragment, data(&payload, &pieces[2]));
        assert_eq!(outcome, Outcome::Complete(&payload));
        assert_eq!((reassembly.len(), reassembly.held()), (0, 0));
    }

    #[test]
    fn datagrams_that_differ_in_one_part_of_the_key_are_kept_apart() {
        let mut reassembly = Reassembly::new(BYTES_MAX);
        let other = [
            Key { ident: 2, ..key(1) },
            Key { protocol: protocol::ICMP, ..key(1) },
            Key { src: [10, 0, 0, 9].into(), ..key(1) },
            Key { dst: [10, 0, 0, 9].into(), ..key(1) },
        ];
        reassembly.insert(at(0), key(1), part(0, true), &[1; 8]);
        for key in other {
            assert_eq!(reassembly.insert(at(0), key, part(8, false), &[2; 8]), Outcome::Waiting);
        }
        assert_eq!(reassembly.len(), 5);
    }

    #[test]
    fn an_exact_duplicate_is_ignored() {
        let mut reassembly = Reassembly::new(BYTES_MAX);
        reassembly.insert(at(0), key(1), part(0, true), &[1; 8]);
        assert_eq!(reassembly.insert(at(0), key(1), part(0, true), &[1; 8]), Outcome::Waiting);
        let outcome = reassembly.insert(at(0), key(1), part(8, false), &[2; 4]);
        assert_eq!(outcome, Outcome::Complete(&[1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2]));
    }

    #[test]
    fn times_out_after_30_s_over_ipv4_and_60_s_over_ipv6() {
        let v6 = Key { src: Ipv6Addr::LOCALHOST.into(), dst: Ipv6Addr::LOCALHOST.into(), ..key(1) };
        for (key, seconds) in [(key(1), 30), (v6, 60)] {
            let mut reassembly = Reassembly::new(BYTES_MAX);
            reassembly.insert(at(0), key, part(0, true), &[1; 8]);
            reassembly.insert(at(seconds - 1), key, part(8, true), &[1; 8]);
            let outcome = reassembly.insert(at(seconds), key, part(16, false), &[1; 8]);
            assert_eq!(outcome, Outcome::Waiting, "the parts before it are gone");
            assert_eq!((reassembly.len(), reassembly.held()), (1, 24));
        }
    }
}

mod poisoned {
    use super::*;

    /// Each row: what is there, and the part that contradicts it.
    #[test]
    fn by_any_overlap_or_contradiction_and_stays_so() {
        type Part = (u16, bool, usize);
        let rows: [(&str, &[Part], Part); 6] = [
            ("starts inside", &[(0, true, 16)], (8, true, 16)),
            ("ends inside", &[(16, true, 16)], (8, true, 16)),
            ("swallows", &[(8, true, 8)], (0, true, 24)),
            ("beyond the end", &[(8, false, 8)], (16, true, 8)),
            ("a second end", &[(8, false, 8)], (0, false, 8)),
            ("an end before what is there", &[(16, true, 8)], (0, false, 8)),
        ];
        for (name, there, (offset, more, len)) in rows {
            let mut reassembly = Reassembly::new(BYTES_MAX);
            for (offset, more, len) in there {
                reassembly.insert(at(0), key(1), part(*offset, *more), &vec![1; *len]);
            }
            let outcome = reassembly.insert(at(0), key(1), part(offset, more), &vec![2; len]);
            assert_eq!(outcome, Outcome::Refused, "{name}");
            assert_eq!((reassembly.len(), reassembly.held()), (1, 0), "{name}");
            let outcome = reassembly.insert(at(29), key(1), part(0, false), &[1; 8]);
            assert_eq!(outcome, Outcome::Refused, "{name}");
            let outcome = reassembly.insert(at(30), key(1), part(0, true), &[1; 8]);
            assert_eq!(outcome, Outcome::Waiting, "{name}");
        }
    }

    #[test]
    fn by_a_duplicate_with_other_bytes() {
        let mut reassembly = Reassembly::new(BYTES_MAX);
        reassembly.insert(at(0), key(1), part(0, true), &[1; 8]);
        assert_eq!(reassembly.insert(at(0), key(1), part(0, true), &[2; 8]), Outcome::Refused);
        assert_eq!(reassembly.insert(at(0), key(1), part(8, false), &[2; 8]), Outcome::Refused);
    }
}

mod bounds {
    use super::*;

    #[test]
    fn a_new_datagram_is_refused_while_64_are_held_and_they_go_on() {
        let mut reassembly = Reassembly::new(BYTES_MAX);
        for ident in 0..64 {
            assert_eq!(reassembly.insert(at(0), key(ident), part(0, true), &[1; 8]), Outcome::Waiting);
        }
        assert_eq!(reassembly.insert(at(0), key(64), part(0, true), &[1; 8]), Outcome::Refused);
        let outcome = reassembly.insert(at(0), key(63), part(8, false), &[1; 8]);
        assert!(matches!(outcome, Outcome::Complete(_)));
        assert_eq!(reassembly.insert(at(0), key(64), part(0, true), &[1; 8]), Outcome::Waiting);
    }

    #[test]
    fn holes_count_as_bytes_held() {
        let mut reassembly = Reassembly::new(BYTES_MAX);
        let accepted = (0..64).filter(|ident| {
            reassembly.insert(at(0), key(*ident), part(65_496, false), &[1; 16]) == Outcome::Waiting
        });
        assert_eq!(accepted.count(), BYTES_MAX / (65_496 + 16));
        assert!(reassembly.held() <= BYTES_MAX);
        assert_eq!(reassembly.len(), 16);
    }

    #[test]
    fn implausible_fragments_leave_no_trace() {
        let tcp = Key { protocol: protocol::TCP, ..key(1) };
        let rows: [(&str, Key, Fragment, usize); 5] = [
            ("no data", key(1), part(0, true), 0),
            ("not a multiple of 8", key(1), part(8, true), 12),
            ("beyond 65535", key(1), part(65_512, false), 4),
            ("half a UDP header", key(1), part(0, false), 7),
            ("half a TCP header", tcp, part(0, true), 16),
        ];
        for (name, key, fragment, len) in rows {
            let mut reassembly = Reassembly::new(BYTES_MAX);
            assert_eq!(reassembly.insert(at(0), key, fragment, &vec![1; len]), Outcome::Refused, "{name}");
            assert!(reassembly.is_empty(), "{name}");
        }
    }

    #[test]
    fn more_parts_than_any_link_makes_are_refused() {
        let mut reassembly = Reassembly::new(BYTES_MAX);
        for at_part in 0..128u16 {
            let outcome = reassembly.insert(at(0), key(1), part(at_part * 16, true), &[1; 8]);
            assert_eq!(outcome, Outcome::Waiting);
        }
        assert_eq!(reassembly.insert(at(0), key(1), part(128 * 16, true), &[1; 8]), Outcome::Refused);
    }
}

proptest! {
    #[test]
    fn shuffled_and_duplicated_parts_restore_the_original(
        len in 8usize..20_000, mtu in 576usize..3000, order in any::<u64>(), twice in any::<bool>(),
    ) {
        let payload = pattern(len);
        let mut pieces: Vec<_> = fragment::plan(1, key(1).src, len, mtu).collect();
        if twice {
            // The last one in the order decides: a duplicate of it may come after completion.
            pieces.extend(pieces.clone());
        }
        let mut seed = order | 1;
        for at in (1..pieces.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            pieces.swap(at, usize::try_from(seed >> 33).unwrap() % (at + 1));
        }
        let mut reassembly = Reassembly::new(BYTES_MAX);
        let mut completed = 0;
        for piece in &pieces {
            match reassembly.insert(at(0), key(1), piece.fragment, data(&payload, piece)) {
                Outcome::Complete(bytes) => {
                    prop_assert_eq!(bytes, &payload[..]);
                    completed += 1;
                }
                Outcome::Waiting => {}
                Outcome::Refused => prop_assert!(false, "nothing contradicts"),
            }
        }
        prop_assert!(completed >= 1);
    }

    #[test]
    fn arbitrary_fragments_never_exceed_the_bounds(
        inputs in proptest::collection::vec((0u32..100, any::<u16>(), any::<bool>(), 0usize..1600, 0u64..40), 1..400),
    ) {
        let mut reassembly = Reassembly::new(BYTES_MAX);
        let bytes = [0; 1600];
        for (ident, offset, more, len, seconds) in inputs {
            reassembly.insert(at(seconds), key(ident), part(offset & !7, more), &bytes[..len]);
            let held: usize = reassembly.partials.iter().map(|partial| match &partial.state {
                State::Gathering(gathering) => gathering.bytes.len(),
                State::Poisoned => 0,
            }).sum();
            prop_assert_eq!(held, reassembly.held());
            prop_assert!(held <= BYTES_MAX && reassembly.len() <= DATAGRAMS_MAX);
        }
    }
}
