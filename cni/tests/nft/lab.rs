//! Network namespaces without names, commands and sockets in them. It must never touch the machine's own namespace.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Nothing here takes longer, however busy the machine is.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Set for the process started again inside a user namespace, so that it does not do so for ever.
const INSIDE: &str = "SLUICE_NFT_INSIDE_USER_NAMESPACE";

/// A new network namespace, gone when nothing in it is left.
pub(crate) struct Net(OwnedFd);

impl Net {
    pub(crate) fn new() -> Self {
        become_root();
        let create = || {
            #[expect(unsafe_code, reason = "unshare could change this thread's table of files")]
            // SAFETY: only the network namespace is unshared, which owns no memory or files of this process.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("unshare --net");
            OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net").expect("open own namespace"))
        };
        let net = Self(thread::spawn(create).join().expect("thread of the new namespace"));
        net.sh("ip link set lo up");
        net
    }

    /// Does `work` in this namespace, on a thread of its own.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
            work()
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs a script in this namespace; what it prints.
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.run(|| Command::new("sh").args(["-euc", script]).output().expect("run sh"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{script}\n{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Where `ip link ... netns` finds this namespace.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    pub(crate) fn listen(&self, address: &str) -> TcpListener {
        let listener = self.run(|| TcpListener::bind(address).expect("listen"));
        listener.set_nonblocking(true).expect("nonblocking");
        listener
    }

    pub(crate) fn connect(&self, to: &str) -> io::Result<TcpStream> {
        let to: SocketAddr = to.parse().expect("address");
        self.run(|| TcpStream::connect_timeout(&to, DEADLINE))
    }

    pub(crate) fn udp(&self, address: &str) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind(address).expect("bind"));
        socket.set_read_timeout(Some(DEADLINE)).expect("time limit");
        socket
    }
}

/// Connects from `client` to `to`, which must end at `server`, and says whom the server sees. A byte goes both ways.
pub(crate) fn seen_by(server: &TcpListener, client: &Net, to: &str) -> IpAddr {
    let mut ours = client.connect(to).unwrap_or_else(|error| panic!("connect to {to}: {error}"));
    let (mut theirs, peer) = wait_for("a connection", || server.accept().ok());
    theirs.set_nonblocking(false).expect("blocking");
    for stream in [&ours, &theirs] {
        stream.set_read_timeout(Some(DEADLINE)).expect("time limit");
    }
    let mut byte = [0];
    ours.write_all(b"?").expect("send");
    theirs.read_exact(&mut byte).expect("receive");
    theirs.write_all(b"!").expect("send back");
    ours.read_exact(&mut byte).expect("receive back");
    peer.ip()
}

pub(crate) fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::yield_now();
    }
}

/// Returns as root: of the machine, or of a user namespace in which the whole program was started again.
fn become_root() {
    if rustix::process::geteuid().is_root() || std::env::var_os(INSIDE).is_some() {
        return;
    }
    let me = std::env::current_exe().expect("path of the running program");
    let error = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--"])
        .arg(me)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    panic!("these tests need root, or `unshare` and the right to create user namespaces: {error}");
}
