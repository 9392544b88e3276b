//! Another program that hands out addresses, executed as the specification's section 4 says. It must never outlive the
//! call, also one that is killed, leave a zombie, or be believed without bounds.
//!
//! The program gets this one's environment with the verb in `CNI_COMMAND`, and the configuration byte for byte. Its
//! stdout is a result or an error; its stderr is passed on to ours. A program that exits leaves nothing to wait for,
//! also when a child of its own keeps the pipes open. It has as long as the runtime gives to us: no bound of ours knows how
//! long a DHCP server may take, and with us both it and the attachment's lock go.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, set_parent_process_death_signal,
};
use serde::Deserialize;

use crate::protocol::{CniError, Code, Command, Environment};

/// Of stdout. Results are some hundred bytes; what is longer is none.
const LONGEST_ANSWER_BYTES: usize = 1 << 20;

/// Of stderr, for the message when there is nothing else to say. All of it goes to ours.
const LONGEST_COMPLAINT_BYTES: usize = 4096;

/// While a program is being replaced it cannot be executed (ETXTBSY). As long as Go's library waits.
const BUSY_TRIES: u32 = 60;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// The plugin's program, in the first folder of `path` that has one.
///
/// # Errors
/// Code 7 for a name that is none, code 999 as Go's library answers where no folder has it.
pub fn find(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, CniError> {
    if plugin.contains(['/', '\0']) || matches!(plugin, "." | "..") {
        return Err(CniError::config("ipam.type", plugin, "invalid plugin name"));
    }
    let found = path.iter().map(|folder| folder.join(plugin)).find(|program| program.is_file());
    found.ok_or_else(|| {
        let folders: Vec<String> = path.iter().map(|folder| folder.display().to_string()).collect();
        CniError::internal(format!("failed to find plugin {plugin:?} in path [{}]", folders.join(" ")))
    })
}

/// What the program writes to stdout.
///
/// # Errors
/// The program's own error, code and message unchanged; code 999 in the words of Go's library where it fails without
/// one; code 5 where it cannot be executed, code 6 where its answer has no end.
pub fn run(
    program: &Path,
    verb: Command,
    environment: &Environment,
    config: &[u8],
) -> Result<Vec<u8>, CniError> {
    let failed = |error: &dyn std::fmt::Display| CniError::io(program.display(), error);
    let child = spawn(program, verb, environment, config).map_err(|error| failed(&error))?;
    let mut running = Running(child);
    let answer = running.hear().map_err(|error| failed(&error))?;
    let status = running.0.wait().map_err(|error| failed(&error))?;
    if status.success() { Ok(answer.stdout) } else { Err(answer.into_error(status)) }
}

/// Whether a program answered that it does not know the verb, as those of before CNI 1.1.0 do not know GC and STATUS.
/// Go's library of then looks at the attachment first, which these verbs have not.
pub fn is_too_old(error: &CniError) -> bool {
    let code = |code: Code| error.code == code.number();
    error.msg.contains("unknown CNI_COMMAND")
        || code(Code::UnknownContainer) && error.msg.contains("missing containerID")
        || code(Code::InvalidEnvironment) && error.msg.contains("interface name is empty")
        || code(Code::IncompatibleVersion) && error.msg.contains("does not allow")
}

fn spawn(program: &Path, verb: Command, environment: &Environment, config: &[u8]) -> io::Result<Child> {
    let mut command = Program::new(program);
    command.env("CNI_COMMAND", verb.as_str()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // They are in the inherited environment already when a runtime has set them.
    if !environment.container_id.is_empty() {
        command.env("CNI_CONTAINERID", &environment.container_id);
    }
    if !environment.interface.is_empty() {
        command.env("CNI_IFNAME", &environment.interface);
    }
    if let Some(netns) = &environment.netns {
        command.env("CNI_NETNS", netns);
    }
    if let Ok(path) = std::env::join_paths(&environment.path)
        && !path.is_empty()
    {
        command.env("CNI_PATH", path);
    }
    if environment.of_another {
        // What the runtime said of the attachment that it called for.
        command.env_remove("CNI_NETNS").env_remove("CNI_ARGS");
    }
    if !environment.arguments.text.is_empty() {
        command.env("CNI_ARGS", &environment.arguments.text);
    }
    dies_with(&mut command, getpid());
    let mut tries = BUSY_TRIES;
    loop {
        command.stdin(holding(config)?);
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries > 0 => {
                tries -= 1;
                sleep(BUSY_PAUSE);
            }
            spawned => return spawned,
        }
    }
}

/// Has the kernel kill the program when `parent`, which starts it, ends in whatever way.
///
/// By SIGKILL, as `Running` does: a program that would first finish its work could give an address to an attachment that
/// was removed meanwhile. What it leaves half done is what DEL undoes. Not reached are children of its own, and a program
/// with privileges of its own (setuid, capabilities of the file), at whose start the kernel forgets this (prctl(2),
/// PR_SET_PDEATHSIG). The signal comes when the thread that starts it ends; there is but one.
fn dies_with(command: &mut Program, parent: Pid) {
    let tie = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // Whoever died before that is not seen by the kernel any more.
        if getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
    };
    #[expect(unsafe_code, reason = "what a child does between fork and exec is unsafe to std")]
    // SAFETY: the closure may only do what is allowed after a fork: it makes two system calls, allocates nothing, and takes
    // no lock; the error is a number.
    unsafe {
        command.pre_exec(tie)
    };
}

