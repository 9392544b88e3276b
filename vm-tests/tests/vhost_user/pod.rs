//! The fixture: a lab with passt-rs in its pod behind a vhost-user socket, and servers in its world.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use vm_tests::lab::{Child, Lab, Variant, binary};
use vm_tests::traffic::drive;
use vm_tests::vhost::{FrontEnd, Options};

use crate::guest::Guest;

/// How long anything that should happen may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Forwarded to the guest, TCP and UDP.
pub(crate) const FORWARDED: u16 = 6001;

pub(crate) struct Pod {
    pub(crate) translator: Child,
    pub(crate) socket: PathBuf,
    _servers: Child,
    pub(crate) lab: Lab,
}

impl Pod {
    pub(crate) fn start() -> Self {
        Self::start_with_mtu(1500)
    }

    pub(crate) fn start_with_mtu(mtu: u32) -> Self {
        let lab = Lab::new(Variant::Mtu(mtu)).unwrap();
        let servers = drive::serve(&lab, lab.world(), &lab.servers()).unwrap();
        let socket = lab.directory().join("guest.sock");
        let translator = start_translator(&lab, &socket);
        Self { translator, socket, _servers: servers, lab }
    }

    /// Kills passt-rs and starts another in its place.
    pub(crate) fn restart(&mut self) {
        self.translator.signal(Signal::KILL).unwrap();
        self.translator.wait(LIMIT).unwrap();
        self.translator = start_translator(&self.lab, &self.socket);
    }

    /// A guest with these options.
    pub(crate) fn guest(&self, options: Options) -> Guest {
        let front_end = FrontEnd::connect(&self.socket, options)
            .unwrap_or_else(|error| panic!("{error:#}; its log is:\n{}", self.translator.log()));
        Guest::new(front_end, self.lab.variant().mtu())
    }

    /// Fails the test if passt-rs is gone.
    pub(crate) fn assert_alive(&mut self) {
        assert!(!self.translator.has_ended(), "passt-rs ended; its log is:\n{}", self.translator.log());
    }

    /// Processor time passt-rs has used.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.translator.pid())).unwrap();
        // User and system time are the 14th and 15th field; the 2nd is in parentheses and may have spaces.
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split_whitespace().collect();
        let ticks: u64 = fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }
}

fn start_translator(lab: &Lab, socket: &Path) -> Child {
    let (port, mtu) = (FORWARDED.to_string(), lab.variant().mtu().to_string());
    let mut command = lab.pod().command(binary("passt-rs").unwrap());
    command.args(["--vhost-user", "-f", "--no-map-gw", "-t", &port, "-u", &port, "-m", &mtu]);
    command.arg("-s").arg(socket);
    let mut translator = lab.spawn("translator", command).unwrap();
    // The socket's file is there before it listens.
    translator.wait_for_line(LIMIT, "waiting for the guest").unwrap();
    translator
}
