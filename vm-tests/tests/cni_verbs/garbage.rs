//! GC: what the runtime no longer knows goes, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::repeats::Own;
use crate::rows::{ROWS, Row, row_called};
use crate::stage::{INTERFACE, Stage, Who, shell, with};

#[test]
fn what_is_not_valid_goes_and_all_else_stays() -> anyhow::Result<()> {
    for row in ROWS {
        let stage = Stage::new(3)?;
        let config = stage.config(&row);
        let who = [stage.who(0)?, stage.who(1)?, stage.who(2)?];
        for one in &who {
            stage.warm_up(&config, one).context(row.name)?;
        }
        let [one, two, stale] = &who;
        let empty = stage.snapshot()?;
        let first = stage.add(&config, one).context(row.name)?;
        let second = stage.add(&config, two).context(row.name)?;
        let before = stage.snapshot()?;
        stage.add(&config, stale).context(row.name)?;
        let valid = [one, two];
        for _ in 0..2 {
            stage.gc(&config, &valid).context(row.name)?;
            stage.node.comes_back_to(&before, &[], &[]).context(row.name)?;
            stage.is_whole(&config, one, &first).context(row.name)?;
            stage.is_whole(&config, two, &second).context(row.name)?;
        }
        ensure!(stage.journals().len() == 2, "{}: {:?}", row.name, stage.journals());
        // Another network of the same plugin knows none of these.
        stage.gc(&with(&config, "name", json!("other")), &[]).context(row.name)?;
        stage.node.comes_back_to(&before, &[], &[]).context(row.name)?;
        for _ in 0..2 {
            stage.gc(&config, &[]).context(row.name)?;
            stage.is_as(&empty).context(row.name)?;
        }
    }
    Ok(())
}

#[test]
fn list_of_the_valid_may_be_null_but_not_missing() -> anyhow::Result<()> {
    let (stage, config, who, empty) = Stage::warm(&row_called("bridge with everything"), 1)?;
    let result = stage.add(&config, &who)?;
    for (what, list) in [
        ("missing", None),
        ("an object", Some(json!({}))),
        ("without a container", Some(json!([{ "ifname": INTERFACE }]))),
        ("a string", Some(json!("all"))),
    ] {
        let mut bad = config.clone();
        if let Some(list) = list {
            bad = with(&bad, "cni.dev/valid-attachments", list);
        }
        let failure = stage.run(&stage.network_call("GC", &bad))?.failure().context(what)?;
        ensure!(failure.code == 7 && failure.msg.contains("cni.dev/valid-attachments"), "{what}: {failure}");
        stage.is_whole(&config, &who, &result).context(what)?;
    }
    stage
        .run(&stage.network_call("GC", &with(&config, "cni.dev/valid-attachments", Value::Null)))?
        .silent()?;
    stage.is_as(&empty)
}

/// One container has two interfaces on the network; one of them is valid.
#[test]
fn interfaces_of_one_container_are_told_apart() -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    let (config, who) = (stage.config(&row_called("bridge with everything")), stage.who(0)?);
    let first = stage.add(&config, &who)?;
    let second = stage.call("ADD", &config, &who).interface("net2");
    stage.run(&second)?.result()?;
    stage.gc(&config, &[&who])?;
    stage.is_whole(&config, &who, &first)?;
    ensure!(
        stage.journals().len() == 1 && stage.leases().len() == 1,
        "{:?}, {:?}",
        stage.journals(),
        stage.leases()
    );
    stage.del(&config, &who)
}

#[test]
fn pods_that_are_gone_leave_nothing() -> anyhow::Result<()> {
    for row in ROWS {
        let (stage, config, who, before) = Stage::warm(&row, 1)?;
        let own = Own::new(&stage)?;
        stage.add(&config, &Who { netns: own.path.clone(), ..who }).context(row.name)?;
        own.end()?;
        for _ in 0..2 {
            stage.gc(&config, &[]).context(row.name)?;
            stage.is_as(&before).context(row.name)?;
        }
        ensure!(stage.leases().is_empty(), "{}: {:?}", row.name, stage.leases());
    }
    Ok(())
}

/// Leases that no journal knows of, of whoever had the network before.
#[test]
fn leases_of_nobody_are_released() -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    let (config, who) = (stage.config(&row_called("bridge with everything")), stage.who(0)?);
    let result = stage.add(&config, &who)?;
    let ours = stage.leases();
    let folder = Path::new(&stage.node.leases()).join("net");
    std::fs::write(folder.join("10.7.0.99"), "gone\r\nnet1")?;
    stage.gc(&config, &[&who])?;
    ensure!(stage.leases() == ours, "{:?}", stage.leases());
    stage.is_whole(&config, &who, &result)
}

/// Multus never asks plugins of a NetworkAttachmentDefinition to collect garbage.
#[test]
fn next_add_on_the_network_sweeps_after_pods_that_are_gone() -> anyhow::Result<()> {
    for row in ROWS {
        let stage = Stage::new(2)?;
        let config = stage.config(&row);
        let (who, next) = (stage.who(0)?, stage.who(1)?);
        stage.warm_up(&config, &next).context(row.name)?;
        let before = stage.snapshot()?;
        let own = Own::new(&stage)?;
        let gone = Who { netns: own.path.clone(), ..who };
        stage.add(&config, &gone).context(row.name)?;
        own.end()?;
        let result = stage.add(&config, &next).context(row.name)?;
        stage.is_whole(&config, &next, &result).context(row.name)?;
        ensure!(stage.journals().len() == 1, "{}: {:?}", row.name, stage.journals());
        ensure!(stage.leases().len() == usize::from(row.leases), "{}: {:?}", row.name, stage.leases());
        stage.del(&config, &next).context(row.name)?;
        stage.is_as(&before).context(row.name)?;
    }
    Ok(())
}

