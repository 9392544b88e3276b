//! `cargo xtask fuzz`: each fuzz target for a while. Crashes it finds become files that `cargo test` replays.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::Runner;

/// Long enough for a pull request; nightly runs pass their own.
const SECONDS: &str = "30";

const TARGETS: &str = "passt-rs/fuzz/fuzz_targets";

pub(crate) fn run(runner: &Runner, arguments: &[String]) -> Result<()> {
    let seconds: u32 =
        arguments.first().map_or(SECONDS, String::as_str).parse().context("SECONDS is a number")?;
    if !Path::new(TARGETS).is_dir() {
        bail!("there are no fuzz targets yet: they come with vhost-user, in {TARGETS}");
    }
    let mut names: Vec<String> = fs::read_dir(TARGETS)?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    for name in names {
        eprintln!("xtask: fuzzing {name} for {seconds} s");
        let limit = format!("-max_total_time={seconds}");
        runner.run(
            Command::new("cargo")
                .current_dir("passt-rs")
                .args(["+nightly", "fuzz", "run", &name, "--", &limit]),
        )?;
    }
    Ok(())
}
