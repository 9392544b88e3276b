//! Where log lines go and how they look: standard error, as JSON unless somebody watches.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt};

use crate::cli::{LogFormat, LogLevel};
use crate::translator::LOG_TARGET;

/// Starts logging; once per process.
pub fn init(format: Option<LogFormat>, level: LogLevel) {
    let terminal = io::stderr().is_terminal();
    // Translators have a level of their own, which the VMI may set: what they say is said.
    let targets = Targets::new().with_default(filter(level)).with_target(LOG_TARGET, LevelFilter::TRACE);
    let lines = fmt::layer().with_writer(io::stderr).with_target(false).with_ansi(terminal);
    let lines = match format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json }) {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    Registry::default().with(lines.with_filter(targets)).init();
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
