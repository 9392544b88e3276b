//! One named network namespace: made, entered, configured, removed. It must never know what a lab puts in it.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use rustix::thread::LinkNameSpaceType;

/// Where `ip netns` keeps its names.
pub(super) const NAMES: &str = "/run/netns";

/// A network namespace with a name. It goes away with its last process once removed.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
    handle: Arc<OwnedFd>,
}

impl Namespace {
    pub(super) fn create(name: &str) -> anyhow::Result<Self> {
        run_to_end(Command::new("ip").args(["netns", "add", name]), "")?;
        let path = Path::new(NAMES).join(name);
        let file = std::fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { name: name.to_owned(), handle: Arc::new(file.into()) })
    }

    /// What every lab wants: ping and low ports without privilege, as the CNI grants them in a pod; no wait for
    /// duplicate address detection; `lo` up.
    pub(super) fn prepare(&self) -> anyhow::Result<()> {
        // Inside a user namespace only the groups mapped into it can be named.
        self.sysctl("net/ipv4/ping_group_range", "0 2147483647")
            .or_else(|_| self.sysctl("net/ipv4/ping_group_range", "0 0"))?;
        self.sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
        self.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
        self.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        self.ip("link set lo up\n")
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that names this namespace, for programs that take one (`--netns`).
    pub fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// A command that will run inside, and die with the thread that starts it.
    #[expect(unsafe_code, reason = "a child enters its namespace between fork and exec")]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let handle = Arc::clone(&self.handle);
        let enter = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            rustix::thread::move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(())
        };
        // SAFETY: pre_exec needs a closure that only makes async-signal-safe calls; `enter` makes two system calls
        // and allocates nothing.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs `work` on a thread that has entered this namespace. Sockets it opens stay there when they leave it;
    /// programs must be started with [`Namespace::command`] instead.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                rustix::thread::move_into_link_name_space(
                    self.handle.as_fd(),
                    Some(LinkNameSpaceType::Network),
                )
                .with_context(|| format!("enter {}", self.name))?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes a sysctl by its path below `/proc/sys`, for instance `net/ipv4/ip_forward`.
    pub fn sysctl(&self, path: &str, value: &str) -> anyhow::Result<()> {
        self.run(|| std::fs::write(Path::new("/proc/sys").join(path), value))?
            .with_context(|| format!("set {path} to {value:?} in {}", self.name))
    }

    /// Feeds lines to `ip -batch`.
    pub fn ip(&self, lines: &str) -> anyhow::Result<()> {
        run_to_end(self.command("ip").args(["-batch", "-"]), lines)
    }

    /// Feeds a ruleset to `nft`.
    pub fn nft(&self, rules: &str) -> anyhow::Result<()> {
        run_to_end(self.command("nft").args(["-f", "-"]), rules)
    }

    /// Every process that is inside, and its program's name as the kernel shortens it. One that has ended, but was not
    /// waited for, is in no namespace any more.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let Ok(ours) = rustix::fs::fstat(self.handle.as_fd()) else { return Vec::new() };
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let inside = all.filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let theirs = std::fs::metadata(process.path().join("ns/net")).ok()?;
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let is_inside = (theirs.dev(), theirs.ino()) == (ours.st_dev, ours.st_ino);
            is_inside.then(|| (pid, name.trim().to_owned()))
        });
        inside.collect()
    }

    /// Ends every process that is inside, but for the caller.
    pub fn kill_processes(&self) {
        for (pid, _) in self.processes() {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid.filter(|pid| *pid != rustix::process::getpid()) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Ends what runs inside and takes the name away; with that the kernel frees what the namespace holds.
    pub(super) fn remove(&self) {
        self.kill_processes();
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).stderr(Stdio::null()).status();
    }

    /// One that is there already: of a lab whose process is gone, or by the full path that a container runtime gives it.
    pub(crate) fn found(name: &str) -> anyhow::Result<Self> {
        let file = std::fs::File::open(Path::new(NAMES).join(name))?;
        Ok(Self { name: name.to_owned(), handle: Arc::new(file.into()) })
    }
}

/// Runs `command` with `input`, and fails with what it complained about.
fn run_to_end(command: &mut Command, input: &str) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("write to {program}"))?;
    }
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program}: {}: {}\n{input}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
