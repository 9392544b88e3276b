//! The program under test as a pod runs it: passt-rs, or another with passt's command line, listening for QEMU.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::lab::{Child, Lab, MemoryGroup, Namespace, SERVER_V4, wait_for};

/// Who runs in KubeVirt's pods.
const POD_USER: u32 = 107;

const START_LIMIT: Duration = Duration::from_secs(10);

/// Questions are answered between two frames.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The program that has a control socket; others with passt's command line have none.
const OURS: &str = "passt-rs";

/// The TCP port of the pod that leads to the guest.
pub const FORWARDED_PORT: u16 = 8080;

/// Whether every frame is written down. Not for gigabytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    Frames,
    Nothing,
}

/// How QEMU is to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cable {
    Stream,
    VhostUser,
}

/// A running translator. It ends with the value.
#[derive(Debug)]
pub struct Translator {
    child: Child,
    socket: PathBuf,
    frames: PathBuf,
    log: PathBuf,
    control: Option<PathBuf>,
}

impl Translator {
    /// Starts `program` in the lab's pod with a unix socket for QEMU; its files go to a folder of its own in
    /// the lab's directory. A later one in the same lab takes the place, and the socket's path, of one that ended.
    pub fn start(lab: &Lab, program: &Path, cable: Cable, capture: Capture) -> anyhow::Result<Self> {
        Self::start_in(lab, lab.pod(), "translator", program, cable, capture)
    }

    /// Like [`Translator::start`], with a container's memory limit.
    pub fn start_limited(
        lab: &Lab,
        program: &Path,
        cable: Cable,
        memory: &MemoryGroup,
    ) -> anyhow::Result<Self> {
        let (name, capture) = ("translator", Capture::Nothing);
        Self::start_as(lab, lab.pod(), name, program, cable, capture, Some(memory))
    }

    /// Like [`Translator::start`], in `pod`; `name` is that of its folder and its output.
    pub fn start_in(
        lab: &Lab,
        pod: &Namespace,
        name: &str,
        program: &Path,
        cable: Cable,
        capture: Capture,
    ) -> anyhow::Result<Self> {
        Self::start_as(lab, pod, name, program, cable, capture, None)
    }

    fn start_as(
        lab: &Lab,
        pod: &Namespace,
        name: &str,
        program: &Path,
        cable: Cable,
        capture: Capture,
        memory: Option<&MemoryGroup>,
    ) -> anyhow::Result<Self> {
        let folder = lab.directory().join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let (socket, log) = (folder.join("guest.sock"), folder.join("translator.log"));
        let _ = std::fs::remove_file(&socket); // of the one before, or not there
        let mut command = as_in_a_pod(pod, program, &folder)?;
        if let Some(memory) = memory {
            memory.holds(&mut command)?;
        }
        command.arg("--foreground").arg("--socket").arg(&socket).arg("--log-file").arg(&log);
        command.args(["--tcp-ports", &FORWARDED_PORT.to_string()]).args(["--dns", &SERVER_V4.to_string()]);
        if cable == Cable::VhostUser {
            command.arg("--vhost-user");
        }
        let frames = folder.join("guest.pcap");
        if capture == Capture::Frames {
            command.arg("--pcap").arg(&frames);
        }
        let control =
            program.file_name().is_some_and(|name| name == OURS).then(|| folder.join("control.sock"));
        if let Some(control) = &control {
            let _ = std::fs::remove_file(control); // as above
            command.arg("--control").arg(control);
        }
        let answers = || control.as_ref().is_none_or(|control| UnixStream::connect(control).is_ok());
        let mut child = lab.spawn(name, command)?;
        let listening = wait_for(START_LIMIT, "the translator's socket", || {
            child.has_ended() || (socket.exists() && answers())
        });
        if child.has_ended() {
            anyhow::bail!("{} ended at once: {}", program.display(), child.log().trim());
        }
        listening.with_context(|| child.log())?;
        Ok(Self { child, socket, frames, log, control })
    }

    /// Where QEMU connects.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Every frame, as the guest's side saw it, if that was asked for.
    pub fn frames(&self) -> &Path {
        &self.frames
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.has_ended()
    }

    /// Its counters, or nothing if it has no control socket (docs/control-socket.md).
    pub fn stats(&self) -> anyhow::Result<Option<serde_json::Value>> {
        let Some(path) = &self.control else { return Ok(None) };
        let mut socket = UnixStream::connect(path).context("connect to the control socket")?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        socket.write_all(b"{\"get\":\"stats\"}\n").context("write to the control socket")?;
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).context("read the control socket")?;
        Ok(Some(serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?))
    }

    /// Frames dropped for `reason` since it started; 0 if it does not count.
    pub fn drops(&self, reason: &str) -> anyhow::Result<u64> {
        let Some(stats) = self.stats()? else { return Ok(0) };
        let count = stats.get("drops").and_then(|drops| drops.get(reason));
        count.and_then(serde_json::Value::as_u64).with_context(|| format!("no drops of {reason} in {stats}"))
    }
}

/// A command for `program` as KubeVirt's user, without capabilities; as ourselves where we cannot become another.
///
/// `program` is copied: the target folder may be closed to other users, say /root.
fn as_in_a_pod(pod: &Namespace, program: &Path, folder: &Path) -> anyhow::Result<Command> {
    let name = program.file_name().context("the translator's path names no file")?;
    let copy = folder.join(name);
    std::fs::copy(program, &copy).with_context(|| format!("copy {}", program.display()))?;
    if std::os::unix::fs::chown(folder, Some(POD_USER), Some(POD_USER)).is_err() {
        return Ok(pod.command(copy));
    }
    let mut command = pod.command("setpriv");
    let user = POD_USER.to_string();
    command
        .args(["--reuid", &user, "--regid", &user, "--clear-groups", "--bounding-set=-all", "--no-new-privs"])
        .args(["--pdeathsig", "KILL"]) // a change of user forgets it
        .arg(copy);
    Ok(command)
}

/// What stands in for passt-rs, for telling a fault of the labs from one of ours.
const STAND_IN: &str = "SLUICE_TRANSLATOR";

/// passt-rs as built beside the running program, unless the environment names a stand-in.
pub fn program() -> anyhow::Result<PathBuf> {
    match std::env::var_os(STAND_IN) {
        Some(path) => Ok(path.into()),
        None => crate::lab::binary("passt-rs"),
    }
}
