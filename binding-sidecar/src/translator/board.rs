//! What there is to see of translators, for those who only look. Its writers are supervisors; it must never decide
//! anything.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::process::End;
use super::{Wanted, control};
use control::Stats;

/// All translators that are wanted, by the interface's name. Copies show the same.
#[derive(Debug, Clone, Default)]
pub struct Board {
    entries: Arc<Mutex<BTreeMap<String, Entry>>>,
    /// One who reads counters at a time: a translator serves eight clients.
    reading: Arc<tokio::sync::Mutex<()>>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The VMI's name of the interface.
    pub interface: String,
    pub pod_interface: String,
    pub socket: PathBuf,
    pub control: PathBuf,
    pub phase: Phase,
    /// Times it was started again, by [`End::label`] of the one before. Replacing it on purpose is no restart.
    pub restarts: BTreeMap<String, u64>,
    /// How the one before the present one ended.
    pub last_end: Option<End>,
}

/// What it is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Has no process, or one that does not serve yet.
    Starting {
        pid: Option<u32>,
    },
    Running {
        pid: u32,
        since: Instant,
    },
    /// Ended, and is to be started again.
    Waiting,
    /// Did not come up at its first start; the next hook call tries again.
    Failed {
        why: String,
    },
}

impl Entry {
    pub fn restarts_total(&self) -> u64 {
        self.restarts.values().sum()
    }

    /// Why it does not serve; none: it does.
    pub fn not_running(&self) -> Option<String> {
        match &self.phase {
            Phase::Running { .. } => None,
            Phase::Starting { .. } => Some(format!("interface {}: its translator starts", self.interface)),
            Phase::Waiting => {
                let end = self.last_end.map_or_else(String::new, |end| format!(", {end}"));
                Some(format!("interface {}: its translator ended{end}; it is started again", self.interface))
            }
            Phase::Failed { why } => Some(why.clone()),
        }
    }
}

impl Board {
    /// As they are now, in order of names.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().values().cloned().collect()
    }

    /// With what those that run say of themselves; those that do not answer in time have nothing.
    pub async fn read(&self) -> Vec<(Entry, Option<Stats>)> {
        let _one = self.reading.lock().await;
        let asked: Vec<_> = self
            .entries()
            .into_iter()
            .map(|entry| {
                let control = entry.control.clone();
                (entry, tokio::spawn(async move { control::stats(&control).await }))
            })
            .collect();
        let mut read = Vec::new();
        for (entry, answer) in asked {
            let stats = answer.await.ok().and_then(Result::ok);
            let runs = matches!(entry.phase, Phase::Running { .. });
            read.push((entry, stats.filter(|_| runs)));
        }
        read
    }

    /// A translator is wanted; one of that name keeps its counts.
    pub(super) fn want(&self, wanted: &Wanted) {
        let mut entries = self.lock();
        let before = entries.remove(&wanted.name);
        let (restarts, last_end) =
            before.map_or_else(Default::default, |entry| (entry.restarts, entry.last_end));
        let entry = Entry {
            interface: wanted.name.clone(),
            pod_interface: wanted.pod_interface.clone(),
            socket: wanted.socket.clone(),
            control: wanted.control.clone(),
            phase: Phase::Starting { pid: None },
            restarts,
            last_end,
        };
        entries.insert(wanted.name.clone(), entry);
    }

    pub(super) fn set_phase(&self, name: &str, phase: Phase) {
        if let Some(entry) = self.lock().get_mut(name) {
            entry.phase = phase;
        }
    }

    /// It ended, and is to be started again: how often that was so.
    pub(super) fn count_restart(&self, name: &str, end: End) -> u64 {
        let mut entries = self.lock();
        // Forgotten while it ended.
        let Some(entry) = entries.get_mut(name) else { return 0 };
        *entry.restarts.entry(end.label()).or_default() += 1;
        entry.last_end = Some(end);
        entry.phase = Phase::Waiting;
        entry.restarts_total()
    }

    /// Forgets those that are wanted no more.
    pub(super) fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.lock().retain(|name, _| wanted(name));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