/// Comments of the node's rules, in order.
fn comments(stage: &Stage) -> anyhow::Result<BTreeSet<String>> {
    let output = stage.node.host()?.command("nft").args(["list", "ruleset"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .lines()
        .filter_map(|line| Some(line.split_once("comment \"")?.1.trim_end_matches('"').to_owned()))
        .collect())
}

/// The state folder is lost, as with a container's `/run`; rules are the kernel's and stay.
#[test]
fn rules_that_no_journal_knows_go_with_their_network_and_nobody_elses() -> anyhow::Result<()> {
    let stage = Stage::new(3)?;
    let config = stage.config(&row_called("bridge with everything"));
    let other = json!({ "name": "other", "mode": "bridge", "bridge": "br1", "macspoofchk": true });
    let other = stage.config_of(other);
    let who = [stage.who(0)?, stage.who(1)?, stage.who(2)?];
    let mut rules = Vec::new();
    let mut seen = BTreeSet::new();
    for (config, who) in [&config, &config, &other].into_iter().zip(&who) {
        stage.add(config, who)?;
        let all = comments(&stage)?;
        rules.push(all.difference(&seen).cloned().collect::<BTreeSet<_>>());
        seen = all;
    }
    let [valid, lost, others] = &rules[..] else { bail!("{rules:?}") };
    let foreign = "add table inet sluice; add rule inet sluice postrouting counter comment";
    let line = format!("nft '{foreign} \"sluice:0123456789abcdef:masquerade\"; {foreign} \"mine\"'");
    shell(stage.node.host()?, &line, &[])?;
    let all = comments(&stage)?;
    let folder = Path::new(&stage.node.state()).to_owned();
    for journal in stage.journals() {
        std::fs::remove_file(folder.join(journal))?;
    }
    ensure!(!valid.is_empty() && !lost.is_empty() && !others.is_empty(), "{rules:?}");
    // Of another folder others may know.
    let elsewhere = stage.node.directory().join("elsewhere");
    stage.gc(&with(&config, "stateDir", json!(elsewhere)), &[&who[0]])?;
    ensure!(comments(&stage)? == all, "{:?}", comments(&stage)?);
    // An ADD under way holds its journal.
    let id = lost.iter().find_map(|comment| comment.split(':').nth(1)).context("an id")?;
    let journal = std::fs::File::create(folder.join(format!("{id}.jsonl")))?;
    journal.lock()?;
    stage.gc(&config, &[&who[0]])?;
    ensure!(comments(&stage)? == all, "{:?}", comments(&stage)?);
    drop(journal);
    for _ in 0..2 {
        stage.gc(&config, &[&who[0]])?;
        ensure!(comments(&stage)? == &all - lost, "{:?}", comments(&stage)?);
        ensure!(stage.journals().is_empty(), "{:?}", stage.journals());
    }
    Ok(())
}

/// The path that a pod is attached by.
type ByPath = fn(&Stage, &Who) -> anyhow::Result<String>;

/// How a plugin's mount namespace may lack a pod, by name, and a shell's lines that take it from there.
const UNSEEN: [(&str, ByPath, &str); 3] = [
    ("another folder", |_, who| Ok(who.netns.clone()), "mount -t tmpfs none /run/netns"),
    ("the folder, not what is mounted in it", |_, who| Ok(who.netns.clone()), "umount $POD"),
    (
        "a link in the folder, not where it leads",
        |stage, who| {
            let link = stage.node.directory().join("link");
            std::os::unix::fs::symlink(&who.netns, &link).context("link to a namespace")?;
            Ok(link.to_string_lossy().into_owned())
        },
        "mount -t tmpfs none /run/netns",
    ),
];

/// A plugin in a container, say, whose `/run/netns` is its own.
#[test]
fn pods_that_are_not_seen_from_here_are_not_swept() -> anyhow::Result<()> {
    for row in ROWS {
        for (what, path, line) in UNSEEN {
            is_not_swept(&row, path, line).with_context(|| format!("{}, {what}", row.name))?;
        }
    }
    Ok(())
}

fn is_not_swept(row: &Row, path: ByPath, line: &str) -> anyhow::Result<()> {
    let stage = Stage::new(2)?;
    let config = stage.config(row);
    let (who, next) = (stage.who(0)?, stage.who(1)?);
    let attached = Who { netns: path(&stage, &who)?, ..who.clone() };
    let result = stage.add(&config, &attached)?;
    let folder = stage.node.directory();
    let seen = Who { netns: folder.join("seen").to_string_lossy().into_owned(), ..next.clone() };
    let lines = format!(
        "mount --bind {0}/dev /dev; touch {1}; mount --bind {2} {1}; {3}; exec $PLUGIN",
        folder.display(),
        seen.netns,
        next.netns,
        line.replace("$POD", &who.netns)
    );
    let surroundings = format!("exec unshare --mount --propagation private sh -e -c '{lines}'");
    stage.run_within(&surroundings, &stage.call("ADD", &config, &seen))?.result()?;
    stage.is_whole(&config, &attached, &result)?;
    for who in [&attached, &next] {
        stage.del(&config, who)?;
    }
    ensure!(stage.journals().is_empty(), "{:?}", stage.journals());
    Ok(())
}
