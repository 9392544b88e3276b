//! Where log lines go: standard error, or a file that never grows past its limit.
//!
//! At the limit a file drops its older half in place. Renaming it away would need a writable directory, which this
//! process gives up at start, and would leave a reader following the wrong file. In the background without a
//! file nothing is kept: there is no system log in a pod.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use tracing::level_filters::LevelFilter;

use crate::config::{Log, Verbosity};

/// Opens the log; from here on `tracing` events reach it. Once per process.
pub fn init(log: &Log) -> io::Result<()> {
    let subscriber =
        tracing_subscriber::fmt().with_max_level(level(log.verbosity)).with_target(false).with_ansi(false);
    // A line that cannot be written would be told where nobody reads either, and end us with a panic.
    let subscriber = subscriber.log_internal_errors(false);
    match &log.file {
        None => subscriber.with_writer(io::stderr).init(),
        Some(path) => subscriber.with_writer(Mutex::new(LogFile::open(path, log.size_bytes)?)).init(),
    }
    Ok(())
}

fn level(verbosity: Verbosity) -> LevelFilter {
    match verbosity {
        Verbosity::Quiet => LevelFilter::WARN,
        Verbosity::Normal => LevelFilter::INFO,
        Verbosity::Debug => LevelFilter::DEBUG,
        Verbosity::Trace => LevelFilter::TRACE,
    }
}

/// A file that keeps the newest lines.
#[derive(Debug)]
struct LogFile {
    /// Opened for appending: what is written goes to the end, wherever that is.
    file: File,
    size_bytes: u64,
    limit_bytes: u64,
}

impl LogFile {
    fn open(path: &Path, limit_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let size_bytes = file.metadata()?.len();
        Ok(Self { file, size_bytes, limit_bytes })
    }

    /// Keeps the whole lines of the newer half of the limit.
    fn drop_older_half(&mut self) -> io::Result<()> {
        let keep = self.size_bytes.min(self.limit_bytes / 2);
        let mut kept = vec![0; usize::try_from(keep).unwrap_or_default()];
        self.file.read_exact_at(&mut kept, self.size_bytes - keep)?;
        let line_end = kept.iter().position(|byte| *byte == b'\n').map_or(kept.len(), |end| end + 1);
        let kept = kept.get(line_end..).unwrap_or_default();
        self.file.set_len(0)?;
        self.size_bytes = 0;
        self.append(kept)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.size_bytes += bytes.len() as u64;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.size_bytes + line.len() as u64 > self.limit_bytes {
            self.drop_older_half()?;
        }
        self.append(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_keeps_its_newest_whole_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut log = LogFile::open(file.path(), 100).unwrap();
        for line in 0..1000 {
            writeln!(log, "line {line}").unwrap();
            let text = std::fs::read_to_string(file.path()).unwrap();
            assert!(text.len() <= 100, "{} bytes", text.len());
            assert!(text.ends_with(&format!("line {line}\n")), "{text}");
            assert!(text.lines().all(|line| line.starts_with("line ")), "{text}");
            assert!(line < 10 || text.len() >= 40, "{text}");
        }
    }

    #[test]
    fn an_existing_file_is_continued() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "before\n").unwrap();
        writeln!(LogFile::open(file.path(), 100).unwrap(), "after").unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "before\nafter\n");
    }
}
