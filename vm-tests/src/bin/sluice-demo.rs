//! `cargo xtask demo`: one VM behind a translator, and what its user sees, as a table.
#![expect(clippy::print_stdout, reason = "a table for a person")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use vm_tests::lab::{Lab, POD_V4, SERVER_V4, SERVER_V6, Variant};
use vm_tests::services::{self, DnsServer, HttpServer, NAME, Sink};
use vm_tests::translator::{self, Capture, FORWARDED_PORT, Translator};
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
    eprintln!("demo: starting {} in the pod", program.display());
    let capturing = Translator::start(lab, program, Capture::Frames)?;
    eprintln!("demo: booting a VM (emulated; a few seconds)");
    let start = Instant::now();
    let options = Options::new(Netdev::Stream(capturing.socket().to_owned()));
    let mut vm = Vm::boot(lab.pod(), lab.directory(), &Image::build()?, &options)?;
    let mut guest = |command: &str| vm.succeed(command, SOON);
    println!();
    row("boot", &format!("{:.1} s", start.elapsed().as_secs_f32()));
    guest("dhcp")?;
    row("lease", &guest(". /run/lease; echo $ip/$mask, DNS $dns, MTU $mtu")?);
    row("routes", &guest("ip route")?);
    guest("dhcp6")?;
    guest("for i in $(seq 50); do ip -6 route | grep -q ^default && break; usleep 100000; done")?;
    row("IPv6", &guest(". /run/lease6; echo $ip; ip -6 route | grep '^default via'")?);
    row("DNS", &guest(&format!("nslookup {NAME} | grep -A 1 ^Name | tail -n 1"))?);
    row("ping", &guest(&format!("ping -c 3 {SERVER_V4} | tail -n 1"))?);
    row("ping, IPv6", &guest(&format!("ping -6 -c 3 {SERVER_V6} | tail -n 1"))?);
    row("HTTP out", &guest(&format!("wget -q -O - http://{NAME}/"))?);
    guest(&format!("echo hello from the guest >/tmp/index.html; httpd -p {FORWARDED_PORT} -h /tmp"))?;
    row("HTTP in", &services::get(lab.world(), SocketAddr::new(POD_V4.into(), FORWARDED_PORT), "/")?);

    drop(capturing);
    let start = Instant::now();
    let translator = Translator::start(lab, program, Capture::Nothing)?;
    vm.succeed_within(&format!("ping -c 1 -W 1 {SERVER_V4}"), SOON)?;
    row("new translator", &format!("traffic flows again after {:.1} s", start.elapsed().as_secs_f32()));
    streams(lab, &mut vm)?;
    drop(translator);
    Ok(())
}

fn streams(lab: &Lab, vm: &mut Vm) -> Result<()> {
    eprintln!("demo: {} MiB each way", STREAM_BYTES >> 20);
    let start = Instant::now();
    vm.succeed(&format!("wget -q -O /tmp/stream http://{SERVER_V4}/stream/{STREAM_BYTES}"), STREAM_LIMIT)?;
    row("stream in", &rate(STREAM_BYTES, start.elapsed()));
    let sink = Sink::start(lab.world(), SINK_PORT)?;
    vm.succeed(&format!("nc {SERVER_V4} {SINK_PORT} -e cat /tmp/stream"), STREAM_LIMIT)?;
    let received = sink.finish()?;
    row("stream out", &rate(received.bytes, received.elapsed));
    row("", "every byte compared; the rates are those of an emulated CPU, not of a VM under KVM");
    Ok(())
}

fn rate(bytes: u64, elapsed: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let megabits = bytes as f64 * 8.0 / 1e6 / elapsed.as_secs_f64();
    format!("{megabits:.0} Mbit/s ({} MiB in {:.1} s)", bytes >> 20, elapsed.as_secs_f64())
}

/// One line of the table; further lines of a value stand below its first.
fn row(name: &str, value: &str) {
    let mut name = name;
    for line in value.lines() {
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
