//! `/dev/tap<index>`, which QEMU opens. It must never name another device than the link's.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, makedev, mknodat, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::journal::Step;
use crate::netlink::Link;
use crate::protocol::CniError;
use crate::wiring::site::{Site, changed, in_pod};

/// Longer than `major:minor` can be.
const LONGEST_NUMBER_BYTES: usize = 32;

/// Makes the device node where the kernel has not, and gives it to QEMU.
pub(super) fn provide(site: &mut Site<'_>, link: &Link, owner: u32, group: u32) -> Result<(), CniError> {
    let path = path(link.index);
    let number = in_pod(site.pod, || device_number(link))??;
    site.journal.will(Step::DeviceNode { path: path.clone() })?;
    let failed = |error: Errno| CniError::io(format!("device node {}", path.display()), error);
    match fs::metadata(&path) {
        // The kernel made it (devtmpfs). Another of this name is of a link that is gone.
        Ok(there) if there.rdev() == number => {}
        Ok(_) => {
            let _ = fs::remove_file(&path);
            make(&path, number).map_err(failed)?;
        }
        Err(_) => make(&path, number).map_err(failed)?,
    }
    chownat(CWD, &path, Some(Uid::from_raw(owner)), Some(Gid::from_raw(group)), AtFlags::empty())
        .map_err(failed)?;
    rustix::fs::chmodat(CWD, &path, Mode::RUSR | Mode::WUSR, AtFlags::empty()).map_err(failed)
}

/// CHECK of [`provide`].
pub(super) fn check(link: &Link, owner: u32, group: u32) -> Result<(), CniError> {
    let path = path(link.index);
    let there =
        fs::metadata(&path).map_err(|error| changed(format!("device node {}: {error}", path.display())))?;
    if (there.uid(), there.gid()) == (owner, group) {
        return Ok(());
    }
    Err(changed(format!(
        "{} is {}:{}'s, was made {owner}:{group}'s",
        path.display(),
        there.uid(),
        there.gid()
    )))
}

/// Where the device node of the macvtap with this index is.
pub fn path(index: u32) -> PathBuf {
    PathBuf::from(format!("/dev/tap{index}"))
}

fn make(path: &std::path::Path, number: u64) -> rustix::io::Result<()> {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, number)
}

/// The number of the link's character device, from the namespace's own sysfs: the node's does not show what is in pods.
/// It is mounted nowhere.
fn device_number(link: &Link) -> Result<u64, CniError> {
    let failed = |error: Errno| CniError::io(format!("the character device of macvtap {}", link.name), error);
    let filesystem = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    fsconfig_create(&filesystem).map_err(failed)?;
    let sysfs =
        fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(failed)?;
    let place = format!("class/net/{0}/macvtap/tap{1}/dev", link.name, link.index);
    let file = openat(&sysfs, place, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let mut bytes = [0; LONGEST_NUMBER_BYTES];
    let read = rustix::io::read(&file, &mut bytes).map_err(failed)?;
    let text = bytes.get(..read).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
    let (major, minor) = text.trim().split_once(':').unwrap_or_default();
    match (major.parse(), minor.parse()) {
        (Ok(major), Ok(minor)) => Ok(makedev(major, minor)),
        _ => Err(CniError::internal(format!("{} has no device number but {text:?}", link.name))),
    }
}
