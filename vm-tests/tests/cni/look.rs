//! What the kernel's tools say of a namespace. It must never wait for anything.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use vm_tests::lab::Namespace;

/// Runs a command, of words, inside; the JSON that it prints, `Null` for nothing.
pub(crate) fn look(namespace: &Namespace, command: &str) -> anyhow::Result<Value> {
    let mut words = command.split_whitespace();
    let mut program = namespace.command(words.next().context("a program")?);
    let output = program.args(words).output()?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    match output.stdout.as_slice() {
        b"" => Ok(Value::Null),
        text => serde_json::from_slice(text).with_context(|| command.to_owned()),
    }
}
