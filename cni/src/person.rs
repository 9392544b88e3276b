//! What a person may run, or a DaemonSet, besides what a runtime does. It must never change a network.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::explain;
use crate::install::{self, Before, InstallError, PROGRAM};
use crate::protocol::with_source;
use crate::termination::Termination;

/// Wires VMs into pod networks. Container runtimes call it with CNI's environment and no arguments.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Puts this program into the folder where a container runtime looks for CNI plugins, as `sluice`.
    ///
    /// What was there is replaced at once: a runtime that executes it meanwhile gets the old one or the new one.
    Install {
        /// The folder, which must be there.
        #[arg(long, value_name = "FOLDER", default_value = "/opt/cni/bin")]
        to: PathBuf,
        /// Stay until SIGTERM, SIGINT or SIGHUP, as a container of a DaemonSet has to.
        #[arg(long)]
        wait: bool,
    },
    /// Removes what `install` put there.
    ///
    /// First remove every pod that was wired by it: a runtime cannot take down the others any more.
    Uninstall {
        #[arg(long, value_name = "FOLDER", default_value = "/opt/cni/bin")]
        from: PathBuf,
        /// As with `install`.
        #[arg(long)]
        wait: bool,
    },
    /// Says where a VM's frames go at each hop, and what is wrong. Changes nothing.
    ///
    /// Run it on the node. Exit status: 0 if nothing is wrong, 1 if something is, 2 if it cannot be told.
    Explain(explain::Request),
}

/// Runs what the arguments ask for.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let (wait, work): (bool, Box<dyn FnOnce() -> Result<String, InstallError>>) = match arguments.command {
        Command::Install { to, wait } => (wait, Box::new(move || install(&to))),
        Command::Explain(request) => return explain::run(&request),
        Command::Uninstall { from, wait } => (wait, Box::new(move || uninstall(&from))),
    };
    match and_wait(wait, work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {}", with_source(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// For whoever starts it with neither arguments nor `CNI_COMMAND`.
pub fn about() -> String {
    let versions: Vec<&str> = crate::protocol::Version::ALL.iter().map(|version| version.as_str()).collect();
    format!(
        "sluice {}: wires VMs into pod networks\nCNI protocol versions supported: {}",
        env!("CARGO_PKG_VERSION"),
        versions.join(", ")
    )
}

fn and_wait(wait: bool, work: impl FnOnce() -> Result<String, InstallError>) -> Result<(), Box<dyn Error>> {
    // Before the work: who is told to end meanwhile ends after it.
    let termination = wait.then(Termination::hold).transpose()?;
    eprintln!("sluice: {}", work()?);
    if let Some(termination) = termination {
        termination.wait()?;
    }
    Ok(())
}

fn install(folder: &Path) -> Result<String, InstallError> {
    let before = match install::install(folder)? {
        Before::Nothing => "where no such file was before",
        Before::Another => "in place of another build",
        Before::This => "where this very build was already",
    };
    Ok(format!("version {} is {}, {before}", env!("CARGO_PKG_VERSION"), folder.join(PROGRAM).display()))
}

fn uninstall(folder: &Path) -> Result<String, InstallError> {
    let path = folder.join(PROGRAM);
    let said = if install::uninstall(folder)? { "removed" } else { "there was no" };
    Ok(format!("{said} {}", path.display()))
}
