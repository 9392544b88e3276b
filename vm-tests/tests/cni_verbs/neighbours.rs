//! What others do to the links of an attachment and may do: plugins behind us in a list.

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
