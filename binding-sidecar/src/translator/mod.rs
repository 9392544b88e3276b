//! Translators: one passt-rs for each NIC, told what the NIC is, started, watched, ended. It must never know of XML.
//!
//! [`Translators::ensure`] may be asked any number of times, as KubeVirt calls hooks several times per start. What it
//! finds decides what it does:
//!
//! | a NIC | its translator |
//! |---|---|
//! | is new | is started; the call returns when it serves |
//! | is as before | stays |
//! | has other arguments, and no guest was attached yet, or the translator does not run | is replaced |
//! | has other arguments, and a guest was attached | stays as it is, with a warning: KubeVirt never redefines a VM that runs, and a guest would lose every connection |
//! | is wanted no more, and no guest was attached, or the translator does not run | is ended |
//! | is wanted no more, and a guest was attached | stays, with a warning, for the same reason |
//!
//! What did not come up at its first start is not tried again until the next call: the caller is told why, and is the
//! one who can do something about it. What was up once is restarted until it is wanted no more.
//!
//! Everything runs on the thread that calls: the death signal that ends translators with us is about the thread that
//! started them (PR_SET_PDEATHSIG(2const)), so the runtime is one of the current thread.

mod allowance;
pub mod arguments;
mod process;
mod log;
pub mod control;
pub mod board;
mod supervisor;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{error, info, warn};

pub use allowance::Allowance;
pub use board::{Board, Entry, Phase};
pub use log::LOG_TARGET;
pub use process::End;
use supervisor::Supervisor;

/// What is asked for, for one NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The VMI's name of the interface; unique among those asked for.
    pub name: String,
    /// The pod's interface, for people who look.
    pub pod_interface: String,
    /// All but the program's name; it stays in the foreground, and names `socket` and `control` below.
    pub arguments: Vec<OsString>,
    /// Where QEMU connects. Beside it, with `.flows` appended, the translator notes its connections.
    pub socket: PathBuf,
    /// Where the translator answers us.
    pub control: PathBuf,
    /// Most descriptors it may open: less than it could have where each costs memory that there is not.
    pub descriptors_max: Option<u64>,
}

/// Why there is no translator.
#[derive(Debug, thiserror::Error)]
pub enum TranslatorError {
    /// The image lacks it, or it may not be executed.
    #[error("interface {interface}: {} cannot be started", program.display())]
    Program { interface: String, program: PathBuf, source: io::Error },
    /// It ended before it served: an argument it refuses, a port that is taken.
    #[error("interface {interface}: the translator ended at its start, {end}: {said}")]
    Ended { interface: String, end: End, said: String },
    /// It neither served nor ended.
    #[error("interface {interface}: the translator does not serve after {} s: {said}", START_DEADLINE.as_secs())]
    NotReady { interface: String, said: String },
    /// Ours ended: the runtime shuts down.
    #[error("interface {interface}: the sidecar ends")]
    Stopping { interface: String },
}

/// All translators of a VM.
#[derive(Debug)]
pub struct Translators {
    program: PathBuf,
    board: Board,
    supervisors: BTreeMap<String, Supervisor>,
    /// Those that were asked to end. Their places are free when they are done.
    ending: Vec<JoinHandle<()>>,
}

impl Translators {
    /// None yet. `program` is an absolute path of passt-rs.
    pub fn new(program: PathBuf) -> Self {
        Self { program, board: Board::default(), supervisors: BTreeMap::new(), ending: Vec::new() }
    }

    /// Where to look at them.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Makes translators be what is `wanted`, and returns when each of them serves. Those that cannot be had do not
    /// keep the others from running; the first one's error is returned, the others are logged. May be dropped
    /// before it is through: what was begun goes on, and the next call waits for it.
    pub async fn ensure(&mut self, wanted: &[Wanted]) -> Result<(), TranslatorError> {
        self.end_unwanted(wanted).await;
        for each in wanted {
            if self.supervisors.contains_key(&each.name) {
                continue;
            }
            let supervisor = Supervisor::start(self.program.clone(), each.clone(), self.board.clone());
            self.supervisors.insert(each.name.clone(), supervisor);
        }
        let mut first_error = None;
        for each in wanted {
            let Some(supervisor) = self.supervisors.get_mut(&each.name) else { continue };
            let Err(error) = supervisor.first_start().await else { continue };
            self.supervisors.remove(&each.name);
            if first_error.is_none() {
                first_error = Some(error);
            } else {
                error!(interface = each.name, "{}", chain(&error));
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Ends them all: asks them to, and kills those that did not within a second. Nothing of them is left afterwards,
    /// no process and no file. Takes less than two seconds; a call of [`Self::ensure`] that is under way is to be
    /// dropped before, as it may wait longer.
    pub async fn stop(&mut self) {
        while let Some((_, supervisor)) = self.supervisors.pop_first() {
            self.ending.push(supervisor.ask_to_end());
        }
        self.ended().await;
        self.board.retain(|_| false);
    }

    /// Ends what is not wanted any more and what is wanted otherwise.
    async fn end_unwanted(&mut self, wanted: &[Wanted]) {
        for name in self.supervisors.keys().cloned().collect::<Vec<_>>() {
            let Some(supervisor) = self.supervisors.get_mut(&name) else { continue };
            let keep = match wanted.iter().find(|each| each.name == name) {
                _ if supervisor.has_failed() => false,
                None => {
                    let keep = control::guest_was_attached(supervisor.wanted()).await;
                    if keep {
                        warn!(
                            interface = name,
                            "wanted no more, but it serves a guest: its translator stays"
                        );
                    } else {
                        info!(interface = name, "wanted no more: its translator ends");
                    }
                    keep
                }
                Some(each) if each == supervisor.wanted() => true,
                Some(each) => {
                    let keep = control::guest_was_attached(supervisor.wanted()).await;
                    if keep {
                        warn!(
                            interface = name,
                            asked = ?each.arguments,
                            "other arguments for a translator that serves a guest: it keeps those it was started with"
                        );
                    } else {
                        info!(
                            interface = name,
                            "other arguments, and no guest yet: its translator is replaced"
                        );
                    }
                    keep
                }
            };
            if !keep && let Some(supervisor) = self.supervisors.remove(&name) {
                self.ending.push(supervisor.ask_to_end());
            }
        }
        // Before we wait: a call that is cut short would leave on it what nobody wants.
        self.board.retain(|name| {
            self.supervisors.contains_key(name) || wanted.iter().any(|each| each.name == name)
        });
        self.ended().await;
    }

    /// Waits for those that end; they do so all at a time. Where it is dropped, the next one waits for them.
    async fn ended(&mut self) {
        while let Some(task) = self.ending.last_mut() {
            // It could only have been cancelled, with the runtime.
            let _ = task.await;
            self.ending.pop();
        }
    }
}

/// An error with what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// How long a translator may take from its start until it serves. Binding every port takes some hundred
/// milliseconds.
const START_DEADLINE: Duration = Duration::from_secs(5);
