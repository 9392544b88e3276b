//! Which ports of the pod lead to the guest.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use vm_tests::lab::Variant;

use crate::tap::{FREE_PORT, LIMIT, Tap, accept, connect, listen};

/// Whether a byte the guest writes after accepting on `port` arrives; an error if the connection is refused.
fn answers(tap: &Tap, listener: &TcpListener, to: SocketAddr) -> std::io::Result<bool> {
    let mut stream = connect(tap.lab.world(), to)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut accepted = accept(listener);
    accepted.write_all(&[42])?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    Ok(byte == [42])
}

#[test]
fn range_is_forwarded_but_for_its_exclusion() {
    let mut tap = Tap::start_with_ports(Variant::DualStack, "8000-8010,~8005", "none");
    for address in tap.lab.pod_addresses() {
        for port in 7999..=8011 {
            let to = SocketAddr::new(address, port);
            let listener = listen(tap.lab.guest(), to);
            let result = answers(&tap, &listener, to);
            if (8000..=8010).contains(&port) && port != 8005 {
                assert!(result.unwrap(), "{to}");
            } else {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
            }
        }
    }
    tap.assert_alive();
}

#[test]
fn guest_sees_who_connects() {
    let tap = Tap::start(Variant::DualStack);
    for (address, server) in tap.lab.pod_addresses().into_iter().zip(tap.lab.servers()) {
        let to = SocketAddr::new(address, FREE_PORT);
        let listener = listen(tap.lab.guest(), to);
        let stream = connect(tap.lab.world(), to).unwrap();
        let peer = accept(&listener).peer_addr().unwrap();
        assert_eq!(peer, stream.local_addr().unwrap(), "to {address}, beside {server}");
    }
}

#[test]
fn port_is_mapped_to_another_of_the_guest() {
    let mut tap = Tap::start_with_ports(Variant::DualStack, "8080:80", "none");
    for address in tap.lab.pod_addresses() {
        let listener = listen(tap.lab.guest(), SocketAddr::new(address, 80));
        assert!(answers(&tap, &listener, SocketAddr::new(address, 8080)).unwrap());
    }
    tap.assert_alive();
}
