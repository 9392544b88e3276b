//! One relay in a namespace of its own, and the guest on its cable.
#![expect(unsafe_code, reason = "unshare of a thread's network namespace")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use passt_rs::answer::dhcpv4::Extras;
use passt_rs::answer::{Network, Services, V4, V6};
use passt_rs::capture::Capture;
use passt_rs::control::Control;
use passt_rs::flow::nat::Nat;
use passt_rs::guest::Stream;
use passt_rs::host::outbound::Outbound;
use passt_rs::ledger::Ledger;
use passt_rs::relay::{Limits, Listening, Opened, Proto, Protocols, Relay, Settings};
use serde_json::Value;

use super::cable::{Cable, Faults};
use super::control;
use super::guest::Guest;
use super::old_kernel;

pub const GUEST4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Addresses of peers, all on the namespace's loopback.
pub const PEER4: &str = "192.0.2.1";
pub const OTHER_PEER4: &str = "192.0.2.2";
pub const PEER6: &str = "2001:db8::1";
pub const OUR_MAC: &str = "9a:55:9a:55:9a:55";

/// What a test asks of its lab.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub mtu: u16,
    pub faults: Faults,
    pub limits: Limits,
    pub tcp: bool,
    /// The kernel lacks SO_PEEK_OFF.
    pub old_kernel: bool,
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mtu: 1500,
            faults: Faults::default(),
            limits: Limits::default(),
            tcp: true,
            old_kernel: false,
            seed: 1,
        }
    }
}

pub struct Lab {
    pub guest: Guest,
    control: PathBuf,
    pub cable_path: PathBuf,
    folder: tempfile::TempDir,
    stop: Option<UnixStream>,
    relay: Option<JoinHandle<()>>,
    mtu: u16,
}

/// The file in the lab's folder that connections are written down in.
const LEDGER: &str = "flows";
const LEDGER_SLOTS: usize = 1000;
const ROUTE_PATIENCE: Duration = Duration::from_secs(5);

/// Runs `test` on a thread of its own in a namespace that holds the peers' addresses.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let outcome = std::thread::spawn(move || {
        // SAFETY: only this thread's network namespace changes, which nothing in it relies on.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.expect("root");
        let setup = format!(
            "link set lo up\naddress add {PEER4}/32 dev lo\naddress add {OTHER_PEER4}/32 dev lo\n\
             address add {PEER6}/128 dev lo nodad\n"
        );
        for line in setup.lines() {
            assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
        }
        // The kernel routes an IPv6 address some time after it accepted it, also without duplicate detection.
        let deadline = Instant::now() + ROUTE_PATIENCE;
        while std::net::UdpSocket::bind((PEER6, 0)).and_then(|socket| socket.connect((PEER6, 9))).is_err() {
            assert!(Instant::now() < deadline, "{PEER6} has no route");
            std::thread::yield_now();
        }
        test();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// [`in_namespace`] with a lab.
pub fn with(options: Options, test: impl FnOnce(&mut Lab) + Send + 'static) {
    in_namespace(move || test(&mut Lab::new(options, Vec::new())));
}

