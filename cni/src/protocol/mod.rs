//! What a runtime says and hears: environment, configuration, result, error, as the CNI specification has them.
//! It must never touch a network.

pub mod cni_error;
pub mod version;
pub mod mac;
pub mod result;

pub use cni_error::{CniError, Code};
pub use mac::MacAddress;
pub use result::{CniResult, Dns, Interface, Ip, Route};
pub use version::Version;
