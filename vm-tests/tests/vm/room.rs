//! Where every story takes place: a VM, its translator, and an outside with servers.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use vm_tests::lab::{Lab, SERVER_V4, Variant};
use vm_tests::services::{self, DnsServer, HttpServer, PAGE, Sink};
use vm_tests::translator::{self, Cable, Capture, FORWARDED_PORT, Translator};
use vm_tests::vm::{Image, Netdev, Options, Vm};

/// For what answers at once, in an emulated guest on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const STREAM_LIMIT: Duration = Duration::from_secs(120);
const HTTP_PORT: u16 = 80;
pub(crate) const SINK_PORT: u16 = 9000;

/// Runs `story` with a VM. Panics while the lab exists, so that its logs are kept.
pub(crate) fn in_a_room(cable: Cable, capture: Capture, story: impl FnOnce(&mut Room<'_>) -> Result<()>) {
    in_a_room_with(cable, capture, |_| {}, story);
}

/// Like [`in_a_room`], for a VM whose looks `change` changes.
#[expect(clippy::unwrap_used, reason = "a failed story is a failed test")]
pub(crate) fn in_a_room_with(
    cable: Cable,
    capture: Capture,
    change: impl FnOnce(&mut Options),
    story: impl FnOnce(&mut Room<'_>) -> Result<()>,
) {
    // An emulated VM wants every core: one at a time, or the limits above would have to be much longer.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);

    let lab = Lab::new(Variant::DualStack).unwrap();
    let mut room = Room::new(&lab, cable, capture, change).unwrap();
    story(&mut room).unwrap();
}

/// A VM, its translator, and an outside with servers. Fields end in this order.
pub(crate) struct Room<'lab> {
    pub(crate) vm: Vm,
    pub(crate) options: Options,
    pub(crate) image: Image,
    cable: Cable,
    capture: Capture,
    /// Absent only while it is replaced: two cannot have one socket.
    pub(crate) translator: Option<Translator>,
    _dns: DnsServer,
    _http: HttpServer,
    pub(crate) lab: &'lab Lab,
}

impl<'lab> Room<'lab> {
    fn new(
        lab: &'lab Lab,
        cable: Cable,
        capture: Capture,
        change: impl FnOnce(&mut Options),
    ) -> Result<Self> {
        let dns = DnsServer::start(lab.world())?;
        let http = HttpServer::start(lab.world(), HTTP_PORT)?;
        let translator = Translator::start(lab, &translator::program()?, cable, capture)?;
        let mut options = Options::new(Netdev::of(cable, translator.socket()));
        change(&mut options);
        let image = Image::build()?;
        let start = Instant::now();
        let vm = Vm::boot(lab.pod(), lab.directory(), &image, &options)?;
        eprintln!("{:6.2} s  the guest's boot", start.elapsed().as_secs_f32());
        let translator = Some(translator);
        Ok(Self { vm, options, image, cable, capture, translator, _dns: dns, _http: http, lab })
    }

    /// One named thing a user would notice, with its time.
    pub(crate) fn step<T>(&mut self, name: &str, check: impl FnOnce(&mut Self) -> Result<T>) -> Result<()> {
        let start = Instant::now();
        let result = check(self).with_context(|| format!("step: {name}"));
        eprintln!("{:6.2} s  {name}", start.elapsed().as_secs_f32());
        ensure!(
            self.translator.as_mut().is_some_and(|translator| !translator.has_ended()),
            "the translator ended during: {name}"
        );
        result?;
        if let Some(translator) = &self.translator {
            // What no driver of a guest in its right mind and no QEMU causes.
            for reason in ["descriptors", "queue_disabled"] {
                let drops = translator.drops(reason)?;
                ensure!(drops == 0, "{drops} frames were dropped for {reason} during: {name}");
            }
        }
        Ok(())
    }

    /// Kills the translator, and starts another at the same path.
    pub(crate) fn replace_translator(&mut self) -> Result<()> {
        self.translator = None;
        self.translator =
            Some(Translator::start(self.lab, &translator::program()?, self.cable, self.capture)?);
        Ok(())
    }

    /// A new VM in the place of one that ended.
    pub(crate) fn boot(&mut self) -> Result<()> {
        self.vm = Vm::boot(self.lab.pod(), self.lab.directory(), &self.image, &self.options)?;
        Ok(())
    }

    /// Starts a shell command in the guest and leaves it running; [`Room::ended`] says how it ends.
    pub(crate) fn start(&mut self, name: &str, command: &str) -> Result<()> {
        let files =
            format!("cd /run; rm -f {name} {name}.end; mkfifo {name}.end; echo running >{name}.state");
        let end = format!("status=$?; echo ended >{name}.state; echo $status >{name}.end");
        self.guest(&format!("{files}; (({command}) >{name} 2>&1; {end}) </dev/null >/dev/null 2>&1 &"))
            .map(drop)
    }

    /// Waits until what was started as `name` ends: its exit status, and what it printed. Only once.
    pub(crate) fn ended(&mut self, name: &str, limit: Duration) -> Result<(String, String)> {
        // A pipe, because the guest is too slow to be asked again and again.
        let status = self.vm.succeed(&format!("cat /run/{name}.end"), limit)?.trim().to_owned();
        Ok((status, self.guest(&format!("cat /run/{name}"))?))
    }

    pub(crate) fn guest(&mut self, command: &str) -> Result<String> {
        self.vm.succeed(command, SOON)
    }

    pub(crate) fn guest_within(&mut self, command: &str) -> Result<String> {
        self.vm.succeed_within(command, SOON)
    }

    /// The guest sends its file, and the outside compares it with a stream of `bytes`.
    pub(crate) fn send_stream(&mut self, bytes: u64) -> Result<()> {
        let sink = Sink::start(self.lab.world(), SINK_PORT)?;
        // nc itself would send by the kilobyte; cat hands the file to the kernel.
        let sender = self.vm.run(&format!("nc {SERVER_V4} {SINK_PORT} -e cat /tmp/stream"), STREAM_LIMIT)?;
        let received =
            sink.finish().with_context(|| format!("the sender in the guest ended with {sender}"))?;
        ensure!(received.bytes == bytes, "{} bytes arrived", received.bytes);
        Ok(())
    }

    pub(crate) fn expect_page(&mut self, address: &str) -> Result<()> {
        let page = self.guest(&format!("wget -q -O - {address}"))?;
        ensure!(page == PAGE, "{address} is {page:?}");
        Ok(())
    }

    pub(crate) fn expect_guest_page(&mut self, pod: IpAddr) -> Result<()> {
        let page = services::get(self.lab.world(), SocketAddr::new(pod, FORWARDED_PORT), "/")?;
        ensure!(page == "hello from the guest\n", "the guest's page is {page:?}");
        Ok(())
    }
}
