//! The fixture: a lab with a translator in its pod whose tap is the guest's NIC.

use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use vm_tests::lab::{Child, Lab, Namespace, Variant, binary, wait_for};

/// How long anything that should happen may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Forwarded to the guest where a test does not say otherwise. The traffic tool's roles are among them.
pub(crate) const PORTS: &str = "5001-5020";

/// A forwarded port that no role of the traffic tool has.
pub(crate) const FREE_PORT: u16 = 5020;

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    FromGuest,
    FromWorld,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::FromGuest, Self::FromWorld];
}

pub(crate) struct Tap {
    pub(crate) translator: Child,
    pub(crate) lab: Lab,
}

impl Tap {
    pub(crate) fn start(variant: Variant) -> Self {
        Self::start_with_ports(variant, PORTS, PORTS)
    }

    pub(crate) fn start_with_ports(variant: Variant, tcp: &str, udp: &str) -> Self {
        Self::start_in(Lab::new(variant).unwrap(), tcp, udp, &[])
    }

    /// Starts with more options, and returns once the guest has its addresses and routes.
    pub(crate) fn start_in(lab: Lab, tcp: &str, udp: &str, more: &[&OsStr]) -> Self {
        let mut translator = match StandIn::chosen() {
            Some(StandIn::Nothing) => connect_directly(&lab),
            chosen => start_translator(&lab, chosen, (tcp, udp), more),
        };
        let mut ended = false;
        wait_for(LIMIT, "addresses and routes in the guest", || {
            ended = translator.has_ended();
            ended || lab.pod_addresses().into_iter().all(|address| is_configured(lab.guest(), address))
        })
        .unwrap_or_else(|error| panic!("{error}; its log is:\n{}", translator.log()));
        assert!(!ended, "the translator ended; its log is:\n{}", translator.log());
        if let Some(StandIn::Pasta(_)) = StandIn::chosen() {
            // It learns the guest's MAC address from the guest only.
            let server = lab.servers().first().map(ToString::to_string).unwrap();
            lab.guest().command("ping").args(["-c1", "-W1", &server]).output().unwrap();
        }
        Self { translator, lab }
    }

    /// Fails the test if the translator is gone.
    pub(crate) fn assert_alive(&mut self) {
        assert!(!self.translator.has_ended(), "the translator ended; its log is:\n{}", self.translator.log());
    }

    /// A number of passt-rs' own statistics; a stand-in has none.
    pub(crate) fn stat(&self, group: &str, name: &str) -> Option<u64> {
        if StandIn::chosen().is_some() {
            return None;
        }
        let mut control = UnixStream::connect(self.lab.directory().join("control")).unwrap();
        control.write_all(b"{\"get\":\"stats\"}\n").unwrap();
        let mut line = String::new();
        BufReader::new(control).read_line(&mut line).unwrap();
        let stats: serde_json::Value = serde_json::from_str(&line).unwrap();
        let found = stats.pointer(&format!("/{group}/{name}")).and_then(serde_json::Value::as_u64);
        Some(found.unwrap_or_else(|| panic!("{group}.{name} in {stats}")))
    }

    /// Who opens connections of this way, and the addresses it may open them to.
    pub(crate) fn initiator(&self, way: Way) -> (&Namespace, Vec<IpAddr>) {
        match way {
            Way::FromGuest => (self.lab.guest(), self.lab.servers()),
            Way::FromWorld => (self.lab.world(), self.lab.pod_addresses()),
        }
    }

    /// Where the servers of this way are.
    pub(crate) fn target(&self, way: Way) -> &Namespace {
        match way {
            Way::FromGuest => self.lab.world(),
            Way::FromWorld => self.lab.guest(),
        }
    }

    /// Both ends of a connection through the translator: the guest's, then the world's.
    pub(crate) fn connection(&self, way: Way, address: IpAddr) -> (TcpStream, TcpStream) {
        let to = SocketAddr::new(address, FREE_PORT);
        let listener = listen(self.target(way), to);
        let initiator = connect(self.initiator(way).0, to).unwrap();
        let target = accept(&listener);
        for stream in [&initiator, &target] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.set_write_timeout(Some(LIMIT)).unwrap();
        }
        match way {
            Way::FromGuest => (initiator, target),
            Way::FromWorld => (target, initiator),
        }
    }
}

pub(crate) fn listen(namespace: &Namespace, at: SocketAddr) -> TcpListener {
    namespace.run(|| TcpListener::bind(at)).unwrap().unwrap()
}

/// A connection that was asked for; the test fails if none comes.
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    wait_for(LIMIT, &format!("a connection to accept at {:?}", listener.local_addr()), || {
        accepted = listener.accept().ok();
        accepted.is_some()
    })
    .unwrap();
    let (stream, _) = accepted.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
}

pub(crate) fn connect(namespace: &Namespace, to: SocketAddr) -> io::Result<TcpStream> {
    namespace.run(|| TcpStream::connect_timeout(&to, LIMIT)).unwrap()
}

/// What the environment puts in our place.
#[derive(Debug, PartialEq, Eq)]
enum StandIn {
    Nothing,
    Pasta(PathBuf),
}

impl StandIn {
    fn chosen() -> Option<Self> {
        let value = std::env::var_os("SLUICE_TAP_TRANSLATOR").filter(|value| !value.is_empty())?;
        Some(if value == "none" { Self::Nothing } else { Self::Pasta(value.into()) })
    }
}

fn start_translator(
    lab: &Lab,
    stand_in: Option<StandIn>,
    (tcp, udp): (&str, &str),
    more: &[&OsStr],
) -> Child {
    let mut command = lab.pod().command("prlimit");
    command.arg("--nofile=20000:20000");
    if let Some(StandIn::Pasta(path)) = stand_in {
        command.arg(path).args(["--runas", "0"]);
    } else {
        command.arg(binary("passt-rs").unwrap()).arg("--control").arg(lab.directory().join("control"));
    }
    command.args(["-f", "-I", "tap0", "--config-net", "--no-map-gw"]);
    command.args(["-m", &lab.variant().mtu().to_string(), "-t", tcp, "-u", udp]);
    command.arg("--netns").arg(lab.guest().path()).args(more);
    lab.spawn("translator", command).unwrap()
}

/// The pod's NIC becomes the guest's; in place of the translator is a program that does nothing.
fn connect_directly(lab: &Lab) -> Child {
    lab.pod().ip(&format!("link set eth0 name tap0 netns {}\n", lab.guest().name())).unwrap();
    lab.guest().ip(&format!("link set tap0 up\n{}", lab.variant().pod_configuration("tap0"))).unwrap();
    lab.spawn("nothing", lab.pod().command("cat")).unwrap()
}

fn is_configured(guest: &Namespace, address: IpAddr) -> bool {
    let family = if address.is_ipv4() { "-4" } else { "-6" };
    let prints = |what: &[&str], text: &str| {
        let output = guest.command("ip").arg(family).args(what).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains(text)
    };
    prints(
        &["address", "show", "dev", "tap0"],
        &format!("inet{} {address}/", if family == "-4" { "" } else { "6" }),
    ) && prints(&["route", "show", "default"], "dev tap0")
}
