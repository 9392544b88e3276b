//! QEMU's monitor: one JSON object per line each way, with events in between.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

/// QEMU answers at once, unless the machine is very busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A connection in command mode.
#[derive(Debug)]
pub(super) struct Qmp {
    socket: BufReader<UnixStream>,
    /// Events that nobody waited for yet, oldest first.
    events: Vec<Value>,
}

impl Qmp {
    pub(super) fn connect(path: &Path) -> anyhow::Result<Self> {
        let socket = UnixStream::connect(path).context("connect to QEMU's monitor")?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut qmp = Self { socket: BufReader::new(socket), events: Vec::new() };
        qmp.message()?; // the greeting
        qmp.execute("qmp_capabilities", None)?;
        Ok(qmp)
    }

    /// Runs a command; what it returns.
    pub(super) fn execute(&mut self, command: &str, arguments: Option<Value>) -> anyhow::Result<Value> {
        let mut request = json!({ "execute": command });
        if let (Some(arguments), Some(object)) = (arguments, request.as_object_mut()) {
            object.insert("arguments".to_owned(), arguments);
        }
        let name = || format!("QEMU's monitor: {command}");
        self.socket.get_mut().write_all(format!("{request}\n").as_bytes()).with_context(name)?;
        loop {
            let message = self.message().with_context(name)?;
            if let Some(answer) = message.get("return") {
                return Ok(answer.clone());
            }
            if let Some(error) = message.get("error") {
                anyhow::bail!("{}: {error}", name());
            }
            self.events.push(message);
        }
    }

    /// Waits until QEMU has told of an event `name` whose data has `value` as its `key`, now or earlier.
    pub(super) fn wait_for_event(&mut self, name: &str, key: &str, value: &str) -> anyhow::Result<()> {
        let is_it = |event: &Value| {
            let data = event.get("data").and_then(|data| data.get(key));
            event.get("event").is_some_and(|event| event == name) && data.is_some_and(|data| data == value)
        };
        if let Some(place) = self.events.iter().position(is_it) {
            self.events.remove(place);
            return Ok(());
        }
        loop {
            let message = self.message().with_context(|| format!("waiting for QEMU's {name} of {value}"))?;
            if is_it(&message) {
                return Ok(());
            }
            self.events.push(message);
        }
    }

    fn message(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        let length = self.socket.read_line(&mut line)?;
        anyhow::ensure!(length > 0, "QEMU ended");
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }
}
