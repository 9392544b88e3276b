//! A program a lab started: it dies with the value, and what it prints is in a file. It must never outlive a test.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal};

use super::wait_for;

/// A running program and its log.
#[derive(Debug)]
pub struct Child {
    name: String,
    inner: std::process::Child,
    stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Child {
    /// Starts `command` with standard output and error going to the file `log`, and standard input held open.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let output = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let errors = output.try_clone().context("duplicate the log")?;
        let mut inner = command
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {name} ({})", command.get_program().to_string_lossy()))?;
        let stdin = inner.stdin.take();
        Ok(Self { name: name.to_owned(), inner, stdin, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// All it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until a complete line of the log contains `text`, and returns that line. Fails at once when it ends.
    pub fn wait_for_line(&mut self, limit: Duration, text: &str) -> anyhow::Result<String> {
        let mut found = None;
        let mut ended = false;
        let _ = wait_for(limit, text, || {
            ended = self.has_ended();
            found = complete_lines(&self.log()).find(|line| line.contains(text)).map(str::to_owned);
            found.is_some() || ended
        });
        found.with_context(|| {
            let why = if ended { "ended" } else { "is silent" };
            format!("{} {why}; wanted a line with {text:?}, its log is:\n{}", self.name, self.log())
        })
    }

    pub fn has_ended(&mut self) -> bool {
        matches!(self.inner.try_wait(), Ok(Some(_)) | Err(_))
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait_for(limit, &what, || self.has_ended()).with_context(|| self.log())?;
        self.inner.wait().with_context(|| what)
    }

    /// Writes to its standard input.
    pub fn write(&mut self, text: &str) -> anyhow::Result<()> {
        let stdin =
            self.stdin.as_mut().with_context(|| format!("standard input of {} is closed", self.name))?;
        stdin.write_all(text.as_bytes()).with_context(|| format!("write to {}", self.name))
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("a process id")?;
        rustix::process::kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.inner.kill();
        let _ = self.inner.wait();
    }
}

fn complete_lines(log: &str) -> impl Iterator<Item = &str> {
    log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}
