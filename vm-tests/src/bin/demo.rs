//! `cargo xtask demo`: one VM as KubeVirt makes it (hook calls, XML, libvirt, QEMU), and what its user sees, as a table.
#![expect(clippy::print_stdout, reason = "a table for a person")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use vm_tests::container::{Hooks, Options, Sidecar};
use vm_tests::lab::{Lab, POD_V4, SERVER_V4, SERVER_V6, Variant};
use vm_tests::launcher::{Guest, Launcher, Network};
use vm_tests::libvirt::{Domain, FORWARDED_PORT, Libvirt};
use vm_tests::services::{self, DnsServer, HttpServer, NAME, Sink};
use vm_tests::translator;
use vm_tests::vm::Image;

/// For what answers at once, in an emulated guest on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const STREAM_LIMIT: Duration = Duration::from_secs(120);

/// What libvirt was given.
const XML: &str = "domain.xml";

/// A few seconds' worth.
const STREAM_BYTES: u64 = 256 << 20;

/// For a sidecar's start.
const READY_LIMIT: Duration = Duration::from_secs(10);

const BINDING: &str = "sluice";
const CONTAINER: &str = "hook-sidecar-0";

const HTTP_PORT: u16 = 80;
const SINK_PORT: u16 = 9000;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let program = program()?;
    let lab = Lab::new(Variant::DualStack)?;
    let outcome = show(&lab, &program);
    // The lab's directory goes with the lab; what a person may want to look at stays.
    let kept = keep(&lab)?;
    outcome.with_context(|| format!("the logs are in {}", kept.display()))?;
    println!("\ndomain.xml, logs of the sidecar and the guest's console  {}", kept.display());
    Ok(())
}

fn program() -> Result<PathBuf> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => translator::program(),
        ["--translator", path] => Ok(path.into()),
        _ => bail!("usage: cargo xtask demo [--translator PATH]"),
    }
}

fn show(lab: &Lab, program: &Path) -> Result<()> {
    eprintln!("demo: a pod's network with {POD_V4}, and a world with servers behind its gateway");
    let _dns = DnsServer::start(lab.world())?;
    let _http = HttpServer::start(lab.world(), HTTP_PORT)?;
    eprintln!("demo: starting sluice-sidecar in the pod, with {}", program.display());
    let hooks = Hooks::new(lab)?;
    let options = Options { translator: Some(program), ..Options::new(CONTAINER, BINDING) };
    let mut sidecar = Sidecar::start(lab, &hooks, &options)?;
    let launcher =
        Launcher::find(hooks.folder(), 1, READY_LIMIT).with_context(|| sidecar.log().trim().to_owned())?;
    let libvirt = Libvirt::start_as_compute(lab, &hooks, &Image::build()?)?;
    let spec = Guest {
        memory_mib: 1024, // holds the streams
        cpus: 2,
        networks: vec![Network { tcp_ports: vec![FORWARDED_PORT], ..Network::of_the_pod(BINDING) }],
        ..Guest::new(BINDING)
    };
    println!();
    let start = Instant::now();
    let domain = launcher.define(&libvirt, &spec)?;
    fs::write(lab.directory().join(XML), domain).context("keep the domain's XML")?;
    row("hook calls", &format!("three, and two definitions, in {:.1} s", start.elapsed().as_secs_f32()));
    eprintln!("demo: booting the VM (emulated; a few seconds)");
    let start = Instant::now();
    let mut vm = Domain::start(&libvirt, &spec.domain_name())?;
    row("boot", &format!("{:.1} s", start.elapsed().as_secs_f32()));
    let mut failed = network(&mut vm);
    let page = vm
        .succeed(
            &format!("echo hello from the guest >/tmp/index.html; httpd -p {FORWARDED_PORT} -h /tmp"),
            SOON,
        )
        .and_then(|_| services::get(lab.world(), SocketAddr::new(POD_V4.into(), FORWARDED_PORT), "/"));
    failed += outcome("HTTP in", page);

    sidecar.kill_translators()?;
    let start = Instant::now();
    let again = vm.succeed_within(&format!("timeout 2 wget -q -O - http://{SERVER_V4}/"), SOON);
    failed += outcome(
        "new translator",
        again.map(|_| format!("traffic flows again after {:.1} s", start.elapsed().as_secs_f32())),
    );
    eprintln!("demo: {} MiB each way", STREAM_BYTES >> 20);
    failed += outcome("stream in", stream_in(&mut vm));
    failed += outcome("stream out", stream_out(lab, &mut vm));
    row("", "every byte compared; the rates are those of an emulated CPU, not of a VM under KVM");
    vm.destroy()?;
    let end = launcher.shutdown().and_then(|()| sidecar.wait(SOON));
    failed += outcome("shut down", end.map(|status| format!("the sidecar ended with {status}")));
    ensure!(failed == 0, "{failed} of these failed");
    Ok(())
}

