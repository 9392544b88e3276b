//! The same verb again, and verbs that are told less than they could be.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vm_tests::cni::{Allowed, Call};

use crate::rows::{ROWS, row_called};
use crate::stage::{Stage, Who, with};

#[test]
fn second_add_is_refused_and_the_first_stays_whole() -> anyhow::Result<()> {
    for row in ROWS {
        let (stage, config, who, before) = Stage::warm(&row, 1)?;
        let result = stage.add(&config, &who).context(row.name)?;
        stage.is_whole(&config, &who, &result).context(row.name)?;
        let during = stage.snapshot()?;
        let failure = stage.run(&stage.call("ADD", &config, &who))?.failure().context(row.name)?;
        ensure!(failure.msg.contains(&who.container), "{}: {failure}", row.name);
        during.compare(&stage.snapshot()?, &[]).context(row.name)?;
        stage.is_whole(&config, &who, &result).context(row.name)?;
        for _ in 0..3 {
            stage.del(&with(&config, "prevResult", result.clone()), &who).context(row.name)?;
            stage.is_as(&before).context(row.name)?;
        }
        ensure!(stage.leases().is_empty(), "{}: {:?}", row.name, stage.leases());
    }
    Ok(())
}

/// How a DEL is told less, or otherwise, than the ADD was.
type Less = (&'static str, fn(&Stage, Call) -> anyhow::Result<Call>);

const LESS: [Less; 4] = [
    ("no CNI_NETNS", |_, call| Ok(call.without("CNI_NETNS"))),
    ("an empty CNI_NETNS", |_, call| Ok(call.netns(""))),
    ("a path to another pod's namespace", |stage, call| Ok(call.netns(stage.node.netns(1)?))),
    ("a path to what is no namespace", |_, call| Ok(call.netns("/etc/hostname"))),
];

#[test]
fn del_that_is_told_less_leaves_nothing() -> anyhow::Result<()> {
    for row in ROWS {
        let stage = Stage::new(2)?;
        let (config, who) = (stage.config(&row), stage.who(0)?);
        stage.warm_up(&config, &who).context(row.name)?;
        for (name, less) in LESS {
            let what = || format!("{}, {name}", row.name);
            let before = stage.snapshot()?;
            stage.add(&config, &who).with_context(what)?;
            let call = less(&stage, stage.call("DEL", &config, &who))?;
            for _ in 0..2 {
                stage.run(&call)?.silent().with_context(what)?;
                stage.is_as(&before).with_context(what)?;
            }
        }
    }
    Ok(())
}

/// Empties the first pod, as its end does.
fn clear(stage: &Stage) -> anyhow::Result<()> {
    let line = "for link in net1 tap0 tap1 vm0; do ip link del $link 2>/dev/null || true; done; \
                tc qdisc del dev eth0 ingress 2>/dev/null || true";
    crate::stage::shell(stage.node.pod(0)?, line, &[])
}

#[test]
fn del_after_the_namespace_is_gone_leaves_nothing_on_the_node() -> anyhow::Result<()> {
    for row in ROWS {
        let (stage, config, who, before) = Stage::warm(&row, 1)?;
        let own = Own::new(&stage)?;
        let who = Who { netns: own.path.clone(), ..who };
        stage.add(&config, &who).context(row.name)?;
        own.end()?;
        for _ in 0..3 {
            stage.del(&config, &who).context(row.name)?;
            stage.is_as(&before).context(row.name)?;
        }
    }
    Ok(())
}

/// Runtimes without named namespaces say `/proc/PID/ns/net`.
#[test]
fn namespace_may_be_that_of_a_process() -> anyhow::Result<()> {
    for row in ROWS {
        let (stage, config, who, before) = Stage::warm(&row, 1)?;
        for ends_before in [false, true] {
            let what = || format!("{}, the process ended before: {ends_before}", row.name);
            let mut process =
                stage.node.pod(0)?.command("sleep").arg("600").spawn().context("start sleep")?;
            let inside = || {
                stage.node.pod(0).is_ok_and(|pod| pod.processes().iter().any(|(pid, _)| *pid == process.id()))
            };
            vm_tests::lab::wait_for(std::time::Duration::from_secs(10), "a process in the pod", inside)?;
            let path = format!("/proc/{}/ns/net", process.id());
            let who = Who { netns: path, ..who.clone() };
            let result = stage.add(&config, &who).with_context(what)?;
            stage.is_whole(&config, &who, &result).with_context(what)?;
            if ends_before {
                process.kill()?;
                process.wait()?;
            }
            stage.del(&config, &who).with_context(what)?;
            if ends_before {
                // Nothing leads into the pod any more; what is in it would go with it.
                clear(&stage)?;
            }
            stage.del(&config, &who).with_context(what)?;
            stage.is_as(&before).with_context(what)?;
            let _ = process.kill();
            process.wait()?;
        }
    }
    Ok(())
}

/// A pod that may moves its end of the pair, and gives its index to another link.
#[test]
fn del_of_a_pair_whose_end_the_pod_moved_takes_that_pair_and_no_other() -> anyhow::Result<()> {
    let (stage, config, who, before) = Stage::warm(&row_called("bridge with everything for a container"), 2)?;
    stage.add(&config, &who)?;
    let moved = "index=$(ip -o link show net1 | cut -d: -f1); ip link set net1 netns $OTHER; \
                 ip link add decoy index $index type veth peer name decoy1";
    let pod = stage.node.pod(0)?;
    crate::stage::shell(pod, moved, &[("OTHER", stage.node.pod(1)?.name())])?;
    stage.del(&config, &who)?;
    crate::stage::shell(pod, "ip link del decoy", &[])?;
    stage.is_as(&before)
}

/// What a journal says is found by names and marks where there is none.
#[test]
fn del_without_a_journal_leaves_nothing() -> anyhow::Result<()> {
    for row in ROWS {
        let (stage, config, who, before) = Stage::warm(&row, 1)?;
        let result = stage.add(&config, &who).context(row.name)?;
        std::fs::remove_dir_all(stage.node.state()).context("lose the state folder")?;
        let failure = stage.check(&config, &who, &result)?.failure().context(row.name)?;
        ensure!(failure.code == 100 && failure.msg.contains(&stage.node.state()), "{}: {failure}", row.name);
        for _ in 0..2 {
            stage.del(&config, &who).context(row.name)?;
        }
        ensure!(stage.leases().is_empty(), "{}: {:?}", row.name, stage.leases());
        let allowed = [
            Allowed { pattern: "file state/", why: "locks went with the folder" },
            Allowed {
                pattern: "node/link/br0/mtu",
                why: "the lowest of its ports, of which the device stays one",
            },
            Allowed { pattern: "node/*vxlan", why: "others may use it, which only the journal knows" },
            Allowed { pattern: "node/*vxbr77", why: "so with the overlay's bridge" },
            Allowed { pattern: "outside/*239.1.1.1", why: "and the group it has joined" },
            Allowed { pattern: "pod0/qdisc*eth0", why: "an empty one, which may have been another's" },
            Allowed { pattern: "pod0/*net1", why: "a macvlan bears no mark; it goes with the pod" },
            Allowed { pattern: "node/link/up0/promiscuity", why: "and with it what its master does for it" },
        ];
        let allowed: &[Allowed] = if row.name == "macvlan" { &allowed } else { &allowed[..6] };
        stage.node.comes_back_to(&before, &[], allowed).context(row.name)?;
    }
    Ok(())
}

/// A key in the configuration that is wrong by now does not keep back what was made.
#[test]
fn del_with_a_configuration_that_is_wrong_by_now_leaves_nothing() -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    let (config, who) = (stage.config(&row_called("bridge with everything")), stage.who(0)?);
    stage.warm_up(&config, &who)?;
    for (key, value) in [
        ("mode", json!("brigde")),
        ("mtu", json!(70000)),
        ("vlan", json!(5000)),
        ("tapName", json!("0123456789abcdef")),
    ] {
        let before = stage.snapshot()?;
        stage.add(&config, &who)?;
        stage.del(&with(&config, key, value), &who).context(key)?;
        stage.is_as(&before).context(key)?;
    }
    Ok(())
}

