//! STATUS: whether an ADD would succeed on this node, and why not.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::rows::{ROWS, leases, row_called};
use crate::stage::{Stage, shell, with};

#[test]
fn node_that_lacks_nothing_is_ready() -> anyhow::Result<()> {
    for row in ROWS {
        let stage = Stage::new(1)?;
        let (config, who) = (stage.config(&row), stage.who(0)?);
        let status = || stage.run(&stage.network_call("STATUS", &config))?.silent();
        let before = stage.snapshot()?;
        status().context(row.name)?;
        before.compare(&stage.snapshot()?, &[]).context(row.name)?;
        // With attachments, and when they are gone.
        stage.add(&config, &who).context(row.name)?;
        status().context(row.name)?;
        stage.del(&config, &who).context(row.name)?;
        status().context(row.name)?;
    }
    Ok(())
}

/// Something that a node lacks.
struct Lack {
    name: &'static str,
    row: &'static str,
    /// Other keys of the configuration.
    keys: fn(&Stage) -> Value,
    /// There is an attachment.
    attached: bool,
    /// What is done to the node then.
    line: &'static str,
    code: u64,
    /// In the message.
    named: &'static str,
}

const fn lack(
    name: &'static str,
    row: &'static str,
    line: &'static str,
    code: u64,
    named: &'static str,
) -> Lack {
    Lack { name, row, keys: |_| json!({}), attached: false, line, code, named }
}

const LACKS: [Lack; 15] = [
    Lack {
        keys: |_| json!({ "stateDir": "/proc/sluice" }),
        ..lack("a state folder that cannot be made", "tap", "", 50, "/proc/sluice")
    },
    Lack {
        keys: |_| json!({ "stateDir": "/sys/kernel" }),
        ..lack("a state folder that cannot be written", "bridge", "", 50, "/sys/kernel")
    },
    lack(
        "a bridge's name that another link has",
        "bridge",
        "ip link add br0 type veth peer name far9",
        50,
        "br0",
    ),
    lack(
        "an overlay's bridge that is none",
        "vxlan",
        "ip link add vxbr77 type veth peer name far9",
        50,
        "vxbr77",
    ),
    lack(
        "an overlay's device that is none",
        "vxlan",
        "ip link add vxlan77 type veth peer name far9",
        50,
        "vxlan77",
    ),
    lack("no master", "macvlan", "ip link del up0", 50, "up0"),
    lack("no master", "macvtap", "ip link del up0", 50, "up0"),
    lack("no device beneath the overlay", "vxlan on a bridge that stays", "ip link del up0", 50, "up0"),
    lack("no local address", "vxlan", "ip address flush dev up0", 50, "10.77.0.1"),
    lack("a master that is down", "macvlan", "ip link set up0 down", 51, "up0"),
    lack("a master that is down", "macvtap", "ip link set up0 down", 51, "up0"),
    lack("an uplink that is down", "vxlan on a bridge that stays", "ip link set up0 down", 51, "up0"),
    Lack { attached: true, ..lack("no bridge any more", "bridge", "ip link del br0", 51, "br0") },
    Lack { attached: true, ..lack("no bridge any more", "vxlan", "ip link del vxbr77", 51, "vxbr77") },
    Lack {
        keys: |stage| json!({ "ipam": { "type": "no-such-ipam", "dataDir": stage.node.leases() } }),
        ..lack("no delegate", "bridge", "", 50, "no-such-ipam")
    },
];

#[test]
fn what_a_node_lacks_is_named() -> anyhow::Result<()> {
    for lack in LACKS {
        let what = || format!("{}, {}", lack.row, lack.name);
        let stage = Stage::new(1)?;
        let mut config = stage.config(&row_called(lack.row));
        for (key, value) in (lack.keys)(&stage).as_object().into_iter().flatten() {
            config = with(&config, key, value.clone());
        }
        if lack.attached {
            stage.add(&config, &stage.who(0)?).with_context(what)?;
        }
        shell(stage.node.host()?, lack.line, &[])?;
        let failure = stage.run(&stage.network_call("STATUS", &config))?.failure().with_context(what)?;
        ensure!(failure.code == lack.code, "{}: {failure}", what());
        ensure!(failure.msg.contains(lack.named), "{}: {failure}", what());
    }
    Ok(())
}

#[test]
fn range_without_an_address_left_is_named() -> anyhow::Result<()> {
    let stage = Stage::new(2)?;
    let mut config = stage.config(&row_called("bridge with everything"));
    config = with(&config, "ipam", with(&leases(&stage.node), "rangeEnd", json!("10.7.0.2")));
    let status = stage.network_call("STATUS", &config);
    stage.run(&status)?.silent()?;
    let (who, next) = (stage.who(0)?, stage.who(1)?);
    stage.warm_up(&config, &next)?;
    stage.add(&config, &who)?;
    let failure = stage.run(&status)?.failure()?;
    ensure!(failure.code == 50 && failure.msg.contains("10.7.0."), "{failure}");
    let before = stage.snapshot()?;
    let failure = stage.run(&stage.call("ADD", &config, &next))?.failure()?;
    ensure!(failure.msg.contains("10.7.0."), "{failure}");
    stage.node.comes_back_to(&before, &[], &[])?;
    stage.del(&config, &who)?;
    stage.run(&status)?.silent()
}

/// Where the pod's /dev is not the node's, or the module is missing.
const NO_TUN: &str =
    "exec unshare --mount --propagation private sh -c 'mount -t tmpfs tmpfs /dev/net && exec $PLUGIN'";

#[test]
fn missing_dev_net_tun_is_named() -> anyhow::Result<()> {
    for row in ["tap", "none", "bridge", "ptp", "vxlan"].map(row_called) {
        let (stage, config, who, before) = Stage::warm(&row, 1)?;
        for call in [stage.network_call("STATUS", &config), stage.call("ADD", &config, &who)] {
            let failure = stage.run_within(NO_TUN, &call)?.failure().context(row.name)?;
            ensure!(failure.code == 50 && failure.msg.contains("/dev/net/tun"), "{}: {failure}", row.name);
            stage.is_as(&before).context(row.name)?;
        }
    }
    Ok(())
}

/// Who needs no tap does not ask for one.
#[test]
fn modes_without_a_tap_need_no_dev_net_tun() -> anyhow::Result<()> {
    for row in
        ["passt", "bridge with everything for a container", "ptp for a container", "macvlan"].map(row_called)
    {
        let stage = Stage::new(1)?;
        let (config, who) = (stage.config(&row), stage.who(0)?);
        stage.run_within(NO_TUN, &stage.network_call("STATUS", &config))?.silent().context(row.name)?;
        stage.run_within(NO_TUN, &stage.call("ADD", &config, &who))?.result().context(row.name)?;
        stage.del(&config, &who).context(row.name)?;
    }
    Ok(())
}
