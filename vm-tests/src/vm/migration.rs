//! A guest that moves from one QEMU to another on the same machine, while it runs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::{Image, Options, Vm};
use crate::lab::{Namespace, wait_for};

/// An emulated guest of a gibibyte takes seconds; a busy machine several times that.
const LIMIT: Duration = Duration::from_secs(60);

/// What a pass may take with the guest stopped. An emulated guest on a busy machine changes much in a second.
const DOWNTIME_LIMIT_MS: u32 = 2000;

/// Slow enough that there are several passes, fast enough that they end.
const BYTES_PER_SECOND: u64 = 512 << 20;

/// What a migration was like, as the source counted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// How often the memory that had changed was sent; 1 says that the log of changes was not needed.
    pub passes: u64,
    /// For how long no CPU ran.
    pub downtime: Duration,
    pub total: Duration,
}

impl Vm {
    /// Moves the guest to a new QEMU in `namespace` whose files go to `directory`; `options` must be those of this VM,
    /// but for where the NIC leads. Returns once the guest runs there, with the QEMU it ran in, stopped.
    pub fn migrate(
        &mut self,
        namespace: &Namespace,
        directory: &Path,
        image: &Image,
        options: &Options,
    ) -> anyhow::Result<(Migration, Self)> {
        std::fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        let socket = directory.join("migration.sock");
        let mut target = Self::start(namespace, directory, image, options, Some(&socket))?;
        let limits = json!({ "max-bandwidth": BYTES_PER_SECOND, "downtime-limit": DOWNTIME_LIMIT_MS });
        self.qmp.execute("migrate-set-parameters", Some(limits))?;
        self.qmp.execute("migrate", Some(json!({ "uri": address(&socket) })))?;
        let migration = self.wait_until_migrated()?;
        // It was started stopped, and stays so when the guest has come.
        wait_for(LIMIT, "the guest's arrival", || target.state().is_ok_and(|state| state == "paused"))?;
        target.agent.follow(&self.agent);
        target.resume()?;
        Ok((migration, std::mem::replace(self, target)))
    }

    fn wait_until_migrated(&mut self) -> anyhow::Result<Migration> {
        let deadline = Instant::now() + LIMIT;
        let mut answer = serde_json::Value::Null;
        loop {
            anyhow::ensure!(Instant::now() < deadline, "the migration takes too long: {answer}");
            answer = self.qmp.execute("query-migrate", None)?;
            match answer.get("status").and_then(serde_json::Value::as_str) {
                Some("completed") => break,
                Some("failed" | "cancelled") | None => {
                    anyhow::bail!("the migration fails: {answer}; {}", self.qemu.log().trim())
                }
                Some(_) => {}
            }
        }
        let number = |object: Option<&serde_json::Value>, key: &str| {
            object.and_then(|object| object.get(key)).and_then(serde_json::Value::as_u64)
        };
        let milliseconds = |key| number(Some(&answer), key).map(Duration::from_millis).context("a time");
        Ok(Migration {
            passes: number(answer.get("ram"), "dirty-sync-count").context("the number of passes")?,
            downtime: milliseconds("downtime")?,
            total: milliseconds("total-time")?,
        })
    }

    /// The state of the CPUs, in QEMU's words.
    fn state(&mut self) -> anyhow::Result<String> {
        let answer = self.qmp.execute("query-status", None)?;
        Ok(answer.get("status").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned())
    }
}

pub(super) fn address(socket: &Path) -> String {
    format!("unix:{}", socket.display())
}
