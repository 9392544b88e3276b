//! The command line as typed: passt's flags, with passt's spelling.
//!
//! Says which flags exist and what text follows them; what a text means is [`crate::config`]'s to say. Every
//! value is kept, also of a flag that may be given once, so that one run can report all that is wrong.

mod fault;
mod flags;

use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};

pub use fault::Fault;
pub use flags::{Cli, Unsupported};

/// What the command line asks for.
#[derive(Debug)]
pub enum Asked {
    /// To run; the mistakes found so far are reported with those of the values.
    Run(Box<Cli>, Vec<Fault>),
    /// To print this and succeed.
    Print(String),
}

/// Reads arguments, the first of which is the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Asked {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let mut faults = Vec::new();
    let command = command(args.first());
    // clap stops at the first mistake: note it, take it out, read again. Each round removes an argument.
    loop {
        let error =
            match command.clone().try_get_matches_from(&args).and_then(|found| Cli::from_arg_matches(&found))
            {
                Ok(cli) if cli.print_capabilities && faults.is_empty() => {
                    return Asked::Print(CAPABILITIES.to_owned());
                }
                Ok(cli) => return Asked::Run(Box::new(cli), faults),
                Err(error) => error,
            };
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            return Asked::Print(error.to_string());
        }
        let (fault, at) = diagnose(&error, &args);
        faults.push(fault);
        match at {
            Some(at) => remove(&mut args, at),
            None => return Asked::Run(Box::default(), faults),
        }
    }
}

/// What clap is to know. Installed as `passt`, the version's first line starts as who called it expects.
fn command(program: Option<&OsString>) -> clap::Command {
    let command = Cli::command();
    match program.and_then(|program| Path::new(program).file_name()) {
        Some(name) if name == "passt" => {
            command.name("passt").version(concat!(env!("CARGO_PKG_VERSION"), " (passt-rs)"))
        }
        _ => command,
    }
}

/// The mistake, and where the argument that made it stands.
fn diagnose(error: &clap::Error, args: &[OsString]) -> (Fault, Option<usize>) {
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(named)) => named.as_str(),
        _ => "",
    };
    // clap shows a flag together with its value's name: `--mtu <BYTES>`.
    let flag = named.split([' ', '=']).next().unwrap_or_default();
    let position = position(args, flag);
    let shown = if flag.is_empty() { "command line" } else { flag };
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "clap's kinds grow; the rest cannot occur with our flags"
    )]
    let fault = match error.kind() {
        ErrorKind::UnknownArgument if !flag.starts_with('-') => Fault::new(shown, "unexpected argument"),
        ErrorKind::UnknownArgument => Fault::new(shown, "unknown option"),
        ErrorKind::InvalidValue => Fault::new(shown, "a value is missing"),
        ErrorKind::TooManyValues => Fault::new(shown, "takes no value"),
        _ => Fault::new(shown, error.kind().to_string()),
    };
    (fault, position)
}

fn position(args: &[OsString], flag: &str) -> Option<usize> {
    let is_short = flag.len() == 2 && flag.starts_with('-');
    let mut candidates = args.iter().enumerate().skip(1).filter_map(|(at, arg)| Some((at, arg.to_str()?)));
    candidates.find_map(|(at, arg)| {
        let name = arg.split('=').next().unwrap_or_default();
        let exact = name == flag;
        // clap names the flag in full where it was shortened.
        let shortened = name.len() > 2 && name.starts_with("--") && flag.starts_with(name);
        let cluster = is_short
            && arg.starts_with('-')
            && !arg.starts_with("--")
            && arg.contains(flag.trim_start_matches('-'));
        (!flag.is_empty() && (exact || shortened || cluster)).then_some(at)
    })
}

/// Takes an argument out, and with a flag what must be its value: there are no positional arguments.
fn remove(args: &mut Vec<OsString>, at: usize) {
    let is = |at: usize, what: fn(&str) -> bool| args.get(at).and_then(|arg| arg.to_str()).is_some_and(what);
    let has_value =
        is(at, |arg| arg.starts_with("--") && !arg.contains('=')) && is(at + 1, |arg| !arg.starts_with('-'));
    args.drain(at..=at + usize::from(has_value));
}

