//! Configurations that cannot be right: refused by a code and by name, with everything as before.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::rows::{ROWS, leases, row_called};
use crate::stage::{Stage, shell, with};

/// A key that is wrong.
struct Wrong {
    row: &'static str,
    keys: fn(&Stage) -> Value,
    /// Both in the message.
    key: &'static str,
    value: &'static str,
}

const fn wrong(
    row: &'static str,
    keys: fn(&Stage) -> Value,
    key: &'static str,
    value: &'static str,
) -> Wrong {
    Wrong { row, keys, key, value }
}

const WRONG: [Wrong; 39] = [
    wrong("tap", |_| json!({ "mode": "tpa" }), "mode", "\"tpa\""),
    wrong("bridge", |_| json!({ "mode": "Bridge" }), "mode", "\"Bridge\""),
    wrong("tap", |_| json!({ "mode": "host" }), "mode", "\"host\""),
    wrong("tap", |_| json!({ "mode": 5 }), "mode", "5"),
    wrong("bridge", |_| json!({ "vlan": 5000 }), "vlan", "5000"),
    wrong("bridge", |_| json!({ "vlan": 4095 }), "vlan", "4095"),
    wrong("bridge", |_| json!({ "vlan": -1 }), "vlan", "-1"),
    wrong("bridge", |_| json!({ "vlanTrunk": [{ "minID": 200, "maxID": 100 }] }), "vlanTrunk", "200 to 100"),
    wrong("bridge", |_| json!({ "vlanTrunk": [{ "id": 5000 }] }), "vlanTrunk", "5000"),
    wrong("tap", |_| json!({ "mtu": 1501 }), "mtu", "1501"),
    wrong("macvlan", |_| json!({ "mtu": 1501 }), "mtu", "1501"),
    wrong("macvtap", |_| json!({ "mtu": 1501 }), "mtu", "1501"),
    wrong("vxlan", |_| json!({ "mtu": 1451 }), "mtu", "1451"),
    wrong("bridge", |_| json!({ "mtu": 65536 }), "mtu", "65536"),
    wrong("none", |_| json!({ "mtu": 67 }), "mtu", "67"),
    wrong("ptp", |_| json!({ "mtu": -1 }), "mtu", "-1"),
    wrong("tap", |_| json!({ "uplink": "eth7" }), "uplink", "\"eth7\""),
    wrong("macvlan", |_| json!({ "master": "up7" }), "master", "\"up7\""),
    wrong("macvtap", |_| json!({ "master": "up7" }), "master", "\"up7\""),
    wrong("vxlan", |_| json!({ "device": "up7", "local": null }), "device", "\"up7\""),
    wrong("vxlan", |_| json!({ "local": "10.77.0.9" }), "local", "10.77.0.9"),
    wrong("tap", |_| json!({ "tapName": "0123456789abcdef" }), "tapName", "0123456789abcdef"),
    wrong("tap", |_| json!({ "tapName": "a/b" }), "tapName", "a/b"),
    wrong("bridge", |_| json!({ "bridge": "0123456789abcdef" }), "bridge", "0123456789abcdef"),
    wrong("tap", |_| json!({ "stateDir": "state" }), "stateDir", "state"),
    wrong("bridge", |_| json!({ "hairpinMode": true, "promiscMode": true }), "hairpinMode", "true"),
    wrong("vxlan", |_| json!({ "vni": 0 }), "vni", "0"),
    wrong("vxlan", |_| json!({ "vni": 16_777_216 }), "vni", "16777216"),
    wrong("vxlan", |_| json!({ "port": 0 }), "port", "0"),
    wrong("vxlan", |_| json!({ "multicastGroup": "10.77.0.9", "peers": [] }), "multicastGroup", "10.77.0.9"),
    wrong("vxlan", |_| json!({ "peers": ["239.1.1.1"] }), "peers", "239.1.1.1"),
    wrong("vxlan", |_| json!({ "peers": ["fd00::1"] }), "peers", "fd00::1"),
    wrong("macvlan", |_| json!({ "tap": true }), "tap", "true"),
    wrong("tap", |_| json!({ "tap": false }), "tap", "false"),
    wrong("macvlan", |_| json!({ "macvlanMode": "source" }), "macvlanMode", "\"source\""),
    wrong("none", |stage| json!({ "ipam": leases(&stage.node) }), "ipam", "given"),
    wrong("macvtap", |stage| json!({ "ipam": leases(&stage.node) }), "ipam", "given"),
    wrong("ptp", |_| json!({ "ipam": {} }), "ipam", "missing"),
    wrong("bridge", |_| json!({ "mac": "02:00:00:00:00" }), "mac", "02:00:00:00:00"),
];

