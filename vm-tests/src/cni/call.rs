//! One execution of a plugin: environment, standard input, surroundings. It must never interpret a configuration.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::fs::Mode;
use serde_json::Value;

use super::place::{before_exec, path};
use super::{Node, Outcome, Place};
use crate::lab::wait_for;

/// A call takes milliseconds; delegates may wait for a bridge's port for a few seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// Where plugins that need other programs find them.
const PROGRAMS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A plugin's executable.
#[derive(Debug, Clone)]
pub struct Plugin {
    program: PathBuf,
}

/// What a runtime passes to a plugin, and how.
#[derive(Debug, Clone)]
pub struct Call {
    environment: BTreeMap<String, OsString>,
    stdin: Stdin,
    place: Place,
    umask: Option<u32>,
    folder_is_gone: bool,
}

#[derive(Debug, Clone)]
enum Stdin {
    Bytes(Vec<u8>),
    /// Descriptor 0 is not open.
    Closed,
}

impl Call {
    /// With `CNI_COMMAND` and a `PATH`, no other variable, and nothing on standard input.
    pub fn new(command: &str) -> Self {
        let call = Self {
            environment: BTreeMap::new(),
            stdin: Stdin::Bytes(Vec::new()),
            place: Place::Node,
            umask: None,
            folder_is_gone: false,
        };
        call.env("CNI_COMMAND", command).env("PATH", PROGRAMS)
    }

    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    pub fn container(self, id: &str) -> Self {
        self.env("CNI_CONTAINERID", id)
    }

    pub fn interface(self, name: &str) -> Self {
        self.env("CNI_IFNAME", name)
    }

    pub fn netns(self, path: impl Into<OsString>) -> Self {
        self.env("CNI_NETNS", path)
    }

    pub fn args(self, arguments: &str) -> Self {
        self.env("CNI_ARGS", arguments)
    }

    pub fn path(self, folders: &[PathBuf]) -> Self {
        let folders: Vec<OsString> = folders.iter().map(|folder| folder.clone().into_os_string()).collect();
        self.env("CNI_PATH", folders.join(&OsString::from(":")))
    }

    pub fn config(self, config: &Value) -> Self {
        self.stdin(config.to_string())
    }

    /// Bytes that need not be a configuration.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    pub fn closed_stdin(mut self) -> Self {
        self.stdin = Stdin::Closed;
        self
    }

    pub fn at(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    pub fn umask(mut self, mask: u32) -> Self {
        self.umask = Some(mask);
        self
    }

    /// The working directory no longer exists.
    pub fn folder_is_gone(mut self) -> Self {
        self.folder_is_gone = true;
        self
    }

    fn surround(&self, command: &mut Command, node: &Node) -> anyhow::Result<()> {
        if let Some(mask) = self.umask {
            before_exec(command, move || {
                rustix::process::umask(Mode::from_raw_mode(mask));
                Ok(())
            });
        }
        if self.folder_is_gone {
            let folder = node.directory().join("gone");
            std::fs::create_dir_all(&folder).context("create a working directory")?;
            let folder = path(&folder)?;
            before_exec(command, move || {
                rustix::process::chdir(folder.as_c_str())?;
                rustix::fs::rmdir(folder.as_c_str())?;
                Ok(())
            });
        }
        // Last: what comes before may need to write.
        self.place.holds(command, node)?;
        if matches!(self.stdin, Stdin::Closed) {
            before_exec(command, close_stdin);
        }
        Ok(())
    }
}

impl Plugin {
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into() }
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs it on the node to its end.
    pub fn run(&self, node: &Node, call: &Call) -> anyhow::Result<Outcome> {
        let mut command = node.host()?.command(&self.program);
        command.env_clear().envs(&call.environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        call.surround(&mut command, node)?;
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("start {}", self.program.display()))?;
        // It need not read what it is sent; then the pipe breaks, which is not what is tested.
        let outcome = std::thread::scope(|scope| {
            let stdin = child.stdin.take();
            let stdout = child.stdout.take();
            let stderr = child.stderr.take();
            scope.spawn(move || {
                if let (Some(mut stdin), Stdin::Bytes(bytes)) = (stdin, &call.stdin) {
                    let _ = stdin.write_all(bytes);
                }
            });
            let stdout = scope.spawn(move || everything(stdout));
            let stderr = scope.spawn(move || everything(stderr));
            let ended = ends(&mut child);
            let status = child.wait().context("wait for a plugin")?;
            let took = started.elapsed();
            let text = |bytes: std::thread::Result<Vec<u8>>| {
                bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
            };
            let outcome = Outcome { status, stdout: text(stdout.join()), stderr: text(stderr.join()), took };
            ended.with_context(|| format!("{outcome}"))?;
            anyhow::Ok(outcome)
        })?;
        Ok(outcome)
    }
}

fn everything(pipe: Option<impl std::io::Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

/// Kills it when it does not end by itself.
fn ends(child: &mut Child) -> anyhow::Result<()> {
    let ended = wait_for(LIMIT, "a plugin's end", || !matches!(child.try_wait(), Ok(None)));
    if ended.is_err() {
        let _ = child.kill();
    }
    ended
}

#[expect(unsafe_code, reason = "a closed standard input is what is tested")]
fn close_stdin() -> std::io::Result<()> {
    // SAFETY: close of descriptor 0 in a process that is about to execute another program; no value of Rust owns
    // descriptor 0.
    unsafe { libc::close(0) };
    Ok(())
}
