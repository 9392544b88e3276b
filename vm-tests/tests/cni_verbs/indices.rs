//! The index of a macvtap, after which its device node is called: nobody else has it, whoever made the link, and what
//! others have stays theirs.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::crowds::at_once;
use crate::rows::row_called;
use crate::stage::{INTERFACE, Stage, Who, shell, with};

/// In debug builds: the index that the plugin draws first.
const FIRST_DRAWN: &str = "SLUICE_CNI_MACVTAP_INDEX";

/// What the plugin draws from.
const DRAWN: Range<u64> = 1 << 30..1 << 31;

const WANTED: u64 = DRAWN.start + 7;

/// The index of the pod's interface.
fn index(stage: &Stage, pod: usize) -> anyhow::Result<u64> {
    let output =
        stage.node.pod(pod)?.command("ip").args(["-j", "link", "show", "dev", INTERFACE]).output()?;
    let links: Value = serde_json::from_slice(&output.stdout).context("ip's links")?;
    links.pointer("/0/ifindex").and_then(Value::as_u64).context("an index")
}

/// ADD, with [`WANTED`] drawn first, to the first pod.
fn add(stage: &Stage, config: &Value, who: &Who) -> anyhow::Result<u64> {
    let call = stage.call("ADD", config, who).env(FIRST_DRAWN, WANTED.to_string());
    let result = stage.run(&call)?.result()?;
    stage.is_whole(config, who, &result)?;
    index(stage, 0)
}

#[test]
fn index_that_is_free_is_taken() -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    let (config, who) = (stage.config(&row_called("macvtap")), stage.who(0)?);
    let before = stage.snapshot()?;
    ensure!(add(&stage, &config, &who)? == WANTED, "another index was taken");
    ensure!(stage.device_node() == Some(stage.device_node_of(WANTED)), "{:?}", stage.device_node());
    stage.del(&config, &who)?;
    stage.is_as(&before)
}

#[test]
fn index_that_another_has_is_passed_over() -> anyhow::Result<()> {
    const LINK: &str = "ip link add other index $INDEX type bridge";
    let rows = [
        ("a link of the pod", true, LINK),
        ("a link of the node", false, LINK),
        ("a device node", false, "mknod $NODE c 1 3"),
        ("a file", false, "touch $NODE"),
        ("a link that leads nowhere", false, "ln -s nowhere $NODE"),
    ];
    for (name, in_pod, line) in rows {
        let stage = Stage::new(1)?;
        let (config, who) = (stage.config(&row_called("macvtap")), stage.who(0)?);
        stage.warm_up(&config, &who).context(name)?;
        let path = stage.device_node_of(WANTED);
        let place = if in_pod { stage.node.pod(0)? } else { stage.node.host()? };
        let variables = [("INDEX", &*WANTED.to_string()), ("NODE", &*path.to_string_lossy())];
        shell(place, line, &variables).context(name)?;
        let before = stage.snapshot()?;
        let there = || fs::symlink_metadata(&path).map(|data| (data.ino(), data.rdev(), data.uid())).ok();
        let others = there();
        let index = add(&stage, &config, &who).context(name)?;
        ensure!(index != WANTED && DRAWN.contains(&index), "{name}: {index}");
        ensure!(there() == others, "{name}: {others:?} became {:?}", there());
        stage.del(&config, &who).context(name)?;
        ensure!(there() == others, "{name}: {others:?} became {:?}", there());
        stage.node.comes_back_to(&before, &[], &[]).context(name)?;
    }
    Ok(())
}

/// Each looks before any has made its device node, or after; nobody gets another's.
#[test]
fn pods_that_draw_the_same_index_at_once_do_not_share_it() -> anyhow::Result<()> {
    const PODS: usize = 6;
    const ROUNDS: usize = 5;

    let stage = Stage::new(PODS)?;
    let config = stage.config(&row_called("macvtap"));
    let all = (0..PODS).map(|pod| stage.who(pod)).collect::<anyhow::Result<Vec<_>>>()?;
    stage.warm_up(&config, &all[0])?;
    let before = stage.snapshot()?;
    for round in 0..ROUNDS {
        let what = || format!("round {round}");
        let outcomes = at_once(&all, |who| {
            stage.run(&stage.call("ADD", &config, who).env(FIRST_DRAWN, WANTED.to_string()))
        })?;
        let mut indices = Vec::new();
        for (pod, (who, outcome)) in all.iter().zip(&outcomes).enumerate() {
            if let Ok(result) = outcome.result() {
                stage.is_whole(&config, who, &result).with_context(what)?;
                indices.push(index(&stage, pod).with_context(what)?);
            } else {
                let failure = outcome.failure().with_context(what)?;
                ensure!(failure.code == 11 && failure.msg.contains("/dev/tap"), "{}: {failure}", what());
            }
        }
        let different: BTreeSet<u64> = indices.iter().copied().collect();
        ensure!(indices.contains(&WANTED), "{}: {indices:?}", what());
        ensure!(different.len() == indices.len(), "{}: {indices:?}", what());
        ensure!(stage.journals().len() == indices.len(), "{}: {:?}", what(), stage.journals());
        at_once(&all, |who| stage.del(&config, who)).with_context(what)?;
        stage.is_as(&before).with_context(what)?;
    }
    Ok(())
}