#[test]
fn wrong_key_is_refused_by_name_and_nothing_changes() -> anyhow::Result<()> {
    let mut failures = Vec::new();
    for row in ROWS {
        let of_row: Vec<&Wrong> = WRONG.iter().filter(|wrong| wrong.row == row.name).collect();
        if of_row.is_empty() {
            continue;
        }
        let stage = Stage::new(1)?;
        let (config, who) = (stage.config(&row), stage.who(0)?);
        let before = stage.snapshot()?;
        for wrong in of_row {
            let what = || format!("{}: {} {}", wrong.row, wrong.key, wrong.value);
            let mut config = config.clone();
            for (key, value) in (wrong.keys)(&stage).as_object().into_iter().flatten() {
                config = with(&config, key, value.clone());
            }
            let failure = stage.run(&stage.call("ADD", &config, &who))?.failure().with_context(what)?;
            if !matches!(failure.code, 2 | 7)
                || !failure.msg.contains(wrong.key)
                || !failure.msg.contains(wrong.value)
            {
                failures.push(format!("{}: {failure}", what()));
            }
            // A first ADD, too, must have left nothing: not a bridge, not a lock's file but an empty one.
            let after = stage.snapshot()?.without(&["file state/"]);
            if let Err(error) = before.without(&["file state/"]).compare(&after, &[]) {
                failures.push(format!("{}: {error:#}", what()));
            }
        }
        ensure!(stage.journals().is_empty(), "{}: {:?}", row.name, stage.journals());
    }
    ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

const MAC: &str = "02:00:00:00:00:17";

/// Asks for a MAC on the bridge, which the other has; `named` is in the message beside it.
fn refuses(stage: &Stage, config: &Value, pod: usize, mac: &str, named: &str) -> anyhow::Result<()> {
    let before = stage.snapshot()?;
    let failure =
        stage.run(&stage.call("ADD", &with(config, "mac", json!(mac)), &stage.who(pod)?))?.failure()?;
    ensure!(failure.code == 7 && failure.msg.contains("mac ") && failure.msg.contains(mac), "{failure}");
    ensure!(failure.msg.contains("br0") && failure.msg.contains(named), "{failure}");
    stage.node.comes_back_to(&before, &[], &[])
}

#[test]
fn mac_that_is_used_on_the_bridge_is_refused() -> anyhow::Result<()> {
    for row in ["bridge", "bridge with everything", "bridge with everything for a container"].map(row_called)
    {
        let stage = Stage::new(3)?;
        let config = stage.config(&row);
        let (first, second) = (stage.who(0)?, stage.who(1)?);
        stage.warm_up(&config, &first).context(row.name)?;
        // One that was asked for, in either order of the pods.
        for (one, other) in [(0, 1), (1, 0)] {
            let who = stage.who(one)?;
            stage.add(&with(&config, "mac", json!(MAC)), &who).context(row.name)?;
            refuses(&stage, &config, other, MAC, &who.container).context(row.name)?;
            stage.del(&config, &who).context(row.name)?;
        }
        // Who has gone has none.
        stage.add(&with(&config, "mac", json!(MAC)), &second).context(row.name)?;
        stage.del(&config, &second).context(row.name)?;
        // One that the kernel chose.
        let result = stage.add(&config, &first).context(row.name)?;
        let interfaces = result["interfaces"].as_array().context("interfaces")?;
        let chosen = interfaces.iter().find(|one| one["name"] == "net1").context("net1")?;
        let chosen = chosen["mac"].as_str().context("its MAC")?;
        refuses(&stage, &config, 1, chosen, &first.container).context(row.name)?;
        // One of a port that is not ours, and the bridge's own.
        shell(
            stage.node.host()?,
            "ip link add port9 address 02:00:00:00:00:18 type veth peer name far9; ip link set port9 master br0",
            &[],
        )?;
        refuses(&stage, &config, 1, "02:00:00:00:00:18", "port9").context(row.name)?;
        let bridge = interfaces.first().and_then(|one| one["mac"].as_str()).context("the bridge's MAC")?;
        refuses(&stage, &config, 1, bridge, "br0").context(row.name)?;
        // Of another bridge's it is no business.
        let elsewhere = with(&with(&config, "bridge", json!("br1")), "mac", json!(chosen));
        let elsewhere = with(&elsewhere, "name", json!("other"));
        if row.name == "bridge" {
            stage.add(&elsewhere, &second).context(row.name)?;
            stage.del(&elsewhere, &second).context(row.name)?;
        }
        stage.del(&config, &first).context(row.name)?;
    }
    Ok(())
}
