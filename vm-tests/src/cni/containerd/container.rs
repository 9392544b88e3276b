//! One container of `ctr run --cni`. It must never call a plugin itself.
//!
//! ADD comes between the container's creation and its start; DEL, without a network namespace, when the process has ended and
//! `ctr` is still there: so it stays in the foreground.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::{Containerd, image};
use crate::lab::{Child, Namespace, wait_for};

/// For the first process to run: two plugins' ADD and what runc takes on a busy machine.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// Of containerd, in which the labs' containers are.
const NAMESPACE: &str = "labs";

/// A container that does nothing. Gone with containerd at the latest.
#[derive(Debug)]
pub struct Container<'c> {
    daemon: &'c Containerd<'c>,
    id: String,
    ctr: Child,
    namespace: Namespace,
}

impl Containerd<'_> {
    /// Runs a container attached to the default network. What a plugin or `ctr` complains of is in the error.
    pub fn run(&self, id: &str) -> anyhow::Result<Container<'_>> {
        self.begin(id)?.runs(self)
    }

    /// The same of several at once.
    pub fn run_all(&self, ids: &[String]) -> anyhow::Result<Vec<Container<'_>>> {
        let begun: Vec<Begun> = ids.iter().map(|id| self.begin(id)).collect::<anyhow::Result<_>>()?;
        begun.into_iter().map(|begun| begun.runs(self)).collect()
    }

    fn begin(&self, id: &str) -> anyhow::Result<Begun> {
        let pid_file = self.folder.join(format!("{id}.pid"));
        let _ = std::fs::remove_file(&pid_file);
        let mut command = self.ctr(NAMESPACE)?;
        command
            .args(["run", "--rm", "--null-io", "--cni", "--cgroup", &format!("{}/{id}", self.groups.path())])
            .arg("--pid-file")
            .arg(&pid_file)
            .arg("--rootfs")
            .arg(self.folder.join("rootfs"))
            .args([id, &format!("/{}", image::PAUSE_NAME)]);
        let ctr = Child::spawn(&format!("ctr run {id}"), command, &self.folder.join(format!("{id}.log")))?;
        Ok(Begun { id: id.to_owned(), ctr, pid_file })
    }

    /// The container's folder below /proc, once it is the program and no longer runc that runs.
    fn running(&self, pid_file: &Path) -> Option<PathBuf> {
        let pid = std::fs::read_to_string(pid_file).ok()?;
        let process = self.path(&Path::new("/proc").join(pid.trim()));
        let program = std::fs::read_to_string(process.join("comm")).ok()?;
        (program.trim() == image::PAUSE_NAME).then_some(process)
    }
}

/// `ctr run` at work.
#[derive(Debug)]
struct Begun {
    id: String,
    ctr: Child,
    pid_file: PathBuf,
}

impl Begun {
    fn runs<'c>(mut self, daemon: &'c Containerd<'c>) -> anyhow::Result<Container<'c>> {
        let mut process = None;
        wait_for(RUN_LIMIT, "a container to run", || {
            process = daemon.running(&self.pid_file);
            process.is_some() || self.ctr.has_ended()
        })
        .with_context(|| self.ctr.log())?;
        let Self { id, ctr, .. } = self;
        let process = process.with_context(|| format!("ctr run {id} ended: {}", ctr.log()))?;
        let namespace = Namespace::found(&process.join("ns/net").to_string_lossy())
            .with_context(|| format!("the network namespace of {id}"))?;
        Ok(Container { daemon, id, ctr, namespace })
    }
}

impl Container<'_> {
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Ends the container and waits until `ctr` has called DEL. Fails if that was refused.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let mut kill = self.daemon.ctr(NAMESPACE)?;
        kill.args(["task", "kill", "--signal", "KILL", &self.id]);
        self.daemon.run_to_end(kill, &format!("kill {}", self.id))?;
        self.ctr.wait(super::COMMAND_LIMIT)?;
        let log = self.ctr.log();
        // It only logs what DEL complains of.
        ensure!(!log.contains("level=error"), "ctr run {}: {log}", self.id);
        Ok(())
    }
}
