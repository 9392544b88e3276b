//! `cargo xtask demo`: one VM behind a translator, and what its user sees, as a table.
#![expect(clippy::print_stdout, reason = "a table for a person")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use vm_tests::lab::{Lab, POD_V4, SERVER_V4, SERVER_V6, Variant};
use vm_tests::services::{self, DnsServer, HttpServer, NAME, Sink};
use vm_tests::translator::{self, Cable, Capture, FORWARDED_PORT, Translator};
use vm_tests::vm::{Image, Netdev, Options, Vm};

/// For what answers at once, in an emulated guest on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const STREAM_LIMIT: Duration = Duration::from_secs(120);

/// A few seconds' worth.
const STREAM_BYTES: u64 = 256 << 20;

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
    println!(
        "\nframes, as the guest's side saw them (but for the streams)  {}",
        kept.join("guest.pcap").display()
    );
    println!("logs of the translator and the guest's console              {}", kept.display());
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
    eprintln!("demo: starting {} --vhost-user in the pod", program.display());
    let capturing = Translator::start(lab, program, Cable::VhostUser, Capture::Frames)?;
    eprintln!("demo: booting a VM (emulated; a few seconds)");
    let start = Instant::now();
    let options = Options::new(Netdev::of(Cable::VhostUser, capturing.socket()));
    let mut vm = Vm::boot(lab.pod(), lab.directory(), &Image::build()?, &options)?;
    println!();
    row("boot", &format!("{:.1} s", start.elapsed().as_secs_f32()));
    let mut failed = network(&mut vm);
    let page = vm
        .succeed(
            &format!("echo hello from the guest >/tmp/index.html; httpd -p {FORWARDED_PORT} -h /tmp"),
            SOON,
        )
        .and_then(|_| services::get(lab.world(), SocketAddr::new(POD_V4.into(), FORWARDED_PORT), "/"));
    failed += outcome("HTTP in", page);

    drop(capturing);
    let _streaming = Translator::start(lab, program, Cable::VhostUser, Capture::Nothing)?;
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
    ensure!(failed == 0, "{failed} of these failed");
    Ok(())
}

/// What the guest says of its network; how many of the rows are failures.
fn network(vm: &mut Vm) -> usize {
    let rows = [
        ("lease", "dhcp >/dev/null 2>&1; . /run/lease; echo $ip/$mask, DNS $dns, MTU $mtu".to_owned()),
        ("routes", "ip route".to_owned()),
        ("lease, IPv6", "dhcp6 >/dev/null 2>&1; . /run/lease6; echo $ip, DNS $dns".to_owned()),
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

/// Of what ping prints, the last line says it all; the rest is short already.
fn summary(text: &str) -> String {
    match text.lines().last() {
        Some(last) if last.starts_with("round-trip") => last.to_owned(),
        _ => text.to_owned(),
    }
}

fn stream_in(vm: &mut Vm) -> Result<String> {
    let start = Instant::now();
    vm.succeed(&format!("wget -q -O /tmp/stream http://{SERVER_V4}/stream/{STREAM_BYTES}"), STREAM_LIMIT)?;
    Ok(rate(STREAM_BYTES, start.elapsed()))
}

fn stream_out(lab: &Lab, vm: &mut Vm) -> Result<String> {
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
    for name in
        ["console.log", "qemu.log", "translator.log", "translator/guest.pcap", "translator/translator.log"]
    {
        let to = match name {
            "translator.log" => kept.join("translator-output.log"),
            name => kept.join(Path::new(name).file_name().unwrap_or_default()),
        };
        let _ = fs::copy(lab.directory().join(name), to); // a run that failed early lacks some
    }
    Ok(kept)
}
