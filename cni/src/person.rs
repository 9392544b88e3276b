//! What a person may run, besides what a runtime does. It must never change anything.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Wires VMs into pod networks. Container runtimes call it with CNI's environment and no arguments.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {}

/// Runs what the arguments ask for.
pub fn run() -> ExitCode {
    match Arguments::parse().command {}
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