impl Lab {
    pub fn new(options: Options, listening: Vec<Listening>) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), options, listening)
    }

    fn in_folder(folder: tempfile::TempDir, options: Options, listening: Vec<Listening>) -> Self {
        let (cable_path, control) = (folder.path().join("cable"), folder.path().join("control"));
        let listener = UnixListener::bind(&cable_path).unwrap();
        let control_socket = Control::listen(&control).unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        // Gigabytes are not captured; what may go wrong on a bad cable is.
        let lossy = options.faults.lost + options.faults.duplicated + options.faults.delayed > 0;
        let capture_path = folder.path().join("capture.pcap");
        let ledger_path = folder.path().join(LEDGER);
        let mtu = options.mtu;
        let relay = std::thread::spawn(move || {
            let opened = Opened {
                listening,
                capture: lossy.then(|| Capture::create(&capture_path).unwrap()),
                control: Some(control_socket),
                ledger: Some(Ledger::open(&ledger_path, LEDGER_SLOTS).unwrap()),
                stop: Some(stopped.into()),
            };
            if options.old_kernel {
                old_kernel::without_peek_offset();
            }
            let stream = Stream::listen(listener).unwrap();
            Relay::new(stream, settings(&options), opened).unwrap().run().unwrap();
        });
        let cable = Cable::connect(&cable_path, options.mtu, options.faults, options.seed);
        let guest = Guest::new(cable, control.clone());
        Self { guest, control, cable_path, folder, stop: Some(stop), relay: Some(relay), mtu }
    }

    /// A relay that knows of this one only what a crash would leave, with the guest's cable plugged in there. This one
    /// goes on without a guest, so that nothing of what happens is its doing.
    pub fn successor(&mut self) -> Self {
        let mut successor = Self::with_ledger(&self.folder.path().join(LEDGER), self.mtu);
        std::mem::swap(&mut self.guest.cable, &mut successor.guest.cable);
        std::mem::swap(&mut self.guest, &mut successor.guest);
        self.guest.cable.may_end = true;
        successor
    }

    fn with_ledger(ledger: &Path, mtu: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(ledger, folder.path().join(LEDGER)).unwrap();
        Self::in_folder(folder, Options { mtu, ..Options::default() }, Vec::new())
    }

    pub fn control_path(&self) -> &Path {
        &self.control
    }

    pub fn stats(&self) -> Value {
        control::get(&self.control, "stats")
    }

    pub fn flows(&self) -> Vec<Value> {
        control::get(&self.control, "flows")["flows"].as_array().unwrap().clone()
    }

    /// A counter of `stats`, by its path.
    pub fn counter(&self, path: &[&str]) -> u64 {
        at(&self.stats(), path)
    }

    pub fn until_counter(&mut self, path: &[&str], value: u64) {
        self.until_stats(&format!("{path:?} to be {value}"), |stats| at(stats, path) == value);
    }

    /// Waits until a counter is not 0.
    pub fn until_moved(&mut self, path: &[&str]) {
        self.until_at_least(path, 1);
    }

    pub fn until_at_least(&mut self, path: &[&str], value: u64) {
        self.until_stats(&format!("{path:?} to reach {value}"), |stats| at(stats, path) >= value);
    }

    /// Waits until a flow is in `state`.
    pub fn until_flow(&mut self, state: &'static str) {
        let control = self.control.clone();
        self.guest.until(state, |_| {
            let flows = control::get(&control, "flows");
            let mut states = flows["flows"].as_array().unwrap().iter().map(|flow| &flow["state"]);
            states.any(|found| found.as_str().unwrap().contains(state)).then_some(())
        });
    }

    fn until_stats(&mut self, what: &str, condition: impl Fn(&Value) -> bool) {
        let control = self.control.clone();
        self.guest.until(what, |_| condition(&control::get(&control, "stats")).then_some(()));
    }

    /// Waits until no flow is left.
    pub fn until_no_flows(&mut self) {
        let control = self.control.clone();
        self.guest.until("the last flow to end", |_| {
            control::get(&control, "flows")["flows"].as_array().unwrap().is_empty().then_some(())
        });
    }
}

impl Lab {
    /// Asks the relay to end, as SIGTERM does, and waits for it.
    pub fn stop(&mut self) -> std::thread::Result<()> {
        self.guest.cable.may_end = true;
        self.stop = None; // Readable: the other end closed.
        self.relay.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(panic) = self.stop()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!("captured frames are in {}", self.folder.path().display());
        }
    }
}

fn at(stats: &Value, path: &[&str]) -> u64 {
    let value = path.iter().fold(stats, |value, name| &value[name]);
    value.as_u64().unwrap_or_else(|| panic!("no counter {path:?} in {stats}"))
}

/// A forwarded port of the namespace, on every address.
pub fn forward(guest_port: u16) -> (Listening, u16) {
    let any: SocketAddr = "[::]:0".parse().unwrap();
    let socket = passt_rs::host::tcp::listen(&any, false, None).unwrap();
    let bound = rustix::net::getsockname(&socket).unwrap();
    let port = SocketAddr::try_from(bound).unwrap().port();
    (Listening { protocol: Proto::Tcp, socket, guest_port, device: None }, port)
}

fn settings(options: &Options) -> Settings {
    let services = Services {
        dhcp: true,
        dhcpv6: true,
        ndp: true,
        ra: false,
        announce_dns: true,
        announce_search: true,
    };
    Settings {
        network: Network {
            our_mac: OUR_MAC.parse().unwrap(),
            mtu: Some(options.mtu),
            v4: Some(V4 { guest: GUEST4, prefix_len: 24, gateway: Some(GATEWAY4) }),
            v6: Some(V6 { guest: GUEST6, prefix_len: 64, our_link_local: GATEWAY6, has_default_route: true }),
            dns: Vec::new(),
            search: Vec::new(),
            hostname: None,
            fqdn: None,
            extras: Extras::default(),
            services,
        },
        nat: Nat {
            guest4: Some(GUEST4),
            guest6: Some(GUEST6),
            gateway4: Some(GATEWAY4),
            our_link_local6: Some(GATEWAY6),
            map_host_loopback4: Some(GATEWAY4),
            ..Nat::default()
        },
        mtu: options.mtu,
        protocols: Protocols { tcp: options.tcp, udp: true, icmp: true },
        outbound: Outbound::default(),
        limits: options.limits,
        guest_mac: None,
        one_off: false,
        secret: [3; 16],
    }
}
