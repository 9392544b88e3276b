//! The command line of [`vm_tests::bench`]; `cargo xtask bench` builds everything and starts it.

use std::path::PathBuf;

use anyhow::Context as _;
use vm_tests::bench::{Options, run};

const USAGE: &str = "usage: bench [OPTIONS]
  --peer PATH         passt to compare with (default: the one in PATH)
  --passt-rs PATH     passt-rs to measure (default: beside this program)
  --rows TEXT         only rows whose name contains TEXT, such as stream-out-1500-1, rr, crr, udp, start, hold,
                      vhost, vhost-vm, sidecar, wired, cni
  --seconds S         of each run (default 3)
  --repetitions N     of each run, contenders in turn (default 5)
  --quick             one run of half a second
  --output DIRECTORY  for performance.md, .svg and .json (default target/bench); what is there of tables that are
                      not measured stays, a table is replaced even if only some of its rows are measured";

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut options = Options {
        peer: PathBuf::from("/usr/bin/passt"),
        // Missing, it is a contender that does not start: the others can still be compared.
        passt_rs: std::env::current_exe().context("path of the running program")?.with_file_name("passt-rs"),
        rows: None,
        seconds: 3.0,
        repetitions: 5,
        output: PathBuf::from("target/bench"),
        command_line: "cargo xtask bench".to_owned(),
    };
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{name} needs a value"));
        match name.as_str() {
            "--peer" => options.peer = value()?.into(),
            "--passt-rs" => options.passt_rs = value()?.into(),
            "--rows" => options.rows = Some(value()?),
            "--seconds" => options.seconds = value()?.parse().context("--seconds")?,
            "--repetitions" => options.repetitions = value()?.parse().context("--repetitions")?,
            "--output" => options.output = value()?.into(),
            "--quick" => (options.seconds, options.repetitions) = (0.5, 1),
            _ => anyhow::bail!("{USAGE}"),
        }
    }
    anyhow::ensure!((0.1..=60.0).contains(&options.seconds), "--seconds: 0.1 to 60");
    anyhow::ensure!((1..=100).contains(&options.repetitions), "--repetitions: 1 to 100");
    options.command_line = command_line();
    run(&options)
}

/// What was typed, without directories: they are this machine's.
fn command_line() -> String {
    let words = std::env::args().skip(1).map(|word| match word.rsplit_once('/') {
        Some((_, name)) => name.to_owned(),
        None => word,
    });
    std::iter::once("cargo xtask bench".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}
