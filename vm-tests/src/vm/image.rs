//! The guest's kernel and first file system, made from what `cargo xtask` unpacked into the target folder.

use std::hash::{DefaultHasher, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;

use super::cpio::Archive;
use super::modules;

/// Where the unpacked packages are, below the target folder.
const UNPACKED: &str = "vm/debian";

/// The NIC's driver; what it needs follows.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];

const DIRECTORIES: [&str; 11] =
    ["bin", "dev", "etc", "modules", "proc", "root", "run", "sys", "tmp", "usr", "usr/share"];

/// The guest's own files.
const SCRIPTS: [(&str, &str); 4] = [
    ("init", include_str!("guest/init")),
    ("bin/agent", include_str!("guest/agent")),
    ("bin/dhcp", include_str!("guest/dhcp")),
    ("etc/dhcp-event", include_str!("guest/dhcp-event")),
];

/// What QEMU loads.
#[derive(Debug, Clone)]
pub struct Image {
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Image {
    /// Builds the first file system, or finds it built: its name is made of its content.
    pub fn build() -> anyhow::Result<Self> {
        let unpacked = unpacked()?;
        let kernel = newest(&unpacked.join("boot"), "vmlinuz-")?;
        let bytes = archive(&unpacked)?;
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        let initramfs = unpacked.with_file_name(format!("initramfs-{:016x}.cpio", hasher.finish()));
        if !initramfs.exists() {
            store(&initramfs, &bytes)?;
        }
        Ok(Self { kernel, initramfs })
    }

    pub(super) fn kernel(&self) -> &Path {
        &self.kernel
    }

    pub(super) fn initramfs(&self) -> &Path {
        &self.initramfs
    }
}

fn archive(unpacked: &Path) -> anyhow::Result<Vec<u8>> {
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| unpacked.join(path));
    let busybox =
        busybox.iter().find_map(|path| std::fs::read(path).ok()).context("no busybox was unpacked")?;
    let trees = ["lib/modules", "usr/lib/modules"].map(|path| unpacked.join(path));
    let tree = trees.iter().find(|path| path.is_dir()).context("no kernel modules were unpacked")?;

    let mut archive = Archive::default();
    for path in DIRECTORIES {
        archive.directory(path);
    }
    archive.file("bin/busybox", &busybox, 0o755);
    archive.symlink("bin/sh", "busybox");
    for (path, content) in SCRIPTS {
        archive.file(path, content.as_bytes(), 0o755);
    }
    let mut order = String::new();
    for module in modules::in_order(tree, &MODULES)? {
        archive.file(&format!("modules/{}.ko", module.name), &module.content, 0o644);
        order.push_str(&module.name);
        order.push('\n');
    }
    archive.file("modules/order", order.as_bytes(), 0o644);
    Ok(archive.finish())
}

/// The target folder is somewhere above the running program.
fn unpacked() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("path of the running program")?;
    let mut candidates = program.ancestors().map(|folder| folder.join(UNPACKED));
    candidates.find(|folder| folder.is_dir()).context("there is no guest kernel yet: run `cargo xtask test`")
}

fn newest(folder: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let kernels =
        paths.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    kernels.max().with_context(|| format!("no {prefix}* in {}", folder.display()))
}

/// Tests of several processes may build the same file; each gets a complete one.
fn store(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);

    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let partial = path.with_extension(format!("{}-{number}.partial", std::process::id()));
    std::fs::write(&partial, bytes).with_context(|| format!("write {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("write {}", path.display()))
}
