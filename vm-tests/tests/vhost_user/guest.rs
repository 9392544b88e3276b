//! A guest: smoltcp with the pod's own addresses on the NIC.

use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};
use vm_tests::lab::{POD_V4, POD_V6, WORLD_LINK_V4, WORLD_LINK_V6};
use vm_tests::vhost::{FrontEnd, Options};

use crate::nic::Nic;
use crate::pod::LIMIT;

const MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

/// Bytes of each buffer of a TCP socket. Larger than a window without scaling.
const BUFFER: usize = 256 * 1024;

pub(crate) struct Guest {
    pub(crate) nic: Nic,
    interface: Interface,
    sockets: SocketSet<'static>,
    started: Instant,
    advanced: Duration,
    mtu: u32,
    next_port: u16,
}

impl Guest {
    pub(crate) fn new(front_end: FrontEnd, mtu: u32) -> Self {
        let mut nic = Nic::new(front_end, mtu);
        let interface = interface(&mut nic);
        Self {
            nic,
            interface,
            sockets: SocketSet::new(Vec::new()),
            started: Instant::now(),
            advanced: Duration::ZERO,
            mtu,
            next_port: 49_152,
        }
    }

    /// Starts anew, with a driver of other options.
    pub(crate) fn reboot(mut self, options: Options) -> Self {
        self.nic.front_end.reboot(options).unwrap();
        let next_port = self.next_port;
        let mut guest = Self::new(self.nic.front_end, self.mtu);
        guest.next_port = next_port;
        guest
    }

    /// A port no earlier connection of this guest had.
    pub(crate) fn new_port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    pub(crate) fn add_tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    pub(crate) fn add_udp(&mut self) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; BUFFER]);
        self.sockets.add(udp::Socket::new(buffer(), buffer()))
    }

    pub(crate) fn remove(&mut self, handle: SocketHandle) {
        self.sockets.remove(handle);
    }

    pub(crate) fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(crate) fn udp(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(crate) fn connect(&mut self, handle: SocketHandle, to: std::net::SocketAddr, port: u16) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.interface.context(), to, port).unwrap();
    }

    /// Takes and sends what there is, and gives buffers back.
    pub(crate) fn poll(&mut self) {
        let now = self.now();
        self.interface.poll(now, &mut self.nic, &mut self.sockets);
        self.nic.flush();
        self.nic.refill();
    }

    /// Lives until `condition` holds; fails the test, saying `what` was waited for, when it does not within the limit.
    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.poll();
            if condition(self) {
                self.poll();
                return;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            let now = self.now();
            let delay = self.interface.poll_delay(now, &self.sockets);
            // What the condition looks at may change without the NIC having a part in it.
            let limit = delay.map_or(Duration::MAX, Into::into).min(Duration::from_millis(5));
            self.nic.wait(limit);
        }
    }

    /// Lets the guest's clock, and no other, go on.
    pub(crate) fn advance(&mut self, time: Duration) {
        self.advanced += time;
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(
            i64::try_from((self.started.elapsed() + self.advanced).as_micros()).unwrap(),
        )
    }
}

fn interface(nic: &mut Nic) -> Interface {
    let mut config = Config::new(HardwareAddress::Ethernet(MAC));
    config.random_seed = u64::from(std::process::id());
    let mut interface = Interface::new(config, nic, smoltcp::time::Instant::ZERO);
    interface.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::new(POD_V4.into(), 24)).unwrap();
        addresses.push(IpCidr::new(POD_V6.into(), 64)).unwrap();
    });
    interface.routes_mut().add_default_ipv4_route(WORLD_LINK_V4).unwrap();
    interface.routes_mut().add_default_ipv6_route(WORLD_LINK_V6).unwrap();
    interface
}