#[test]
fn del_of_one_leaves_the_other_whole() -> anyhow::Result<()> {
    for row in ROWS {
        let stage = Stage::new(2)?;
        let config = stage.config(&row);
        let (one, other) = (stage.who(0)?, stage.who(1)?);
        stage.add(&config, &one).context(row.name)?;
        let result: Value = stage.add(&config, &other).context(row.name)?;
        stage.del(&config, &one).context(row.name)?;
        stage.is_whole(&config, &other, &result).context(row.name)?;
        stage.del(&config, &other).context(row.name)?;
    }
    Ok(())
}

/// A namespace that a test ends while its node lives on.
pub(crate) struct Own<'s> {
    stage: &'s Stage,
    name: String,
    pub(crate) path: String,
}

impl<'s> Own<'s> {
    pub(crate) fn new(stage: &'s Stage) -> anyhow::Result<Self> {
        let name = format!("{}-own", stage.node.pod(0)?.name());
        let own = Self { stage, path: format!("/run/netns/{name}"), name };
        let made = "ip netns add $NAME; ip link add far-own type veth peer name eth0 netns $NAME; ip link set far-own up; \
                    ip -n $NAME link set eth0 up; ip -n $NAME link set lo up";
        crate::stage::shell(stage.node.outside()?, made, &[("NAME", &own.name)])?;
        Ok(own)
    }

    /// Ends it, and waits until the kernel has taken its links away.
    pub(crate) fn end(&self) -> anyhow::Result<()> {
        let line = "ip netns del $NAME; while ip link show far-own >/dev/null 2>&1; do :; done";
        crate::stage::shell(self.stage.node.outside()?, line, &[("NAME", &self.name)])
    }
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip")
            .args(["netns", "del", &self.name])
            .stderr(std::process::Stdio::null())
            .status();
    }
}
