//! The program: command line to relay.
//!
//! Exit status 0 when it did what was asked, 1 with every reason on standard error when it did not.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use passt_rs::assemble::{self, Leftovers};
use passt_rs::cli::{self, Asked, Fault};
use passt_rs::config::{Config, Surroundings, Transport};
use passt_rs::guest::Guest;
use passt_rs::logging;
use passt_rs::relay::Relay;
use passt_rs::sandbox::{self, Needs, PidFile, Readiness, Started};
use tracing::{error, info, warn};

fn main() -> ExitCode {
    let (cli, mut faults) = match cli::parse(std::env::args_os()) {
        Asked::Print(text) => {
            // Nobody left to tell when standard output is closed.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Asked::Run(cli, faults) => (cli, faults),
    };
    let config = match Config::resolve(&cli, &Surroundings::read(&cli)) {
        Ok(config) if faults.is_empty() => config,
        Ok(_) => return report(&faults),
        Err(more) => {
            faults.extend(more);
            return report(&faults);
        }
    };
    match sandbox::start(config.foreground) {
        Ok(Started::Parent(code)) => code,
        Ok(Started::Working(readiness)) => match work(&config, readiness) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Standard error is open until everything is ready; the log, if it is a file, also afterwards.
                eprintln!("passt-rs: {error:#}");
                if config.log.file.is_some() {
                    error!("{error:#}");
                }
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("passt-rs: cannot go to the background: {error}");
            ExitCode::FAILURE
        }
    }
}

fn report(faults: &[Fault]) -> ExitCode {
    for fault in faults {
        eprintln!("passt-rs: {fault}");
    }
    eprintln!("passt-rs: `passt-rs --help` lists every option");
    ExitCode::FAILURE
}

/// Everything after the fork.
fn work(config: &Config, readiness: Readiness) -> anyhow::Result<()> {
    let inherited = match config.transport {
        Transport::StreamFd(fd) | Transport::VhostUserFd(fd) => Some(fd),
        Transport::Stream { .. } | Transport::VhostUser { .. } | Transport::Tap(_) => None,
    };
    sandbox::prepare(inherited).context("--fd")?;
    logging::init(&config.log).context("--log-file")?;
    let pid_file = config.pid_file.as_deref().map(PidFile::create).transpose().context("--pid")?;
    info!("passt-rs {}", env!("CARGO_PKG_VERSION"));
    for line in config.summary() {
        info!("{line}");
    }
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let mut leftovers = Leftovers::with_pid_file(pid_file);
    match &config.transport {
        Transport::Tap(tap) => serve(assemble::tap(tap)?, config, readiness, leftovers),
        Transport::Stream { .. } | Transport::StreamFd(_) => {
            let stream = assemble::stream(&config.transport, &mut leftovers)?;
            serve(stream, config, readiness, leftovers)
        }
        Transport::VhostUser { .. } | Transport::VhostUserFd(_) => {
            let guest = assemble::vhost_user(&config.transport, &mut leftovers)?;
            serve(guest, config, readiness, leftovers)
        }
    }
}

/// Opens the rest, gives up what is left to give up, says so, and serves.
fn serve<G: Guest>(
    guest: G,
    config: &Config,
    readiness: Readiness,
    mut leftovers: Leftovers,
) -> anyhow::Result<()> {
    // Files are opened as who started us: nobody may write nowhere.
    let files = assemble::files(config, &mut leftovers)?;
    let identity = sandbox::identity(config.run_as)?;
    leftovers.give_to(identity);
    sandbox::assume_identity(identity, Needs::of(config))?;
    let opened = assemble::open(config, files)?;
    let mut relay = Relay::new(guest, assemble::settings(config)?, opened).context("epoll")?;
    sandbox::lock_down(Needs::of(config))?;
    if !config.foreground && config.log.file.is_none() {
        warn!("going to the background without --log-file: from here on nothing is logged");
    }
    readiness.announce(leftovers.pid_file()).context("cannot go to the background")?;
    relay.run().context("waiting for events")
}
