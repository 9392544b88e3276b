//! The root a plugin sees: the machine's, one it is confined to, one it cannot write. Mounts are in a mount namespace that
//! ends with the plugin; it must never change what the machine has mounted.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use rustix::fs::StatVfsMountFlags;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount_bind, mount_bind_recursive, mount_change, mount_remount,
};
use rustix::thread::UnshareFlags;

use super::Node;

/// Where a plugin runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Place {
    /// As a runtime on the node starts it.
    #[default]
    Node,
    /// As the daemon of thick Multus does: confined to the node's root, mounted below that of the daemon's own pod, with
    /// the working directory left outside.
    Chroot,
    /// Nothing can be written but `/run`, where the namespaces are, and the rest is empty.
    ReadOnly,
}

impl Place {
    /// Makes `command` run there.
    pub(super) fn holds(self, command: &mut Command, node: &Node) -> anyhow::Result<()> {
        match self {
            Self::Node => Ok(()),
            Self::Chroot => confine(command, node),
            Self::ReadOnly => protect(command, node),
        }
    }
}

/// What is written below `/run` by a plugin at [`Place::ReadOnly`].
pub(super) const RUN: &str = "run";

fn confine(command: &mut Command, node: &Node) -> anyhow::Result<()> {
    let root = node.directory().join("hostroot");
    std::fs::create_dir_all(&root).context("create a root")?;
    command.current_dir(node.directory());
    let root = path(&root)?;
    before_exec(command, move || {
        own_mounts()?;
        mount_bind_recursive(c"/", root.as_c_str())?;
        rustix::process::chroot(root.as_c_str())?;
        Ok(())
    });
    Ok(())
}

fn protect(command: &mut Command, node: &Node) -> anyhow::Result<()> {
    let run = node.directory().join(RUN);
    let names = run.join("netns");
    std::fs::create_dir_all(&names).context("create a /run")?;
    let mut namespaces = Vec::new();
    for (_, namespace) in node.namespaces() {
        let place = names.join(namespace.name());
        std::fs::write(&place, "").context("create a place for a namespace")?;
        namespaces.push((path(&namespace.path())?, path(&place)?));
    }
    let run = path(&run)?;
    let locked = locked_flags()?;
    before_exec(command, move || {
        own_mounts()?;
        for (from, to) in &namespaces {
            // One that is gone stays a plain file, which is no namespace either.
            let _ = mount_bind(from.as_c_str(), to.as_c_str());
        }
        mount_bind_recursive(run.as_c_str(), c"/run")?;
        mount_remount(c"/", MountFlags::BIND | MountFlags::RDONLY | locked, c"")?;
        Ok(())
    });
    Ok(())
}

/// What a mount namespace in a user namespace may not take from the root it inherited (mount_namespaces(7)).
fn locked_flags() -> anyhow::Result<MountFlags> {
    let set = rustix::fs::statvfs("/").context("flags of the root")?.f_flag;
    let pairs = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ];
    let locked = pairs.into_iter().filter(|(flag, _)| set.contains(*flag)).map(|(_, flag)| flag);
    Ok(locked.fold(MountFlags::empty(), MountFlags::union))
}

/// A mount namespace whose changes nobody else sees.
#[expect(unsafe_code, reason = "leaving a shared mount namespace")]
fn own_mounts() -> io::Result<()> {
    // SAFETY: unshare of mounts concerns this process only, which is about to execute another program and shares
    // nothing that a thread of its own could miss.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}

/// `work` may only make system calls, and must not allocate.
#[expect(unsafe_code, reason = "a plugin's surroundings are made between fork and exec")]
pub(super) fn before_exec(
    command: &mut Command,
    work: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: pre_exec needs a closure that only makes async-signal-safe calls; every caller in this module and in
    // `call` passes system calls with arguments that are there already.
    unsafe { command.pre_exec(work) };
}

pub(super) fn path(path: &Path) -> anyhow::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).with_context(|| format!("{}", path.display()))
}
