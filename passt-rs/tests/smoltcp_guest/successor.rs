//! A relay that was killed, and the one started in its place.

use smoltcp::socket::tcp::State;

use crate::support::host::{accept, listen};
use crate::support::lab::{Options, PEER4, PEER6, with};

/// A guest that only receives has nothing to send that would be answered with a reset.
#[test]
fn a_guest_that_only_receives_finds_out_that_its_connections_are_gone() {
    with(Options::default(), |lab| {
        let peers = [listen(PEER4), listen(PEER6)];
        let handles: Vec<_> = peers.iter().map(|(_, address)| lab.guest.connected(*address, 4096)).collect();
        let _streams: Vec<_> = peers.iter().map(|(listener, _)| accept(listener)).collect();
        let ended = lab.guest.connected(peers[0].1, 4096);
        let ended_stream = accept(&peers[0].0);
        lab.guest.socket(ended).close();
        drop(ended_stream);
        lab.until_counter(&["flows"], 2);

        let mut successor = lab.successor();
        for handle in handles {
            successor.guest.until_state(handle, State::Closed);
        }
        assert_eq!(successor.counter(&["tcp", "lost_told_total"]), 2);
        let (listener, address) = &peers[0];
        successor.guest.connected(*address, 4096);
        drop(accept(listener));
    });
}
