//! Many calls at a time.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::repeats::Own;
use crate::rows::row_called;
use crate::stage::{Stage, Who, port};

const MANY: usize = 32;

/// One crowd at a time: together they would only measure how long the kernel's one lock for all links keeps them waiting.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` for each at the same time.
pub(crate) fn at_once<T: Send + Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<Vec<R>> {
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = items.iter().map(|item| scope.spawn(move || work(item))).collect();
        running
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn crowd(stage: &Stage, size: usize) -> anyhow::Result<Vec<Who>> {
    (0..size).map(|pod| stage.who(pod)).collect()
}

/// Only what is on the node: pictures of so many pods take long.
fn links(stage: &Stage) -> anyhow::Result<String> {
    let output = stage
        .node
        .host()?
        .command("sh")
        .args(["-c", "ip -o link | cut -d' ' -f2; ip route | sed 's/linkdown//;s/ *$//'; nft list ruleset"])
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn each_of_many_gets_an_address_and_a_link_of_its_own() -> anyhow::Result<()> {
    let _turn = turn();
    for (row, many) in
        [("bridge with everything", MANY), ("ptp for a container", 12), ("vxlan", 12), ("macvlan", 12)]
    {
        let row = row_called(row);
        let stage = Stage::new(many)?;
        let config = stage.config(&row);
        let all = crowd(&stage, many)?;
        // Whoever is first makes the bridge; here all are.
        let results = at_once(&all, |who| stage.add(&config, who)).context(row.name)?;
        let addresses: BTreeSet<String> =
            results.iter().map(|result| result["ips"][0]["address"].to_string()).collect();
        ensure!(addresses.len() == many, "{}: {addresses:?}", row.name);
        ensure!(stage.leases().len() == many, "{}: {:?}", row.name, stage.leases());
        let ports: BTreeSet<String> = results.iter().map(port).collect();
        ensure!(row.name == "macvlan" || ports.len() == many, "{}: {ports:?}", row.name);
        let pairs: Vec<(&Who, &Value)> = all.iter().zip(&results).collect();
        at_once(&pairs, |(who, result)| stage.is_whole(&config, who, result)).context(row.name)?;
        at_once(&all, |who| stage.del(&config, who)).context(row.name)?;
        ensure!(stage.leases().is_empty(), "{}: {:?}", row.name, stage.leases());
        ensure!(stage.journals().is_empty(), "{}: {:?}", row.name, stage.journals());
        let left = links(&stage)?;
        ensure!(
            !left.contains("veth") && !left.contains("vx") && !left.contains("sluice:"),
            "{}: {left}",
            row.name
        );
    }
    Ok(())
}

#[test]
fn one_of_many_adds_for_the_same_attachment_wins() -> anyhow::Result<()> {
    let _turn = turn();
    for row in
        ["tap", "bridge with everything", "macvlan", "macvtap", "vxlan", "none", "passt"].map(row_called)
    {
        let (stage, config, who, before) = Stage::warm(&row, 1)?;
        let calls: Vec<_> = (0..16).map(|_| stage.call("ADD", &config, &who)).collect();
        let outcomes = at_once(&calls, |call| stage.run(call)).context(row.name)?;
        let results: Vec<Value> = outcomes.iter().filter_map(|outcome| outcome.result().ok()).collect();
        let [result] = results.as_slice() else { anyhow::bail!("{}: {} have won", row.name, results.len()) };
        for outcome in outcomes.iter().filter(|outcome| !outcome.status.success()) {
            let failure = outcome.failure().context(row.name)?;
            ensure!(failure.msg.contains(&who.container), "{}: {failure}", row.name);
        }
        stage.is_whole(&config, &who, result).context(row.name)?;
        let deletions = vec![(); 16];
        at_once(&deletions, |()| stage.del(&config, &who)).context(row.name)?;
        stage.is_as(&before).context(row.name)?;
        ensure!(stage.leases().is_empty(), "{}: {:?}", row.name, stage.leases());
    }
    Ok(())
}

/// The overlay's device comes with whoever is first and goes with whoever is last, over and over.
#[test]
fn overlay_that_comes_and_goes_is_there_for_everybody() -> anyhow::Result<()> {
    const PODS: usize = 8;
    const ROUNDS: usize = 12;

    let _turn = turn();
    for row in ["vxlan", "bridge with everything"].map(row_called) {
        let stage = Stage::new(PODS)?;
        let config = stage.config(&row);
        let all = crowd(&stage, PODS)?;
        stage.warm_up(&config, &all[0]).context(row.name)?;
        let before = links(&stage)?;
        at_once(&all, |who| {
            for round in 0..ROUNDS {
                let result =
                    stage.add(&config, who).with_context(|| format!("{}, round {round}", row.name))?;
                stage
                    .is_whole(&config, who, &result)
                    .with_context(|| format!("{}, round {round}", row.name))?;
                stage.del(&config, who).with_context(|| format!("{}, round {round}", row.name))?;
            }
            Ok(())
        })?;
        ensure!(stage.journals().is_empty() && stage.leases().is_empty(), "{:?}", stage.journals());
        let after = links(&stage)?;
        ensure!(before == after, "{}: {before}\nbecame\n{after}", row.name);
    }
    Ok(())
}

#[test]
fn gc_in_the_middle_breaks_nobody_who_is_valid() -> anyhow::Result<()> {
    const PODS: usize = 6;
    const ROUNDS: usize = 8;

    let _turn = turn();
    for row in ["vxlan", "bridge with everything", "macvlan"].map(row_called) {
        let stage = Stage::new(PODS)?;
        let config = stage.config(&row);
        let all = crowd(&stage, PODS)?;
        stage.warm_up(&config, &all[0]).context(row.name)?;
        let valid: Vec<&Who> = all.iter().collect();
        let jobs: Vec<Option<&Who>> = std::iter::once(None).chain(all.iter().map(Some)).collect();
        at_once(&jobs, |job| {
            for _ in 0..ROUNDS {
                match job {
                    None => stage.gc(&config, &valid).context(row.name)?,
                    Some(who) => {
                        let result = stage.add(&config, who).context(row.name)?;
                        stage.is_whole(&config, who, &result).context(row.name)?;
                        stage.del(&config, who).context(row.name)?;
                    }
                }
            }
            Ok(())
        })?;
        ensure!(
            stage.journals().is_empty() && stage.leases().is_empty(),
            "{}: {:?}",
            row.name,
            stage.journals()
        );
    }
    Ok(())
}

/// Each ADD sweeps after pods that are gone; all at once they sweep once.
#[test]
fn many_sweep_after_the_same_pod() -> anyhow::Result<()> {
    const PODS: usize = 8;

    let _turn = turn();
    let row = row_called("bridge with everything");
    let stage = Stage::new(PODS)?;
    let config = stage.config(&row);
    let all = crowd(&stage, PODS)?;
    stage.warm_up(&config, &all[0])?;
    let own = Own::new(&stage)?;
    stage.add(&config, &Who { container: "gone".to_owned(), netns: own.path.clone() })?;
    own.end()?;
    let results = at_once(&all, |who| stage.add(&config, who))?;
    ensure!(stage.journals().len() == PODS && stage.leases().len() == PODS, "{:?}", stage.journals());
    for (who, result) in all.iter().zip(&results) {
        stage.is_whole(&config, who, result)?;
    }
    at_once(&all, |who| stage.del(&config, who))?;
    Ok(())
}
