//! `dhcpOptions` of an interface: what DHCPv4 carries besides. It must never let through what would not arrive.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::nic::DhcpOptions;

use super::annotations::is_station;
use super::fault::{AtInterface, Quoted};
use super::spec::Interface;

pub(super) fn read(interface: &Interface, at: &mut AtInterface<'_>) -> DhcpOptions {
    let asked = &interface.dhcp_options;
    let tftp_server = text("dhcpOptions.tftpServerName", &asked.tftp_server_name, at);
    if let Some(server) = tftp_server.as_ref()
        && server.parse::<Ipv4Addr>().is_ok_and(|address| !is_station(address.into()))
    {
        let problem = "expected a name, or the address of one station";
        at.add("dhcpOptions.tftpServerName", format_args!("{}, {problem}", Quoted(server)));
    }
    DhcpOptions {
        boot_file: text("dhcpOptions.bootFileName", &asked.boot_file_name, at),
        tftp_server,
        ntp_servers: ntp_servers(&asked.ntp_servers, at),
        private: private(interface, at),
    }
}

/// Text of one option, for people and programs to read.
fn text(field: &str, text: &str, at: &mut AtInterface<'_>) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    if text.chars().any(char::is_control) {
        at.add(field, format_args!("{}, expected text without control characters", Quoted(text)));
    }
    if text.len() > OPTION_LEN_MAX {
        at.add(field, format_args!("{} bytes, expected {OPTION_LEN_MAX} at most", text.len()));
        return None;
    }
    Some(text.to_owned())
}

fn ntp_servers(texts: &[String], at: &mut AtInterface<'_>) -> Vec<Ipv4Addr> {
    if texts.len() > NTP_SERVERS_MAX {
        let found = texts.len();
        at.add("dhcpOptions.ntpServers", format_args!("{found} servers, expected {NTP_SERVERS_MAX} at most"));
    }
    let mut servers = Vec::new();
    for (position, text) in texts.iter().enumerate() {
        // Go takes ::ffff:10.0.0.1 for an IPv4 address.
        let address = match text.parse().map(|address: IpAddr| address.to_canonical()) {
            Ok(IpAddr::V4(address)) if is_station(address.into()) => Some(address),
            Ok(_) | Err(_) => None,
        };
        match address {
            Some(server) => servers.push(server),
            None => at.add(
                format_args!("dhcpOptions.ntpServers[{position}]"),
                format_args!("{}, expected the IPv4 address of a server", Quoted(text)),
            ),
        }
    }
    servers
}

fn private(interface: &Interface, at: &mut AtInterface<'_>) -> Vec<(u8, String)> {
    let mut seen = HashSet::new();
    let mut options = Vec::new();
    for (position, asked) in interface.dhcp_options.private_options.iter().enumerate() {
        let field = |name: &str| format!("dhcpOptions.privateOptions[{position}].{name}");
        let code = u8::try_from(asked.option).ok().filter(|code| (224..=254).contains(code));
        match code {
            None => at.add(field("option"), format_args!("{}, expected 224 to 254", asked.option)),
            Some(code) if !seen.insert(code) => {
                at.add(field("option"), format_args!("{code} a second time, expected each once"));
            }
            Some(_) => {}
        }
        let len = asked.value.len();
        if len == 0 {
            // KubeVirt lets it pass; an option without a text tells nobody anything.
        } else if len > OPTION_LEN_MAX {
            at.add(field("value"), format_args!("{len} bytes, expected {OPTION_LEN_MAX} at most"));
        } else if asked.value.contains('\0') {
            // Nor does a command line carry it.
            at.add(field("value"), format_args!("{}, expected text without zeros", Quoted(&asked.value)));
        } else if let Some(code) = code {
            options.push((code, asked.value.clone()));
        }
    }
    options
}

/// Longer data is split over several options (RFC 3396), which many clients do not join again.
const OPTION_LEN_MAX: usize = 255;
/// Whole addresses in one option (RFC 2132 8.3).
const NTP_SERVERS_MAX: usize = OPTION_LEN_MAX / 4;
