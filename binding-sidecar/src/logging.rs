//! Where log lines go and how they look: standard error, as JSON unless somebody watches.

use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;

use crate::cli::{LogFormat, LogLevel};

/// Starts logging; once per process.
pub fn init(format: Option<LogFormat>, level: LogLevel) {
    let terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(filter(level))
        .with_target(false)
        .with_ansi(terminal);
    match format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json }) {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).init(),
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
