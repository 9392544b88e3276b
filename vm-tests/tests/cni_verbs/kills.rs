//! kill -9 in the middle of an ADD: whatever comes next finds everything, and leaves nothing.

use std::os::unix::process::ExitStatusExt as _;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::repeats::Own;
use crate::rows::{ROWS, Row, row_called};
use crate::stage::{DIE_AT_STEP, Stage, Who};
use crate::tracer::{self, Fate};

const SIGKILL: i32 = 9;

/// More than any mode has.
const MOST_STEPS: usize = 20;

/// Whether the ADD was killed before this step, the first being 1; `false` means that it has fewer, and came to its end.
fn is_killed_at(stage: &Stage, config: &Value, who: &Who, step: usize) -> anyhow::Result<bool> {
    let outcome = stage.run(&stage.call("ADD", config, who).env(DIE_AT_STEP, step.to_string()))?;
    if outcome.status.signal() == Some(SIGKILL) {
        return Ok(true);
    }
    outcome.result().with_context(|| format!("killed at step {step}, or not at all"))?;
    Ok(false)
}

/// Goes through the steps of a row; `next` is what comes after each death.
fn at_every_step(row: &Row, next: impl Fn(&Stage, &Value, &Who) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (stage, config, who, before) = Stage::warm(row, 2)?;
    for step in 1..=MOST_STEPS {
        let what = || format!("{}, step {step}", row.name);
        if !is_killed_at(&stage, &config, &who, step).with_context(what)? {
            ensure!(step > 1, "{}: nothing can be killed; is the plugin a release build?", row.name);
            stage.del(&config, &who).with_context(what)?;
            return stage.is_as(&before).with_context(what);
        }
        next(&stage, &config, &who).with_context(what)?;
        stage.is_as(&before).with_context(what)?;
        ensure!(stage.leases().is_empty(), "{}: {:?}", what(), stage.leases());
    }
    anyhow::bail!("{} has more than {MOST_STEPS} steps", row.name)
}

#[test]
fn del_after_a_kill_leaves_nothing() -> anyhow::Result<()> {
    for row in ROWS {
        at_every_step(&row, |stage, config, who| stage.del(config, who))?;
    }
    Ok(())
}

#[test]
fn gc_after_a_kill_leaves_nothing() -> anyhow::Result<()> {
    for row in ROWS {
        at_every_step(&row, |stage, config, _| stage.gc(config, &[]))?;
    }
    Ok(())
}

#[test]
fn add_after_a_kill_begins_anew() -> anyhow::Result<()> {
    for row in ROWS {
        at_every_step(&row, |stage, config, who| {
            let result = stage.add(config, who)?;
            stage.is_whole(config, who, &result)?;
            stage.del(config, who)
        })?;
    }
    Ok(())
}

#[test]
fn check_after_a_kill_fails() -> anyhow::Result<()> {
    for row in ROWS {
        let result = {
            let stage = Stage::new(1)?;
            stage.add(&stage.config(&row), &stage.who(0)?).context(row.name)?
        };
        at_every_step(&row, |stage, config, who| {
            let failure = stage.check(config, who, &result)?.failure()?;
            ensure!(failure.code == 100, "{failure}");
            stage.del(config, who)
        })?;
    }
    Ok(())
}

#[test]
fn add_of_another_sweeps_after_a_kill_once_the_pod_is_gone() -> anyhow::Result<()> {
    for row in ROWS {
        let stage = Stage::new(2)?;
        let config = stage.config(&row);
        let (who, next) = (stage.who(0)?, stage.who(1)?);
        stage.warm_up(&config, &next).context(row.name)?;
        let before = stage.snapshot()?;
        for step in 1..=MOST_STEPS {
            let what = || format!("{}, step {step}", row.name);
            let own = Own::new(&stage)?;
            let gone = Who { netns: own.path.clone(), ..who.clone() };
            let killed = is_killed_at(&stage, &config, &gone, step).with_context(what)?;
            own.end()?;
            let result = stage.add(&config, &next).with_context(what)?;
            stage.is_whole(&config, &next, &result).with_context(what)?;
            stage.del(&config, &next).with_context(what)?;
            stage.is_as(&before).with_context(what)?;
            ensure!(stage.leases().is_empty(), "{}: {:?}", what(), stage.leases());
            if !killed {
                break;
            }
        }
    }
    Ok(())
}

/// More than any ADD has.
const MOST_CALLS: usize = 500;

/// How many deaths are looked at together: what they leave would add up.
const TOGETHER: usize = 10;

/// Between the steps too: at every system call that may change something.
#[test]
fn nothing_is_left_wherever_an_add_is_killed() -> anyhow::Result<()> {
    for row in ["tap", "none", "bridge with everything", "ptp for a container", "macvlan", "macvtap", "vxlan"]
        .map(row_called)
    {
        let (stage, config, who, before) = Stage::warm(&row, 1)?;
        for call in 1..=MOST_CALLS {
            let what = || format!("{}, up to system call {call}", row.name);
            let fate = tracer::kill_at(stage.command("ADD", &who)?, config.to_string().as_bytes(), call)?;
            if call % 2 == 0 { stage.gc(&config, &[]) } else { stage.del(&config, &who) }
                .with_context(what)?;
            if call % TOGETHER == 0 || fate != Fate::Killed {
                stage.is_as(&before).with_context(what)?;
                ensure!(stage.leases().is_empty(), "{}: {:?}", what(), stage.leases());
            }
            if let Fate::Ended { status, stdout } = fate {
                ensure!(status == 0 && call > TOGETHER, "{}: exit code {status}: {stdout}", what());
                break;
            }
            ensure!(call < MOST_CALLS, "{} does not come to its end", row.name);
        }
    }
    Ok(())
}

/// A DEL that is killed leaves what the next one needs.
#[test]
fn nothing_is_left_by_the_del_after_one_that_was_killed() -> anyhow::Result<()> {
    for row in ["tap", "bridge with everything", "vxlan"].map(row_called) {
        let (stage, config, who, before) = Stage::warm(&row, 1)?;
        for call in 1..=MOST_CALLS {
            let what = || format!("{}, up to system call {call}", row.name);
            stage.add(&config, &who).with_context(what)?;
            let fate = tracer::kill_at(stage.command("DEL", &who)?, config.to_string().as_bytes(), call)?;
            stage.del(&config, &who).with_context(what)?;
            if call % TOGETHER == 0 || fate != Fate::Killed {
                stage.is_as(&before).with_context(what)?;
                ensure!(stage.leases().is_empty(), "{}: {:?}", what(), stage.leases());
            }
            if fate != Fate::Killed {
                break;
            }
        }
    }
    Ok(())
}