/// QEMU's vhost-user interface, "Backend program conventions": the type, and the features of that type. The schema
/// (vhost-user.json) defines none for `net`.
const CAPABILITIES: &str = "{\n  \"type\": \"net\"\n}\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> (Cli, Vec<String>) {
        match parse(line.split_whitespace().map(OsString::from)) {
            Asked::Run(cli, faults) => (*cli, faults.iter().map(Fault::to_string).collect()),
            Asked::Print(text) => panic!("{text}"),
        }
    }

    #[test]
    fn mistakes_are_collected() {
        let table: &[(&str, &[&str])] = &[
            ("p --foo", &["--foo: unknown option"]),
            ("p --foo=1 --bar 2", &["--foo: unknown option", "--bar: unknown option"]),
            ("p --foo bar -t 22", &["--foo: unknown option"]),
            ("p -Z", &["-Z: unknown option"]),
            ("p -fZ", &["-Z: unknown option"]),
            ("p stray", &["stray: unexpected argument"]),
            ("p -t", &["--tcp-ports: a value is missing"]),
            ("p --mtu", &["--mtu: a value is missing"]),
            ("p --foreground=yes", &["--foreground: takes no value"]),
            ("p --foo --mtu", &["--foo: unknown option", "--mtu: a value is missing"]),
            ("p --tcp-port 22", &[]),
            ("p --tcp 22", &["--tcp: unknown option"]),
            ("p --mt", &["--mtu: a value is missing"]),
            ("p --foreg=yes --bar", &["--foreground: takes no value", "--bar: unknown option"]),
        ];
        for (line, wanted) in table {
            assert_eq!(run(line).1, *wanted, "{line}");
        }
    }

    #[test]
    fn what_libvirt_passes_is_understood() {
        let (cli, faults) =
            run("passt --one-off --socket /run/a.socket --pid /run/a.pid --mtu 1500 --interface eth0 \
             --log-file /tmp/log --hostname h --fqdn h.example --address 10.0.0.5 --netmask 255.255.255.0 \
             --address fd00::5 --tcp-ports all --udp-ports 53,~54");
        assert_eq!(faults, [""; 0]);
        assert!(cli.one_off);
        assert_eq!(cli.socket, ["/run/a.socket"]);
        assert_eq!(cli.address, ["10.0.0.5", "fd00::5"]);
        assert_eq!(cli.udp_ports, ["53,~54"]);
    }

    #[test]
    fn short_and_long_spellings_are_the_same() {
        let short = "p -f -d -q -l L -P P -1 -s S -F 3 -p C -m 1 -a A -n N -M M -g G -i I -o O -D D -S S -H H -4 -6 -t T -u U -I N";
        let long = "p --foreground --debug --quiet --log-file L --pid P --one-off --socket S --fd 3 --pcap C --mtu 1 \
             --address A --netmask N --mac-addr M --gateway G --interface I --outbound O --dns D --search S \
             --hostname H --ipv4-only --ipv6-only --tcp-ports T --udp-ports U --ns-ifname N";
        assert_eq!(format!("{:?}", run(short)), format!("{:?}", run(long)));
    }

    #[test]
    fn help_and_version_win_over_running() {
        for line in ["p -h", "p --help -f", "p --version", "p --print-capabilities"] {
            assert!(matches!(parse(line.split(' ').map(OsString::from)), Asked::Print(_)), "{line}");
        }
    }

    #[test]
    fn mistakes_win_over_capabilities() {
        assert_eq!(run("p --print-capabilities --foo").1, ["--foo: unknown option"]);
    }

    #[test]
    fn an_option_may_be_shortened_or_joined_with_its_value() {
        for line in ["p --interface x", "p --interface=x", "p --interf x", "p --interf=x", "p -i x", "p -ix"]
        {
            let (cli, faults) = run(line);
            assert_eq!(faults, [""; 0], "{line}");
            assert_eq!(cli.interface, ["x"], "{line}");
        }
    }
}
