//! Child processes: each runs in its own process group, and none outlives a Ctrl-C.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process_group, pidfd_open, set_child_subreaper,
    waitpgid,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::sweep;

/// How long a signalled group may take to end by itself. Nothing in it has clean-up that waits.
const GRACE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// The user asked to stop; the child is gone and what it left behind is removed.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Runs children and passes a signal on to everything they started.
#[derive(Debug)]
pub(crate) struct Runner {
    /// Readable once a signal arrived; never drained, so that a second child is not started either.
    signals: UnixStream,
}

/// One of several children that run at once.
#[derive(Debug)]
struct Running {
    /// Place of its command among all.
    at: usize,
    child: Child,
    ended: OwnedFd,
}

impl Runner {
    pub(crate) fn new() -> Result<Self> {
        let (signals, write_end) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::low_level::pipe::register(signal, write_end.try_clone()?)?;
        }
        // Grandchildren become ours when a child ends before them, so that `stop` can wait for them too.
        set_child_subreaper(Some(getpid()))?;
        Ok(Self { signals })
    }

    /// Runs `command` to its end; anything but success is an error.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        let name = display(command);
        let mut outcome = None;
        self.run_all(std::slice::from_mut(command), 1, |_, status| outcome = Some(status))?;
        match outcome {
            Some(status) if !status.success() => bail!("{name}: {status}"),
            _ => Ok(()),
        }
    }

    /// Runs every command to its end, `jobs` at a time, and tells `ended` of each: its place, and how it ended. One
    /// that fails does not stop the others.
    pub(crate) fn run_all(
        &self,
        commands: &mut [Command],
        jobs: usize,
        mut ended: impl FnMut(usize, ExitStatus),
    ) -> Result<()> {
        let mut waiting = commands.iter_mut().enumerate();
        let mut running: Vec<Running> = Vec::new();
        let outcome = loop {
            let room = jobs.max(1).saturating_sub(running.len());
            match waiting.by_ref().take(room).map(|(at, command)| Running::start(at, command)).collect() {
                Ok::<Vec<_>, _>(started) => running.extend(started),
                Err(error) => break Err(error),
            }
            if running.is_empty() {
                return Ok(());
            }
            match self.wait(&running) {
                Ok(Some(at)) => {
                    let mut done = running.swap_remove(at);
                    match done.child.wait() {
                        Ok(status) => ended(done.at, status),
                        Err(error) => break Err(error.into()),
                    }
                }
                Ok(None) => break Err(Interrupted.into()),
                Err(error) => break Err(error),
            }
        };
        for mut left in running {
            stop(&mut left.child)?;
        }
        sweep::run();
        outcome
    }

    /// Which of `running` ended; `None` when a signal arrived instead.
    fn wait(&self, running: &[Running]) -> Result<Option<usize>> {
        loop {
            let ends = running.iter().map(|running| PollFd::new(&running.ended, PollFlags::IN));
            let mut ready: Vec<PollFd<'_>> =
                std::iter::once(PollFd::new(&self.signals, PollFlags::IN)).chain(ends).collect();
            match poll(&mut ready, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other.context("waiting for children")?,
            };
            match ready.iter().position(|fd| !fd.revents().is_empty()) {
                Some(0) => return Ok(None),
                Some(at) => return Ok(Some(at - 1)),
                None => {}
            }
        }
    }
}

impl Running {
    fn start(at: usize, command: &mut Command) -> Result<Self> {
        let child =
            command.process_group(0).spawn().with_context(|| format!("starting {}", display(command)))?;
        let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        Ok(Self { at, child, ended })
    }
}

/// Ends the child's whole group: asked first, then killed.
fn stop(child: &mut Child) -> io::Result<()> {
    let pid = Pid::from_child(child);
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    kill_process_group(pid, Signal::TERM)?;
    let mut ready = [PollFd::new(&ended, PollFlags::IN)];
    // An interrupted or timed-out wait leads to the same kill.
    let _ = poll(&mut ready, Some(&GRACE));
    let _ = kill_process_group(pid, Signal::KILL); // fails when nobody is left, which is what we want
    child.wait()?;
    // What the sweep looks for is dead only once it is waited for. The end is that no such child is left.
    while waitpgid(pid, WaitOptions::empty()).is_ok() {}
    Ok(())
}

fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
