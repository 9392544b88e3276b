//! One NIC of one container on one network: the key of everything this plugin keeps, and the names derived from it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Who an ADD is for. A runtime says the same at DEL, CHECK and GC.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    pub network: String,
    pub container: String,
    pub interface: String,
    /// For a mode that adds to an interface which another plugin makes: its name. In a list such a mode may follow one that
    /// makes the interface, and each has a record of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<String>,
}

impl Attachment {
    /// 16 hexadecimal digits that stand for all of it, in names of files and in marks on rules.
    pub fn id(&self) -> String {
        self.digest(16)
    }

    /// The host's end of a veth pair: 15 characters, the longest a link's name may be. Tools that leave alone what is
    /// called `veth*` do so with ours.
    pub fn host_link(&self) -> String {
        format!("veth{}", self.digest(11))
    }

    /// A device through which frames are delayed (`ifb`).
    pub fn shaper(&self) -> String {
        format!("ifb{}", self.digest(12))
    }

    /// What its links are grouped by when they go (`IFLA_GROUP`): far from what people number groups by.
    pub fn link_group(&self) -> u32 {
        u32::from_str_radix(&self.digest(8), 16).unwrap_or_default() | 1 << 31
    }

    /// The alias of links that are this attachment's.
    pub fn alias(&self) -> String {
        format!("sluice:{}", self.id())
    }

    /// Whether a runtime says the same of both.
    pub fn is_alike(&self, other: &Self) -> bool {
        (&self.network, &self.container, &self.interface)
            == (&other.network, &other.container, &other.interface)
    }

    fn digest(&self, digits: usize) -> String {
        let mut hash = Sha256::new();
        for part in [&self.network, &self.container, &self.interface].into_iter().chain(&self.beside) {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hexadecimal(&hash.finalize(), digits)
    }
}

/// 16 hexadecimal digits for a network whose attachments are written down in `folder`: in marks on rules, so that who
/// looks after that folder finds those that are no longer written down there, and no others.
pub fn network_id(network: &str, folder: &Path) -> String {
    let mut hash = Sha256::new();
    hash.update(network.as_bytes());
    hash.update([0]);
    hash.update(folder.as_os_str().as_bytes());
    hexadecimal(&hash.finalize(), 16)
}

/// KubeVirt's name of a secondary network's link in the pod: `pod` and 11 digits of the network name's SHA-256. The name
/// is the one in the VM's specification.
pub fn kubevirt_interface(logical_network: &str) -> String {
    format!("pod{}", hexadecimal(&Sha256::digest(logical_network.as_bytes()), 11))
}

fn hexadecimal(bytes: &[u8], digits: usize) -> String {
    let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secondary_link_is_called_as_kubevirt_calls_it() {
        assert_eq!(kubevirt_interface("red"), "podb1f51a511f1");
        assert_eq!(kubevirt_interface("default"), "pod37a8eec1ce1");
    }

    #[test]
    fn network_is_another_in_another_folder() {
        let id = |network, folder: &str| network_id(network, Path::new(folder));
        assert_eq!(id("net", "/run/sluice/cni").len(), 16);
        assert_ne!(id("net", "/run/sluice/cni"), id("net", "/run/other"));
        assert_ne!(id("net", "/run/sluice/cni"), id("other", "/run/sluice/cni"));
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let attachment = |network: &str, container: &str| Attachment {
            network: network.to_owned(),
            container: container.to_owned(),
            interface: "net1".to_owned(),
            beside: None,
        };
        assert_ne!(attachment("ab", "c").id(), attachment("a", "bc").id());
        let tap = Attachment { beside: Some("tap".to_owned()), ..attachment("ab", "c") };
        assert_ne!(tap.id(), attachment("ab", "c").id());
        assert!(tap.is_alike(&attachment("ab", "c")));
        assert_eq!(attachment("ab", "c").host_link().len(), 15);
    }
}
