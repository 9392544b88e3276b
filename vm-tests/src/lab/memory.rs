//! A memory control group: what a container's memory limit is made of. It must never hold a process of the tests
//! themselves.
//!
//! Both versions of the interface are in use. They charge pages alike, to whoever touches them first; only version 2
//! counts the kernel's socket buffers in the same sum.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal};

use super::{Lab, sweep, wait_for};

/// A killed process is charged until the kernel has taken its pages back.
const EMPTY_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A group that was made for one test. Its processes end with the value.
#[derive(Debug)]
pub struct MemoryGroup {
    folder: PathBuf,
    version: Version,
}

impl MemoryGroup {
    /// Makes a group for `lab` with `limit` bytes, and removes those of labs whose process is gone.
    ///
    /// It is as near to the group of the tests as the kernel allows, so that what limits them limits it too.
    pub fn new(lab: &Lab, limit: u64) -> anyhow::Result<Self> {
        let (parent, version) = parent()?;
        for stale in sweep::names_in(&parent).filter(|name| sweep::is_stale(name)) {
            drop(Self { folder: parent.join(stale), version });
        }
        let name = lab.pod().name();
        let folder = parent.join(name);
        std::fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        let group = Self { folder, version };
        group.write(group.word("memory.limit_in_bytes", "memory.max"), limit)?;
        if version == Version::One {
            // The kernel counts buffers of TCP from the first limit on. No limit of ours: it would be a limit more
            // than version 2 has.
            let _ = group.write("memory.kmem.tcp.limit_in_bytes", i64::MAX.unsigned_abs());
        }
        Ok(group)
    }

    /// Lets `command` start inside. To be called before it is told to become another user.
    #[expect(unsafe_code, reason = "a child enters its group between fork and exec")]
    pub fn holds(&self, command: &mut Command) -> anyhow::Result<()> {
        let path = self.folder.join("cgroup.procs");
        let mut members =
            File::options().write(true).open(&path).with_context(|| format!("open {}", path.display()))?;
        // 0 is who writes.
        let enter = move || members.write_all(b"0");
        // SAFETY: pre_exec needs a closure that only makes async-signal-safe calls; `enter` makes one system call, a
        // write to a file that is open, and allocates nothing.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }

    /// Bytes charged now.
    pub fn usage(&self) -> anyhow::Result<u64> {
        self.number(self.word("memory.usage_in_bytes", "memory.current"))
    }

    /// The most bytes ever charged; of now where the kernel does not remember (version 2 before Linux 5.19).
    pub fn peak(&self) -> anyhow::Result<u64> {
        self.number(self.word("memory.max_usage_in_bytes", "memory.peak")).or_else(|_| self.usage())
    }

    /// Bytes of shared memory that processes here were the first to touch, a guest's among them.
    pub fn shared(&self) -> anyhow::Result<u64> {
        self.field("memory.stat", "shmem")
    }

    /// Bytes in the kernel's TCP buffers, and with version 2 in those of other sockets.
    pub fn sockets(&self) -> anyhow::Result<u64> {
        match self.version {
            Version::One => self.number("memory.kmem.tcp.usage_in_bytes"),
            Version::Two => self.field("memory.stat", "sock"),
        }
    }

    /// How many processes the kernel killed because of the limit.
    pub fn killed(&self) -> anyhow::Result<u64> {
        self.field(self.word("memory.oom_control", "memory.events"), "oom_kill")
    }

    fn word(&self, one: &'static str, two: &'static str) -> &'static str {
        match self.version {
            Version::One => one,
            Version::Two => two,
        }
    }

    fn write(&self, file: &str, value: u64) -> anyhow::Result<()> {
        let path = self.folder.join(file);
        std::fs::write(&path, value.to_string()).with_context(|| format!("write {}", path.display()))
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = self.folder.join(file);
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    fn number(&self, file: &str) -> anyhow::Result<u64> {
        self.read(file)?.trim().parse().with_context(|| format!("{file} is not a number"))
    }

    fn field(&self, file: &str, name: &str) -> anyhow::Result<u64> {
        let text = self.read(file)?;
        let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
        let value = pairs.find(|(field, _)| *field == name).and_then(|(_, value)| value.parse().ok());
        value.with_context(|| format!("no {name} in {file}"))
    }

    fn members(&self) -> Vec<Pid> {
        let text = self.read("cgroup.procs").unwrap_or_default();
        text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process may be forking.
        let _ = wait_for(EMPTY_LIMIT, "a memory group to be empty", || {
            for process in self.members() {
                let _ = rustix::process::kill_process(process, Signal::KILL);
            }
            std::fs::remove_dir(&self.folder).is_ok()
        });
    }
}

/// The folder below which a group with a memory limit may be made.
fn parent() -> anyhow::Result<(PathBuf, Version)> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let ours = std::fs::read_to_string("/proc/self/cgroup").context("read our control groups")?;
    if let (Some(mount), Some(path)) = (mounted(&mounts, Version::One), member_of(&ours, Version::One)) {
        return Ok((below(&mount, path), Version::One));
    }
    let mount = mounted(&mounts, Version::Two).context("no memory control groups are mounted")?;
    let path = member_of(&ours, Version::Two).context("we are in no control group")?;
    // In version 2 a group with processes has no groups with limits below it.
    let ours = below(&mount, path);
    let candidates = ours.ancestors().take_while(|folder| folder.starts_with(&mount));
    let mut open = candidates.filter(|folder| {
        let lent = std::fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
        lent.split_whitespace().any(|controller| controller == "memory")
    });
    let parent = open
        .next()
        .with_context(|| format!("no group above {} lets those below have memory limits", ours.display()))?;
    Ok((parent.to_owned(), Version::Two))
}

/// Where the hierarchy that limits memory is mounted (proc_pid_mountinfo(5)): `ID PARENT DEVICE ROOT POINT OPTIONS
/// [FIELDS...] - TYPE SOURCE SUPER-OPTIONS`.
fn mounted(mounts: &str, version: Version) -> Option<PathBuf> {
    let is_it = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1)?);
        let fits = match version {
            Version::One => name == "cgroup" && options.split(',').any(|option| option == "memory"),
            Version::Two => name == "cgroup2",
        };
        fits.then(|| place.split(' ').nth(4).map(PathBuf::from))?
    };
    mounts.lines().find_map(is_it)
}

/// Our own group in that hierarchy: `ID:CONTROLLERS:PATH`, without controllers for version 2.
fn member_of(groups: &str, version: Version) -> Option<&Path> {
    let is_it = |line: &'_ str| {
        let mut fields = line.splitn(3, ':');
        let controllers = fields.nth(1)?;
        match version {
            Version::One => controllers.split(',').any(|controller| controller == "memory"),
            Version::Two => controllers.is_empty(),
        }
        .then_some(())
    };
    let line = groups.lines().find(|line| is_it(line).is_some())?;
    line.splitn(3, ':').nth(2).map(Path::new)
}

fn below(mount: &Path, path: &Path) -> PathBuf {
    mount.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Version, member_of, mounted};

    #[test]
    fn both_versions_are_found_among_others() {
        let mounts = "31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      32 24 0:28 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
                      33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(mounts, Version::One), Some(PathBuf::from("/sys/fs/cgroup/memory")));
        assert_eq!(mounted(mounts, Version::Two), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let groups = "9:name=systemd:/x\n4:memory:/a/b\n0::/c:d\n";
        assert_eq!(member_of(groups, Version::One), Some(Path::new("/a/b")));
        assert_eq!(member_of(groups, Version::Two), Some(Path::new("/c:d")));
    }
}
