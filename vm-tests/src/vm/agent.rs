//! The host's end of the guest's second serial port: commands in, exit status and output back (`guest/agent`).

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// What the guest adds to a command's own time at most: it decodes, forks and encodes while emulated.
const GRACE: Duration = Duration::from_secs(20);

/// How a command ended, and what it printed on standard output and error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// As a shell reports it: 137 when it was killed at its limit.
    pub status: u8,
    pub text: String,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}: {}", self.status, self.text.trim())
    }
}

/// A connected port.
#[derive(Debug)]
pub(crate) struct Agent {
    port: UnixStream,
    received: Vec<u8>,
    /// Answers carry the number of their request: one that comes too late is told from the next.
    number: u32,
    boot: String,
}

impl Agent {
    pub(crate) fn connect(path: &Path) -> anyhow::Result<Self> {
        let port = UnixStream::connect(path).context("connect to the guest's serial port")?;
        Ok(Self { port, received: Vec::new(), number: 0, boot: String::new() })
    }

    /// Goes on talking to the guest of `source`, which has moved to where this port is.
    pub(super) fn follow(&mut self, source: &Self) {
        self.number = source.number;
        self.boot.clone_from(&source.boot);
    }

    /// Waits for the guest to say that it takes commands, in a boot that is not the last one seen.
    pub(crate) fn wait_until_ready(&mut self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let line = self.line(deadline)?;
            if let Some(boot) = line.strip_prefix("ready ").filter(|boot| *boot != self.boot) {
                self.boot = boot.to_owned();
                return Ok(());
            }
        }
    }

    pub(crate) fn run(&mut self, command: &str, limit: Duration) -> anyhow::Result<Output> {
        self.number += 1;
        let seconds = limit.as_secs().max(1);
        let request = format!("run {} {seconds} {}\n", self.number, hex_encode(command.as_bytes()));
        self.port.write_all(request.as_bytes()).context("write to the guest's serial port")?;
        let answer = format!("done {} ", self.number);
        let deadline = Instant::now() + limit + GRACE;
        loop {
            let line = self.line(deadline)?;
            anyhow::ensure!(!line.starts_with("ready "), "the guest rebooted, or its agent died");
            if let Some(rest) = line.strip_prefix(&answer) {
                let (status, text) = rest.split_once(' ').context("half an answer from the guest")?;
                let text = hex_decode(text).context("the guest's answer is not hexadecimal")?;
                let text = String::from_utf8_lossy(&text).into_owned();
                return Ok(Output { status: status.parse().context("the guest's exit status")?, text });
            }
        }
    }

    fn line(&mut self, deadline: Instant) -> anyhow::Result<String> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            anyhow::ensure!(!left.is_zero(), "the guest is silent");
            self.port.set_read_timeout(Some(left))?;
            let mut buffer = [0; 65536];
            match self.port.read(&mut buffer) {
                Ok(0) => anyhow::bail!("QEMU ended"),
                Ok(count) => self.received.extend(buffer.iter().take(count)),
                // A process that is stopped for a moment has its reads interrupted, where they have a time limit.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("read the guest's serial port"),
            }
        }
    }
}

fn hex_encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex_decode(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    pairs.map(|pair| u8::from_str_radix(pair.filter(|pair| pair.len() == 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{hex_decode, hex_encode};

    #[test]
    fn hex_survives_both_ways_and_refuses_halves() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(hex_decode(&hex_encode(&bytes)).unwrap(), bytes);
        assert_eq!(hex_encode(b"\n\xff"), "0aff");
        assert_eq!(hex_decode("0a0"), None);
        assert_eq!(hex_decode("zz"), None);
    }
}
