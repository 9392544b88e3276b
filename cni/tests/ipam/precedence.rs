//! Who gets which address where it is asked for by several channels: the strongest counts, in the order that
//! docs/networks.md has.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::bench::{addresses, call, merge};

/// Channels that ask, each for an address of its own: 10.1.2.11 by `runtimeConfig`, .12 by `args.cni`, .13 by `CNI_ARGS`.
struct Row {
    runtime_config: bool,
    args: bool,
    environment: bool,
    /// Of host-local, which would give 10.1.2.2.
    host_local: &'static [&'static str],
    /// Of static, which is told to give 10.1.2.3.
    fixed: &'static [&'static str],
}

const fn row(asks: [bool; 3], host_local: &'static [&'static str], fixed: &'static [&'static str]) -> Row {
    let [runtime_config, args, environment] = asks;
    Row { runtime_config, args, environment, host_local, fixed }
}

const ROWS: [Row; 8] = [
    row([false, false, false], &["10.1.2.2"], &["10.1.2.3"]),
    row([true, false, false], &["10.1.2.11"], &["10.1.2.11"]),
    row([false, true, false], &["10.1.2.12"], &["10.1.2.12"]),
    // One more address, as with the reference plugin.
    row([false, false, true], &["10.1.2.13"], &["10.1.2.3", "10.1.2.13"]),
    row([true, true, false], &["10.1.2.11"], &["10.1.2.11"]),
    row([true, false, true], &["10.1.2.11"], &["10.1.2.11"]),
    row([false, true, true], &["10.1.2.12"], &["10.1.2.12"]),
    row([true, true, true], &["10.1.2.11"], &["10.1.2.11"]),
];

impl Row {
    fn config(&self, ipam: &Value) -> Value {
        let mut config = json!({ "cniVersion": "1.0.0", "name": "net", "type": "sluice", "ipam": ipam });
        if self.runtime_config {
            merge(&mut config, &json!({ "runtimeConfig": { "ips": ["10.1.2.11/24"] } }));
        }
        if self.args {
            merge(&mut config, &json!({ "args": { "cni": { "ips": ["10.1.2.12/24"] } } }));
        }
        config
    }

    fn arguments(&self) -> &'static str {
        if self.environment { "IP=10.1.2.13/24" } else { "" }
    }

    fn given(&self, ipam: &Value) -> Vec<String> {
        addresses(&call("ADD", "a").args(self.arguments()).ours(&self.config(ipam)).unwrap())
    }
}

#[test]
fn strongest_channel_that_asks_for_an_address_counts() {
    for row in &ROWS {
        let folder = tempfile::tempdir().unwrap();
        let what = (row.runtime_config, row.args, row.environment);
        let host_local = json!({ "type": "host-local", "subnet": "10.1.2.0/24", "dataDir": folder.path() });
        assert_eq!(row.given(&host_local), row.host_local, "host-local, {what:?}");
        let fixed = json!({ "type": "static", "addresses": [{ "address": "10.1.2.3/24" }] });
        assert_eq!(row.given(&fixed), row.fixed, "static, {what:?}");
    }
}

/// It weighs them itself.
#[test]
fn delegate_gets_every_channel_as_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("other");
    let text = format!(
        "#!/bin/sh\ncd {}; cat > stdin; printf %s \"$CNI_ARGS\" > arguments\n\
         echo '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"10.1.2.99/24\"}}]}}'\n",
        folder.path().display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for row in &ROWS {
        let config = row.config(&json!({ "type": "other" }));
        let call = call("ADD", "a").args(row.arguments()).path(folder.path());
        assert_eq!(addresses(&call.ours(&config).unwrap()), ["10.1.2.99"]);
        let heard = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        assert_eq!((heard("stdin"), heard("arguments").as_str()), (config.to_string(), row.arguments()));
    }
}

/// "the plugin must ignore the CNI_ARGS Field" (CONVENTIONS.md), so nothing in it can be wrong.
#[test]
fn what_does_not_count_need_not_be_right() {
    let folder = tempfile::tempdir().unwrap();
    for ipam in [
        json!({ "type": "host-local", "subnet": "10.1.2.0/24", "dataDir": folder.path() }),
        json!({ "type": "static" }),
    ] {
        let config = ROWS[2].config(&ipam);
        let call = call("ADD", "a").args("IP=junk;GATEWAY=junk");
        assert_eq!(addresses(&call.ours(&config).unwrap()), ["10.1.2.12"], "{ipam}");
    }
}
