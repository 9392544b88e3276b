//! `cargo xtask demo`: a VM behind a release build of passt-rs, shown working.

use std::process::Command;

use anyhow::Result;

use crate::install::{self, Need};
use crate::process::Runner;
use crate::target;

pub(crate) fn run(runner: &Runner, arguments: &[String]) -> Result<()> {
    install::run(runner, &[Need::Labs, Need::Vms])?;
    eprintln!("xtask: building passt-rs and the demo (release)");
    runner.run(Command::new("cargo").args([
        "build",
        "--release",
        "--package",
        "passt-rs",
        "--package",
        "vm-tests",
        "--bins",
    ]))?;
    runner.run(Command::new(target()?.join("release/sluice-demo")).args(arguments))
}
