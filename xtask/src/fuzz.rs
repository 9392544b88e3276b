//! `cargo xtask fuzz`: fuzz targets of passt-rs and of the binding sidecar, each for a while.
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

/// The crates with targets, whose programs are named after them, and the folders of inputs that once broke a promise, by
/// target. No two targets have one name.
const SUITES: [Suite; 2] = [
    Suite { package: "passt-rs-fuzz", regressions: "passt-rs/fuzz/regressions" },
    Suite { package: "binding-sidecar-fuzz", regressions: "binding-sidecar/fuzz/regressions" },
];
/// Of their programs.
const FEATURE: &str = "libfuzzer";
/// Of the workspace: with overflow checks and debug assertions.
const PROFILE: &str = "fuzz";

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
    if let Some(unknown) = names.iter().find(|name| fuzzer.targets.iter().all(|target| target.name != **name))
    {
        let known: Vec<&str> = fuzzer.targets.iter().map(|target| target.name.as_str()).collect();
        bail!("no fuzz target is named {unknown}; there are {}", known.join(", "));
    }
    let chosen = fuzzer.targets.iter().filter(|target| names.is_empty() || names.contains(&target.name));
    fuzzer.run(runner, &chosen.map(|target| (target, seconds)).collect::<Vec<_>>(), jobs)
}

/// Runs every target for as long as it says tests should.
pub(crate) fn briefly(runner: &Runner) -> Result<()> {
    let fuzzer = Fuzzer::build(runner)?;
    let runs: Vec<(&Target, u32)> =
        fuzzer.targets.iter().map(|target| (target, target.test_seconds)).collect();
    fuzzer.run(runner, &runs, available_parallelism().map_or(1, usize::from))
}

/// One crate of targets.
#[derive(Debug)]
struct Suite {
    package: &'static str,
    regressions: &'static str,
}

/// One target, and the program that has it.
#[derive(Debug)]
struct Target {
    name: String,
    test_seconds: u32,
    program: PathBuf,
    regressions: PathBuf,
}

/// The fuzzers' programs, built.
#[derive(Debug)]
struct Fuzzer {
    /// Below the target folder: corpora, crashes, logs.
    folder: PathBuf,
    targets: Vec<Target>,
}

impl Fuzzer {
    fn build(runner: &Runner) -> Result<Self> {
        install::run(runner, &[Need::Fuzz])?;
        let folder = target()?.join("fuzz");
        let build = folder.join("build");
        // Naming the machine is what keeps the flags from build scripts and derive macros.
        let machine = machine()?;
        eprintln!("xtask: building the fuzzer");
        let mut command = Command::new("cargo");
        command.args(["build", "--profile", PROFILE, "--target", &machine, "--target-dir"]).arg(&build);
        for Suite { package, .. } in &SUITES {
            command.args(["--package", package, "--features", &format!("{package}/{FEATURE}")]);
        }
        command.env_remove("CARGO_ENCODED_RUSTFLAGS"); // goes before the other
        runner.run(command.env("RUSTFLAGS", RUSTFLAGS.join(" ")))?;
        let mut targets = Vec::new();
        for suite in &SUITES {
            let program = build.join(&machine).join(PROFILE).join(suite.package);
            targets.extend(suite.targets(&program, &folder.join("seeds"))?);
        }
        Ok(Self { folder, targets })
    }

    /// Runs targets for the seconds beside them. Fails if any found something.
    fn run(&self, runner: &Runner, runs: &[(&Target, u32)], jobs: usize) -> Result<()> {
        for (Target { name, .. }, seconds) in runs {
            eprintln!("xtask: fuzzing {name} for {seconds} s");
        }
        let mut commands: Vec<Command> =
            runs.iter().map(|(target, seconds)| self.command(target, *seconds)).collect::<Result<_>>()?;
        let mut failed = Vec::new();
        runner.run_all(&mut commands, jobs, |at, status| {
            let Some((target, _)) = runs.get(at) else { return };
            let name = target.name.as_str();
            let log = self.log(name);
            let outcome = Outcome::read(&fs::read_to_string(&log).unwrap_or_default());
            eprintln!("{name:<10} {outcome}");
            if !status.success() {
                failed.push(name);
                eprintln!("{}", self.complaint(target, &outcome, &format!("{status}")));
            }
        })?;
        if !failed.is_empty() {
            bail!("fuzzing failed: {}", failed.join(", "));
        }
        Ok(())
    }

    fn command(&self, target: &Target, seconds: u32) -> Result<Command> {
        let name = target.name.as_str();
        let [corpus, crashes, seeds] =
            ["corpus", "crashes", "seeds"].map(|part| self.folder.join(part).join(name));
        let log = self.log(name);
        for folder in [Some(corpus.as_path()), Some(crashes.as_path()), log.parent()].into_iter().flatten() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let said = fs::File::create(&log).with_context(|| format!("writing {}", log.display()))?;
        let mut command = Command::new(&target.program);
        command.env(TARGET, name).env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        command.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1");
        command.arg(format!("-timeout={INPUT_SECONDS_MAX}")).arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"));
        command.arg(format!("-artifact_prefix={}/", crashes.display()));
        // What is found goes into the first folder; the others are read.
        command.arg(corpus).arg(seeds);
        if target.regressions.is_dir() {
            command.arg(&target.regressions);
        }
        Ok(command)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(name).with_extension("log")
    }

    /// What to look at, and how to see it again.
    fn complaint(&self, target: &Target, outcome: &Outcome, status: &str) -> String {
        let Target { name, program, .. } = target;
        let log = self.log(name);
        match &outcome.input {
            Some(input) => format!(
                "  {}\n  input:     {input}\n  run again: {TARGET}={name} {} {input}\n  log:       {}",
                outcome.complaint.as_deref().unwrap_or(status),
                program.display(),
                log.display()
            ),
            None => format!("  ended without a result, {status}: {}", log.display()),
        }
    }
}

/// What the program reads from its environment; its arguments are libFuzzer's.
const TARGET: &str = "SLUICE_FUZZ_TARGET";
const SEEDS: &str = "SLUICE_FUZZ_SEEDS";

impl Suite {
    /// Has the program write its targets' seeds and say which targets there are.
    fn targets(&self, program: &Path, seeds: &Path) -> Result<Vec<Target>> {
        let output =
            Command::new(program).env(SEEDS, seeds).output().context("asking the fuzzer for its targets")?;
        if !output.status.success() {
            bail!("the fuzzer does not list its targets: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let text = String::from_utf8(output.stdout).context("a target's name is not UTF-8")?;
        let read = |line: &str| {
            let (name, seconds) = line.split_once(' ')?;
            Some(Target {
                name: name.to_owned(),
                test_seconds: seconds.parse().ok()?,
                program: program.to_owned(),
                regressions: Path::new(self.regressions).join(name),
            })
        };
        text.lines()
            .map(|line| read(line).with_context(|| format!("not a target and its seconds: {line}")))
            .collect()
    }
}

/// The machine that rustc compiles for by itself.
fn machine() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("running rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say what it compiles for")?.to_owned())
}
