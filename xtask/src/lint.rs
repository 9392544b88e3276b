//! `cargo xtask lint`: what a reviewer should not have to look for. Every check runs, then all that failed is said.

mod names;
mod size;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::install::find;
use crate::process::{Interrupted, Runner};
use crate::target;

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
    // With the fuzzers' programs, which are built no other way; checking them needs no C++ compiler.
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        "passt-rs-fuzz/program,binding-sidecar-fuzz/program",
    ];
    runner.run(Command::new("cargo").args(arguments).args(["--", "-D", "warnings"]))
}

fn dependencies(runner: &Runner) -> Result<()> {
    let program = cargo_deny(runner)?;
    runner.run(Command::new(program).args(["--all-features", "check", "bans", "licenses", "sources"]))?;
    // Its database is fetched at each run, and a check must not fail for want of a network.
    eprintln!(
        "xtask: NOT CHECKED: known vulnerabilities, which need a database from the network: cargo deny check"
    );
    Ok(())
}

/// The program of that name, built into the target folder if the system has none.
fn cargo_deny(runner: &Runner) -> Result<PathBuf> {
    if let Some(program) = find("cargo-deny") {
        return Ok(program);
    }
    let root = target()?.join("tools");
    let program = root.join("bin/cargo-deny");
    if !program.is_file() {
        eprintln!(
            "xtask: installing cargo-deny in {} (checks licences and sources; 5 minutes of CPU, once)",
            root.display()
        );
        let arguments = ["install", "--locked", "cargo-deny", "--root"];
        runner.run(Command::new("cargo").args(arguments).arg(&root))?;
    }
    Ok(program)
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
