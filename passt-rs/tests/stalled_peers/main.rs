//! smoltcp as the guest, with peers that do not read. Its timers, and ours, are what is looked at; so it is a program of its
//! own, beside which no other test runs.
//!
//! It has a network namespace of its own, which needs root.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::tests_outside_test_module,
    reason = "the whole file is a test"
)]

#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use passt_rs::relay::Limits;

use crate::support::host::{self, accept, listen};
use crate::support::lab::{Options, PEER4, with};

/// A pool smaller than what the flows were promised: windows close, and nothing is lost or reset. When peers read
/// again, flows go on at once, and not when the guest's timers fire.
#[test]
fn flows_that_share_too_little_spill_wait_and_resume() {
    const FLOWS: usize = 6;
    const TOTAL: u64 = 16 << 20;
    // The guest's timer fires 1, 3, 7 and 15 seconds after the last progress: what goes on in between was told to.
    const STALL: Duration = Duration::from_millis(3300);
    const AT_ONCE: Duration = Duration::from_millis(3500);
    let limits = Limits { spill_bytes: 128 << 10, ..Limits::default() };
    with(Options { limits, mtu: 9000, ..Options::default() }, |lab| {
        let (listener, address) = listen(PEER4);
        let handles: Vec<_> = (0..FLOWS).map(|_| lab.guest.connected(address, 256 << 10)).collect();
        let mut streams: Vec<_> = (0..FLOWS).map(|_| accept(&listener)).collect();
        let mut sent = [0; FLOWS];
        let mut moved = Instant::now();
        while moved.elapsed() < STALL {
            for (handle, sent) in handles.iter().zip(&mut sent) {
                let more = lab.guest.send_some(*handle, *sent, TOTAL);
                *sent += more;
                if more > 0 {
                    moved = Instant::now();
                }
            }
            lab.guest.turn();
        }
        assert!(sent.iter().all(|sent| *sent < TOTAL), "somebody buffers without bound");
        assert!(lab.counter(&["drops", "spill_limit"]) > 0, "the pool was large enough");
        let peers: Vec<_> = streams
            .drain(..)
            .map(|mut stream| std::thread::spawn(move || host::read_all(&mut stream, 1)))
            .collect();
        let stalled = sent;
        lab.guest.until_within(AT_ONCE, "every flow to go on", |guest| {
            for (handle, sent) in handles.iter().zip(&mut sent) {
                *sent += guest.send_some(*handle, *sent, TOTAL);
            }
            sent.iter().zip(&stalled).all(|(sent, stalled)| sent > stalled).then_some(())
        });
        lab.guest.until_within(Duration::from_secs(60), "the rest to go", |guest| {
            for (handle, sent) in handles.iter().zip(&mut sent) {
                *sent += guest.send_some(*handle, *sent, TOTAL);
            }
            let done = |handle| guest.socket(handle).send_queue() == 0;
            (sent == [TOTAL; FLOWS] && handles.iter().copied().all(done)).then_some(())
        });
        for handle in handles {
            lab.guest.socket(handle).close();
        }
        for peer in peers {
            lab.guest.until("the peer's end", |_| peer.is_finished().then_some(()));
            assert_eq!(peer.join().unwrap(), TOTAL);
        }
        lab.until_no_flows();
        assert_eq!(lab.counter(&["spill_bytes"]), 0);
        for counter in ["resets_to_guest_total", "resets_from_guest_total"] {
            assert_eq!(lab.counter(&["tcp", counter]), 0, "{counter}");
        }
    });
}
