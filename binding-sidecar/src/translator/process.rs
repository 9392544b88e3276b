//! One translator as a child process. It must never decide whether there is to be another.
//!
//! No orphans: the kernel kills the child when the thread that started it ends (PR_SET_PDEATHSIG(2const)), however that
//! came. A change of user would make the kernel forget; passt-rs changes it only where it is started as root, and the
//! sidecar is not root.
//!
//! A process group of its own: whoever signals ours (a terminal's interrupt, a `kill 0`) means us, and we end
//! translators in order instead of finding them ended.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Wanted;
use super::log::{self, Tail};

/// A child that was started.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pid: u32,
    /// Ends when nobody can write any more.
    reader: JoinHandle<()>,
    tail: Tail,
}

impl Process {
    /// Starts `program`; what it prints goes to our log under the interface's name.
    pub(super) fn start(program: &Path, wanted: &Wanted) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        // Room for a burst of lines while we are busy; less where the user's pipes have grown too much already.
        let _ = rustix::pipe::fcntl_setpipe_size(writer.as_fd(), PIPE_BYTES);
        let mut command = Command::new(program);
        command
            .args(&wanted.arguments)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true);
        prepare(&mut command, wanted.descriptors_max);
        let child = command.spawn()?;
        // With it go our copies of the pipe's other end; the reader would never see the end otherwise.
        drop(command);
        let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
        let tail = Tail::default();
        let reader = pipe::Receiver::from_owned_fd(reader.into())?;
        let reader = tokio::spawn(log::copy(reader, wanted.name.clone(), tail.clone()));
        Ok(Self { child, pid, reader, tail })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it ends, and until what it printed is logged. May be dropped and asked again.
    pub(super) async fn wait(&mut self) -> End {
        let end = match self.child.wait().await {
            Ok(status) => End::of(status),
            // Somebody else reaped it: a handler that a library installed.
            Err(_) => End::Unknown,
        };
        // Only a grandchild could keep the pipe open, and passt-rs has none.
        if !self.reader.is_finished() {
            let _ = timeout(DRAIN_DEADLINE, &mut self.reader).await;
        }
        end
    }

    /// The last lines it printed.
    pub(super) fn said(&self) -> String {
        self.tail.text()
    }

    /// Asks it to end; kills it where it did not in time.
    pub(super) async fn terminate(&mut self) -> End {
        self.signal(Signal::TERM);
        match timeout(TERM_DEADLINE, self.wait()).await {
            Ok(end) => end,
            Err(_) => self.kill().await,
        }
    }

    /// Ends it at once.
    pub(super) async fn kill(&mut self) -> End {
        self.signal(Signal::KILL);
        // Where it hangs in the kernel, the runtime reaps it when it comes back.
        timeout(KILL_DEADLINE, self.wait()).await.unwrap_or(End::Unknown)
    }

    fn signal(&self, signal: Signal) {
        // The child's number is no other process's until it is reaped, and then `id` has none.
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended just now.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[expect(unsafe_code, reason = "only the child itself can ask for its death signal and lower its limits")]
fn prepare(command: &mut Command, descriptors_max: Option<u64>) {
    let us = rustix::process::getpid();
    let ask = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if let Some(max) = descriptors_max {
            let limit = getrlimit(Resource::Nofile);
            let lower = |value: Option<u64>| Some(value.map_or(max, |value| value.min(max)));
            setrlimit(
                Resource::Nofile,
                Rlimit { current: lower(limit.current), maximum: lower(limit.maximum) },
            )?;
        }
        // We may have ended before it asked.
        if rustix::process::getppid() == Some(us) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec only what is async-signal-safe may be done: `ask` makes system calls, and an
    // error of theirs is a number, so that nothing is allocated.
    unsafe { command.pre_exec(ask) };
}

/// How a translator ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this status.
    Exited(i32),
    Killed {
        signal: i32,
        core_dumped: bool,
    },
    /// We killed it: it did not serve in time.
    NotReady,
    /// There was nothing to end: it could not be started again.
    NotStarted,
    Unknown,
}

impl End {
    fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Exited(code),
            (None, Some(signal)) => Self::Killed { signal, core_dumped: status.core_dumped() },
            (None, None) => Self::Unknown,
        }
    }

    /// As a label's value: one of some three hundred.
    pub fn label(self) -> String {
        match self {
            Self::Exited(code) => format!("exit_{code}"),
            Self::Killed { signal, .. } => signal_name(signal),
            Self::NotReady => "not_ready".to_owned(),
            Self::NotStarted => "not_started".to_owned(),
            Self::Unknown => "unknown".to_owned(),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit status {code}"),
            Self::Killed { signal, core_dumped: false } => f.write_str(&signal_name(*signal)),
            Self::Killed { signal, core_dumped: true } => write!(f, "{}, core dumped", signal_name(*signal)),
            Self::NotReady => f.write_str("did not serve in time"),
            Self::NotStarted => f.write_str("could not be started"),
            Self::Unknown => f.write_str("reason unknown"),
        }
    }
}

/// The usual ones by name.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGSYS => "SIGSYS",
        other => return format!("signal_{other}"),
    };
    name.to_owned()
}

/// How long a translator may take to end in order.
const TERM_DEADLINE: Duration = Duration::from_secs(1);
/// How long the kernel may take to end one, so that both fit in the two seconds that all of us have.
const KILL_DEADLINE: Duration = Duration::from_millis(500);
/// How long the last lines may take.
const DRAIN_DEADLINE: Duration = Duration::from_millis(200);
/// Some thousand lines; takes memory only while they wait.
const PIPE_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_to_people_and_to_counters() {
        for (status, label, text) in [
            (0, "exit_0", "exit status 0"),
            (1 << 8, "exit_1", "exit status 1"),
            (9, "SIGKILL", "SIGKILL"),
            (11 | 0x80, "SIGSEGV", "SIGSEGV, core dumped"),
            (40, "signal_40", "signal_40"),
        ] {
            let end = End::of(ExitStatus::from_raw(status));
            assert_eq!((end.label().as_str(), end.to_string().as_str()), (label, text));
        }
    }
}
