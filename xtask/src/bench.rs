//! `cargo xtask bench`: a release build measured against passt and the kernel on this machine.

use anyhow::{Result, bail};

use crate::process::Runner;

pub(crate) fn run(_runner: &Runner, _arguments: &[String]) -> Result<()> {
    bail!("there is no benchmark yet");
}
