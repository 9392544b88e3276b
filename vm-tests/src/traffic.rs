//! The traffic tool: one program that plays every server and client of the labs, and measures as it plays.
//!
//! A result is one line of JSON on standard output. Every run is bounded in time and count. It must never know which
//! translator, if any, is between its two ends.

mod args;
mod role;
mod pattern;
mod latency;
mod socket;
mod serve;
mod relay;
mod stream;
mod exchange;
mod datagram;
mod hold;
pub mod drive;

pub use role::Role;

use std::process::ExitCode;

use args::Args;

const USAGE: &str = "usage: traffic COMMAND [OPTIONS]
  serve       [--bind ADDRESS]... [--shift N]           every role, each on its port (plus N)
  stream      --connect A:P [--direction out|in] [--seconds S] [--flows N] [--buffer BYTES] [--verify] [--bytes N]
  rr          --connect A:P [--seconds S]               one byte there and back
              [--rounds]     a run for each line of standard input, all on one connection
  crr         --connect A:P [--seconds S] [--flows N] [--count N]   connect, one byte there and back, close
  udp-rr      --connect A:P [--seconds S] [--size BYTES] [--count N]
  udp-stream  --connect A:P --count-at A:P [--rate BITS] [--size BYTES] [--seconds S]
  hold        --connect A:P --count N [--seconds S] [--echo]   opens, reports, holds until standard input closes
  relay       --map LISTEN=CONNECT...                   a plain read/write loop between TCP connections";

/// Runs the command named by the first argument.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut arguments = arguments.skip(1);
    let command = arguments.next().unwrap_or_default();
    let args = Args::parse(arguments)?;
    socket::raise_descriptor_limit();
    match command.as_str() {
        "serve" => serve::run(args),
        "relay" => relay::run(args),
        "stream" => stream::run(args),
        "rr" => exchange::rr(args),
        "crr" => exchange::crr(args),
        "udp-rr" => datagram::rr(args),
        "udp-stream" => datagram::stream(args),
        "hold" => hold::run(args),
        _ => anyhow::bail!("{USAGE}"),
    }
}

/// Prints a result.
#[expect(clippy::print_stdout, reason = "results are what the program is for")]
fn report(result: &serde_json::Value) {
    println!("{result}");
}
