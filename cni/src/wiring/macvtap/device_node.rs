//! `/dev/tap<index>`, which QEMU opens. It must never name another device than the link's.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, major, makedev, minor, mknodat, openat,
    readlinkat,
};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::journal::Step;
use crate::netlink::Link;
use crate::protocol::{CniError, Code};
use crate::wiring::site::{Site, View, changed, in_pod, same};

/// Longer than `major:minor` can be.
const LONGEST_NUMBER_BYTES: usize = 32;

/// Nobody else may open it.
const OWNERS: Mode = Mode::RUSR.union(Mode::WUSR);

/// The part of `st_mode` that says who may do what (inode(7)).
const PERMISSIONS: u32 = 0o7777;

/// What is at a device node's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// The link's.
    Own,
    /// Of a device that is gone, or whose index is another.
    Stale,
    /// Of a device that lives, or who knows what.
    Foreign,
}

/// Whether no device node is called after this index, nor anything else.
pub(super) fn is_free(index: u32) -> Result<bool, CniError> {
    let path = path(index);
    match fs::symlink_metadata(&path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(CniError::io(path.display(), error)),
    }
}

/// Makes the device node where the kernel has not, and gives it to QEMU.
pub(super) fn provide(site: &mut Site<'_>, link: &Link, owner: u32, group: u32) -> Result<(), CniError> {
    let path = path(link.index);
    let (number, found) = in_pod(site.pod, || {
        let sysfs = sysfs()?;
        let number = device_number(&sysfs, link)?;
        Ok::<_, CniError>((number, look(&sysfs, link.index, number)?))
    })??;
    // Before it is written down: what is another's is not removed with ours.
    if found == Found::Foreign {
        return Err(taken(link.index));
    }
    let failed = |error: Errno| CniError::io(format!("device node {}", path.display()), error);
    site.journal.will(Step::DeviceNode { path: path.clone() })?;
    if found == Found::Stale {
        fs::remove_file(&path).map_err(|error| CniError::io(path.display(), error))?;
    }
    // Else the kernel made it (devtmpfs).
    if found != Found::Own {
        match mknodat(CWD, &path, FileType::CharacterDevice, OWNERS, number) {
            Err(Errno::EXIST) => {
                site.journal.retract()?;
                return Err(taken(link.index));
            }
            made => made.map_err(failed)?,
        }
    }
    chownat(CWD, &path, Some(Uid::from_raw(owner)), Some(Gid::from_raw(group)), AtFlags::empty())
        .map_err(failed)?;
    chmodat(CWD, &path, OWNERS, AtFlags::empty()).map_err(failed)
}

/// CHECK of [`provide`].
pub(super) fn check(view: &View<'_>, link: &Link, owner: u32, group: u32) -> Result<(), CniError> {
    let path = path(link.index);
    let shown = path.display();
    let there = fs::metadata(&path).map_err(|error| changed(format!("device node {shown}: {error}")))?;
    let number = in_pod(view.pod, || device_number(&sysfs()?, link))??;
    if !there.file_type().is_char_device() || there.rdev() != number {
        return Err(changed(format!("{shown} is not {}'s device", link.name)));
    }
    let owners = format!("{}:{}", there.uid(), there.gid());
    same(&format!("{shown}'s owner"), &owners, &format!("{owner}:{group}"))?;
    same(&format!("{shown}'s mode"), &(there.mode() & PERMISSIONS), &OWNERS.bits())
}

/// An ADD that is tried again makes a link with another index.
pub(super) fn taken(index: u32) -> CniError {
    let why = format!("{} is of another link, in another pod, with the same index", path(index).display());
    CniError::new(Code::TryAgainLater, why)
}

/// Where the device node of the macvtap with this index is.
pub fn path(index: u32) -> PathBuf {
    Path::new("/dev").join(name(index))
}

fn look(sysfs: &OwnedFd, index: u32, number: u64) -> Result<Found, CniError> {
    let path = path(index);
    let there = match fs::symlink_metadata(&path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(CniError::io(path.display(), error)),
    };
    if !there.file_type().is_char_device() {
        return Ok(Found::Foreign);
    }
    if there.rdev() == number {
        return Ok(Found::Own);
    }
    // All devices are there, of whatever namespace; a link to a macvtap's ends with its tap<index>.
    let place = format!("dev/char/{}:{}", major(there.rdev()), minor(there.rdev()));
    Ok(match readlinkat(sysfs, place, Vec::new()) {
        Ok(target)
            if target.to_bytes().rsplit(|byte| *byte == b'/').next() == Some(name(index).as_bytes()) =>
        {
            Found::Foreign
        }
        Ok(_) | Err(Errno::NOENT) => Found::Stale,
        Err(_) => Found::Foreign,
    })
}

/// The namespace's own: the node's does not show what is in pods. It is mounted nowhere.
fn sysfs() -> Result<OwnedFd, CniError> {
    let mounted = || {
        let filesystem = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&filesystem)?;
        fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    mounted().map_err(|error: Errno| CniError::io("mounting the pod's sysfs", error))
}

/// The number of the link's character device.
fn device_number(sysfs: &OwnedFd, link: &Link) -> Result<u64, CniError> {
    let failed = |error: Errno| CniError::io(format!("the character device of macvtap {}", link.name), error);
    let place = format!("class/net/{}/macvtap/{}/dev", link.name, name(link.index));
    let file = openat(sysfs, place, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let mut bytes = [0; LONGEST_NUMBER_BYTES];
    let read = rustix::io::read(&file, &mut bytes).map_err(failed)?;
    let text = bytes.get(..read).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
    let (major, minor) = text.trim().split_once(':').unwrap_or_default();
    match (major.parse(), minor.parse()) {
        (Ok(major), Ok(minor)) => Ok(makedev(major, minor)),
        _ => Err(CniError::internal(format!("{} has no device number but {text:?}", link.name))),
    }
}

fn name(index: u32) -> String {
    format!("tap{index}")
}
