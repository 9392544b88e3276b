//! What a runtime says and hears: environment, configuration, result, error, as the CNI specification has them.
//! It must never touch a network.

pub mod cni_error;
pub mod version;
pub mod mac;
pub mod arguments;
pub mod environment;
mod keys;
pub mod result;
pub mod config;
pub mod channels;
pub mod bandwidth;
pub mod port_mapping;

pub use arguments::Arguments;
pub use bandwidth::Bandwidth;
pub use channels::{Channel, Wished};
pub use cni_error::{CniError, Code, with_source};
pub use config::{Config, LONGEST_CONFIG_BYTES, version_reply};
pub use environment::{Command, Environment};
pub use mac::MacAddress;
pub use port_mapping::{PortMapping, Protocol};
pub use result::{CniResult, Dns, Interface, Ip, Route};
pub use version::Version;

#[cfg(test)]
mod tests;
