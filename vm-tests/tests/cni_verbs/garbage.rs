//! GC: what the runtime no longer knows goes, and nothing else.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::repeats::Own;
use crate::rows::{ROWS, row_called};
use crate::stage::{INTERFACE, Stage, Who, with};

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
    let stage = Stage::new(1)?;
    let (config, who) = (stage.config(&row_called("bridge with everything")), stage.who(0)?);
    stage.warm_up(&config, &who)?;
    let empty = stage.snapshot()?;
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
        let stage = Stage::new(1)?;
        let (config, who) = (stage.config(&row), stage.who(0)?);
        stage.warm_up(&config, &who).context(row.name)?;
        let before = stage.snapshot()?;
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
    let folder = std::path::Path::new(&stage.node.leases()).join("net");
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