/// A file in memory: unlike a pipe it needs nobody who goes on writing.
fn holding(config: &[u8]) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create("network configuration", MemfdFlags::CLOEXEC)?);
    file.write_all(config)?;
    file.rewind()?;
    Ok(file.into())
}

/// A child that is killed and waited for, whatever happens.
struct Running(Child);

struct Answer {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// The error object on a plugin's stdout.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Complaint {
    code: u32,
    msg: String,
    details: String,
}

impl Running {
    /// Both pipes until they end, or the child does.
    fn hear(&mut self) -> io::Result<Answer> {
        let mut answer = Answer { stdout: Vec::new(), stderr: Vec::new() };
        let mut stdout = self.0.stdout.take();
        let mut stderr = self.0.stderr.take();
        for pipe in [stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)].into_iter().flatten()
        {
            ioctl_fionbio(pipe, true)?;
        }
        // Without it (before Linux 5.3) the pipes' ends must do.
        let end: Option<OwnedFd> = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty()).ok();
        while stdout.is_some() || stderr.is_some() {
            let ended =
                wait([stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)], end.as_ref())?;
            if let Some(pipe) = &mut stdout
                && drain(pipe, |bytes| answer.hear(bytes))?
            {
                stdout = None;
            }
            if let Some(pipe) = &mut stderr
                && drain(pipe, |bytes| answer.overhear(bytes))?
            {
                stderr = None;
            }
            if ended {
                break;
            }
        }
        Ok(answer)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both are no-ops on a child that has been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Answer {
    fn hear(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.stdout.len() + bytes.len() > LONGEST_ANSWER_BYTES {
            return Err(io::Error::other(format!(
                "more than {LONGEST_ANSWER_BYTES} bytes on stdout; killed"
            )));
        }
        self.stdout.extend_from_slice(bytes);
        Ok(())
    }

    /// Only information: who cannot be written to does not hear it.
    fn overhear(&mut self, bytes: &[u8]) -> io::Result<()> {
        let _ = io::stderr().write_all(bytes);
        let room = LONGEST_COMPLAINT_BYTES.saturating_sub(self.stderr.len());
        self.stderr.extend(bytes.iter().take(room));
        Ok(())
    }

    fn into_error(self, status: ExitStatus) -> CniError {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if self.stdout.iter().all(u8::is_ascii_whitespace) {
            return CniError::internal(if self.stderr.is_empty() {
                format!("netplugin failed with no error message: {status}")
            } else {
                format!("netplugin failed: {:?}: {status}", text(&self.stderr))
            });
        }
        match serde_json::from_slice::<Complaint>(&self.stdout) {
            Ok(Complaint { code, msg, details }) => {
                let code = if code == 0 { Code::Internal.number() } else { code };
                CniError { code, msg, details }
            }
            Err(error) => {
                let start = self.stdout.get(..LONGEST_COMPLAINT_BYTES).unwrap_or(&self.stdout);
                CniError::internal(format!(
                    "netplugin failed but error parsing its diagnostic message {:?}: {error}",
                    text(start)
                ))
            }
        }
    }
}

/// Until a pipe has something or ends, or the child does; says whether the child has ended.
fn wait(pipes: [Option<std::os::fd::BorrowedFd<'_>>; 2], end: Option<&OwnedFd>) -> io::Result<bool> {
    let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(3);
    polled.extend(end.map(|end| PollFd::new(end, PollFlags::IN)));
    polled.extend(pipes.into_iter().flatten().map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN)));
    loop {
        match poll(&mut polled, None) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => break,
        }
    }
    Ok(end.is_some() && polled.first().is_some_and(|end| !end.revents().is_empty()))
}

/// All that is in a pipe now; says whether it has ended.
fn drain(pipe: &mut impl Read, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<bool> {
    let mut buffer = [0; 8192];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(length) => take(buffer.get(..length).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_whose_parent_is_dead_already_is_not_executed() {
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("made");
        // To its child a parent that has died is another one.
        for (parent, lives) in [(Pid::INIT, false), (getpid(), true)] {
            let mut command = Program::new("mkdir");
            command.arg(&made);
            dies_with(&mut command, parent);
            let errno = command.status().map_err(|error| error.raw_os_error());
            assert_eq!(errno.err().flatten(), (!lives).then_some(Errno::SRCH.raw_os_error()));
            assert_eq!(made.exists(), lives);
        }
    }
}
