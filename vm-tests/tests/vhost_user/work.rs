//! What every guest does to show that its NIC works: bytes out and back, over TCP and UDP, opened by either side.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use vm_tests::lab::Namespace;
use vm_tests::traffic::Role;

use crate::guest::Guest;
use crate::pod::{FORWARDED, LIMIT, Pod};

/// Bytes no two of which can be mistaken for each other's neighbours.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// Everything, over both families.
pub(crate) fn all(pod: &mut Pod, guest: &mut Guest, bytes: usize) {
    for server in pod.lab.servers() {
        // smoltcp looks for one neighbour a second at most, of whatever family.
        guest.advance(Duration::from_secs(1));
        udp_echo(guest, server);
        tcp_from_guest(guest, server, bytes);
    }
    for address in pod.lab.pod_addresses() {
        tcp_from_world(pod.lab.world(), guest, address, bytes);
    }
    pod.assert_alive();
}

/// Opens a connection to the world's echo server, and closes it once everything is back.
pub(crate) fn tcp_from_guest(guest: &mut Guest, server: IpAddr, bytes: usize) {
    let port = guest.new_port();
    let handle = guest.add_tcp();
    guest.connect(handle, SocketAddr::new(server, Role::Echo.port()), port);
    let data = pattern(bytes);
    let (mut sent, mut received) = (0, Vec::new());
    guest.until("an echo to the guest", |guest| {
        let socket = guest.tcp(handle);
        assert!(socket.is_open(), "the connection is gone; {sent} sent, {} received", received.len());
        if socket.can_send() && sent < data.len() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        }
        take(guest, handle, &mut received);
        received.len() >= data.len()
    });
    assert!(received == data, "the echo is something else");
    guest.tcp(handle).close();
    guest.until("the server's FIN", |guest| !guest.tcp(handle).may_recv());
    guest.until("an end of the connection", |guest| {
        use smoltcp::socket::tcp::State;
        matches!(guest.tcp(handle).state(), State::TimeWait | State::Closed)
    });
    guest.remove(handle);
}

/// Takes what a connection has received.
pub(crate) fn take(guest: &mut Guest, handle: SocketHandle, received: &mut Vec<u8>) {
    let socket = guest.tcp(handle);
    while socket.can_recv() {
        socket
            .recv(|bytes| {
                received.extend_from_slice(bytes);
                (bytes.len(), ())
            })
            .unwrap();
    }
}

/// The world connects to a forwarded port, behind which the guest echoes.
pub(crate) fn tcp_from_world(world: &Namespace, guest: &mut Guest, address: IpAddr, bytes: usize) {
    let handle = guest.add_tcp();
    guest.tcp(handle).listen(FORWARDED).unwrap();
    let at = SocketAddr::new(address, FORWARDED);
    let data = pattern(bytes);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut stream = world.run(|| TcpStream::connect_timeout(&at, LIMIT)).unwrap().unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            let mut writer = stream.try_clone().unwrap();
            let mut echo = Vec::new();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    writer.write_all(&data).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                stream.read_to_end(&mut echo).unwrap();
            });
            echo
        });
        let (mut queued, mut sent) = (Vec::new(), 0);
        guest.until("a client that is served", |guest| {
            take(guest, handle, &mut queued);
            let socket = guest.tcp(handle);
            if socket.can_send() && sent < queued.len() {
                sent += socket.send_slice(&queued[sent..]).unwrap();
            }
            if socket.is_active() && !socket.may_recv() && sent == queued.len() && sent > 0 {
                socket.close();
            }
            client.is_finished()
        });
        assert!(client.join().unwrap() == data, "the world's echo is something else");
    });
    guest.remove(handle);
}

fn numbered((number, mut data): (usize, Vec<u8>)) -> Vec<u8> {
    data[0] = u8::try_from(number).unwrap();
    data
}

/// Datagrams of several sizes to the world's echo server.
pub(crate) fn udp_echo(guest: &mut Guest, server: IpAddr) {
    let port = guest.new_port();
    let handle = guest.add_udp();
    guest.udp(handle).bind(port).unwrap();
    let at = SocketAddr::new(server, Role::UdpEcho.port());
    for len in [1, 17, 600, 1452] {
        let data = pattern(len);
        guest.udp(handle).send_slice(&data, at).unwrap();
        guest.until("a datagram's echo", |guest| guest.udp(handle).can_recv());
        assert!(guest.udp(handle).recv().unwrap().0 == data, "a datagram of {len} came back otherwise");
    }
    // Several at once: one frame where the back end cuts it.
    let burst: Vec<Vec<u8>> =
        [700, 700, 700, 700, 700, 100, 900, 900].map(pattern).into_iter().enumerate().map(numbered).collect();
    for data in &burst {
        guest.udp(handle).send_slice(data, at).unwrap();
    }
    for data in &burst {
        guest.until("the echo of a burst", |guest| guest.udp(handle).can_recv());
        assert!(guest.udp(handle).recv().unwrap().0 == data, "a burst came back otherwise");
    }
    guest.remove(handle);
}
