//! A sidecar's life, from its start to its end, with virt-launcher's calls in between, each thing with its time.
//! No VM: what a guest sees of its translator is the other tables' subject.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime;

use super::contender::Running;
use super::probe::Numbers;
use crate::container::{Hooks, Options, Sidecar};
use crate::launcher::{Guest, Launcher, Network, socket};

const BINDING: &str = "sluice";
const CONTAINER: &str = "hook-sidecar-0";

/// The sidecar's program, as the kernel shortens it.
const PROGRAM: &str = "sluice-sidecar";

/// The TCP port of the pod that leads to the guest.
const GUEST_PORT: u16 = 8080;

/// As often as virt-launcher calls for one VM.
const CALLS: u32 = 3;

/// Beyond this, a step is a failure and not a slow one.
const LIMIT: Duration = Duration::from_secs(10);

/// Error of the shorter times. Looking takes about a tenth of it.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);

const MIB: f64 = (1_u64 << 20) as f64;

/// As much of a domain as a sidecar needs.
const DOMAIN: &str = "<domain type=\"kvm\"><name>demo_guest</name><memory unit=\"b\">536870912</memory>\
    <os><type arch=\"x86_64\" machine=\"q35\">hvm</type></os><devices></devices></domain>";

/// Lets a sidecar live in the pod.
pub(super) fn live(running: &Running) -> anyhow::Result<Numbers> {
    let lab = &running.lab;
    let hooks = Hooks::new(lab)?;
    let options = Options { translator: Some(&running.translator), ..Options::new(CONTAINER, BINDING) };
    let mut sidecar = Sidecar::start(lab, &hooks, &options)?;
    lead(&hooks, &mut sidecar).with_context(|| sidecar.log())
}

fn lead(hooks: &Hooks, sidecar: &mut Sidecar<'_>) -> anyhow::Result<Numbers> {
    let mut numbers = Numbers::new();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;

    // Its container is set up by programs that become it.
    let comm = format!("/proc/{}/comm", sidecar.pid());
    let is_itself = || std::fs::read_to_string(&comm).is_ok_and(|name| name.trim_end() == PROGRAM);
    watch("the sidecar's program", || is_itself() || sidecar.has_ended())?;
    let started = Instant::now();
    let hook_socket = sidecar.folder().join(format!("{CONTAINER}.sock"));
    watch("its hook socket", || UnixStream::connect(&hook_socket).is_ok() || sidecar.has_ended())?;
    anyhow::ensure!(!sidecar.has_ended(), "it ended before it served");
    let info = || runtime.block_on(async { socket::info(socket::dial(&hook_socket).await?).await });
    info()?;
    numbers.insert("ready_ms", milliseconds(started));

    let asked = Instant::now();
    info()?;
    numbers.insert("info_ms", milliseconds(asked));
    // Closes what connections are left: virt-launcher leaves none, and a sidecar that ends would wait for them.
    drop(runtime);
    let launcher = Launcher::find(hooks.folder(), 1, LIMIT)?;
    let network = Network { tcp_ports: vec![GUEST_PORT], ..Network::of_the_pod(BINDING) };
    let vmi = Guest { networks: vec![network], ..Guest::new(BINDING) }.vmi();
    let define = || {
        let asked = Instant::now();
        let domain = launcher.on_define_domain(DOMAIN, &vmi)?;
        anyhow::ensure!(domain.contains("vhostuser"), "no interface was added: {domain}");
        Ok(milliseconds(asked))
    };
    numbers.insert("first_define_ms", define()?);
    let mut slowest: f64 = 0.0;
    for _ in 1..CALLS {
        slowest = slowest.max(define()?);
    }
    numbers.insert("next_define_ms", slowest);

    let net_folder = sidecar.folder().join("net");
    let asked = Instant::now();
    scrape(&net_folder.join("sluice.http"))?;
    numbers.insert("scrape_ms", milliseconds(asked));
    #[expect(clippy::cast_precision_loss, reason = "a measurement has fewer than 53 significant bits")]
    let resident = sidecar.resident_bytes()? as f64 / MIB;
    numbers.insert("resident_mib", resident);

    numbers.insert("replaced_ms", replace_translator(sidecar, &net_folder.join("default.sock"))?);

    let asked = Instant::now();
    launcher.shutdown()?;
    watch("its end", || sidecar.has_ended())?;
    numbers.insert("end_ms", milliseconds(asked));
    let left = sidecar.translators_in_pod();
    anyhow::ensure!(left.is_empty(), "it left translators: {left:?}");
    Ok(numbers)
}

/// From the kill to the moment QEMU could connect again.
fn replace_translator(sidecar: &mut Sidecar<'_>, socket: &Path) -> anyhow::Result<f64> {
    let before = sidecar.children();
    anyhow::ensure!(before.len() == 1, "it has not one translator but {}", before.len());
    let killed = Instant::now();
    sidecar.kill_translators()?;
    watch("another translator", || {
        let now = sidecar.children();
        // The killed one may still be a process, and its socket one that takes connections.
        (now.len() == 1 && now != before && UnixStream::connect(socket).is_ok()) || sidecar.has_ended()
    })?;
    Ok(milliseconds(killed))
}

/// Asks for the metrics as `curl --unix-socket` would.
fn scrape(socket: &Path) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket).context("connect for the metrics")?;
    stream.set_read_timeout(Some(LIMIT)).context("limit the scrape")?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").context("ask for the metrics")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("read the metrics")?;
    let is_whole = text.starts_with("HTTP/1.0 200") && text.contains("# EOF");
    anyhow::ensure!(is_whole, "not metrics: {text}");
    Ok(())
}

/// Like [`crate::lab::wait_for`], whose interval is too long for what is timed here.
fn watch(what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        anyhow::ensure!(Instant::now() < deadline, "waited {LIMIT:?} in vain for {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
