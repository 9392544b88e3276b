//! The fuzzer: libFuzzer's `main` around the target that the environment names.
//!
//! `cargo xtask fuzz` builds it, runs it, and prints the command for a single input. The environment says what to do,
//! since every argument is libFuzzer's:
//!
//! | variable | meaning |
//! |---|---|
//! | `SLUICE_FUZZ_TARGET=NAME` | fuzz that target, or run it on the files given as arguments |
//! | `SLUICE_FUZZ_SEEDS=FOLDER` | write each target's seeds to FOLDER/NAME, print names and seconds, and end |
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use binding_sidecar_fuzz::{TARGETS, Target};

libfuzzer_sys::fuzz_target!(init: begin(), |data: &[u8]| {
    if let Some(target) = CHOSEN.get() {
        (target.run)(data);
    }
});

/// libFuzzer calls a function without a context, again and again.
static CHOSEN: OnceLock<&Target> = OnceLock::new();

fn begin() {
    if let Some(folder) = std::env::var_os("SLUICE_FUZZ_SEEDS") {
        end(list(Path::new(&folder)).map_err(|error| error.to_string()));
    }
    let name = std::env::var("SLUICE_FUZZ_TARGET").unwrap_or_default();
    match TARGETS.iter().find(|target| target.name == name) {
        Some(target) => {
            CHOSEN.get_or_init(|| target);
        }
        None => end(Err(format!("SLUICE_FUZZ_TARGET: no target is named `{name}`"))),
    }
}

#[expect(clippy::print_stdout, reason = "what it prints is what it was started for")]
fn list(folder: &Path) -> std::io::Result<()> {
    for target in TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:02}")), seed)?;
        }
        println!("{} {}", target.name, target.test_seconds);
    }
    Ok(())
}

#[expect(clippy::exit, reason = "nothing is to be fuzzed, and `main` is not ours to return from")]
fn end(outcome: Result<(), String>) {
    if let Err(error) = &outcome {
        eprintln!("{error}");
    }
    std::process::exit(i32::from(outcome.is_err()));
}
