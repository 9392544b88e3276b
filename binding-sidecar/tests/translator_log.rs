//! What translators print, in our log. Alone in its program: a log is for all threads.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "the whole file is tests")]

mod translator_support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use binding_sidecar::translator::{LOG_TARGET, Translators};
use rustix::process::Signal;
use translator_support::{Room, kill, until};

#[tokio::test]
async fn what_a_translator_prints_is_in_our_log_and_does_not_hold_it_up() {
    let log = Log::default();
    tracing_subscriber::fmt().json().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).init();
    let room = Room::new();
    // Many times what a pipe holds, and no line of it ends.
    let script =
        format!("head -c 3000000 /dev/zero | tr '\\0' x >&2; exec {} \"$@\"", room.program().display());
    let mut translators = Translators::new(room.script(&script));
    translators.ensure(&[room.wanted("default")]).await.unwrap();
    kill(room.pid(&translators, "default"), Signal::KILL);
    let board = translators.board();
    until("another one serves", || {
        board.entries()[0].restarts_total() == 1 && board.entries()[0].not_running().is_none()
    })
    .await;
    translators.stop().await;
    let lines: Vec<serde_json::Value> =
        log.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let theirs: Vec<_> = lines.iter().filter(|line| line["target"] == LOG_TARGET).collect();
    assert!(theirs.iter().all(|line| line["fields"]["interface"] == "default"));
    assert!(theirs.iter().all(|line| line["fields"]["message"].as_str().unwrap().len() < 5000));
    // The end of the long line is the beginning of the first.
    let message = |line: &&serde_json::Value| line["fields"]["message"].as_str().unwrap().to_owned();
    assert!(message(&theirs[0]).ends_with("xxx [...]"), "{}", message(&theirs[0]));
    let waiting = theirs.iter().find(|line| message(line).starts_with("waiting for the guest at")).unwrap();
    assert_eq!(waiting["level"], "INFO");
    let ours = |text: &str| lines.iter().any(|line| line["fields"]["message"] == text);
    let again =
        lines.iter().find(|line| line["fields"]["message"] == "translator ended, it is started again");
    let again = &again.unwrap()["fields"];
    assert_eq!(
        (&again["interface"], &again["end"], &again["restarts"]),
        (&"default".into(), &"SIGKILL".into(), &1.into())
    );
    assert!(ours("translator serves") && ours("translator ended as asked"));
}

/// A log's text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
