//! One NIC's translator, always there: a task that starts it, and starts it again when it ends. It must never give up
//! on one that has served.
//!
//! | state | may happen | leads to |
//! |---|---|---|
//! | first start | it serves | running |
//! | | it ends, or does not serve in time | the end, with the reason for who asked |
//! | running | it ends | waiting: at once, then longer with every time |
//! | waiting | time is up | starting again |
//! | starting again | it serves | running |
//! | | it ends, does not serve, cannot be started | waiting |
//! | any | we are asked to end | it is ended, its files go |

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::board::{Board, Phase};
use super::process::{End, Process};
use super::{START_DEADLINE, TranslatorError, Wanted, chain, control};

/// The task, from outside. Dropped, it ends too.
#[derive(Debug)]
pub(super) struct Supervisor {
    wanted: Wanted,
    first: FirstStart,
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// How the first start went.
#[derive(Debug)]
enum FirstStart {
    Awaited(oneshot::Receiver<Result<(), TranslatorError>>),
    Good,
    Failed,
}

impl Supervisor {
    pub(super) fn start(program: PathBuf, wanted: Wanted, board: Board) -> Self {
        board.want(&wanted);
        let (tell_first, first) = oneshot::channel();
        let (end, asked_to_end) = oneshot::channel();
        let work = Work { program, wanted: wanted.clone(), board };
        let task = tokio::spawn(work.run(tell_first, asked_to_end));
        Self { wanted, first: FirstStart::Awaited(first), end, task }
    }

    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Waits until the translator has served once. An error is given once. May be dropped and asked again.
    pub(super) async fn first_start(&mut self) -> Result<(), TranslatorError> {
        let FirstStart::Awaited(first) = &mut self.first else { return Ok(()) };
        let stopping = || TranslatorError::Stopping { interface: self.wanted.name.clone() };
        let outcome = first.await.unwrap_or_else(|_| Err(stopping()));
        self.first = if outcome.is_ok() { FirstStart::Good } else { FirstStart::Failed };
        outcome
    }

    /// The first start has failed, though nobody waited for it.
    pub(super) fn has_failed(&mut self) -> bool {
        if let FirstStart::Awaited(first) = &mut self.first {
            match first.try_recv() {
                Ok(Ok(())) => self.first = FirstStart::Good,
                Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => self.first = FirstStart::Failed,
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
        }
        matches!(self.first, FirstStart::Failed)
    }

    /// The translator ends; the task is done when nothing of it is left.
    pub(super) fn ask_to_end(self) -> JoinHandle<()> {
        let Self { end, task, .. } = self;
        // It may have ended by itself.
        let _ = end.send(());
        task
    }
}

/// What the task knows.
struct Work {
    program: PathBuf,
    wanted: Wanted,
    board: Board,
}

impl Work {
    async fn run(
        self,
        first: oneshot::Sender<Result<(), TranslatorError>>,
        mut asked_to_end: oneshot::Receiver<()>,
    ) {
        let mut first = Some(first);
        let mut pauses = Pauses::default();
        loop {
            let started = Instant::now();
            let failure = match Process::start(&self.program, &self.wanted) {
                Ok(mut process) => {
                    tokio::select! {
                        biased;
                        // Also when nobody can ask any more.
                        _ = &mut asked_to_end => {
                            let end = process.terminate().await;
                            info!(interface = self.wanted.name, pid = process.pid(), %end, "translator ended as asked");
                            break;
                        }
                        end = self.live(&mut process, &mut first) => Failure::Ended(end, process.said()),
                    }
                }
                Err(error) => Failure::NotStarted(error),
            };
            if let Some(first) = first.take() {
                // Before anybody is told, and tries again at the same place.
                self.remove_files().await;
                return self.give_up(first, failure);
            }
            let pause = pauses.next(started.elapsed());
            self.note(failure, pause);
            tokio::select! {
                biased;
                _ = &mut asked_to_end => break,
                () = sleep(pause) => {}
            }
        }
        self.remove_files().await;
    }

