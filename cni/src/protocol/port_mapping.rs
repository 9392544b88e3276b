//! Ports of the host that lead to the VM. It must never forward anything.

use std::net::IpAddr;

use serde::Deserialize;

use super::cni_error::CniError;
use super::config::Config;

/// One with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// IANA's "Assigned Internet Protocol Numbers".
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// One port of the host. No port is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortMapping {
    pub host_port: u16,
    /// Of the container or VM.
    pub container_port: u16,
    pub protocol: Protocol,
    /// Only packets to this address; unspecified (`0.0.0.0`, `::`) and `None` are every address of the host.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &str) -> Result<Vec<PortMapping>, CniError> {
        Config::parse(format!(r#"{{"name":"n"{keys}}}"#).as_bytes()).unwrap().port_mappings()
    }

    fn mapping(host_port: u16, container_port: u16, protocol: Protocol) -> PortMapping {
        PortMapping { host_port, container_port, protocol, host_ip: None }
    }

    #[test]
    fn mappings_of_runtimes_are_read() {
        let keys = r#","runtimeConfig":{"portMappings":[
            {"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"192.0.2.1"},
            {"hostPort":8080,"containerPort":81,"protocol":"TCP","hostIP":""},
            {"hostPort":8080,"containerPort":80,"protocol":"udp"},
            {"hostPort":8080,"containerPort":80,"protocol":"UDP"},
            {"hostPort":65535,"containerPort":1,"protocol":"sctp"},
            {"HostPort":22,"ContainerPort":22}]},
            "portMappings":[{}]"#;
        let expected = vec![
            PortMapping { host_ip: Some("192.0.2.1".parse().unwrap()), ..mapping(8080, 80, Protocol::Tcp) },
            mapping(8080, 81, Protocol::Tcp),
            mapping(8080, 80, Protocol::Udp),
            mapping(65535, 1, Protocol::Sctp),
            mapping(22, 22, Protocol::Tcp),
        ];
        assert_eq!(read(keys), Ok(expected));
    }

    #[test]
    fn mappings_of_the_configuration_are_read_if_the_runtime_has_none() {
        let own = r#","portMappings":[{"hostPort":1,"containerPort":2}]"#;
        assert_eq!(read(own), Ok(vec![mapping(1, 2, Protocol::Tcp)]));
        assert_eq!(read(&format!(r#"{own},"runtimeConfig":{{"portMappings":[]}}"#)), Ok(Vec::new()));
        assert_eq!(read(""), Ok(Vec::new()));
    }

    #[test]
    fn impossible_mappings_are_refused() {
        for (entries, text) in [
            (r#"[{"hostPort":0,"containerPort":1}]"#, "[0].hostPort 0: no port number"),
            (r#"[{"hostPort":1}]"#, "[0].containerPort 0: no port number"),
            (
                r#"[{"hostPort":65536,"containerPort":1}]"#,
                "[0].hostPort 65536: expected a whole number from 0 to 65535",
            ),
            (
                r#"[{"hostPort":-1,"containerPort":1}]"#,
                "[0].hostPort -1: expected a whole number from 0 to 65535",
            ),
            (
                r#"[{"hostPort":1,"containerPort":1,"protocol":"icmp"}]"#,
                r#"[0].protocol "icmp": neither tcp nor udp nor sctp"#,
            ),
            (
                r#"[{"hostPort":1,"containerPort":1},{"hostPort":2,"containerPort":1,"hostIP":"a"}]"#,
                r#"[1].hostIP "a": no IP address"#,
            ),
            (
                r#"[{"hostPort":1,"containerPort":1},{"hostPort":1,"containerPort":2}]"#,
                "[1].hostPort 1: also leads to port 1",
            ),
            ("{}", " {}: expected a list"),
        ] {
            let error = read(&format!(r#","runtimeConfig":{{"portMappings":{entries}}}"#)).unwrap_err();
            assert_eq!(error.code, 7);
            let expected = format!("invalid network configuration: runtimeConfig.portMappings{text}");
            assert_eq!(error.to_string(), expected);
        }
    }
}
