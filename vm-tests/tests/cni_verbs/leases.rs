//! An address goes back to where it came from, whatever the configuration says by then.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::repeats::Own;
use crate::stage::{DIE_AT_STEP, INTERFACE, Stage, Who, script, with};

/// What an administrator made of `ipam` between ADD and what comes after.
type Change = (&'static str, fn(&Stage) -> Value);

const CHANGES: [Change; 6] = [
    ("the same", ipam),
    ("another folder", |stage| {
        with(&ipam(stage), "dataDir", json!(stage.node.directory().join("elsewhere")))
    }),
    ("another range", |stage| with(&ipam(stage), "subnet", json!("10.8.0.0/24"))),
    ("another type", |_| json!({ "type": "static", "addresses": [{ "address": "10.9.0.9/24" }] })),
    ("a program that is missing", |_| json!({ "type": "no-such-ipam" })),
    ("none", |_| Value::Null),
];

fn ipam(stage: &Stage) -> Value {
    json!({ "type": "host-local", "dataDir": stage.node.leases(), "subnet": "10.7.0.0/24" })
}

fn config(stage: &Stage) -> Value {
    stage.config_of(json!({ "mode": "bridge", "bridge": "br0", "ipam": ipam(stage) }))
}

/// What the runtime, or the next call, does after the change.
type Way = (&'static str, fn(&Stage, &Value, &Who) -> anyhow::Result<()>);

const WAYS: [Way; 3] = [
    ("DEL", |stage, changed, who| stage.del(changed, who)),
    ("DEL without CNI_NETNS", |stage, changed, who| {
        stage.run(&stage.call("DEL", changed, who).without("CNI_NETNS"))?.silent()
    }),
    ("GC", |stage, changed, _| {
        // Of the new configuration's own plugin it also wants to know; that one may be missing.
        let changed = with(changed, "cni.dev/valid-attachments", json!([]));
        let outcome = stage.run(&stage.network_call("GC", &changed))?;
        if changed.pointer("/ipam/type") == Some(&json!("no-such-ipam")) {
            outcome.failure().map(drop)
        } else {
            outcome.silent()
        }
    }),
];

#[test]
fn address_goes_back_when_ipam_is_another_by_then() -> anyhow::Result<()> {
    let (stage, config, who, before) = Stage::warm_with(config, 1)?;
    for (change, changed) in CHANGES {
        let changed = with(&config, "ipam", changed(&stage));
        for (way, run) in WAYS {
            let what = || format!("{change}, {way}");
            stage.add(&config, &who).with_context(what)?;
            ensure!(stage.leases().len() == 1, "{}: {:?}", what(), stage.leases());
            run(&stage, &changed, &who).with_context(what)?;
            ensure!(stage.leases().is_empty(), "{}: {:?} leaked", what(), stage.leases());
            stage.is_as(&before).with_context(what)?;
        }
    }
    Ok(())
}

/// The next ADD on the network finds what a pod that is gone, or a call that was killed, has left.
#[test]
fn next_add_gives_back_what_an_older_configuration_took() -> anyhow::Result<()> {
    let stage = Stage::new(2)?;
    let (config, who, next) = (config(&stage), stage.who(0)?, stage.who(1)?);
    let changed = with(&config, "ipam", Value::Null);

    let own = Own::new(&stage)?;
    stage.add(&config, &Who { netns: own.path.clone(), ..who.clone() })?;
    own.end()?;
    stage.add(&changed, &next).context("a sweep")?;
    ensure!(stage.leases().is_empty(), "{:?} leaked", stage.leases());
    stage.del(&changed, &next)?;

    // Step by step, until one of the deaths comes when the address is taken.
    let mut seen = false;
    for step in 1..20 {
        let killed = stage.run(&stage.call("ADD", &config, &who).env(DIE_AT_STEP, step.to_string()))?;
        let ended = killed.status.success();
        seen |= !ended && stage.leases().len() == 1;
        if ended {
            stage.del(&config, &who)?;
            break;
        }
        stage.add(&changed, &who).with_context(|| format!("after a kill at step {step}"))?;
        ensure!(stage.leases().is_empty(), "step {step}: {:?} leaked", stage.leases());
        stage.del(&changed, &who)?;
    }
    ensure!(seen, "no death left an address: the test shows nothing");
    Ok(())
}

/// The only journal there is, and what is in it.
fn journal(stage: &Stage) -> anyhow::Result<(std::path::PathBuf, String)> {
    let names = stage.journals();
    let [name] = names.as_slice() else { anyhow::bail!("{names:?}") };
    let path = Path::new(&stage.node.state()).join(name);
    let text = std::fs::read_to_string(&path).context("read a journal")?;
    Ok((path, text))
}

/// Its header is all that differs.
#[test]
fn journal_of_the_version_before_is_undone_with_the_configuration_at_hand() -> anyhow::Result<()> {
    let (stage, config, who, before) = Stage::warm_with(config, 1)?;
    for (way, run) in WAYS {
        stage.add(&config, &who).context(way)?;
        let (path, text) = journal(&stage)?;
        let (header, steps) = text.split_once('\n').context("lines")?;
        let mut header: Value = serde_json::from_str(header)?;
        let fields = header["attachment"].as_object_mut().context("a header")?;
        ensure!(fields.remove("asked").is_some(), "{fields:?}");
        ensure!(steps.contains("{\"step\":\"lease\"}\n"), "{steps}");
        std::fs::write(&path, format!("{header}\n{steps}"))?;
        run(&stage, &config, &who).context(way)?;
        ensure!(stage.leases().is_empty(), "{way}: {:?} leaked", stage.leases());
        stage.is_as(&before).context(way)?;
    }
    Ok(())
}

#[test]
fn what_is_written_down_of_a_configuration_only_root_may_read() -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    let secret = with(&ipam(&stage), "password", json!("xyzzy"));
    let (config, who) = (with(&config(&stage), "ipam", secret), stage.who(0)?);
    // The folder is one that others may look into.
    std::fs::set_permissions(stage.node.state(), std::fs::Permissions::from_mode(0o755))?;
    stage.run(&stage.call("ADD", &config, &who).umask(0))?.result()?;
    let (path, text) = journal(&stage)?;
    ensure!(text.contains("xyzzy"), "{text}");
    let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{mode:o}");
    stage.del(&config, &who)
}

/// A plugin that writes down who calls it for what, and with what.
fn delegate(stage: &Stage, name: &str) -> anyhow::Result<()> {
    let heard = stage.node.directory().join(format!("{name}-heard"));
    let text = format!(
        "F={}-$CNI_COMMAND; cat > $F.stdin; echo \"$CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS\" > $F\n\
         [ $CNI_COMMAND != ADD ] || echo '{{\"cniVersion\":\"1.1.0\",\"ips\":[{{\"address\":\"10.7.0.5/24\"}}]}}'",
        heard.display()
    );
    stage.node.install(name, &script(&stage.node, &format!("script-{name}"), &text)?)
}

fn heard(stage: &Stage, file: &str) -> Option<String> {
    std::fs::read_to_string(stage.node.directory().join(file)).ok()
}

const ARGUMENTS: &str = "IgnoreUnknown=1;K8S_POD_NAME=vm";

#[test]
fn delegate_is_told_at_its_end_what_it_was_told_at_its_beginning() -> anyhow::Result<()> {
    for (way, run) in WAYS {
        let stage = Stage::new(1)?;
        delegate(&stage, "first")?;
        delegate(&stage, "second")?;
        let who = stage.who(0)?;
        let of = |name: &str| with(&config(&stage), "ipam", json!({ "type": name, "pool": name }));
        let (config, changed) = (of("first"), of("second"));
        // As it came, not as somebody would write it.
        let text = format!(" {}\n", serde_json::to_string_pretty(&config)?);
        stage.run(&stage.call("ADD", &config, &who).stdin(text.clone()).args(ARGUMENTS))?.result()?;
        run(&stage, &changed, &who).context(way)?;
        ensure!(heard(&stage, "first-heard-ADD.stdin").as_ref() == Some(&text), "{way}");
        ensure!(heard(&stage, "first-heard-DEL.stdin").as_ref() == Some(&text), "{way}");
        ensure!(heard(&stage, "second-heard-DEL").is_none(), "{way}: of an address it never gave");
        let told = heard(&stage, "first-heard-DEL").unwrap_or_default();
        // A runtime says at DEL itself what it says.
        let arguments = if way == "GC" { ARGUMENTS } else { "" };
        ensure!(told == format!("{} {INTERFACE} {arguments}\n", who.container), "{way}: {told:?}");
    }
    Ok(())
}

/// A network was moved to another plugin, and the old one taken off the node, before the pod's end.
#[test]
fn pod_ends_also_when_the_plugin_of_its_address_is_gone_for_good() -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    delegate(&stage, "first")?;
    let who = stage.who(0)?;
    let config = with(&config(&stage), "ipam", json!({ "type": "first" }));
    stage.warm_up(&config, &who)?;
    let before = stage.snapshot()?;
    stage.add(&config, &who)?;
    for folder in stage.node.plugins() {
        let _ = std::fs::remove_file(folder.join("first"));
    }
    // It may only be in the middle of being replaced.
    let failure = stage.run(&stage.call("DEL", &config, &who))?.failure()?;
    ensure!(failure.msg.contains("failed to find plugin \"first\""), "{failure}");
    stage.del(&with(&config, "ipam", ipam(&stage)), &who)?;
    stage.is_as(&before)
}

/// The result of ADD is in what a runtime says at DEL; that is the plugin's to read, where the rest is the same.
#[test]
fn delegate_hears_the_runtime_itself_where_nothing_has_changed() -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    delegate(&stage, "first")?;
    let who = stage.who(0)?;
    let config = with(&config(&stage), "ipam", json!({ "type": "first" }));
    let result = stage.add(&config, &who)?;
    let last = with(&config, "prevResult", result);
    stage.del(&last, &who)?;
    ensure!(heard(&stage, "first-heard-DEL.stdin") == Some(last.to_string()));
    // Nothing is written down any more: as the specification wants, it is asked again.
    std::fs::remove_file(stage.node.directory().join("first-heard-DEL.stdin"))?;
    stage.del(&config, &who)?;
    ensure!(heard(&stage, "first-heard-DEL.stdin") == Some(config.to_string()));
    Ok(())
}
