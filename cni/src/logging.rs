//! The log: on stderr, which a runtime shows when a call fails, and in a file where the configuration names one. It must
//! never write to stdout, which is the answer, and never fail a call.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Mutex;

use serde_json::Value;
use tracing::Level;
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt as _};

/// Starts it as the configuration on `stdin` says, which may be anything.
pub fn start(stdin: &[u8]) {
    let config = serde_json::from_slice::<Value>(stdin).unwrap_or(Value::Null);
    let level = text(&config, "logLevel").and_then(|level| level.parse().ok()).unwrap_or(Level::INFO);
    let file = text(&config, "logFile").filter(|path| path.starts_with('/')).and_then(|path| {
        let opened = regular(path);
        opened.inspect_err(|error| eprintln!("logFile {path}: {error}")).ok()
    });
    let writer = match file {
        // Lines of several calls at once stay whole: each is one write at the file's end.
        Some(file) => BoxMakeWriter::new(io::stderr.and(Mutex::new(file))),
        None => BoxMakeWriter::new(io::stderr),
    };
    let subscriber =
        fmt().with_max_level(level).with_target(false).with_ansi(false).with_writer(writer).finish();
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Not what a link leads to, nor a pipe that nobody reads: root must not be led elsewhere, nor held up.
fn regular(path: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// A key's value in whatever case, as all of the configuration is read.
fn text<'a>(config: &'a Value, key: &str) -> Option<&'a str> {
    let mut members = config.as_object()?.iter();
    members.find(|(name, _)| name.eq_ignore_ascii_case(key)).and_then(|(_, value)| value.as_str())
}
