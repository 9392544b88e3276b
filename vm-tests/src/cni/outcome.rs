//! What came of one execution of a plugin, judged as the specification has it. It must never run one.

use std::fmt;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// All a plugin said.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// A plugin's error, as it is on standard output ("Error" in section 5 of the specification).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub version: Option<String>,
    pub code: u64,
    pub msg: String,
    pub details: String,
}

impl Outcome {
    /// What it printed, if it succeeded with one JSON object and nothing else.
    pub fn result(&self) -> anyhow::Result<Value> {
        ensure!(self.status.success(), "{self}");
        self.object()
    }

    /// Fails unless it succeeded without a word on standard output.
    pub fn silent(&self) -> anyhow::Result<()> {
        ensure!(self.status.success() && self.stdout.is_empty(), "{self}");
        Ok(())
    }

    /// Its error, if it failed with one JSON object on standard output and nothing else there.
    pub fn failure(&self) -> anyhow::Result<Failure> {
        ensure!(!self.status.success(), "it succeeded: {self}");
        ensure!(self.status.code().is_some(), "it was ended by a signal: {self}");
        let object = self.object()?;
        let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        Ok(Failure {
            version: text("cniVersion"),
            code: object.get("code").and_then(Value::as_u64).with_context(|| format!("no code: {self}"))?,
            msg: text("msg").with_context(|| format!("no msg: {self}"))?,
            details: text("details").unwrap_or_default(),
        })
    }

    fn object(&self) -> anyhow::Result<Value> {
        let value: Value =
            serde_json::from_str(&self.stdout).with_context(|| format!("not one JSON value: {self}"))?;
        ensure!(value.is_object(), "no object: {self}");
        Ok(value)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}; stdout {:?}; stderr {:?}", self.status, self.stdout, self.stderr)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "code {}: {}", self.code, self.msg)?;
        if !self.details.is_empty() {
            write!(formatter, "; {}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
