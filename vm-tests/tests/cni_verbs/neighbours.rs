//! What others do to the links of an attachment and may do: plugins behind us in a list, whoever filters a NIC.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use vm_tests::cni::{Attachment, Failure, Network, Runtime};

use crate::rows::{ROWS, Row, row_called};
use crate::stage::{INTERFACE, Stage, shell, with};

/// The newest version that Debian's `tuning` knows.
const VERSION: &str = "1.0.0";

/// All that it sets on a link, but for the MAC.
fn tuning() -> Value {
    json!({ "type": "tuning", "mtu": 1300, "promisc": true, "allmulti": true, "txQLen": 77 })
}

fn tuning_mac() -> Value {
    json!({ "type": "tuning", "mac": "0a:58:00:00:00:07" })
}

/// What a mode that adds to a NIC is called for; the others make theirs.
fn interface(row: &Row) -> &'static str {
    if ["tap", "tap by name", "passt"].contains(&row.name) { "eth0" } else { INTERFACE }
}

/// ADD and CHECK of a list with the CNI project's own `tuning` behind us.
fn check_tuned(row: &Row, tuning: &Value) -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    stage.node.install("sluice", &stage.node.directory().join("plugin"))?;
    let tuning = with(tuning, "dataDir", json!(stage.node.directory().join("tuning")));
    let list = json!({ "cniVersion": VERSION, "name": "net", "plugins": [stage.config(row), tuning] });
    let network = Network::parse(&list)?;
    let who = stage.who(0)?;
    let attachment = Attachment::new(&who.container, interface(row), &who.netns);
    let mut runtime = Runtime::new(&stage.node);
    runtime.add(&network, &attachment)?;
    let checked = runtime.check(&network, &attachment);
    runtime.del(&network, &attachment)?;
    checked
}

#[test]
fn check_accepts_what_tuning_behind_us_sets() -> anyhow::Result<()> {
    for row in ROWS {
        check_tuned(&row, &tuning()).context(row.name)?;
    }
    Ok(())
}

#[test]
fn check_accepts_sysctls_of_tuning_behind_us_that_allow_more() -> anyhow::Result<()> {
    let sysctl = json!({ "net.ipv4.ping_group_range": "0\t2147483647" });
    check_tuned(&row_called("passt"), &json!({ "type": "tuning", "sysctl": sysctl }))
}

/// It writes a MAC into the result.
#[test]
fn check_accepts_the_mac_of_tuning_behind_us_unless_its_frames_are_dropped() -> anyhow::Result<()> {
    for row in ROWS {
        let checked = check_tuned(&row, &tuning_mac());
        if (row.keys)(&Stage::new(0)?.node).get("macspoofchk").is_none() {
            checked.context(row.name)?;
            continue;
        }
        let error = checked.err().with_context(|| format!("{}: CHECK is silent", row.name))?;
        let failure = Failure::of(&error)?;
        ensure!(failure.code == 100 && failure.msg.contains("rule mac"), "{}: {failure}", row.name);
    }
    Ok(())
}

/// Of version 1.1.0 results name MTUs, and `tuning` leaves them there as they were.
#[test]
fn check_accepts_a_smaller_mtu_than_its_result_names() -> anyhow::Result<()> {
    for row in ROWS.iter().filter(|row| interface(row) == INTERFACE) {
        let stage = Stage::new(1)?;
        let (config, who) = (stage.config(row), stage.who(0)?);
        let result = stage.add(&config, &who).context(row.name)?;
        shell(stage.node.pod(0)?, "ip link set net1 mtu 1300", &[]).context(row.name)?;
        stage.is_whole(&config, &who, &result).context(row.name)?;
        stage.del(&config, &who).context(row.name)?;
    }
    Ok(())
}

/// The filters that a NIC has when its attachment is gone, by what somebody did meanwhile.
#[test]
fn filters_that_others_hung_on_the_nic_stay_after_del() -> anyhow::Result<()> {
    const FILTER: &str =
        "tc filter add dev eth0 ingress protocol ip pref 7 u32 match ip dst 10.9.0.1/32 flowid 1:1";
    let clsact = format!("tc qdisc del dev eth0 ingress; tc qdisc add dev eth0 clsact; {FILTER}");
    for (what, line, left) in [
        ("nothing", "true", ["", ""]),
        ("a filter", FILTER, ["qdisc ingress", "pref 7 "]),
        ("clsact in its place", &clsact, ["qdisc clsact", "pref 7 "]),
        (
            "a filter, all of ours removed",
            &format!("tc filter del dev eth0 ingress; {FILTER}"),
            ["qdisc ingress", "pref 7 "],
        ),
    ] {
        let stage = Stage::new(1)?;
        let (config, who) = (stage.config(&row_called("tap")), stage.who(0)?);
        stage.add(&config, &who).context(what)?;
        let pod = stage.node.pod(0)?;
        shell(pod, line, &[]).context(what)?;
        for _ in 0..2 {
            stage.del(&config, &who).context(what)?;
            let see = |arguments: &[&str]| -> anyhow::Result<String> {
                let output = pod.command("tc").args(arguments).output()?;
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            };
            let disciplines = see(&["qdisc", "show", "dev", "eth0"])?;
            let filters = see(&["filter", "show", "dev", "eth0", "ingress"])?;
            let (discipline, filter) = (left[0], left[1]);
            ensure!(disciplines.contains(discipline), "{what}: {disciplines}");
            ensure!(filters.contains(filter) && !filters.contains("mirred"), "{what}: {filters}");
            if discipline.is_empty() {
                ensure!(
                    !disciplines.contains("ffff:") && filters.is_empty(),
                    "{what}: {disciplines}{filters}"
                );
            }
        }
        // And the next VM on it finds its place.
        let result = stage.add(&config, &who).context(what)?;
        stage.is_whole(&config, &who, &result).context(what)?;
        stage.del(&with(&config, "prevResult", result), &who).context(what)?;
    }
    Ok(())
}