/// What the guest says of its network; how many of the rows are failures.
fn network(vm: &mut Domain<'_, '_>) -> usize {
    let rows = [
        (
            "lease",
            format!("dhcp >/dev/null 2>&1; {}; echo $ip/$mask, DNS $dns, MTU $mtu", variables("/run/lease")),
        ),
        ("routes", "ip route".to_owned()),
        ("lease, IPv6", format!("dhcp6 >/dev/null 2>&1; {}; echo $ip, DNS $dns", variables("/run/lease6"))),
        (
            "route, IPv6",
            "for try in $(seq 50); do ip -6 route | grep '^default via' && exit; usleep 100000; done; exit 1"
                .to_owned(),
        ),
        ("DNS", format!("nslookup {NAME} | grep -A 1 ^Name | grep Address")),
        ("HTTP out", format!("wget -q -O - http://{NAME}/")),
        ("ping", format!("ping -c 3 {SERVER_V4}")),
        ("ping, IPv6", format!("ping -6 -c 3 {SERVER_V6}")),
    ];
    rows.into_iter()
        .map(|(name, command)| outcome(name, vm.succeed(&command, SOON).map(|text| summary(&text))))
        .sum()
}

/// A shell command that sets what a lease says; search domains are words, which a shell would take for commands.
fn variables(lease: &str) -> String {
    format!("grep -v ^search= {lease} >/tmp/variables; . /tmp/variables")
}

/// Of what ping prints, the last line says it all; the rest is short already.
fn summary(text: &str) -> String {
    match text.lines().last() {
        Some(last) if last.starts_with("round-trip") => last.to_owned(),
        _ => text.to_owned(),
    }
}

fn stream_in(vm: &mut Domain<'_, '_>) -> Result<String> {
    let start = Instant::now();
    vm.succeed(&format!("wget -q -O /tmp/stream http://{SERVER_V4}/stream/{STREAM_BYTES}"), STREAM_LIMIT)?;
    Ok(rate(STREAM_BYTES, start.elapsed()))
}

fn stream_out(lab: &Lab, vm: &mut Domain<'_, '_>) -> Result<String> {
    let sink = Sink::start(lab.world(), SINK_PORT)?;
    vm.succeed(&format!("nc {SERVER_V4} {SINK_PORT} -e cat /tmp/stream"), STREAM_LIMIT)?;
    let received = sink.finish()?;
    ensure!(received.bytes == STREAM_BYTES, "only {} bytes arrived", received.bytes);
    Ok(rate(received.bytes, received.elapsed))
}

fn rate(bytes: u64, elapsed: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let megabits = bytes as f64 * 8.0 / 1e6 / elapsed.as_secs_f64();
    format!("{megabits:.0} Mbit/s ({} MiB in {:.1} s)", bytes >> 20, elapsed.as_secs_f64())
}

/// A line that worked, or why it did not; 1 in that case.
fn outcome(name: &str, result: Result<String>) -> usize {
    match result {
        Ok(text) => {
            row(name, &text);
            0
        }
        Err(error) => {
            row(name, &format!("FAILED: {error:#}"));
            1
        }
    }
}

/// One line of the table; further lines of a value stand below its first.
fn row(name: &str, value: &str) {
    let mut name = name;
    for line in value.lines().filter(|line| !line.trim().is_empty()) {
        println!("  {name:<16}{}", line.trim());
        name = "";
    }
}

/// Moves the capture and the logs to the target folder.
fn keep(lab: &Lab) -> Result<PathBuf> {
    let program = std::env::current_exe().context("path of the running program")?;
    let kept = program.ancestors().nth(2).context("not in a target folder")?.join("demo");
    fs::create_dir_all(&kept)?;
    for name in [XML, "hook-sidecar-0.log", "libvirtd.log", "libvirt/console.log"] {
        let to = kept.join(Path::new(name).file_name().unwrap_or_default());
        let _ = fs::copy(lab.directory().join(name), to); // a run that failed early lacks some
    }
    Ok(kept)
}
