//! A client of passt-rs's control socket. It must never wait without a limit: a translator that hangs hangs alone.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::Wanted;

/// What a translator says of itself: the answer to `{"get":"stats"}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats(Value);

impl Stats {
    /// Of an answer's text.
    pub fn parse(text: &[u8]) -> io::Result<Self> {
        let value: Value = serde_json::from_slice(text)?;
        // `{"error":...}` and whatever else a stranger says.
        if value.get("cable").is_none() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self(value))
    }

    /// A number by its JSON pointer (RFC 6901), as `/tcp/from_guest_total`.
    pub fn number(&self, pointer: &str) -> Option<u64> {
        self.0.pointer(pointer)?.as_u64()
    }

    /// Frames and datagrams dropped, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (&str, u64)> {
        let drops = self.0.get("drops").and_then(Value::as_object).into_iter().flatten();
        drops.filter_map(|(reason, count)| Some((reason.as_str(), count.as_u64()?)))
    }
}

/// Asks for the counters; half a second is the most it takes.
pub async fn stats(control: &Path) -> io::Result<Stats> {
    timeout(ASK_DEADLINE, ask(control, None)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Waits until process `pid` serves. passt-rs opens the guest's socket before the control socket, and answers at the
/// latter when everything is open, so an answer means that QEMU may come; to try the guest's socket itself would be
/// to be a guest. An answer of another process at that path is none.
pub(super) async fn served_by(control: &Path, pid: u32) {
    let mut pause = READY_PAUSE_MIN;
    while ask(control, Some(pid)).await.is_err() {
        sleep(pause).await;
        pause = (pause * 2).min(READY_PAUSE_MAX);
    }
}

/// Whether the translator at work had a guest. One that does not answer has none to lose.
pub(super) async fn guest_was_attached(wanted: &Wanted) -> bool {
    stats(&wanted.control).await.is_ok_and(|stats| stats.number("/cable/link_ups").unwrap_or_default() > 0)
}

async fn ask(control: &Path, pid: Option<u32>) -> io::Result<Stats> {
    let mut stream = UnixStream::connect(control).await?;
    if let Some(pid) = pid {
        // Who listens, of unix(7): SO_PEERCRED.
        let peer = stream.peer_cred()?.pid();
        if peer.and_then(|peer| u32::try_from(peer).ok()) != Some(pid) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
    }
    stream.write_all(b"{\"get\":\"stats\"}\n").await?;
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        if stream.read_buf(&mut answer).await? == 0 || answer.len() > ANSWER_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Stats::parse(&answer)
}

/// How long an answer may take.
const ASK_DEADLINE: Duration = Duration::from_millis(500);
/// Longest answer; passt-rs's has less than 2 KiB.
const ANSWER_MAX: usize = 64 << 10;
/// Between two tries to find a translator that starts, the first and the longest: it takes 5 ms where it has few
/// ports to bind.
const READY_PAUSE_MIN: Duration = Duration::from_millis(1);
const READY_PAUSE_MAX: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_gives_numbers_and_drops_and_others_are_refused() {
        let stats =
            Stats::parse(br#"{"cable":{"link_ups":2},"flows":7,"drops":{"window":1,"source":0}}"#).unwrap();
        assert_eq!(stats.number("/cable/link_ups"), Some(2));
        assert_eq!(stats.number("/flows"), Some(7));
        assert_eq!(stats.number("/cable/nothing"), None);
        assert_eq!(stats.drops().collect::<Vec<_>>(), [("source", 0), ("window", 1)]);
        for bad in [&b"{"[..], b"[]", br#"{"error":"no"}"#] {
            assert!(Stats::parse(bad).is_err());
        }
    }
}
