//! The guest's kernel and first file system, made from what `cargo xtask` unpacked into the target folder.

use std::hash::{DefaultHasher, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;

use super::additions::{self, Additions, Program};
use super::cpio::Archive;
use super::modules;

/// Where the unpacked packages are, below the target folder.
const UNPACKED: &str = "vm/debian";

/// Drivers of the NIC and the balloon; what they need follows.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_net", "virtio_balloon"];

/// Programs besides busybox, and what they need: where the guest has them, which is where their packages do.
const PROGRAMS: [&str; 3] =
    ["sbin/dhclient", "lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"];

/// Where programs look for their loader, and the loader.
const LOADER: [&str; 2] = ["lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"];

const DIRECTORIES: [&str; 17] = [
    "bin",
    "dev",
    "etc",
    "lib",
    "lib/x86_64-linux-gnu",
    "lib64",
    "modules",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "usr/share",
    "var",
    "var/run",
];

/// The guest's own files.
const SCRIPTS: [(&str, &str); 6] = [
    ("init", include_str!("guest/init")),
    ("bin/agent", include_str!("guest/agent")),
    ("bin/dhcp", include_str!("guest/dhcp")),
    ("bin/dhcp6", include_str!("guest/dhcp6")),
    ("etc/dhcp6-event", include_str!("guest/dhcp6-event")),
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

    /// The same with a program of this machine as `/bin/NAME`; the larger file goes to `directory`.
    pub fn with_program(&self, name: &str, program: &Path, directory: &Path) -> anyhow::Result<Self> {
        let program = Program { place: format!("/bin/{name}"), file: program.to_owned() };
        self.with(&Additions { programs: vec![program], ..Additions::default() }, directory)
    }

    /// The same with `additions`; the larger file goes to `directory`.
    pub fn with(&self, additions: &Additions, directory: &Path) -> anyhow::Result<Self> {
        let mut bytes =
            std::fs::read(&self.initramfs).with_context(|| format!("read {}", self.initramfs.display()))?;
        let tree = find(&unpacked()?, "lib/modules")?;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(additions::archive(additions, &MODULES, &tree, directory)?);
        let initramfs = directory.join("initramfs.cpio");
        store(&initramfs, &bytes)?;
        Ok(Self { kernel: self.kernel.clone(), initramfs })
    }

    /// The same in files of `directory`: whoever may enter it can read them.
    pub(super) fn copy_to(&self, directory: &Path) -> anyhow::Result<Self> {
        let copy = |file: &Path, name: &str| {
            let place = directory.join(name);
            std::fs::copy(file, &place).with_context(|| format!("copy {}", file.display()))?;
            Ok::<_, anyhow::Error>(place)
        };
        Ok(Self { kernel: copy(&self.kernel, "kernel")?, initramfs: copy(&self.initramfs, "first.cpio")? })
    }

    pub(crate) fn kernel(&self) -> &Path {
        &self.kernel
    }

    pub(crate) fn initramfs(&self) -> &Path {
        &self.initramfs
    }
}

fn archive(unpacked: &Path) -> anyhow::Result<Vec<u8>> {
    let tree = find(unpacked, "lib/modules")?;
    let mut archive = Archive::default();
    for path in DIRECTORIES {
        archive.directory(path);
    }
    for path in ["bin/busybox"].into_iter().chain(PROGRAMS) {
        let file = find(unpacked, path)?;
        archive.file(path, &std::fs::read(&file).with_context(|| format!("read {}", file.display()))?, 0o755);
    }
    let [link, loader] = LOADER;
    archive.symlink(link, loader);
    archive.symlink("bin/sh", "busybox");
    for (path, content) in SCRIPTS {
        archive.file(path, content.as_bytes(), 0o755);
    }
    modules::store(&mut archive, &tree, &MODULES)?;
    Ok(archive.finish())
}

/// Newer releases keep everything below /usr.
fn find(unpacked: &Path, path: &str) -> anyhow::Result<PathBuf> {
    let places = [unpacked.join(path), unpacked.join("usr").join(path)];
    places
        .into_iter()
        .find(|place| place.exists())
        .with_context(|| format!("no {path} was unpacked to {}: run `cargo xtask test`", unpacked.display()))
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