/// What a device plugin gave the pod.
const DEVICE: &str = "lanMvp0";

/// A stage with the configuration for [`DEVICE`], whose link is on the node with the index [`WANTED`], and its name.
fn with_device() -> anyhow::Result<(Stage, Value, String)> {
    let stage = Stage::new(2)?;
    let config = with(&stage.config(&row_called("macvtap")), "deviceID", json!(DEVICE));
    let failure = stage.run(&stage.call("ADD", &config, &stage.who(0)?))?.failure()?;
    ensure!(failure.code == 7 && failure.msg.contains(DEVICE), "{failure}");
    let name = failure.msg.split([' ', ',']).find(|word| word.starts_with("mvt")).context("a name")?;
    let line = "ip link add $NAME link up0 index $INDEX type macvtap mode bridge; ip link set $NAME up";
    shell(stage.node.host()?, line, &[("NAME", name), ("INDEX", &WANTED.to_string())])?;
    Ok((stage, config, name.to_owned()))
}

#[test]
fn link_of_a_device_plugin_is_moved_with_its_index() -> anyhow::Result<()> {
    let (stage, config, name) = with_device()?;
    let who = stage.who(0)?;
    // Of a device that is none: whoever made it is gone.
    let path = stage.device_node_of(WANTED);
    shell(stage.node.host()?, "mknod $NODE c 1 3", &[("NODE", &*path.to_string_lossy())])?;
    let result = stage.add(&with(&config, "mac", json!("02:00:00:00:00:17")), &who)?;
    stage.is_whole(&config, &who, &result)?;
    ensure!(result["interfaces"][0]["mac"] == "02:00:00:00:00:17", "{result}");
    ensure!(index(&stage, 0)? == WANTED, "it has another index");
    ensure!(shell(stage.node.host()?, &format!("ip link show {name}"), &[]).is_err(), "{name} stayed");
    for _ in 0..2 {
        stage.del(&config, &who)?;
        ensure!(!path.exists() && stage.journals().is_empty(), "{:?}", stage.journals());
        ensure!(index(&stage, 0).is_err(), "the interface outlasts DEL");
    }
    Ok(())
}

#[test]
fn link_of_a_device_plugin_whose_index_is_taken_in_the_pod_stays_on_the_node() -> anyhow::Result<()> {
    let (stage, config, name) = with_device()?;
    let line = format!("ip link add other index {WANTED} type bridge");
    shell(stage.node.pod(0)?, &line, &[])?;
    let failure = stage.run(&stage.call("ADD", &config, &stage.who(0)?))?.failure()?;
    ensure!(failure.code == 11, "{failure}");
    shell(stage.node.host()?, &format!("ip link show {name}"), &[])?;
    shell(stage.node.pod(0)?, "ip link show other", &[])?;
    ensure!(stage.journals().is_empty(), "{:?}", stage.journals());
    stage.add(&config, &stage.who(1)?)?;
    stage.del(&config, &stage.who(1)?)
}

#[test]
fn device_node_of_another_pods_macvtap_is_not_replaced() -> anyhow::Result<()> {
    let (stage, config, _) = with_device()?;
    let other = "ip link add other link eth0 index $INDEX type macvtap; \
                 unshare --mount --propagation private sh -ec 'mount -t sysfs sysfs /sys; \
                 mknod $NODE c $(tr : \" \" < /sys/class/net/other/tap$INDEX/dev)'";
    let path = stage.device_node_of(WANTED);
    let variables = [("INDEX", &*WANTED.to_string()), ("NODE", &*path.to_string_lossy())];
    shell(stage.node.pod(1)?, other, &variables)?;
    let others = (fs::metadata(&path)?.ino(), fs::metadata(&path)?.rdev());
    let failure = stage.run(&stage.call("ADD", &config, &stage.who(0)?))?.failure()?;
    ensure!(failure.code == 11 && failure.msg.contains(&format!("/dev/tap{WANTED}")), "{failure}");
    stage.del(&config, &stage.who(0)?)?;
    let data = fs::metadata(&path)?;
    ensure!((data.ino(), data.rdev()) == others && data.uid() == 0, "it was replaced");
    ensure!(stage.journals().is_empty(), "{:?}", stage.journals());
    Ok(())
}

/// The kernel gives it the MAC of the link beneath first.
#[test]
fn macvtap_that_has_its_master_for_itself_gets_the_mac_asked_for() -> anyhow::Result<()> {
    const MAC: &str = "02:00:00:00:00:17";

    let stage = Stage::new(1)?;
    let passthru = with(&stage.config(&row_called("macvtap")), "macvlanMode", json!("passthru"));
    let (config, who) = (with(&passthru, "mac", json!(MAC)), stage.who(0)?);
    let before = stage.snapshot()?;
    let result = stage.add(&config, &who)?;
    ensure!(result["interfaces"][0]["mac"] == MAC, "{result}");
    stage.is_whole(&config, &who, &result)?;
    stage.del(&config, &who)?;
    stage.is_as(&before)
}
