//! `cargo xtask demo`: a VM with release builds of the sidecar and passt-rs, shown working.

use std::process::Command;

use anyhow::Result;

use crate::bench::RELEASE;
use crate::install::{self, Need};
use crate::process::Runner;
use crate::target;

pub(crate) fn run(runner: &Runner, arguments: &[String]) -> Result<()> {
    install::run(runner, &[Need::Labs, Need::Vms])?;
    eprintln!("xtask: building the sidecar, passt-rs and the demo (release)");
    runner.run(Command::new("cargo").args(RELEASE))?;
    runner.run(Command::new(target()?.join("release/demo")).args(arguments))
}
