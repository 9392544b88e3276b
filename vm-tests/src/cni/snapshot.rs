//! All that the kernel and a node's folders hold, as lines that are the same in each run: what chance decides has a
//! stand-in's name, what only counts is left out. It must never change what it looks at.

mod facts;
mod names;
mod sysctls;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Node;
use names::Names;

/// A picture of a node, comparable with one of another time or of another node.
#[derive(Debug, Clone)]
pub struct Snapshot {
    lines: Vec<String>,
    names: Names,
}

/// A difference that is right, and why.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// A line on either side in which these parts, with `*` between them, follow one another.
    pub pattern: &'static str,
    pub why: &'static str,
}

impl Snapshot {
    pub(super) fn take(node: &Node, keep: &[&str]) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        let mut names = Names::new(node, keep);
        for (part, namespace) in node.namespaces() {
            let facts = facts::of(namespace).with_context(|| format!("look at {part}"))?;
            names.learn(part, &facts)?;
            all.push((part, facts));
        }
        let mut found = Vec::new();
        for (part, facts) in &all {
            facts::lines(part, facts, &mut found);
        }
        for folder in ["leases", "state", super::place::RUN] {
            files(&node.directory().join(folder), folder, &mut found);
        }
        let mut found: Vec<String> = found.iter().map(|line| names.apply(line)).collect();
        found.sort();
        Ok(Self { lines: found, names })
    }

    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Only lines that begin with none of these.
    pub fn without(&self, beginnings: &[&str]) -> Self {
        let mut rest = self.clone();
        rest.lines.retain(|line| !beginnings.iter().any(|beginning| line.starts_with(beginning)));
        rest
    }

    /// A plugin's result in the words of this picture.
    pub fn words(&self, result: &Value) -> Vec<String> {
        lines(result).iter().map(|line| self.names.apply(line)).collect()
    }

    /// Fails with each line that only one of the two has, but for those that are allowed.
    pub fn compare(&self, other: &Self, allowed: &[Allowed]) -> anyhow::Result<()> {
        let all = self.differences(other);
        let left: Vec<&str> = all
            .iter()
            .filter(|line| !allowed.iter().any(|one| one.covers(line)))
            .map(String::as_str)
            .collect();
        ensure!(left.is_empty(), "{} lines differ:\n{}", left.len(), left.join("\n"));
        Ok(())
    }

    /// Each line that only one of the two has: `-` before what is missing in `other`, `+` before what is only there.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        differences(&self.lines, &other.lines)
    }
}

impl Allowed {
    pub fn covers(&self, line: &str) -> bool {
        let mut rest = line;
        self.pattern.split('*').all(|part| match rest.split_once(part) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    }
}

/// Each line that only one of two lists has, with its side's sign.
pub fn differences(left: &[String], right: &[String]) -> Vec<String> {
    let mut balance: BTreeMap<&str, i64> = BTreeMap::new();
    for line in left {
        *balance.entry(line).or_default() -= 1;
    }
    for line in right {
        *balance.entry(line).or_default() += 1;
    }
    let unequal = balance.into_iter().filter(|(_, count)| *count != 0);
    unequal.map(|(line, count)| format!("{} {line}", if count < 0 { '-' } else { '+' })).collect()
}

/// A JSON value as lines `path = value`, in the order of its keys.
pub fn lines(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    flatten("", value, &mut found);
    found
}

fn flatten(path: &str, value: &Value, found: &mut Vec<String>) {
    let inside = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                flatten(&inside(key), value, found);
            }
        }
        // Of lists of plain values the whole is what matters.
        Value::Array(array) if array.iter().any(Value::is_object) => {
            for (place, value) in array.iter().enumerate() {
                flatten(&inside(&place.to_string()), value, found);
            }
        }
        Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            found.push(format!("{path} = {value}"));
        }
    }
}

/// Every file below `folder` and what is in it. Locks and the memory of the last address given outlive what they were
/// made for, by host-local's design.
fn files(folder: &Path, name: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let name = format!("{name}/{file}");
        if entry.path().is_dir() {
            files(&entry.path(), &name, found);
        } else if file != "lock" && !file.starts_with("last_reserved_ip") && !name.starts_with("run/netns") {
            let text = std::fs::read(entry.path()).unwrap_or_default();
            found.push(format!("file {name} = {:?}", String::from_utf8_lossy(&text)));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_names_the_side_that_has_it() {
        let left = ["a = 1".to_owned(), "b = 2".to_owned()];
        let right = ["a = 1".to_owned(), "b = 3".to_owned()];
        assert_eq!(differences(&left, &right), ["- b = 2", "+ b = 3"]);
        assert_eq!(differences(&left, &left), [""; 0]);
    }

    #[test]
    fn lists_of_plain_values_are_one_line() {
        let value = json!({ "a": { "b": [1, 2] }, "c": [{ "d": "x" }], "e": [] });
        assert_eq!(lines(&value), ["a/b = [1,2]", "c/0/d = \"x\"", "e = []"]);
    }

    #[test]
    fn parts_of_a_pattern_follow_one_another() {
        let allowed = Allowed { pattern: "node/link*mtu", why: "of the test" };
        assert!(allowed.covers("node/link/br0/mtu = 1500"));
        assert!(!allowed.covers("pod0/link/eth0/mtu = 1500"));
        assert!(!allowed.covers("mtu of node/link"));
    }
}
