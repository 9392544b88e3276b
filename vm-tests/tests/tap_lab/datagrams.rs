//! UDP and what ICMP says about it: large datagrams, unreachable ports, paths that are too long.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use vm_tests::lab::Variant;
use vm_tests::traffic::{Role, drive};

use crate::tap::{LIMIT, Tap, Way};

/// Larger than the MTU: it travels in fragments.
const LARGE: usize = 9000;

fn large_datagrams_arrive(way: Way) {
    let mut tap = Tap::start(Variant::DualStack);
    let server_addresses = if way == Way::FromGuest { tap.lab.servers() } else { Vec::new() };
    let _server = drive::serve(&tap.lab, tap.target(way), &server_addresses).unwrap();
    let (initiator, addresses) = tap.initiator(way);
    for address in addresses {
        let echo = SocketAddr::new(address, Role::UdpEcho.port());
        drive::run(initiator, &format!("udp-rr --connect {echo} --count 20 --size {LARGE}")).unwrap();
    }
    tap.assert_alive();
}

#[test]
fn large_datagrams_of_the_guest_go_there_and_back() {
    large_datagrams_arrive(Way::FromGuest);
}

#[test]
fn large_datagrams_of_the_world_go_there_and_back() {
    large_datagrams_arrive(Way::FromWorld);
}

/// A socket in the guest that hears of errors.
fn guest_socket(tap: &Tap, to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = tap.lab.guest().run(|| UdpSocket::bind(any)).unwrap().unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

#[test]
fn unreachable_port_is_refused_to_the_guest() {
    let mut tap = Tap::start(Variant::DualStack);
    for server in tap.lab.servers() {
        let socket = guest_socket(&tap, SocketAddr::new(server, 9));
        socket.send(b"anybody there?").unwrap();
        let error = socket.recv(&mut [0; 64]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{server}: {error}");
    }
    tap.assert_alive();
}

#[test]
fn datagram_that_may_not_travel_further_comes_back_as_an_error() {
    let mut tap = Tap::start(Variant::DualStack);
    // Behind the world, which has to forward there, and may not with so small a TTL.
    tap.lab.world().ip("route add 10.98.0.0/16 dev pod0\nroute add fd00:10:98::/64 dev pod0\n").unwrap();
    for beyond in ["10.98.0.1:33434", "[fd00:10:98::1]:33434"] {
        let socket = guest_socket(&tap, beyond.parse().unwrap());
        hear_of_all_errors(&socket, beyond.starts_with('['));
        if beyond.starts_with('[') {
            rustix::net::sockopt::set_ipv6_unicast_hops(&socket, Some(1)).unwrap();
        } else {
            socket.set_ttl(1).unwrap();
        }
        socket.send(b"how far?").unwrap();
        let error = socket.recv(&mut [0; 64]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{beyond}: {error}");
    }
    tap.assert_alive();
}

/// Without it, a socket is told of refusals only.
#[expect(unsafe_code, reason = "rustix has no IP_RECVERR")]
fn hear_of_all_errors(socket: &UdpSocket, v6: bool) {
    use std::os::fd::AsRawFd as _;

    let (level, option) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    let on: libc::c_int = 1;
    // SAFETY: setsockopt needs a value of the length it is told; `on` is an int and the length is that of an int.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), 4) };
    assert_eq!(result, 0);
}
