//! Going to the background only after everything that can fail has not.
//!
//! Whoever starts us (libvirt, QEMU) waits for the process it started to exit, and then connects. So that process
//! exits when its child says that it listens, and with failure when the child ends without a word.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions};

/// Which process this is after [`start`].
#[derive(Debug)]
pub enum Started {
    /// The one that was started; nothing is left to do but to exit.
    Parent(ExitCode),
    /// The one that does the work.
    Working(Readiness),
}

/// The duty to say that the work can begin. Dropped without it, the parent reports failure.
#[derive(Debug)]
pub struct Readiness {
    /// To the waiting parent; `None` in the foreground.
    parent: Option<File>,
}

/// A pid file, open while there still is the right to create it.
#[derive(Debug)]
pub struct PidFile {
    file: File,
    path: PathBuf,
}

/// Forks unless in the foreground. To be called before anything spawns a thread or buffers output.
pub fn start(foreground: bool) -> io::Result<Started> {
    if foreground {
        return Ok(Started::Working(Readiness { parent: None }));
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    match fork()? {
        Some(child) => {
            drop(writer);
            Ok(Started::Parent(wait_for_word(reader.into(), child)))
        }
        None => {
            drop(reader);
            rustix::process::setsid()?;
            Ok(Started::Working(Readiness { parent: Some(writer.into()) }))
        }
    }
}

impl Readiness {
    /// Writes the pid, and in the background lets go of the terminal and of the parent.
    pub fn announce(self, pid_file: Option<&PidFile>) -> io::Result<()> {
        if let Some(pid_file) = pid_file {
            pid_file.file.write_all_at(own_line().as_bytes(), 0)?;
        }
        let Some(mut parent) = self.parent else { return Ok(()) };
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        rustix::process::chdir("/")?;
        parent.write_all(&[READY])?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        Ok(())
    }
}

impl PidFile {
    pub fn create(path: &Path) -> io::Result<Self> {
        // The background's folder is another.
        let path = std::path::absolute(path)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o644).open(&path)?;
        Ok(Self { file, path })
    }

    /// Removes the file, unless it names another process: one that was started with the same path while we ended.
    pub fn remove(&self) {
        let own = own_line();
        // One byte more than ours, to tell a longer number.
        let mut found = vec![0; own.len() + 1];
        let length = self.file.read_at(&mut found, 0).unwrap_or_default();
        if found.get(..length) == Some(own.as_bytes()) {
            // The folder may not be ours to change any more.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What the file holds: this process's number.
fn own_line() -> String {
    format!("{}\n", std::process::id())
}

#[expect(unsafe_code, reason = "rustix has no stable fork")]
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the child of a process with several threads may only call async-signal-safe functions; `start` is called
    // by `main` before any thread is spawned.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Pid::from_raw(pid))
}

fn wait_for_word(mut child_says: File, child: Pid) -> ExitCode {
    let mut word = [0];
    if child_says.read_exact(&mut word).is_ok() && word == [READY] {
        return ExitCode::SUCCESS;
    }
    // The child has said why, on the standard error both share. Reap it so that nothing is left behind.
    let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
    ExitCode::FAILURE
}

/// What the child writes to its parent.
const READY: u8 = 1;
