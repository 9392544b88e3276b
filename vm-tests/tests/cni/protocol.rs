//! What is refused before anything is done, by which code and in which words: section 5 of the specification and what Go's
//! library adds, which the reference plugins are the oracle for.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vm_tests::cni::{Call, Node, Plugin, REFERENCE};

use crate::ours;

/// One fault of a call that is otherwise right.
struct Row {
    name: &'static str,
    verbs: &'static [&'static str],
    fault: fn(Call, Value) -> Call,
    code: u64,
    /// How the message begins; the verb stands for `VERB`.
    msg: &'static str,
    /// In the message or the details.
    names: &'static str,
    oracle: Oracle,
}

/// Whether the reference plugins of version 1.1.1 answer the same. They speak no version above 1.0.0.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Oracle {
    Same,
    /// Something else, for this reason.
    Differs(&'static str),
}

use Oracle::{Differs, Same};

const NEW_VERBS: Oracle = Differs("it has neither GC nor STATUS");

const ATTACHING: &[&str] = &["ADD", "DEL", "CHECK"];
const ALL: &[&str] = &["ADD", "DEL", "CHECK", "GC", "STATUS"];
const NEW: &[&str] = &["GC", "STATUS"];

/// A fault of the environment.
const fn environment(
    name: &'static str,
    verbs: &'static [&'static str],
    fault: fn(Call, Value) -> Call,
    msg: &'static str,
    names: &'static str,
    oracle: Oracle,
) -> Row {
    Row { name, verbs, fault, code: 4, msg, names, oracle }
}

/// A fault of the configuration.
const fn config(
    name: &'static str,
    verbs: &'static [&'static str],
    fault: fn(Call, Value) -> Call,
    code: u64,
    msg: &'static str,
    names: &'static str,
) -> Row {
    Row { name, verbs, fault, code, msg, names, oracle: Same }
}

fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

const MISSING: &str = "required env variables [";

const ENVIRONMENT: [Row; 22] = [
    environment(
        "every variable is missing",
        &["ADD", "CHECK"],
        |_, _| Call::new("VERB"),
        MISSING,
        "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH",
        Same,
    ),
    environment(
        "every variable of a removal is missing",
        &["DEL"],
        |_, _| Call::new("VERB"),
        MISSING,
        "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH",
        Same,
    ),
    environment(
        "no container",
        ATTACHING,
        |call, _| call.without("CNI_CONTAINERID"),
        MISSING,
        "CNI_CONTAINERID",
        Same,
    ),
    environment(
        "an empty container",
        ATTACHING,
        |call, _| call.container(""),
        MISSING,
        "CNI_CONTAINERID",
        Same,
    ),
    environment("no interface", ATTACHING, |call, _| call.without("CNI_IFNAME"), MISSING, "CNI_IFNAME", Same),
    environment(
        "no namespace",
        &["ADD", "CHECK"],
        |call, _| call.without("CNI_NETNS"),
        MISSING,
        "CNI_NETNS",
        Same,
    ),
    environment("no path", ATTACHING, |call, _| call.without("CNI_PATH"), MISSING, "CNI_PATH", Same),
    environment("no path", NEW, |call, _| call.without("CNI_PATH"), MISSING, "CNI_PATH", NEW_VERBS),
    environment(
        "a container that begins with a dot",
        ATTACHING,
        |call, _| call.container(".c0ffee"),
        "invalid characters in containerID",
        ".c0ffee",
        Same,
    ),
    environment(
        "a container that leads elsewhere",
        ATTACHING,
        |call, _| call.container("c0/../ffee"),
        "invalid characters in containerID",
        "c0/../ffee",
        Same,
    ),
    environment(
        "a container with a letter of another alphabet",
        ATTACHING,
        |call, _| call.container("café"),
        "invalid characters in containerID",
        "café",
        Same,
    ),
    environment(
        "an interface of 16 bytes",
        ATTACHING,
        |call, _| call.interface("abcdefghijklmnop"),
        "interface name is too long",
        "",
        Same,
    ),
    environment(
        "the interface .",
        ATTACHING,
        |call, _| call.interface("."),
        "interface name is . or ..",
        "",
        Same,
    ),
    environment(
        "the interface ..",
        ATTACHING,
        |call, _| call.interface(".."),
        "interface name is . or ..",
        "",
        Same,
    ),
    environment(
        "an interface with a slash",
        ATTACHING,
        |call, _| call.interface("a/b"),
        "interface name contains / or : or whitespace characters",
        "",
        Same,
    ),
    environment(
        "an interface with a colon",
        ATTACHING,
        |call, _| call.interface("eth0:1"),
        "interface name contains / or : or whitespace characters",
        "",
        Same,
    ),
    environment(
        "an interface with a space",
        ATTACHING,
        |call, _| call.interface("eth 0"),
        "interface name contains / or : or whitespace characters",
        "",
        Same,
    ),
    environment(
        "a command that is none",
        &["ATTACH", "add", "ADD "],
        |call, _| call,
        "unknown CNI_COMMAND: VERB",
        "",
        Same,
    ),
    environment(
        "an argument that is no pair",
        &["ADD", "CHECK"],
        |call, _| call.args("IgnoreUnknown=1;MAC"),
        "",
        "\"MAC\"",
        Differs("it answers as for any error, 999; CHECK does not look"),
    ),
    environment(
        "an argument that nobody knows",
        &["ADD", "CHECK"],
        |call, _| call.args("COLOUR=blue"),
        "",
        "COLOUR=blue",
        Differs("it answers as for any error, 999; CHECK does not look"),
    ),
    environment(
        "a leave to ignore that is no boolean",
        &["ADD", "CHECK"],
        |call, _| call.args("IgnoreUnknown=perhaps"),
        "",
        "perhaps",
        Differs("it answers as for any error, 999; CHECK does not look"),
    ),
    environment(
        "an interface that the kernel would number",
        &["ADD", "CHECK"],
        |call, _| call.interface("eth%d"),
        "interface name contains %",
        "",
        Differs("it makes a link of another name"),
    ),
];

