//! smoltcp as the guest's kernel.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::AnySocket as _;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint};

use super::cable::Cable;
use super::{control, pattern};

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const FIRST_PORT: u16 = 40_000;
/// No transfer may stand still for longer: what TCP's own timers need after a handful of losses in a row.
const STALL_MAX: Duration = Duration::from_secs(20);

pub struct Guest {
    pub cable: Cable,
    interface: Interface,
    sockets: SocketSet<'static>,
    started: Instant,
    control: PathBuf,
    next_port: u16,
}

impl Guest {
    pub fn new(mut cable: Cable, control: PathBuf) -> Self {
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut cable, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(super::lab::GUEST4.into(), 24)).unwrap();
            addresses.push(IpCidr::new(super::lab::GUEST6.into(), 64)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(super::lab::GATEWAY4).unwrap();
        interface.routes_mut().add_default_ipv6_route(super::lab::GATEWAY6).unwrap();
        let sockets = SocketSet::new(Vec::new());
        Self { cable, interface, sockets, started: Instant::now(), control, next_port: FIRST_PORT }
    }

    fn add(&mut self, buffer: usize) -> SocketHandle {
        let memory = || SocketBuffer::new(vec![0; buffer]);
        self.sockets.add(Socket::new(memory(), memory()))
    }

    /// A socket on its way to `to`.
    pub fn connect(&mut self, to: SocketAddr, buffer: usize) -> SocketHandle {
        let handle = self.add(buffer);
        self.next_port += 1;
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket.connect(self.interface.context(), endpoint(to), self.next_port).unwrap();
        handle
    }

    pub fn listen(&mut self, port: u16, buffer: usize) -> SocketHandle {
        let handle = self.add(buffer);
        self.sockets.get_mut::<Socket<'_>>(handle).listen(port).unwrap();
        handle
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn state(&mut self, handle: SocketHandle) -> State {
        self.socket(handle).state()
    }

    pub fn local(&mut self, handle: SocketHandle) -> SocketAddr {
        let end = self.socket(handle).local_endpoint().unwrap();
        SocketAddr::new(end.addr.into(), end.port)
    }

    pub fn remote(&mut self, handle: SocketHandle) -> SocketAddr {
        let end = self.socket(handle).remote_endpoint().unwrap();
        SocketAddr::new(end.addr.into(), end.port)
    }

    /// Forgets every socket, as a reboot does.
    pub fn forget_all(&mut self) {
        self.sockets = SocketSet::new(Vec::new());
    }

    /// The next connection takes the first one's port again.
    pub fn reuse_ports(&mut self) {
        self.next_port = FIRST_PORT;
    }

    pub fn forget(&mut self, handle: SocketHandle) {
        self.sockets.remove(handle);
    }

    /// One round of the guest's network stack; waits a moment when nothing happened.
    pub fn turn(&mut self) {
        let now =
            smoltcp::time::Instant::from_micros(i64::try_from(self.started.elapsed().as_micros()).unwrap());
        let polled = self.interface.poll(now, &mut self.cable, &mut self.sockets);
        let wrote = self.cable.flush();
        if polled == smoltcp::iface::PollResult::None && !wrote {
            self.wait();
        }
    }

    fn wait(&self) {
        let due = self.cable.due().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = due.unwrap_or(Duration::MAX).min(Duration::from_millis(2));
        let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let input = if self.cable.frozen { PollFlags::empty() } else { PollFlags::IN };
        let output = if self.cable.wants_to_write() { PollFlags::OUT } else { PollFlags::empty() };
        let mut fds = [PollFd::new(self.cable.stream(), input | output)];
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
    }

    /// Turns until `condition` gives something; fails with the flow table when that takes too long.
    pub fn until<T>(&mut self, what: &str, condition: impl FnMut(&mut Self) -> Option<T>) -> T {
        self.until_within(STALL_MAX, what, condition)
    }

    /// The same for what waits on timers that doubled several times before.
    pub fn until_within<T>(
        &mut self,
        limit: Duration,
        what: &str,
        mut condition: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(value) = condition(self) {
                return value;
            }
            if Instant::now() > deadline {
                self.fail(&format!("still waiting for {what}"));
            }
            self.turn();
        }
    }

