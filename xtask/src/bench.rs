//! `cargo xtask bench`: a release build measured against passt and the kernel on this machine, and the sidecar's.

use std::process::Command;

use anyhow::Result;

use crate::install::{self, Need};
use crate::process::Runner;
use crate::target;

pub(crate) fn run(runner: &Runner, arguments: &[String]) -> Result<()> {
    install::run(runner, &[Need::Labs, Need::Vms, Need::Bench])?;
    eprintln!("xtask: building passt-rs, the sidecar and the benchmark (release)");
    runner.run(Command::new("cargo").args(RELEASE))?;
    runner.run(Command::new(target()?.join("release/bench")).args(arguments))
}

/// Also what the demo runs.
pub(crate) const RELEASE: [&str; 9] = [
    "build",
    "--release",
    "--package",
    "passt-rs",
    "--package",
    "binding-sidecar",
    "--package",
    "vm-tests",
    "--bins",
];
