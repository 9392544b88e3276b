//! The program under test as a pod runs it: passt-rs, or another with passt's command line, listening for QEMU.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::lab::{Child, Lab, SERVER_V4, wait_for};

/// Who runs in KubeVirt's pods.
const POD_USER: u32 = 107;

const START_LIMIT: Duration = Duration::from_secs(10);

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
}

impl Translator {
    /// Starts `program` in the lab's pod with a unix socket for QEMU; its files go to a folder of its own in
    /// the lab's directory. A later one in the same lab takes the place, and the socket's path, of one that ended.
    pub fn start(lab: &Lab, program: &Path, cable: Cable, capture: Capture) -> anyhow::Result<Self> {
        let folder = lab.directory().join("translator");
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let (socket, log) = (folder.join("guest.sock"), folder.join("translator.log"));
        let _ = std::fs::remove_file(&socket); // of the one before, or not there
        let mut command = as_in_a_pod(lab, program, &folder)?;
        command.arg("--foreground").arg("--socket").arg(&socket).arg("--log-file").arg(&log);
        command.args(["--tcp-ports", &FORWARDED_PORT.to_string()]).args(["--dns", &SERVER_V4.to_string()]);
        if cable == Cable::VhostUser {
            command.arg("--vhost-user");
        }
        let frames = folder.join("guest.pcap");
        if capture == Capture::Frames {
            command.arg("--pcap").arg(&frames);
        }
        let mut child = lab.spawn("translator", command)?;
        let listening =
            wait_for(START_LIMIT, "the translator's socket", || child.has_ended() || socket.exists());
        if child.has_ended() {
            anyhow::bail!("{} ended at once: {}", program.display(), child.log().trim());
        }
        listening.with_context(|| child.log())?;
        Ok(Self { child, socket, frames, log })
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
}

/// A command for `program` as KubeVirt's user, without capabilities; as ourselves where we cannot become another.
///
/// `program` is copied: the target folder may be closed to other users, say /root.
fn as_in_a_pod(lab: &Lab, program: &Path, folder: &Path) -> anyhow::Result<Command> {
    let name = program.file_name().context("the translator's path names no file")?;
    let copy = folder.join(name);
    std::fs::copy(program, &copy).with_context(|| format!("copy {}", program.display()))?;
    if std::os::unix::fs::chown(folder, Some(POD_USER), Some(POD_USER)).is_err() {
        return Ok(lab.pod().command(copy));
    }
    let mut command = lab.pod().command("setpriv");
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
