//! `cargo xtask bench`: a release build measured against passt, the reference CNI plugins and the kernel on this machine.

use std::process::Command;

use anyhow::Result;

use crate::install::{self, Need};
use crate::process::Runner;
use crate::target;

pub(crate) fn run(runner: &Runner, arguments: &[String]) -> Result<()> {
    install::run(runner, &[Need::Labs, Need::Vms, Need::Bench])?;
    eprintln!("xtask: building passt-rs, the sidecar, the CNI plugin and the benchmark (release)");
    runner.run(Command::new("cargo").args(RELEASE))?;
    runner.run(Command::new(target()?.join("release/bench")).args(arguments))
}

/// Also what the demo runs.
pub(crate) const RELEASE: [&str; 11] = [
    "build",
    "--release",
    "--package",
    "passt-rs",
    "--package",
    "binding-sidecar",
    "--package",
    "sluice-cni",
    "--package",
    "vm-tests",
    "--bins",
];
