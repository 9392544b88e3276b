//! Child processes: each runs in its own process group, and none outlives a Ctrl-C.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

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

/// Runs one child at a time and passes a signal on to everything the child started.
#[derive(Debug)]
pub(crate) struct Runner {
    /// Readable once a signal arrived; never drained, so that a second child is not started either.
    signals: UnixStream,
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
        let mut child = command.process_group(0).spawn().with_context(|| format!("starting {name}"))?;
        if self.wait(&child).with_context(|| format!("waiting for {name}"))? {
            let status = child.wait()?;
            if !status.success() {
                bail!("{name}: {status}");
            }
            return Ok(());
        }
        stop(&mut child)?;
        sweep::run();
        Err(Interrupted.into())
    }

    /// Whether the child ended (rather than a signal arrived).
    fn wait(&self, child: &Child) -> Result<bool> {
        let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
        loop {
            let mut ready = [PollFd::new(&ended, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            match poll(&mut ready, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let [ended, signals] = ready;
            if !signals.revents().is_empty() {
                return Ok(false);
            }
            if !ended.revents().is_empty() {
                return Ok(true);
            }
        }
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
