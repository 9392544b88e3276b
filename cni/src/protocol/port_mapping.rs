//! Ports of the host that lead to the VM. It must never forward anything.

use std::net::IpAddr;

use serde::Deserialize;

use super::cni_error::CniError;
use super::config::Config;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// One port of the host. No port is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortMapping {
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
    /// `None`: every address of the host.
    pub host_ip: Option<IpAddr>,
}

impl Config {
    /// `runtimeConfig.portMappings`, else `portMappings`.
    ///
    /// # Errors
    /// Code 7 with key and value, also for one port of the host that would lead to two of the VM.
    pub fn port_mappings(&self) -> Result<Vec<PortMapping>, CniError> {
        for path in [&["runtimeconfig", "portmappings"][..], &["portmappings"]] {
            if let Some(entries) = self.read_at::<Vec<Entry>>(path)? {
                return mappings(&self.keys.spell(path), &entries);
            }
        }
        Ok(Vec::new())
    }
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default, rename = "hostport")]
    host_port: u16,
    #[serde(default, rename = "containerport")]
    container_port: u16,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostip")]
    host_ip: String,
}

fn mappings(place: &str, entries: &[Entry]) -> Result<Vec<PortMapping>, CniError> {
    let mut found: Vec<PortMapping> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let mapping = mapping(&format!("{place}[{index}]"), entry)?;
        let same = |other: &&PortMapping| {
            (other.host_port, other.protocol, other.host_ip)
                == (mapping.host_port, mapping.protocol, mapping.host_ip)
        };
        match found.iter().find(same) {
            None => found.push(mapping),
            Some(other) if *other == mapping => {}
            Some(other) => {
                let why = format!("also leads to port {}", other.container_port);
                return Err(CniError::config(&format!("{place}[{index}].hostPort"), entry.host_port, &why));
            }
        }
    }
    Ok(found)
}

fn mapping(place: &str, entry: &Entry) -> Result<PortMapping, CniError> {
    let refused =
        |key: &str, value: String, why: &str| Err(CniError::config(&format!("{place}.{key}"), value, why));
    if entry.container_port == 0 {
        return refused("containerPort", "0".to_owned(), "no port number");
    }
    if entry.host_port == 0 {
        return refused("hostPort", "0".to_owned(), "no port number");
    }
    let protocol = match entry.protocol.to_ascii_lowercase().as_str() {
        // Kubernetes' default too.
        "tcp" | "" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return refused("protocol", format!("{:?}", entry.protocol), "neither tcp nor udp nor sctp"),
    };
    let host_ip = if entry.host_ip.is_empty() {
        None
    } else {
        match entry.host_ip.parse() {
            Ok(address) => Some(address),
            Err(_) => return refused("hostIP", format!("{:?}", entry.host_ip), "no IP address"),
        }
    };
    Ok(PortMapping { host_port: entry.host_port, container_port: entry.container_port, protocol, host_ip })
}
