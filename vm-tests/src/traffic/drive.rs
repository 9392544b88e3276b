//! Runs the traffic tool inside the namespaces of a lab, for tests and benchmarks.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::lab::{Child, Lab, Namespace, binary};

/// How long the tool may take to start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Starts every server in `namespace`, on these addresses or, if there are none, on all; returns when they listen.
pub fn serve(lab: &Lab, namespace: &Namespace, addresses: &[IpAddr]) -> anyhow::Result<Child> {
    serve_shifted(lab, namespace, addresses, 0)
}

/// The same with `shift` added to every port: a second process, for more connections than one may have.
pub fn serve_shifted(
    lab: &Lab,
    namespace: &Namespace,
    addresses: &[IpAddr],
    shift: u16,
) -> anyhow::Result<Child> {
    let mut command = namespace.command(binary("traffic")?);
    command.args(["serve", "--shift", &shift.to_string()]);
    for address in addresses {
        command.args(["--bind", &address.to_string()]);
    }
    let mut server = lab.spawn(&format!("serve-{shift}-in-{}", namespace.name()), command)?;
    server.wait_for_line(START_LIMIT, "ready")?;
    Ok(server)
}

/// Runs one command to its end; returns its result.
pub fn run(namespace: &Namespace, line: &str) -> anyhow::Result<Value> {
    let output = namespace.command(binary("traffic")?).args(line.split_whitespace()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "traffic {line}: {}", errors.trim());
    serde_json::from_slice(&output.stdout).with_context(|| format!("result of traffic {line}"))
}

/// Starts a command that reports, and then waits for its standard input.
pub fn start(lab: &Lab, namespace: &Namespace, name: &str, line: &str) -> anyhow::Result<Child> {
    let mut command = namespace.command(binary("traffic")?);
    command.args(line.split_whitespace());
    lab.spawn(name, command)
}

/// The result a command started with [`start`] reports, recognised by a text only it contains.
pub fn result(child: &mut Child, limit: Duration, text: &str) -> anyhow::Result<Value> {
    let line = child.wait_for_line(limit, text)?;
    serde_json::from_str(&line).with_context(|| format!("result {line:?}"))
}

/// A number of a result.
pub fn number(result: &Value, field: &str) -> anyhow::Result<f64> {
    result.get(field).and_then(Value::as_f64).with_context(|| format!("{result} has no number {field:?}"))
}
