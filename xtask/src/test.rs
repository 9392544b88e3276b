//! `cargo xtask test`: the programs, also alone on an empty root, then fuzz targets, then every test of the workspace, whose
//! summary comes last. Nothing is skipped in silence.

use std::process::Command;

use anyhow::Result;

use crate::fuzz;
use crate::image;
use crate::install::{self, Need};
use crate::process::Runner;

pub(crate) fn run(runner: &Runner, arguments: &[String]) -> Result<()> {
    install::run(runner, &[Need::Labs, Need::Cni, Need::Vms, Need::Fuzz])?;
    // The black-box tests run programs they do not depend on, so cargo would not build those for them.
    eprintln!("xtask: building the programs under test");
    runner.run(Command::new("cargo").args(["build", "--workspace", "--bins"]))?;
    image::check(runner)?;
    let fuzzed = if arguments.is_empty() {
        fuzz::briefly(runner)
    } else {
        eprintln!("xtask: NOT RUN: fuzz targets, as the arguments choose among tests");
        Ok(())
    };
    eprintln!("xtask: running every test");
    runner.run(Command::new("cargo").args(["test", "--workspace", "--no-fail-fast"]).args(arguments))?;
    fuzzed
}
