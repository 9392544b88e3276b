//! A libvirt of a lab's own: an unprivileged session in the lab's pod, as KubeVirt's virt-launcher runs one, with every
//! file in the lab's folder. It must never see the machine's libvirt, nor be seen by it.
//!
//! libvirtd, what it starts (virtlogd, QEMU, the translator), and what those leave behind share a namespace of process
//! ids. Its first process dies with the thread that made it, and takes the others along: nothing outlives a test, also
//! an interrupted one. It also reaps, which whoever is the machine's first process may not do soon enough for libvirt.

mod domain;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal};

use crate::container::{self, Hooks, POD_USER};
use crate::lab::{Child, Lab, wait_for};
use crate::vm::Image;

pub use domain::{Domain, FORWARDED_PORT, Interface};

/// Whom a session runs as that is in no container. libvirtd wants a user with a name.
const NOBODY: u32 = 65534;

const START_LIMIT: Duration = Duration::from_secs(20);

/// For every request; saving and restoring an emulated guest takes a second on an idle machine.
const VIRSH_LIMIT: &str = "60";

/// For what ends by itself once its other end is gone.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A running libvirtd. It ends with the value, or with the thread that started it.
#[derive(Debug)]
pub struct Libvirt<'lab> {
    lab: &'lab Lab,
    daemon: Child,
    folder: PathBuf,
    /// How a process becomes its user.
    identity: Vec<String>,
    /// What its folders held before the first domain.
    at_first: BTreeSet<PathBuf>,
}

/// Files of a guest; there is one guest at a time.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// What its kernel printed.
    pub(crate) console: PathBuf,
    /// The socket of its second serial port.
    pub(crate) agent: PathBuf,
}

/// A translator that is not libvirt's to start or to end.
#[derive(Debug)]
pub struct Backend {
    pub child: Child,
    pub socket: PathBuf,
}

impl Backend {
    /// Its socket, and what it writes beside that while it runs.
    fn owns(&self, path: &Path) -> bool {
        path.as_os_str().as_encoded_bytes().starts_with(self.socket.as_os_str().as_encoded_bytes())
    }
}

impl<'lab> Libvirt<'lab> {
    /// Starts libvirtd in the lab's pod. The program it finds as `passt` is `translator`.
    pub fn start(lab: &'lab Lab, translator: &Path, image: &Image) -> anyhow::Result<Self> {
        Self::start_as(lab, NOBODY, image, |folder| {
            // Copied: the target folder may be closed to other users, say /root.
            std::fs::copy(translator, folder.join("bin/passt-rs"))
                .with_context(|| format!("copy {}", translator.display()))?;
            symlink("passt-rs", folder.join("bin/passt")).context("a program named passt")?;
            Ok(Vec::new())
        })
    }

    /// Starts libvirtd in the lab's pod as KubeVirt's compute container has it: as the pod's user, with the sidecars'
    /// sockets where the domain's XML says they are, and without passt.
    pub fn start_as_compute(lab: &'lab Lab, hooks: &Hooks, image: &Image) -> anyhow::Result<Self> {
        Self::start_as(lab, POD_USER, image, |folder| container::as_compute(hooks, folder))
    }

    /// `prepare` is given the folder, and says what starts libvirtd's command.
    fn start_as(
        lab: &'lab Lab,
        user: u32,
        image: &Image,
        prepare: impl FnOnce(&Path) -> anyhow::Result<Vec<String>>,
    ) -> anyhow::Result<Self> {
        let folder = lab.directory().join("libvirt");
        for part in ["bin", "run", "config", "cache", "data"] {
            let part = folder.join(part);
            std::fs::create_dir_all(&part).with_context(|| format!("create {}", part.display()))?;
        }
        for (from, to) in [(image.kernel(), "kernel"), (image.initramfs(), "initramfs")] {
            std::fs::copy(from, folder.join(to)).with_context(|| format!("copy {}", from.display()))?;
        }
        let start = prepare(&folder)?;
        let given = ["", "run", "config", "cache", "data", "kernel", "initramfs"]
            .map(|part| chown(folder.join(part), Some(user), Some(user)).is_ok());
        let identity = container::identity(user, given == [true; 7]);
        let mut libvirt = Self {
            lab,
            daemon: lab.spawn("libvirtd", daemon(lab, &folder, &start, &identity))?,
            folder,
            identity,
            at_first: BTreeSet::new(),
        };
        libvirt.wait_until_ready()?;
        libvirt.at_first = libvirt.files();
        Ok(libvirt)
    }

    /// Where a guest's files are, as libvirt and we both see them.
    pub(crate) fn files_of_guests(&self) -> Files {
        let file = |name: &str| self.folder.join(name);
        Files {
            kernel: file("kernel"),
            initramfs: file("initramfs"),
            console: file("console.log"),
            agent: file("agent.sock"),
        }
    }

    /// Defines a domain, which is not started; the XML as libvirt has it then.
    pub(crate) fn define(&self, xml: &str) -> anyhow::Result<String> {
        let description = self.folder.join("defined.xml");
        std::fs::write(&description, xml).context("write the domain's description")?;
        self.virsh(["define".as_ref(), description.as_os_str()])?;
        // Its name is in what was defined; libvirt knows it best.
        let name = self.virsh(["list", "--all", "--name"])?;
        self.virsh(["dumpxml", "--inactive", name.lines().next().context("nothing was defined")?])
    }

    pub(crate) fn undefine(&self, name: &str) -> anyhow::Result<()> {
        self.virsh(["undefine", name]).map(drop)
    }