    /// One process from its start to its end.
    async fn live(
        &self,
        process: &mut Process,
        first: &mut Option<oneshot::Sender<Result<(), TranslatorError>>>,
    ) -> End {
        let name = &self.wanted.name;
        let pid = process.pid();
        self.board.set_phase(name, Phase::Starting { pid: Some(pid) });
        let begun = Instant::now();
        let served = tokio::select! {
            biased;
            end = process.wait() => return end,
            served = timeout(START_DEADLINE, control::served_by(&self.wanted.control, pid)) => served,
        };
        if served.is_err() {
            process.kill().await;
            return End::NotReady;
        }
        self.board.set_phase(name, Phase::Running { pid, since: Instant::now() });
        let after_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(interface = name, pid, after_ms, socket = %self.wanted.socket.display(), "translator serves");
        if let Some(first) = first.take() {
            // Whoever asked may have gone.
            let _ = first.send(Ok(()));
        }
        process.wait().await
    }

    /// The first start failed.
    fn give_up(&self, first: oneshot::Sender<Result<(), TranslatorError>>, failure: Failure) {
        let interface = self.wanted.name.clone();
        let error = match failure {
            Failure::NotStarted(source) => {
                TranslatorError::Program { interface, program: self.program.clone(), source }
            }
            Failure::Ended(End::NotReady, said) => TranslatorError::NotReady { interface, said },
            Failure::Ended(end, said) => TranslatorError::Ended { interface, end, said },
        };
        self.board.set_phase(&self.wanted.name, Phase::Failed { why: chain(&error) });
        let _ = first.send(Err(error));
    }

    /// Counts the end of one that has served before, and says why.
    fn note(&self, failure: Failure, pause: Duration) {
        let (end, said) = match failure {
            Failure::Ended(end, said) => (end, said),
            Failure::NotStarted(error) => (End::NotStarted, format!("{}: {error}", self.program.display())),
        };
        let restarts = self.board.count_restart(&self.wanted.name, end);
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        warn!(
            interface = self.wanted.name,
            %end,
            restarts,
            said,
            pause_ms,
            "translator ended, it is started again"
        );
    }

    /// One that was killed leaves its files. passt-rs itself replaces the sockets of a dead one, so they are in
    /// nobody's way before. A socket that somebody serves is not of ours: then ours failed for that reason.
    async fn remove_files(&self) {
        let Wanted { socket, control, .. } = &self.wanted;
        for (socket, of_it) in [(socket, Some(flows(socket))), (control, None)] {
            match UnixStream::connect(socket).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    // The folder may be gone.
                    let _ = std::fs::remove_file(socket);
                }
                // Usually the translator did it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Ok(_) | Err(_) => continue,
            }
            if let Some(path) = of_it {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// Why a process is no more, or never was.
enum Failure {
    /// And the last lines it printed.
    Ended(End, String),
    NotStarted(io::Error),
}

/// Where passt-rs notes the connections of the guest at `socket`, unless it is told otherwise.
fn flows(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".flows");
    path.into()
}

/// How long to wait before starting again.
#[derive(Debug, Default)]
struct Pauses {
    /// Ends since one that came after a long life.
    in_a_row: u32,
}

impl Pauses {
    /// After a life that took `lived`.
    fn next(&mut self, lived: Duration) -> Duration {
        if lived >= LONG_LIFE {
            self.in_a_row = 0;
        }
        let pause = match self.in_a_row {
            0 => Duration::ZERO,
            again => PAUSE_MIN.saturating_mul(2_u32.saturating_pow(again - 1)).min(PAUSE_MAX),
        };
        self.in_a_row = self.in_a_row.saturating_add(1);
        pause
    }
}

/// The first pause that is one, doubled with every end.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest: a guest's connections outlive some seconds without a NIC.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Who lived so long did not end of how it was started: the next pause is none.
const LONG_LIFE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew_after_a_long_life() {
        let mut pauses = Pauses::default();
        let short = Duration::from_secs(1);
        let seen: Vec<_> = (0..9).map(|_| pauses.next(short).as_millis()).collect();
        assert_eq!(seen, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pauses.next(LONG_LIFE), Duration::ZERO);
        assert_eq!(pauses.next(short), PAUSE_MIN);
        pauses.in_a_row = u32::MAX;
        assert_eq!(pauses.next(short), PAUSE_MAX);
    }

    #[test]
    fn the_file_of_connections_lies_beside_the_socket() {
        assert_eq!(flows(Path::new("/a/b.sock")), Path::new("/a/b.sock.flows"));
    }
}
