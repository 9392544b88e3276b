//! Many connections: thousands one after the other, thousands at the same time.

use std::net::SocketAddr;

use vm_tests::lab::{SERVER_V4, Variant, wait_for};
use vm_tests::traffic::{Role, drive};

use crate::tap::{LIMIT, Tap, Way};

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn thousands_of_short_connections_leave_nothing_behind() {
    let mut tap = Tap::start(Variant::DualStack);
    let _world = drive::serve(&tap.lab, tap.lab.world(), &tap.lab.servers()).unwrap();
    let _guest = drive::serve(&tap.lab, tap.lab.guest(), &[]).unwrap();
    let before = descriptors(tap.translator.pid());
    for way in Way::BOTH {
        let (initiator, addresses) = tap.initiator(way);
        for address in addresses {
            let at = SocketAddr::new(address, Role::OneShot.port());
            let line = format!("crr --connect {at} --count 4000 --flows 4 --seconds 60");
            let result = drive::run(initiator, &line).unwrap();
            assert_eq!(result["count"], 4000, "{result}");
        }
    }
    tap.assert_alive();
    let pid = tap.translator.pid();
    // Sockets kept in store for coming connections are not left over from past ones.
    wait_for(LIMIT, "its descriptors to be closed", || descriptors(pid) <= before + 100).unwrap();
}

#[test]
fn eighteen_thousand_connections_are_open_at_the_same_time() {
    // A process may have 20 000 descriptors: two clients and two servers share what the translator does alone.
    const EACH: u64 = 9000;
    const SHIFT: u16 = 100;

    let mut tap = Tap::start(Variant::Ipv4Only);
    let servers = tap.lab.servers();
    let _servers =
        [0, SHIFT].map(|shift| drive::serve_shifted(&tap.lab, tap.lab.world(), &servers, shift).unwrap());
    let mut holders = [0, SHIFT].map(|shift| {
        let at = SocketAddr::new(SERVER_V4.into(), Role::Echo.port() + shift);
        let line = format!("hold --echo --count {EACH} --seconds 60 --connect {at}");
        drive::start(&tap.lab, tap.lab.guest(), &format!("hold-{shift}"), &line).unwrap()
    });
    for holder in &mut holders {
        let opened = drive::result(holder, 4 * LIMIT, "asked").unwrap();
        assert_eq!(opened["established"], EACH, "{opened}");
    }
    let at = SocketAddr::new(SERVER_V4.into(), Role::Echo.port());
    drive::run(tap.lab.guest(), &format!("rr --seconds 0.5 --connect {at}")).unwrap();
    for holder in &mut holders {
        holder.close_stdin();
        let end = drive::result(holder, LIMIT, "hold-end").unwrap();
        assert_eq!(end["held"], EACH, "{end}");
    }
    tap.assert_alive();
}
