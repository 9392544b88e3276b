//! Stand-ins for what chance decides: MAC addresses, names made up by plugins, paths of this run. It must never hide a
//! value that was asked for.

use std::cmp::Reverse;

use anyhow::Context as _;
use serde_json::Value;

use super::facts::Facts;
use crate::cni::Node;

/// What is replaced in a line, by what.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pairs: Vec<(String, String)>,
    keep: Vec<String>,
}

impl Names {
    pub(super) fn new(node: &Node, keep: &[&str]) -> Self {
        let namespaces = node.namespaces().map(|(part, namespace)| {
            let path = namespace.path().to_string_lossy().into_owned();
            (path, format!("netns({part})"))
        });
        let folder = (node.directory().to_string_lossy().into_owned(), "folder".to_owned());
        let pairs = namespaces.chain([folder]).collect();
        Self { pairs, keep: keep.iter().map(|mac| mac.to_lowercase()).collect() }
    }

    /// Links whose names are made up get one by their place; addresses are called after the first link that has them.
    pub(super) fn learn(&mut self, part: &str, facts: &Facts) -> anyhow::Result<()> {
        let mut links = Vec::new();
        let mut place = 0_u32;
        for link in &facts.links {
            let name = link.get("ifname").and_then(Value::as_str).context("a link has a name")?;
            let mac = link.get("address").and_then(Value::as_str).unwrap_or_default();
            let stand_in = if is_made_up(name) {
                place += 1;
                format!("made-up#{place}")
            } else {
                name.to_owned()
            };
            if stand_in != name {
                self.pairs.push((name.to_owned(), stand_in.clone()));
            }
            links.push((stand_in, mac.to_owned()));
        }
        links.sort();
        for (link, mac) in links {
            let known = self.pairs.iter().any(|(from, _)| *from == mac) || self.keep.contains(&mac);
            // `lo` and tunnels have none, or one that is all zero.
            if known || mac.len() != 17 || mac.starts_with("00:00:00:00") {
                continue;
            }
            self.pairs.push((mac, format!("mac({part}/{link})")));
        }
        // The longest first: one may be the beginning of another.
        self.pairs.sort_by_key(|(from, _)| Reverse(from.len()));
        Ok(())
    }

    pub(super) fn apply(&self, line: &str) -> String {
        self.pairs.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to))
    }
}

/// What the reference plugins and ours call the node's end of a veth pair (8 and 11 digits), and links of ours whose names
/// are made of a digest.
fn is_made_up(name: &str) -> bool {
    let digits = name.strip_prefix("veth").or_else(|| name.strip_prefix("ifb"));
    digits.is_some_and(|digits| digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_are_made_up() {
        for name in ["veth1a2b3c4d", "veth0123456789a", "ifb0123456789ab"] {
            assert!(is_made_up(name), "{name}");
        }
        for name in ["eth0", "veth0", "vethpeer", "br0", "ifb0"] {
            assert!(!is_made_up(name), "{name}");
        }
    }
}