    /// Turns for `time`.
    pub fn idle(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.turn();
        }
    }

    pub fn fail(&mut self, why: &str) -> ! {
        let flows = control::get(&self.control, "flows");
        let stats = control::get(&self.control, "stats");
        let states: Vec<_> = self.sockets.iter().map(|(_, socket)| describe(socket)).collect();
        panic!("{why}\nguest: {states:#?}\nrelay: {flows:#}\n{stats}");
    }

    pub fn until_open(&mut self, handle: SocketHandle) {
        self.until("the connection", |guest| (guest.state(handle) == State::Established).then_some(()));
    }

    /// Connects and waits for it.
    pub fn connected(&mut self, to: SocketAddr, buffer: usize) -> SocketHandle {
        let handle = self.connect(to, buffer);
        self.until_open(handle);
        handle
    }

    pub fn until_state(&mut self, handle: SocketHandle, state: State) {
        self.until(&format!("{state}"), |guest| (guest.state(handle) == state).then_some(()));
    }

    /// Sends what the socket takes of stream 1 from `position`, up to `len`; gives how many bytes.
    pub fn send_some(&mut self, handle: SocketHandle, position: u64, len: u64) -> u64 {
        let socket = self.socket(handle);
        if position >= len || !socket.can_send() {
            return 0;
        }
        let chunk = usize::try_from((len - position).min(256 * 1024)).unwrap();
        socket.send_slice(pattern::at(1, position, chunk)).unwrap() as u64
    }

    /// Takes what the socket has and checks it against stream 2; gives how many bytes.
    pub fn receive_some(&mut self, handle: SocketHandle, position: u64) -> u64 {
        let mut received = 0;
        let socket = self.socket(handle);
        while socket.can_recv() {
            let taken = socket.recv(|bytes| {
                pattern::check(2, position + received, bytes);
                (bytes.len(), bytes.len())
            });
            received += taken.unwrap() as u64;
        }
        received
    }

    /// Sends `up` bytes and FIN while it receives `down` bytes and the end.
    pub fn exchange(&mut self, handle: SocketHandle, up: u64, down: u64) {
        let (mut sent, mut received, mut closed) = (0, 0, false);
        let mut progress = Instant::now();
        loop {
            let (more_sent, more_received) =
                (self.send_some(handle, sent, up), self.receive_some(handle, received));
            sent += more_sent;
            received += more_received;
            if more_sent + more_received > 0 {
                progress = Instant::now();
            }
            if sent == up && !closed {
                closed = true;
                self.socket(handle).close();
            }
            let ended = !self.socket(handle).may_recv();
            // Where the last acknowledgment is lost, a retransmission finds no flow any more and is reset (`transport::tcp`
            // has no TIME-WAIT). What arrived is for the peer to say.
            let gone = self.cable.faults.lost > 0 && self.socket(handle).state() == State::Closed;
            if closed && ended && (gone || self.socket(handle).send_queue() == 0) {
                assert_eq!(received, down, "the stream ended too early or too late");
                return;
            }
            if progress.elapsed() > STALL_MAX {
                self.fail(&format!("stalled: sent {sent} of {up}, received {received} of {down}"));
            }
            self.turn();
        }
    }
}

fn endpoint(to: SocketAddr) -> IpEndpoint {
    let address = match to.ip() {
        IpAddr::V4(to) => to.into(),
        IpAddr::V6(to) => to.into(),
    };
    IpEndpoint::new(address, to.port())
}

fn describe(socket: &smoltcp::socket::Socket<'_>) -> String {
    let Some(socket) = Socket::downcast(socket) else { return "not TCP".to_owned() };
    format!(
        "{:?} -> {:?}: {} to send {} to read {}",
        socket.local_endpoint(),
        socket.remote_endpoint(),
        socket.state(),
        socket.send_queue(),
        socket.recv_queue()
    )
}
