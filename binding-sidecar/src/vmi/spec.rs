//! The fields of a VMI that are read, as KubeVirt's API names them (kubevirt.io/v1). It must never judge a value: types only.
//!
//! Go leaves out what is empty, or writes `null`; both are the empty value here. Fields that are not read may be anything.

use std::collections::BTreeMap;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, IgnoredAny};
use serde_json::Value;

/// Which VMI it is, whatever else is wrong with it.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Headed {
    #[serde(deserialize_with = "nullable")]
    pub(super) metadata: Metadata,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Vmi {
    #[serde(deserialize_with = "nullable")]
    pub(super) metadata: Metadata,
    #[serde(deserialize_with = "nullable")]
    pub(super) spec: Spec,
    #[serde(deserialize_with = "nullable")]
    pub(super) status: Status,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    #[serde(deserialize_with = "nullable")]
    pub(super) namespace: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) uid: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Spec {
    #[serde(deserialize_with = "nullable")]
    pub(super) domain: Domain,
    #[serde(deserialize_with = "nullable")]
    pub(super) networks: Vec<Network>,
    /// GOARCH's words: amd64, arm64, s390x.
    #[serde(deserialize_with = "nullable")]
    pub(super) architecture: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) hostname: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) subdomain: String,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Domain {
    #[serde(deserialize_with = "nullable")]
    pub(super) cpu: Cpu,
    #[serde(deserialize_with = "nullable")]
    pub(super) resources: Resources,
    #[serde(deserialize_with = "nullable")]
    pub(super) devices: Devices,
}

/// 0: not given.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Cpu {
    #[serde(deserialize_with = "nullable")]
    pub(super) sockets: u32,
    #[serde(deserialize_with = "nullable")]
    pub(super) cores: u32,
    #[serde(deserialize_with = "nullable")]
    pub(super) threads: u32,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Resources {
    #[serde(deserialize_with = "nullable")]
    pub(super) requests: Quantities,
    #[serde(deserialize_with = "nullable")]
    pub(super) limits: Quantities,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Quantities {
    /// A text (`1500m`), or a number where somebody wrote the JSON by hand.
    pub(super) cpu: Option<Value>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Devices {
    #[serde(deserialize_with = "nullable")]
    pub(super) interfaces: Vec<Interface>,
    #[serde(deserialize_with = "nullable")]
    pub(super) use_virtio_transitional: bool,
    #[serde(deserialize_with = "nullable")]
    pub(super) network_interface_multiqueue: bool,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Interface {
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
    pub(super) binding: Option<Binding>,
    #[serde(deserialize_with = "nullable")]
    pub(super) model: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) mac_address: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) pci_address: String,
    pub(super) acpi_index: Option<i64>,
    pub(super) boot_order: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    pub(super) state: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) dhcp_options: DhcpOptions,
    #[serde(deserialize_with = "nullable")]
    pub(super) ports: Vec<Port>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Binding {
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Port {
    #[serde(deserialize_with = "nullable")]
    pub(super) protocol: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) port: i64,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct DhcpOptions {
    #[serde(deserialize_with = "nullable")]
    pub(super) boot_file_name: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) tftp_server_name: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) ntp_servers: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) private_options: Vec<PrivateOption>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct PrivateOption {
    #[serde(deserialize_with = "nullable")]
    pub(super) option: i64,
    #[serde(deserialize_with = "nullable")]
    pub(super) value: String,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Network {
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
    pub(super) pod: Option<IgnoredAny>,
    pub(super) multus: Option<Multus>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Multus {
    #[serde(deserialize_with = "nullable")]
    pub(super) default: bool,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Status {
    #[serde(deserialize_with = "nullable")]
    pub(super) interfaces: Vec<InterfaceStatus>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct InterfaceStatus {
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) pod_interface_name: String,
}

/// Reads an object. serde alone would take a list for one, with fields in order, and `[]` for a VMI that asks for nothing.
pub(super) fn object<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    match json.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Err(serde_json::Error::custom("expected an object, not a list")),
        _ => serde_json::from_slice(json),
    }
}

fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
