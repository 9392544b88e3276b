//! What the DHCPv4 server hands out beyond the network itself.
//!
//! Its words are passed on as they are: who boots from them knows what they mean. So they are checked for what would
//! not arrive, and no more.

use std::net::{IpAddr, Ipv4Addr};

use crate::answer::dhcpv4::Extras;
use crate::cli::Cli;
use crate::wire::dhcpv4::option::SITE_SPECIFIC;

use super::values::{Values, is_station};

/// Reads the flags; `on` says whether there is a server to hand it out.
pub(super) fn extras(cli: &Cli, on: bool, values: &mut Values, warnings: &mut Vec<String>) -> Extras {
    let given = [
        ("--dhcp-bootfile", &cli.dhcp_bootfile),
        ("--dhcp-tftp", &cli.dhcp_tftp),
        ("--dhcp-ntp", &cli.dhcp_ntp),
        ("--dhcp-option", &cli.dhcp_option),
    ];
    for (flag, _) in given.iter().filter(|(_, given)| !given.is_empty() && !on) {
        warnings.push(format!("{flag} has no effect: there is no DHCPv4 server"));
    }
    Extras {
        boot_file: text(values, "--dhcp-bootfile", &cli.dhcp_bootfile),
        tftp_server: tftp_server(values, &cli.dhcp_tftp),
        ntp_servers: ntp_servers(values, &cli.dhcp_ntp),
        site: site(values, &cli.dhcp_option),
    }
}

/// Text that one option can carry.
fn text(values: &mut Values, flag: &str, given: &[String]) -> Option<String> {
    let text = values.once(flag, given)?;
    // Nobody can ask for such a file; whoever reads a log or a boot menu would be misled.
    if text.chars().any(char::is_control) {
        values.fault(flag, format!("`{}`: expected text without control characters", text.escape_debug()));
    }
    is_one_option(values, flag, text, text).then(|| text.to_owned())
}

fn is_one_option(values: &mut Values, flag: &str, shown: &str, data: &str) -> bool {
    let fits = (1..=OPTION_LEN_MAX).contains(&data.len());
    if !fits {
        values.fault(flag, format!("`{shown}`: expected 1 to {OPTION_LEN_MAX} bytes of text"));
    }
    fits
}

fn tftp_server(values: &mut Values, given: &[String]) -> Option<String> {
    let flag = "--dhcp-tftp";
    let server = text(values, flag, given)?;
    if server.parse::<Ipv4Addr>().is_ok_and(|address| !is_station(address.into())) {
        values.not_a_station(flag, &server);
    }
    Some(server)
}

fn ntp_servers(values: &mut Values, given: &[String]) -> Vec<Ipv4Addr> {
    let flag = "--dhcp-ntp";
    if given.len() > NTP_SERVERS_MAX {
        values
            .fault(flag, format!("given {} times, an option holds {NTP_SERVERS_MAX} addresses", given.len()));
    }
    let mut servers = Vec::new();
    for text in given {
        match text.parse() {
            Ok(address) if is_station(IpAddr::V4(address)) => servers.push(address),
            Ok(_) => values.not_a_station(flag, text),
            Err(_) => values.fault(flag, format!("`{text}`: expected an IPv4 address")),
        }
    }
    servers
}

fn site(values: &mut Values, given: &[String]) -> Vec<(u8, String)> {
    let flag = "--dhcp-option";
    let mut site: Vec<(u8, String)> = Vec::new();
    for text in given {
        let split = text.split_once('=').and_then(|(code, data)| Some((code.parse().ok()?, data)));
        let Some((code, data)) = split.filter(|(code, _)| SITE_SPECIFIC.contains(code)) else {
            let (first, last) = SITE_SPECIFIC.into_inner();
            values.fault(flag, format!("`{text}`: expected CODE=TEXT with a code from {first} to {last}"));
            continue;
        };
        if site.iter().any(|(before, _)| *before == code) {
            values.fault(flag, format!("`{text}`: a second option {code}"));
        } else if is_one_option(values, flag, text, data) {
            site.push((code, data.to_owned()));
        }
    }
    site
}

/// Longer data is split over several options (RFC 3396), which many clients do not join again.
const OPTION_LEN_MAX: usize = 255;
/// Whole addresses in one option.
const NTP_SERVERS_MAX: usize = OPTION_LEN_MAX / 4;
