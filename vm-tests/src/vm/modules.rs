//! Kernel modules for the guest: found in an unpacked kernel package, each after those it needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::cpio::Archive;

/// A module, ready to be loaded.
#[derive(Debug)]
struct Module {
    name: String,
    content: Vec<u8>,
}

/// Puts `wanted` and everything they need into `archive`, with the list that `guest/init` loads them by.
pub(super) fn store(archive: &mut Archive, tree: &Path, wanted: &[&str]) -> anyhow::Result<()> {
    let mut order = String::new();
    for module in in_order(tree, wanted)? {
        archive.file(&format!("modules/{}.ko", module.name), &module.content, 0o644);
        order.push_str(&module.name);
        order.push('\n');
    }
    archive.file("modules/order", order.as_bytes(), 0o644);
    Ok(())
}

/// `wanted` and everything they need, in an order in which `insmod` accepts them.
fn in_order(tree: &Path, wanted: &[&str]) -> anyhow::Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    index(tree, &mut files)?;
    let mut loaded = Vec::new();
    for name in wanted {
        add(name, &files, &mut loaded)?;
    }
    Ok(loaded)
}

fn add(name: &str, files: &BTreeMap<String, PathBuf>, loaded: &mut Vec<Module>) -> anyhow::Result<()> {
    if loaded.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let file = files.get(name).with_context(|| format!("the guest's kernel has no module {name}"))?;
    let content = read(file)?;
    for dependency in dependencies(&content) {
        add(&dependency, files, loaded)?;
    }
    loaded.push(Module { name: name.to_owned(), content });
    Ok(())
}

/// Module names, which use `_` where the files' names may have `-`, to files.
fn index(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some((stem, "ko" | "ko.xz")) =
            path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('.'))
        {
            files.insert(stem.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// Newer releases compress their modules.
fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "xz") {
        let output =
            Command::new("xz").args(["--decompress", "--stdout"]).arg(file).output().context("run xz")?;
        anyhow::ensure!(output.status.success(), "xz cannot read {}", file.display());
        return Ok(output.stdout);
    }
    std::fs::read(file).with_context(|| format!("read {}", file.display()))
}

/// The `depends=a,b` of a module's information section.
fn dependencies(content: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = content.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = content.iter().skip(start + KEY.len()).take_while(|byte| **byte != 0).copied().collect();
    let list = String::from_utf8(value).unwrap_or_default();
    list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::dependencies;

    #[test]
    fn dependencies_are_read_from_the_information_section() {
        assert_eq!(
            dependencies(b"x\0license=GPL\0depends=virtio,net-failover\0"),
            ["virtio", "net_failover"]
        );
        assert!(dependencies(b"x\0depends=\0").is_empty());
        assert!(dependencies(b"none").is_empty());
    }
}
