//! Containers of a virt-launcher pod, as far as a sidecar can tell: who they run as, what they see of the file system, and
//! the volume of sockets they share. It must never give them more than KubeVirt does.
//!
//! | container | is | sees of the volume |
//! |---|---|---|
//! | compute | libvirt and QEMU (`libvirt`) | all of it, at `/var/run/kubevirt-hooks` |
//! | `hook-sidecar-N` | the sidecar and its translators ([`Sidecar`]) | its own folder, at the same path |

mod sidecar;

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::lab::Lab;

pub use sidecar::{Options, Sidecar};

/// Who runs in KubeVirt's pods.
pub const POD_USER: u32 = 107;

/// Where both mount the volume, or their part of it.
pub(crate) const MOUNT_POINT: &str = "/var/run/kubevirt-hooks";

/// The volume `hook-sidecar-sockets`: a folder for each sidecar.
#[derive(Debug)]
pub struct Hooks {
    folder: PathBuf,
}

impl Hooks {
    /// An empty volume in the lab's directory, of the pod's user.
    pub fn new(lab: &Lab) -> anyhow::Result<Self> {
        let folder = lab.directory().join("hooks");
        make(&folder)?;
        Ok(Self { folder })
    }

    /// As virt-launcher would see it, by its path outside of containers.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The part of one sidecar, which is there from the start.
    pub fn of(&self, container: &str) -> anyhow::Result<PathBuf> {
        let folder = self.folder.join(container);
        make(&folder)?;
        Ok(folder)
    }
}

fn make(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    // Where the labs' root is that of a user namespace, it is the only user there is.
    let _ = chown(folder, Some(POD_USER), Some(POD_USER));
    Ok(())
}

/// How a process becomes `user`, for good and without rights. Where the labs' root is that of a user namespace, which
/// cannot become anybody else, in one more of them the only user there is, the one who runs the tests, is `user`.
pub(crate) fn identity(user: u32, can_change: bool) -> Vec<String> {
    let user = user.to_string();
    let words: &[&str] = if can_change {
        &[
            "setpriv",
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
            "--no-new-privs",
        ]
    } else {
        &["unshare", "--user", &format!("--map-user={user}"), &format!("--map-group={user}")]
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Starts the rest of a command where the volume is mounted as compute has it, and the pod's user has a name, which
/// libvirtd wants. Nothing of the machine's /run is there.
pub(crate) fn as_compute(hooks: &Hooks, files: &Path) -> anyhow::Result<Vec<String>> {
    let (users, groups) = (files.join("passwd"), files.join("group"));
    std::fs::write(
        &users,
        format!(
            "root:x:0:0:root:/root:/bin/sh\nqemu:x:{POD_USER}:{POD_USER}:qemu:/:/bin/sh\n\
             nobody:x:65534:65534:nobody:/:/bin/sh\n"
        ),
    )
    .with_context(|| format!("write {}", users.display()))?;
    std::fs::write(&groups, format!("root:x:0:\nqemu:x:{POD_USER}:\nnogroup:x:65534:\n"))
        .with_context(|| format!("write {}", groups.display()))?;
    let script = format!(
        "mount -t tmpfs -o mode=0755 tmpfs /run
         mkdir -p {MOUNT_POINT}
         mount --bind \"$1\" {MOUNT_POINT}
         mount --bind \"$2\" /etc/passwd
         mount --bind \"$3\" /etc/group
         shift 3
         exec \"$@\""
    );
    let mut words: Vec<String> =
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", &script, "sh"]
            .map(str::to_owned)
            .into();
    for path in [hooks.folder(), &users, &groups] {
        words.push(path.to_str().context("a path that is text")?.to_owned());
    }
    Ok(words)
}
