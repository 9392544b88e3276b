//! The project's command list. README and CI call it, and nothing else is needed.

mod process;
mod sweep;
mod install;
mod test;
mod demo;
mod bench;
mod fuzz;
mod lint;
mod image;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::process::{Interrupted, Runner};

const USAGE: &str = "\
usage: cargo xtask COMMAND [ARGUMENT...]

  demo [--translator PATH]   a VM behind passt-rs, shown working: lease, DNS, HTTP both ways, throughput
  test [ARGUMENT...]         every test, and each fuzz target for a short time; arguments go to cargo test
  bench [ARGUMENT...]        throughput and latency against passt and the kernel
  lint                       format, clippy, names in the documentation, file sizes, licences
  fuzz [TARGET...] [--seconds N] [--jobs N]
                             each fuzz target, or those named, for N seconds (300), N targets at a time (1)
  image [--tag REGISTRY/FOLDER:VERSION]
                             the programs, static, and their images, if buildah or podman is there
";

/// Commands, as `lint` checks them in the documentation.
const COMMANDS: [&str; 6] = ["demo", "test", "bench", "lint", "fuzz", "image"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(code) => code,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("xtask: {error}");
            ExitCode::from(130) // what a shell reports for Ctrl-C
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<ExitCode> {
    let Some((command, rest)) = arguments.split_first() else {
        eprint!("{USAGE}");
        return Ok(ExitCode::from(2));
    };
    std::env::set_current_dir(root()?).context("entering the repository")?;
    let runner = Runner::new()?;
    match command.as_str() {
        "demo" => demo::run(&runner, rest)?,
        "test" => test::run(&runner, rest)?,
        "bench" => bench::run(&runner, rest)?,
        "lint" => lint::run(&runner)?,
        "fuzz" => fuzz::run(&runner, rest)?,
        "image" => image::run(&runner, rest)?,
        unknown => {
            eprint!("xtask: no command named {unknown}\n\n{USAGE}");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The repository: xtask is built inside it.
fn root() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_path_buf)
        .context("xtask has no parent folder")
}

/// Cargo's output folder: this program runs from `TARGET/PROFILE/xtask`.
fn target() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding xtask's own program")?;
    program.ancestors().nth(2).map(Path::to_path_buf).context("xtask does not run from a target folder")
}
