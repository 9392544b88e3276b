//! What a NIC is, as passt-rs's command line. It must never decide anything that the VMI could have said: a flag is one fact of
//! the NIC, or the same for all.
//!
//! A value is joined to its flag, so none can be taken for another flag, whatever a VMI says.

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::path::Path;

use crate::nic::{LogLevel, Nic, Ports, Sharing};

use super::Allowance;

/// passt-rs's arguments behind its own name.
pub fn arguments(nic: &Nic, socket: &Path, control: &Path, allowance: Option<Allowance>) -> Vec<OsString> {
    let mut line = Line::default();
    line.flag("--foreground");
    line.flag("--vhost-user");
    line.path("--socket", socket);
    line.path("--control", control);
    line.value("--guest-mac", nic.mac);
    line.value("--mtu", nic.mtu);
    uplink(nic, &mut line);
    services(nic, &mut line);
    forward("--tcp-ports", &nic.tcp, nic, &mut line);
    forward("--udp-ports", &nic.udp, nic, &mut line);
    line.values("--flows-max", nic.tuning.flows_max);
    line.values("--socket-memory", allowance.map(|allowance| allowance.socket_bytes));
    match nic.tuning.log_level {
        LogLevel::Warn => line.flag("--quiet"),
        LogLevel::Info => {}
        LogLevel::Debug => line.flag("--debug"),
        LogLevel::Trace => line.flag("--trace"),
    }
    line.0
}

fn uplink(nic: &Nic, line: &mut Line) {
    let interface = &nic.uplink.interface;
    line.value("--interface", interface);
    match nic.uplink.sharing {
        Sharing::Alone | Sharing::Primary => {}
        // The pod's routes lead to the primary network.
        Sharing::Secondary => {
            line.value("--outbound-if4", interface);
            line.value("--outbound-if6", interface);
        }
    }
    // The gateway would stand for the pod's loopback otherwise, and still would for a family that is not mapped below.
    line.flag("--no-map-gw");
    line.values("--map-host-loopback", nic.tuning.host_loopback_v4);
    line.values("--map-host-loopback", nic.tuning.host_loopback_v6);
}

fn services(nic: &Nic, line: &mut Line) {
    line.values("--hostname", nic.hostname.as_ref());
    line.values("--fqdn", nic.fqdn.as_ref());
    line.values("--dns", &nic.tuning.dns);
    line.values("--search", &nic.tuning.dns_search);
    line.values("--dhcp-bootfile", nic.dhcp.boot_file.as_ref());
    line.values("--dhcp-tftp", nic.dhcp.tftp_server.as_ref());
    line.values("--dhcp-ntp", &nic.dhcp.ntp_servers);
    for (code, text) in &nic.dhcp.private {
        line.value("--dhcp-option", format_args!("{code}={text}"));
    }
}

fn forward(flag: &str, ports: &Ports, nic: &Nic, line: &mut Line) {
    let specs = specs(ports);
    if specs.is_empty() {
        // Takes no place to listen at.
        line.value(flag, "none");
    }
    for place in places(nic, ports) {
        for spec in &specs {
            line.value(flag, format_args!("{place}{spec}"));
        }
    }
}

/// Where to listen. All NICs of a VM forward the same port, each on its own network: by interface, as addresses may change,
/// and as that is also how the pod's own processes reach it there (a mesh's proxy). The primary one is also who is meant on
/// the pod's loopback, where `kubectl port-forward` comes from, if ports are listed: for all of them it would be a second
/// socket each, 270 MB of the kernel's memory. Loopback is named as an interface too: that is both families, those that
/// the pod has, and passt-rs and the kernel know that the two places have nothing in common.
fn places(nic: &Nic, ports: &Ports) -> Vec<String> {
    let own = format!("%{}/", nic.uplink.interface);
    match (nic.uplink.sharing, ports) {
        (Sharing::Alone, _) => vec![String::new()],
        (Sharing::Primary, Ports::Only(_)) => vec![own, "%lo/".to_owned()],
        (Sharing::Primary, Ports::AllBut(_)) | (Sharing::Secondary, _) => vec![own],
    }
}

/// In passt's port grammar; several where one would be too long for an argument; none for no ports.
fn specs(ports: &Ports) -> Vec<String> {
    match ports {
        Ports::AllBut(excluded) => {
            let excluded = ranges(excluded).into_iter().map(|range| format!(",~{range}"));
            vec![format!("all{}", excluded.collect::<String>())]
        }
        Ports::Only(listed) => ranges(listed).chunks(RANGES_MAX).map(|chunk| chunk.join(",")).collect(),
    }
}

/// Neighbours joined: a VMI lists ports one by one.
fn ranges(ports: &[u16]) -> Vec<String> {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports.dedup();
    let joined = ports.chunk_by(|one, next| one.checked_add(1) == Some(*next));
    joined
        .filter_map(|range| match (range.first()?, range.last()?) {
            (first, last) if first == last => Some(first.to_string()),
            (first, last) => Some(format!("{first}-{last}")),
        })
        .collect()
}

/// A command line.
#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn value(&mut self, flag: &str, value: impl fmt::Display) {
        let mut argument = format!("{flag}=");
        // Writing to a String does not fail.
        let _ = write!(argument, "{value}");
        self.0.push(argument.into());
    }

    fn values(&mut self, flag: &str, values: impl IntoIterator<Item = impl fmt::Display>) {
        for value in values {
            self.value(flag, value);
        }
    }

    fn path(&mut self, flag: &str, path: &Path) {
        let mut argument = OsString::from(format!("{flag}="));
        argument.push(path);
        self.0.push(argument);
    }
}

/// `60000-60001,` a few thousand times: Linux takes arguments of up to 128 KiB.
const RANGES_MAX: usize = 8192;

#[cfg(test)]
#[path = "arguments_tests.rs"]
mod tests;