const UNREADABLE: &str = "error unmarshall network config";

const CONFIG: [Row; 22] = [
    config("nothing on standard input", ATTACHING, |call, _| call.stdin(""), 6, UNREADABLE, ""),
    config("no JSON", ATTACHING, |call, _| call.stdin("bridge: br0"), 6, UNREADABLE, ""),
    config(
        "a configuration that breaks off",
        ATTACHING,
        |call, _| call.stdin(r#"{"cniVersion":"1.0.0","name":"net""#),
        6,
        UNREADABLE,
        "",
    ),
    config("a list", ATTACHING, |call, _| call.stdin("[]"), 6, UNREADABLE, ""),
    config("a string", ATTACHING, |call, _| call.stdin("\"net\""), 6, UNREADABLE, ""),
    config(
        "bytes that are no text",
        ATTACHING,
        |call, _| call.stdin(vec![0xff, 0xfe, 0x00]),
        6,
        UNREADABLE,
        "",
    ),
    config(
        "a name that is a number",
        ATTACHING,
        |call, config| call.config(&with(config, "name", json!(7))),
        6,
        UNREADABLE,
        "",
    ),
    config(
        "no name",
        ATTACHING,
        |call, config| call.config(&with(config, "name", Value::Null)),
        7,
        "missing network name",
        "",
    ),
    config(
        "an empty name",
        ATTACHING,
        |call, config| call.config(&with(config, "name", json!(""))),
        7,
        "missing network name",
        "",
    ),
    config(
        "a name that leads elsewhere",
        ATTACHING,
        |call, config| call.config(&with(config, "name", json!("../net"))),
        7,
        "invalid characters found in network name",
        "../net",
    ),
    config(
        "a name with a space",
        ATTACHING,
        |call, config| call.config(&with(config, "name", json!("my net"))),
        7,
        "invalid characters found in network name",
        "my net",
    ),
    config(
        "a version that never was",
        &["ADD", "DEL"],
        |call, config| call.config(&with(config, "cniVersion", json!("0.5.0"))),
        1,
        "incompatible CNI versions",
        "\"0.5.0\"",
    ),
    config(
        "a version of the future",
        &["ADD", "DEL"],
        |call, config| call.config(&with(config, "cniVersion", json!("99.0.0"))),
        1,
        "incompatible CNI versions",
        "\"99.0.0\"",
    ),
    config(
        "a version with a letter",
        &["ADD", "DEL"],
        |call, config| call.config(&with(config, "cniVersion", json!("v1.0.0"))),
        1,
        "incompatible CNI versions",
        "\"v1.0.0\"",
    ),
    config(
        "a version of two numbers",
        &["ADD", "DEL"],
        |call, config| call.config(&with(config, "cniVersion", json!("1.0"))),
        1,
        "incompatible CNI versions",
        "\"1.0\"",
    ),
    config(
        "a version that is a number",
        &["ADD", "DEL", "CHECK"],
        |call, config| call.config(&with(config, "cniVersion", json!(1))),
        6,
        "",
        "",
    ),
    config(
        "CHECK before it was",
        &["CHECK"],
        |call, config| call.config(&with(config, "cniVersion", json!("0.3.1"))),
        1,
        "config version does not allow CHECK",
        "",
    ),
    config(
        "CHECK without a version",
        &["CHECK"],
        |call, config| call.config(&with(config, "cniVersion", Value::Null)),
        1,
        "config version does not allow CHECK",
        "",
    ),
    config(
        "CHECK of the future",
        &["CHECK"],
        |call, config| call.config(&with(config, "cniVersion", json!("99.0.0"))),
        1,
        "plugin version does not allow CHECK",
        "",
    ),
    Row {
        name: "a verb before it was",
        verbs: NEW,
        fault: |call, config| call.config(&with(config, "cniVersion", json!("1.0.0"))),
        code: 1,
        msg: "config version does not allow VERB",
        names: "",
        oracle: NEW_VERBS,
    },
    Row {
        name: "no name",
        verbs: NEW,
        fault: |call, config| call.config(&with(config, "name", Value::Null)),
        code: 7,
        msg: "missing network name",
        names: "",
        oracle: NEW_VERBS,
    },
    Row {
        name: "no JSON",
        verbs: NEW,
        fault: |call, _| call.stdin("bridge: br0"),
        code: 6,
        msg: UNREADABLE,
        names: "",
        oracle: NEW_VERBS,
    },
];

/// A call of `verb` that has no fault.
fn right(node: &Node, verb: &str, config: &Value) -> anyhow::Result<Call> {
    Ok(Call::new(verb)
        .container("c0ffee")
        .interface("eth0")
        .netns(node.netns(0)?)
        .path(&node.plugins())
        .config(config))
}

/// Every fault is answered as it says, and nothing is touched.
fn refuses(node: &Node, plugin: &Plugin, config: &Value, rows: &[&Row]) -> anyhow::Result<()> {
    let before = node.snapshot(&[])?;
    let mut wrong = Vec::new();
    for row in rows {
        for verb in row.verbs {
            // A row that builds its own call leaves the verb to us.
            let call = (row.fault)(right(node, verb, config)?, config.clone()).env("CNI_COMMAND", verb);
            let answer = plugin.run(node, &call)?;
            let msg = row.msg.replace("VERB", verb);
            match answer.failure() {
                Ok(failure)
                    if failure.code == row.code
                        && failure.msg.starts_with(&msg)
                        && format!("{} {}", failure.msg, failure.details).contains(row.names) => {}
                Ok(failure) => wrong.push(format!(
                    "{verb}, {}: {failure}; wanted code {}: {msg}…{}",
                    row.name, row.code, row.names
                )),
                Err(error) => wrong.push(format!("{verb}, {}: {error:#}", row.name)),
            }
        }
    }
    node.comes_back_to(&before, &[], &[])?;
    ensure!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

fn rows() -> impl Iterator<Item = &'static Row> {
    ENVIRONMENT.iter().chain(&CONFIG)
}

#[test]
fn the_reference_plugins_refuse_each_fault_in_these_words() -> anyhow::Result<()> {
    let node = Node::new(1)?;
    let rows: Vec<&Row> = rows().filter(|row| row.oracle == Same).collect();
    let config = json!({ "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br0" });
    refuses(&node, &Plugin::new(format!("{REFERENCE}/bridge")), &config, &rows)
}

#[test]
fn a_fault_is_refused_with_its_code_and_message() -> anyhow::Result<()> {
    let node = ours::node(1)?;
    let rows: Vec<&Row> = rows().collect();
    let config = json!({
        "cniVersion": "1.1.0", "name": "net", "type": ours::TYPE, "mode": "none", "stateDir": node.state(),
    });
    refuses(&node, &ours::plugin()?, &config, &rows)
}

#[test]
fn each_difference_from_the_oracle_is_argued() {
    for row in rows() {
        if let Differs(why) = row.oracle {
            assert!(!why.is_empty(), "{}", row.name);
        }
    }
}

/// The configuration with which nothing but a tap is made.
fn tap_alone(node: &Node, version: &str) -> Value {
    json!({ "cniVersion": version, "name": "net", "type": ours::TYPE, "mode": "none", "stateDir": node.state() })
}

#[test]
fn variables_that_a_verb_does_not_need_are_not_judged() -> anyhow::Result<()> {
    let node = ours::node(1)?;
    let config = with(tap_alone(&node, "1.1.0"), "cni.dev/valid-attachments", json!([]));
    for verb in NEW {
        let call = right(&node, verb, &config)?.container("../x").interface("a/b").netns("").args("=");
        ours::plugin()?.run(&node, &call)?.silent().with_context(|| (*verb).to_owned())?;
    }
    Ok(())
}

#[test]
fn version_is_answered_whatever_is_on_standard_input() -> anyhow::Result<()> {
    let node = ours::node(0)?;
    let versions = json!(["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    let table: [(&str, Call, &str); 6] = [
        ("a version", Call::new("VERSION").stdin(r#"{"cniVersion":"0.4.0"}"#), "0.4.0"),
        ("a version of the future", Call::new("VERSION").stdin(r#"{"cniVersion":"9.9.9"}"#), "9.9.9"),
        ("nothing", Call::new("VERSION"), "1.1.0"),
        ("no JSON", Call::new("VERSION").stdin("?"), "1.1.0"),
        ("no standard input", Call::new("VERSION").closed_stdin(), "1.1.0"),
        (
            "a whole configuration, and libcni's dummies",
            Call::new("VERSION")
                .netns("dummy")
                .interface("dummy")
                .env("CNI_PATH", "dummy")
                .config(&json!({ "cniVersion": "1.0.0", "name": "net", "type": "sluice" })),
            "1.0.0",
        ),
    ];
    for (name, call, version) in table {
        let answer = ours::plugin()?.run(&node, &call)?.result().context(name)?;
        assert_eq!(answer, json!({ "cniVersion": version, "supportedVersions": versions }), "{name}");
    }
    Ok(())
}

#[test]
fn without_a_command_it_says_what_it_is() -> anyhow::Result<()> {
    let node = ours::node(0)?;
    for (name, call) in [
        ("an empty command", Call::new("")),
        ("no command", Call::new("").without("CNI_COMMAND")),
        ("no command, no standard input", Call::new("").closed_stdin()),
    ] {
        let outcome = ours::plugin()?.run(&node, &call)?;
        outcome.silent().context(name)?;
        assert!(outcome.stderr.contains("CNI protocol versions supported: 0.1.0"), "{name}: {outcome}");
    }
    Ok(())
}

#[test]
fn keys_are_read_in_any_case() -> anyhow::Result<()> {
    let node = ours::node(1)?;
    let config = json!({
        "CNIVERSION": "1.1.0", "Name": "net", "TYPE": ours::TYPE, "MODE": "none", "statedir": node.state(),
        "Mtu": 1400, "RuntimeConfig": { "MAC": "02:00:00:00:00:07" }, "someKeyOfTomorrow": null,
    });
    let result = ours::plugin()?.run(&node, &right(&node, "ADD", &config)?)?.result()?;
    let interface = result.pointer("/interfaces/0").context("an interface")?;
    assert_eq!(
        (interface.get("mtu"), interface.get("mac")),
        (Some(&json!(1400)), Some(&json!("02:00:00:00:00:07"))),
        "{result}"
    );
    ours::plugin()?.run(&node, &right(&node, "DEL", &config)?)?.silent()
}

#[test]
fn null_is_as_good_as_absent() -> anyhow::Result<()> {
    let node = ours::node(1)?;
    let mut config = tap_alone(&node, "1.1.0");
    for key in ["mtu", "mac", "ipam", "dns", "args", "runtimeConfig", "prevResult", "capabilities", "tapName"]
    {
        config[key] = Value::Null;
    }
    ours::plugin()?.run(&node, &right(&node, "ADD", &config)?)?.result()?;
    ours::plugin()?.run(&node, &right(&node, "DEL", &config)?)?.silent()
}

#[test]
fn no_standard_input_is_an_error_of_reading_or_of_decoding() -> anyhow::Result<()> {
    let node = ours::node(1)?;
    for verb in ALL {
        let call = right(&node, verb, &json!({}))?.closed_stdin();
        let failure = ours::plugin()?.run(&node, &call)?.failure().with_context(|| (*verb).to_owned())?;
        assert!([5, 6].contains(&failure.code), "{verb}: {failure}");
    }
    Ok(())
}

#[test]
fn a_configuration_of_two_mebibytes_is_read_and_an_endless_one_refused() -> anyhow::Result<()> {
    let node = ours::node(1)?;
    let padded = |bytes: usize| with(tap_alone(&node, "1.1.0"), "padding", json!("x".repeat(bytes)));
    let long = right(&node, "ADD", &padded(2 << 20))?;
    ours::plugin()?.run(&node, &long)?.result().context("2 MiB")?;
    ours::plugin()?.run(&node, &right(&node, "DEL", &padded(2 << 20))?)?.silent()?;
    let endless = right(&node, "ADD", &padded(64 << 20))?;
    let failure = ours::plugin()?.run(&node, &endless)?.failure().context("64 MiB")?;
    assert_eq!(failure.code, 5, "{failure}");
    Ok(())
}

#[test]
fn errors_have_the_version_of_the_configuration() -> anyhow::Result<()> {
    let node = ours::node(1)?;
    for (version, answered) in
        [("0.3.1", "0.3.1"), ("1.0.0", "1.0.0"), ("1.1.0", "1.1.0"), ("7.0.0", "1.1.0")]
    {
        let config = with(tap_alone(&node, version), "mode", json!("nonee"));
        let failure = ours::plugin()?.run(&node, &right(&node, "ADD", &config)?)?.failure()?;
        assert_eq!(failure.version.as_deref(), Some(answered), "{failure}");
    }
    Ok(())
}

#[test]
fn a_pod_with_the_plugins_own_namespace_is_refused() -> anyhow::Result<()> {
    let node = ours::node(1)?;
    let before = node.snapshot(&[])?;
    let host = node.host()?.path();
    let call = right(&node, "ADD", &tap_alone(&node, "1.1.0"))?.netns(&host);
    let failure = ours::plugin()?.run(&node, &call)?.failure()?;
    assert_eq!(
        (failure.code, failure.msg.as_str()),
        (8, "plugin's netns and netns from CNI_NETNS should not be the same")
    );
    node.comes_back_to(&before, &[], &[])?;
    for leave in ["1", "TRUE", "true"] {
        let overridden = |verb| {
            let call = right(&node, verb, &tap_alone(&node, "1.1.0"))?.netns(&host);
            ours::plugin()?.run(&node, &call.env("CNI_NETNS_OVERRIDE", leave))
        };
        overridden("ADD")?.result().context(leave)?;
        overridden("DEL")?.silent().context(leave)?;
        node.comes_back_to(&before, &[], &[]).context(leave)?;
    }
    Ok(())
}

#[test]
fn a_namespace_that_is_none_is_refused_at_add_and_passed_over_at_del() -> anyhow::Result<()> {
    let node = ours::node(1)?;
    let before = node.snapshot(&[])?;
    // Code 3: there is nothing that a runtime would have to undo.
    for (path, code) in [("/run/netns/no-such", 3), ("/etc/passwd", 8), ("/", 8), ("no-such", 3)] {
        let config = tap_alone(&node, "1.1.0");
        let failure = ours::plugin()?.run(&node, &right(&node, "ADD", &config)?.netns(path))?.failure()?;
        assert_eq!(failure.code, code, "{path}: {failure}");
        ours::plugin()?.run(&node, &right(&node, "DEL", &config)?.netns(path))?.silent().context(path)?;
    }
    node.comes_back_to(&before, &[], &[])
}