    /// Starts the translator as a vhost-user back-end that waits for a guest, as a KubeVirt binding would.
    pub fn backend(&self) -> anyhow::Result<Backend> {
        let socket = self.folder.join("run/backend.sock");
        let mut command = self.lab.pod().command("env");
        // It dies with this thread; a change of user forgets that, so it is said again.
        command.args(&self.identity).args(["setpriv", "--pdeathsig", "KILL"]);
        command.arg(self.folder.join("bin/passt-rs"));
        command.args(["--foreground", "--vhost-user", "--tcp-ports", &FORWARDED_PORT.to_string()]);
        command.arg("--socket").arg(&socket).arg("--log-file").arg(self.translator_log());
        let mut child = self.lab.spawn("backend", command)?;
        let listening =
            wait_for(START_LIMIT, "the back-end's socket", || child.has_ended() || socket.exists());
        if child.has_ended() {
            anyhow::bail!("the back-end ended at once: {}", child.log().trim());
        }
        listening.with_context(|| child.log())?;
        Ok(Backend { child, socket })
    }

    /// Runs a virsh command; what it printed.
    pub fn virsh<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> anyhow::Result<String> {
        let uri = format!("qemu+unix:///session?socket={}", self.socket().display());
        let mut command = Command::new("timeout");
        command.args([VIRSH_LIMIT, "virsh", "--quiet", "--connect", &uri]).args(arguments);
        let output = command.output().context("start virsh")?;
        let (said, complaint) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(
            output.status.success(),
            "{}: {}: {}",
            command.get_args().skip(5).map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" "),
            output.status,
            complaint.trim()
        );
        Ok(said.trim().to_owned())
    }

    /// The translator's log, whoever started it.
    pub fn translator_log(&self) -> PathBuf {
        self.folder.join("run/passt.log")
    }

    /// How libvirt started the translator last, as it says in QEMU's log.
    pub fn translators_arguments(&self) -> anyhow::Result<String> {
        let log = self.folder.join("cache/libvirt/qemu/log").join(format!("{}.log", domain::NAME));
        let text = std::fs::read(&log).with_context(|| format!("read {}", log.display()))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().rfind(|line| line.starts_with("passt "));
        line.map(str::to_owned).with_context(|| format!("libvirt started no passt:\n{text}"))
    }

    /// Kills the translator that libvirt started.
    pub fn kill_translator(&self) -> anyhow::Result<()> {
        let processes = self.processes();
        let found = processes.iter().find(|(_, name)| name == "passt");
        let pid = found.and_then(|(pid, _)| Pid::from_raw(i32::try_from(*pid).ok()?));
        let pid = pid.with_context(|| format!("no passt among {processes:?}"))?;
        rustix::process::kill_process(pid, Signal::KILL).context("kill the translator")
    }

    /// Waits until no process, socket or pid file of a domain is left, and no translator but `staying`.
    pub fn expect_nothing_left(&self, staying: Option<&Backend>) -> anyhow::Result<()> {
        let allowed = staying.map(|backend| backend.child.pid());
        let left = || {
            let processes = self.processes().into_iter().filter(|(pid, _)| Some(*pid) != allowed);
            let files = self.files().into_iter().filter(|path| !self.at_first.contains(path));
            let files = files.filter(|path| !staying.is_some_and(|backend| backend.owns(path)));
            processes
                .map(|(pid, name)| format!("process {pid} ({name})"))
                .chain(files.map(|path| path.display().to_string()))
                .collect::<Vec<_>>()
        };
        wait_for(END_LIMIT, "a domain's remains to go", || left().is_empty())
            .with_context(|| format!("left: {}", left().join(", ")))
    }

    /// Fails if the translator complained of something other than its surroundings.
    pub fn expect_calm_translator(&self) -> anyhow::Result<()> {
        let log = std::fs::read_to_string(self.translator_log()).context("read the translator's log")?;
        let bad = log.lines().find(|line| line.contains(" ERROR ") || line.contains("panicked"));
        anyhow::ensure!(bad.is_none(), "the translator's log:\n{log}");
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("run/libvirt/libvirt-sock")
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let socket = self.socket();
        let _ = wait_for(START_LIMIT, "libvirtd's socket", || {
            self.daemon.has_ended() || UnixStream::connect(&socket).is_ok()
        });
        self.virsh(["version"]).with_context(|| format!("libvirtd does not start: {}", self.daemon.log()))?;
        Ok(())
    }

    /// Processes in the pod that a domain is made of.
    fn processes(&self) -> Vec<(u32, String)> {
        let is_ours = |name: &str| ["passt", "qemu"].iter().any(|part| name.starts_with(part));
        self.lab.pod().processes().into_iter().filter(|(_, name)| is_ours(name)).collect()
    }

    /// Sockets, pid files and state of domains. virtlogd, which comes with the first domain, stays for a while.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        let mut folders = vec![self.folder.join("run")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let is_virtlogds = entry.file_name().to_string_lossy().starts_with("virtlogd");
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    Ok(_) if !is_virtlogds && entry.path() != self.translator_log() => {
                        files.insert(entry.path());
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
        files
    }
}

fn daemon(lab: &Lab, folder: &Path, start: &[String], identity: &[String]) -> Command {
    let mut command = lab.pod().command("env");
    let path = format!("{}/bin:/usr/sbin:/usr/bin:/sbin:/bin", folder.display());
    // The shell is the namespace's first process. It must not become libvirtd: it waits for everybody's children, and
    // only a process that keeps its user is killed with its parent.
    command
        .args(start)
        .args([
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            "\"$@\"; exit $?",
            "sh",
        ])
        .args(identity)
        .arg("libvirtd")
        .env_clear()
        .env("PATH", path)
        .env("HOME", folder);
    for (variable, part) in [
        ("XDG_RUNTIME_DIR", "run"),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_CACHE_HOME", "cache"),
        ("XDG_DATA_HOME", "data"),
    ] {
        command.env(variable, folder.join(part));
    }
    command
}
