//! A guest that gives the device no receive buffers: bytes wait where they are, at no cost, and none is lost.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use vm_tests::lab::{SERVER_V4, wait_for};
use vm_tests::vhost::feature::virtio;
use vm_tests::vhost::{Options, Refill};

use crate::matrix::driver;
use crate::pod::{LIMIT, Pod};
use crate::work::{self, pattern, take};

const BYTES: usize = 400_000;

/// How long processor time is watched, and how much of it may pass: a spin would take all.
const WATCHED: Duration = Duration::from_secs(1);
const ALLOWED: Duration = Duration::from_millis(100);

#[test]
fn starved_guest_gets_every_byte_and_the_end_once_it_has_buffers() {
    let mut pod = Pod::start();
    for features in [virtio::ALL & !virtio::LOG_ALL, virtio::VERSION_1, virtio::VERSION_1 | virtio::MRG_RXBUF]
    {
        eprintln!("features {features:#x}");
        let mut guest = pod.guest(Options { rx_limit: 8, refill: Refill::Shuffled(3), ..driver(features) });
        let at = SocketAddr::new(SERVER_V4.into(), 0);
        let listener = pod.lab.world().run(|| TcpListener::bind(at)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (handle, port) = (guest.add_tcp(), guest.new_port());
        guest.connect(handle, listener.local_addr().unwrap(), port);
        let mut server = None;
        guest.until("a connection", |guest| {
            server = server.take().or_else(|| listener.accept().ok());
            guest.tcp(handle).may_send() && server.is_some()
        });
        // What the device still has is used up by the first bytes; then nothing more is given.
        guest.nic.set_rx_limit(0);
        let data = pattern(BYTES);
        let writer = {
            let ((mut stream, _), data) = (server.unwrap(), data.clone());
            std::thread::spawn(move || {
                stream.set_nonblocking(false).unwrap();
                stream.write_all(&data).unwrap();
            })
        };
        let mut received = Vec::new();
        guest.until("the device to use up its buffers", |guest| {
            take(guest, handle, &mut received);
            guest.nic.front_end.pairs()[0].rx.outstanding() == 0
        });
        let (start, before) = (Instant::now(), pod.processor_time());
        wait_for(LIMIT, "time to pass", || start.elapsed() > WATCHED).unwrap();
        let used = pod.processor_time().saturating_sub(before);
        assert!(used < ALLOWED, "{used:?} of processor time in {WATCHED:?} without a buffer");
        guest.nic.set_rx_limit(u16::MAX);
        guest.until("every byte and the FIN", |guest| {
            take(guest, handle, &mut received);
            !guest.tcp(handle).may_recv()
        });
        assert!(received == data, "{} bytes of {BYTES} arrived, or others", received.len());
        writer.join().unwrap();
        guest.remove(handle);
        work::all(&mut pod, &mut guest, 50_000);
    }
}
