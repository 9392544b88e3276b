//! `cargo xtask fuzz`: fuzz targets of passt-rs, each for a while.
//!
//! The fuzzer is libFuzzer, whose guidance stable rustc compiles in; cargo-fuzz would ask for a nightly compiler, which
//! not every machine can fetch. What that costs is AddressSanitizer, which only nightly has: a read outside its bounds is
//! found where it panics, trips an assertion or faults. Nearly all of passt-rs is safe code, where bounds are checked.
//!
//! Inputs found stay in `target/fuzz/corpus` for the next run, crashes in `target/fuzz/crashes`, what libFuzzer said in
//! `target/fuzz/logs`.

mod arguments;
mod outcome;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::available_parallelism;

use anyhow::{Context as _, Result, bail};

use crate::install::{self, Need};
use crate::process::Runner;
use crate::target;

use arguments::Arguments;
use outcome::Outcome;

/// The crate with the targets, and its program's feature.
const PACKAGE: &str = "passt-rs-fuzz";
const FEATURE: &str = "libfuzzer";
/// Of the workspace: with overflow checks and debug assertions.
const PROFILE: &str = "fuzz";

/// Inputs that once broke a promise, by target.
const REGRESSIONS: &str = "passt-rs/fuzz/regressions";

/// Counters on edges and reports of comparisons, as libFuzzer reads them. Given for the target machine only, as build
/// scripts do not link libFuzzer.
const RUSTFLAGS: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// One input that takes longer has found a loop; one that takes more memory has found growth.
const INPUT_SECONDS_MAX: u32 = 10;
const MEMORY_MIB_MAX: u32 = 2048;

/// Runs the targets that the command line names, all if it names none.
pub(crate) fn run(runner: &Runner, arguments: &[String]) -> Result<()> {
    let Arguments { names, seconds, jobs } = Arguments::parse(arguments)?;
    let fuzzer = Fuzzer::build(runner)?;
    let known: Vec<&str> = fuzzer.targets.iter().map(|(name, _)| name.as_str()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no fuzz target is named {unknown}; there are {}", known.join(", "));
    }
    let chosen = known.iter().filter(|name| names.is_empty() || names.iter().any(|chosen| chosen == *name));
    fuzzer.run(runner, &chosen.map(|name| (*name, seconds)).collect::<Vec<_>>(), jobs)
}

/// Runs every target for as long as it says tests should.
pub(crate) fn briefly(runner: &Runner) -> Result<()> {
    let fuzzer = Fuzzer::build(runner)?;
    let runs: Vec<(&str, u32)> =
        fuzzer.targets.iter().map(|(name, seconds)| (name.as_str(), *seconds)).collect();
    fuzzer.run(runner, &runs, available_parallelism().map_or(1, usize::from))
}

/// The fuzzer's program, built.
#[derive(Debug)]
struct Fuzzer {
    program: PathBuf,
    /// Below the target folder: corpora, crashes, logs.
    folder: PathBuf,
    /// Names, and seconds in tests.
    targets: Vec<(String, u32)>,
}

impl Fuzzer {
    fn build(runner: &Runner) -> Result<Self> {
        install::run(runner, &[Need::Fuzz])?;
        let folder = target()?.join("fuzz");
        let build = folder.join("build");
        // Naming the machine is what keeps the flags from build scripts and derive macros.
        let machine = machine()?;
        eprintln!("xtask: building the fuzzer");
        runner.run(
            Command::new("cargo")
                .args(["build", "--package", PACKAGE, "--features", FEATURE, "--profile", PROFILE])
                .args(["--target", &machine, "--target-dir"])
                .arg(&build)
                .env_remove("CARGO_ENCODED_RUSTFLAGS") // goes before the other
                .env("RUSTFLAGS", RUSTFLAGS.join(" ")),
        )?;
        let program = build.join(machine).join(PROFILE).join(PACKAGE);
        let targets = targets(&program, &folder.join("seeds"))?;
        Ok(Self { program, folder, targets })
    }

    /// Runs targets for the seconds beside them. Fails if any found something.
    fn run(&self, runner: &Runner, runs: &[(&str, u32)], jobs: usize) -> Result<()> {
        for (name, seconds) in runs {
            eprintln!("xtask: fuzzing {name} for {seconds} s");
        }
        let mut commands: Vec<Command> =
            runs.iter().map(|(name, seconds)| self.command(name, *seconds)).collect::<Result<_>>()?;
        let mut failed = Vec::new();
        runner.run_all(&mut commands, jobs, |at, status| {
            let Some((name, _)) = runs.get(at) else { return };
            let log = self.log(name);
            let outcome = Outcome::read(&fs::read_to_string(&log).unwrap_or_default());
            eprintln!("{name:<10} {outcome}");
            if !status.success() {
                failed.push(*name);
                eprintln!("{}", self.complaint(name, &outcome, &format!("{status}")));
            }
        })?;
        if !failed.is_empty() {
            bail!("fuzzing failed: {}", failed.join(", "));
        }
        Ok(())
    }

    fn command(&self, name: &str, seconds: u32) -> Result<Command> {
        let [corpus, crashes, seeds] =
            ["corpus", "crashes", "seeds"].map(|part| self.folder.join(part).join(name));
        let log = self.log(name);
        for folder in [Some(corpus.as_path()), Some(crashes.as_path()), log.parent()].into_iter().flatten() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let said = fs::File::create(&log).with_context(|| format!("writing {}", log.display()))?;
        let mut command = Command::new(&self.program);
        command.env(TARGET, name).env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        command.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1");
        command.arg(format!("-timeout={INPUT_SECONDS_MAX}")).arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"));
        command.arg(format!("-artifact_prefix={}/", crashes.display()));
        // What is found goes into the first folder; the others are read.
        command.arg(corpus).arg(seeds);
        let regressions = Path::new(REGRESSIONS).join(name);
        if regressions.is_dir() {
            command.arg(regressions);
        }
        Ok(command)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(name).with_extension("log")
    }

    /// What to look at, and how to see it again.
    fn complaint(&self, name: &str, outcome: &Outcome, status: &str) -> String {
        let log = self.log(name);
        match &outcome.input {
            Some(input) => format!(
                "  {}\n  input:     {input}\n  run again: {TARGET}={name} {} {input}\n  log:       {}",
                outcome.complaint.as_deref().unwrap_or(status),
                self.program.display(),
                log.display()
            ),
            None => format!("  ended without a result, {status}: {}", log.display()),
        }
    }
}

/// What the program reads from its environment; its arguments are libFuzzer's.
const TARGET: &str = "SLUICE_FUZZ_TARGET";
const SEEDS: &str = "SLUICE_FUZZ_SEEDS";

/// Has the program write its targets' seeds and say which targets there are.
fn targets(program: &Path, seeds: &Path) -> Result<Vec<(String, u32)>> {
    let output =
        Command::new(program).env(SEEDS, seeds).output().context("asking the fuzzer for its targets")?;
    if !output.status.success() {
        bail!("the fuzzer does not list its targets: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8(output.stdout).context("a target's name is not UTF-8")?;
    let read = |line: &str| {
        let (name, seconds) = line.split_once(' ')?;
        Some((name.to_owned(), seconds.parse().ok()?))
    };
    text.lines()
        .map(|line| read(line).with_context(|| format!("not a target and its seconds: {line}")))
        .collect()
}

/// The machine that rustc compiles for by itself.
fn machine() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("running rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say what it compiles for")?.to_owned())
}
