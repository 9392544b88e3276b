//! Where log lines go and how they look: standard error, as JSON unless somebody watches. Nobody who logs waits for it.

mod queue;

use std::io::{self, IsTerminal as _};

use tracing::error;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt};

use crate::cli::{LogFormat, LogLevel};
use crate::translator::LOG_TARGET;
use queue::Queue;

/// Dropped, it waits for what was said last; 200 ms at most.
#[derive(Debug)]
pub struct Log(Queue);

/// Starts logging; once per process.
///
/// # Errors
/// What the kernel says of the thread that writes.
pub fn init(format: Option<LogFormat>, level: LogLevel) -> io::Result<Log> {
    let terminal = io::stderr().is_terminal();
    // Translators have a level of their own, which the VMI may set: what they say is said.
    let targets = Targets::new().with_default(filter(level)).with_target(LOG_TARGET, LevelFilter::TRACE);
    let queue = Queue::default();
    let lines = fmt::layer().with_writer(queue.clone()).with_target(false).with_ansi(terminal);
    // Otherwise it would print where nobody reads, and wait, or panic.
    let lines = lines.log_internal_errors(false);
    let lines = match format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json }) {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    Registry::default().with(lines.with_filter(targets)).init();
    // An error, so that no level hides it: there may have been some among them.
    queue.drain(io::stderr(), |lines| error!(lines, "log lines are lost: they were not read in time"))?;
    Ok(Log(queue))
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush();
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
