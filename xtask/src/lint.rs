//! `cargo xtask lint`: what a reviewer should not have to look for. Every check runs, then all that failed is said.

mod names;
mod size;

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::install::find;
use crate::process::{Interrupted, Runner};

/// A check and how to run it.
type Check = (&'static str, fn(&Runner) -> Result<()>);

const CHECKS: [Check; 5] = [
    ("format", format),
    ("clippy", clippy),
    ("paths and commands in the documentation", |_| names::check(&tracked()?)),
    ("size of files", |_| size::check(&tracked()?)),
    ("licences and sources of dependencies", dependencies),
];

pub(crate) fn run(runner: &Runner) -> Result<()> {
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        eprintln!("xtask: checking {name}");
        match check(runner) {
            Ok(()) => {}
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => {
                eprintln!("{error:#}");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    Ok(())
}

fn format(runner: &Runner) -> Result<()> {
    runner.run(Command::new("cargo").args(["fmt", "--all", "--check"]))
}

fn clippy(runner: &Runner) -> Result<()> {
    runner.run(Command::new("cargo").args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn dependencies(runner: &Runner) -> Result<()> {
    if find("cargo-deny").is_none() {
        eprintln!("xtask: NOT CHECKED: cargo-deny is not installed (cargo install --locked cargo-deny)");
        return Ok(());
    }
    runner.run(Command::new("cargo").args(["deny", "--all-features", "check", "bans", "licenses", "sources"]))
}

/// Files of the repository, also those not committed yet.
fn tracked() -> Result<Vec<String>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(arguments).output().context("running git")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
    // A deleted file stays listed until the deletion is committed.
    let names = text.split_terminator('\0').filter(|name| std::path::Path::new(name).exists());
    Ok(names.map(str::to_owned).collect())
}
