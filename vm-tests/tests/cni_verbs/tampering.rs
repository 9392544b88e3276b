//! CHECK right after ADD, and after each single thing that somebody changed.

use anyhow::{Context as _, ensure};

use crate::rows::{ROWS, Row, row_called};
use crate::stage::{Stage, port, shell};

/// Where a change is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Node,
    Pod,
}

use Place::{Node, Pod};

/// What somebody does.
struct Change {
    name: &'static str,
    /// The rows it can be done to.
    rows: &'static [&'static str],
    place: Place,
    /// A shell's line. `$PORT` is the node's end of the veth pair.
    line: &'static str,
    /// In CHECK's message; `$PORT` again.
    named: &'static str,
}

const fn change(
    name: &'static str,
    rows: &'static [&'static str],
    place: Place,
    line: &'static str,
    named: &'static str,
) -> Change {
    Change { name, rows, place, line, named }
}

const TAP: &str = "tap";
const BY_NAME: &str = "tap by name";
const NONE: &str = "none";
const PASST: &str = "passt";
const BRIDGE: &str = "bridge";
const FULL: &str = "bridge with everything";
const FULL_CONTAINER: &str = "bridge with everything for a container";
const PTP: &str = "ptp";
const PTP_CONTAINER: &str = "ptp for a container";
const MACVLAN: &str = "macvlan";
const MACVTAP: &str = "macvtap";
const VXLAN: &str = "vxlan";
const VXLAN_CONTAINER: &str = "vxlan for a container";
const VXLAN_NAMED: &str = "vxlan on a bridge that stays";

/// Those with an interface of their own, called as the runtime says.
const INTERFACES: &[&str] = &[
    NONE,
    BRIDGE,
    FULL,
    FULL_CONTAINER,
    PTP,
    PTP_CONTAINER,
    MACVLAN,
    MACVTAP,
    VXLAN,
    VXLAN_CONTAINER,
    VXLAN_NAMED,
];
/// Those with a veth pair.
const PAIRS: &[&str] =
    &[BRIDGE, FULL, FULL_CONTAINER, PTP, PTP_CONTAINER, VXLAN, VXLAN_CONTAINER, VXLAN_NAMED];
/// Those with a port of a bridge.
const PORTS: &[&str] = &[BRIDGE, FULL, FULL_CONTAINER, VXLAN, VXLAN_CONTAINER, VXLAN_NAMED];
/// Those with addresses.
const ADDRESSES: &[&str] = &[FULL, FULL_CONTAINER, PTP, PTP_CONTAINER, MACVLAN, VXLAN, VXLAN_CONTAINER];
/// Those whose routes the pod has.
const ROUTES: &[&str] = &[FULL_CONTAINER, PTP_CONTAINER, MACVLAN, VXLAN_CONTAINER];
/// Those with a tap beside the runtime's interface.
const BESIDE: &[&str] = &[BRIDGE, FULL, PTP, VXLAN, VXLAN_NAMED];

const CHANGES: [Change; 49] = [
    change("another MAC", INTERFACES, Pod, "ip link set net1 address 02:00:00:00:00:99", "net1's MAC"),
    change("an MTU above that of the node's end", PAIRS, Pod, "ip link set net1 mtu 9000", "net1's MTU"),
    change("the interface down", INTERFACES, Pod, "ip link set net1 down", "net1 is up"),
    change("the interface gone", &[NONE, MACVLAN, MACVTAP], Pod, "ip link del net1", "net1"),
    change("the interface gone, and the node's end with it", PAIRS, Pod, "ip link del net1", "$PORT"),
    change("the interface renamed", INTERFACES, Pod, "ip link set net1 down name other up", "net1"),
    change(
        "the interface replaced",
        &[MACVLAN, MACVTAP, NONE],
        Pod,
        "ip link del net1; ip link add net1 type bridge; ip link set net1 up",
        "net1",
    ),
    change(
        "the address gone",
        ADDRESSES,
        Pod,
        "ip address flush dev net1 scope global",
        "net1 no longer has the address 10.7.0.",
    ),
    change("the route gone", ROUTES, Pod, "ip route del 10.99.0.0/16", "10.99.0.0/16"),
    change("the default route gone", &[FULL_CONTAINER], Pod, "ip route del default", "0.0.0.0/0"),
    change("the node's end gone", PAIRS, Node, "ip link del $PORT", "$PORT"),
    change("the node's end down", PAIRS, Node, "ip link set $PORT down", "$PORT is up"),
    change("the node's end renamed", PAIRS, Node, "ip link set $PORT down name other up", "$PORT"),
    change("another MTU of the node's end", PAIRS, Node, "ip link set $PORT mtu 1300", "$PORT's MTU"),
    change(
        "no port any more",
        PORTS,
        Node,
        "ip link set $PORT nomaster",
        "$PORT is no longer a port of bridge",
    ),
    change(
        "a port of another bridge",
        PORTS,
        Node,
        "ip link add other type bridge; ip link set $PORT master other",
        "$PORT is no longer a port of bridge",
    ),
    change("hairpin mode off", &[FULL], Node, "bridge link set dev $PORT hairpin off", "$PORT's hairpinMode"),
    change(
        "hairpin mode on",
        &[BRIDGE, VXLAN],
        Node,
        "bridge link set dev $PORT hairpin on",
        "$PORT's hairpinMode",
    ),
    change(
        "no isolation any more",
        &[FULL],
        Node,
        "bridge link set dev $PORT isolated off",
        "$PORT's portIsolation",
    ),
    change(
        "isolation",
        &[BRIDGE, VXLAN],
        Node,
        "bridge link set dev $PORT isolated on",
        "$PORT's portIsolation",
    ),
    change(
        "learning off",
        &[BRIDGE, VXLAN],
        Node,
        "bridge link set dev $PORT learning off",
        "$PORT's learning",
    ),
    change("the bridge gone", &[BRIDGE, FULL], Node, "ip link del br0", "br0"),
    change("the bridge renamed", &[BRIDGE, FULL], Node, "ip link set br0 down name br9 up", "br0"),
    change(
        "the bridge down",
        PORTS,
        Node,
        "ip link set br0 down 2>/dev/null || ip link set vxbr77 down",
        "is up",
    ),
    change(
        "the gateway's address gone",
        &[FULL, FULL_CONTAINER],
        Node,
        "ip address flush dev br0",
        "gateway's address 10.7.0.1/24",
    ),
    change(
        "the gateway's address gone",
        &[PTP, PTP_CONTAINER],
        Node,
        "ip address flush dev $PORT",
        "10.7.0.",
    ),
    change(
        "the node's route gone",
        &[PTP, PTP_CONTAINER],
        Node,
        "ip route flush dev $PORT",
        "route to 10.7.0.",
    ),
    change("masquerading gone", &[FULL, PTP, PTP_CONTAINER], Node, "nft flush table inet sluice", "rule"),
    change("every rule gone", &[FULL, PTP, PTP_CONTAINER], Node, "nft flush ruleset", "rule"),
    change(
        "the MAC no longer checked",
        &[FULL, FULL_CONTAINER],
        Node,
        "nft flush table bridge sluice",
        "rule",
    ),
    change("the overlay's device gone", &[VXLAN, VXLAN_CONTAINER], Node, "ip link del vxlan77", "vxlan77"),
    change("the overlay's device down", &[VXLAN], Node, "ip link set vxlan77 down", "vxlan77 is up"),
    change(
        "the overlay's device no port",
        &[VXLAN],
        Node,
        "ip link set vxlan77 nomaster",
        "vxlan77's bridge",
    ),
    change(
        "a peer gone",
        &[VXLAN, VXLAN_CONTAINER],
        Node,
        "bridge fdb del 00:00:00:00:00:00 dev vxlan77 dst 10.77.0.3",
        "10.77.0.3",
    ),
    change("the tap gone", BESIDE, Pod, "ip link del tap1", "tap1"),
    change("the tap gone", &[TAP], Pod, "ip link del tap0", "tap0"),
    change("the tap down", BESIDE, Pod, "ip link set tap1 down", "tap1 is up"),
    change("the tap down", &[TAP], Pod, "ip link set tap0 down", "tap0 is up"),
    change("another MTU of the tap", BESIDE, Pod, "ip link set tap1 mtu 1300", "tap1's MTU"),
    change("another MTU of the tap", &[TAP], Pod, "ip link set tap0 mtu 1300", "tap0's MTU"),
    change("another MTU of the tap", &[BY_NAME], Pod, "ip link set vm0 mtu 1300", "vm0's MTU"),
    change("an MTU of the tap above the NIC's", &[TAP], Pod, "ip link set tap0 mtu 9000", "tap0's MTU"),
    change(
        "another owner of the tap",
        &[TAP],
        Pod,
        "ip link del tap0; ip tuntap add tap0 mode tap user 0 group 107; ip link set tap0 up",
        "tap0's owner",
    ),
    change(
        "another group of the tap",
        &[NONE],
        Pod,
        "ip link del net1; ip tuntap add net1 mode tap user 107 group 0; ip link set net1 up",
        "net1's group",
    ),
    change(
        "frames of the NIC no longer redirected",
        &[TAP],
        Pod,
        "tc filter del dev eth0 ingress",
        "frames of eth0",
    ),
    change(
        "frames of the tap no longer redirected",
        &[TAP],
        Pod,
        "tc filter del dev tap0 ingress",
        "frames of tap0",
    ),
    change(
        "frames of the interface no longer redirected",
        BESIDE,
        Pod,
        "tc qdisc del dev net1 ingress",
        "frames of net1",
    ),
    change(
        "frames of the tap no longer redirected",
        BESIDE,
        Pod,
        "tc qdisc del dev tap1 ingress",
        "frames of tap1",
    ),
    change("the master renamed", &[MACVLAN, MACVTAP], Node, "ip link set up0 down name up9 up", "up0"),
];

/// Of the pod as a whole.
const SYSCTLS: [Change; 2] = [
    change(
        "low ports kept",
        &[PASST],
        Pod,
        "echo 1024 > /proc/sys/net/ipv4/ip_unprivileged_port_start",
        "net.ipv4.ip_unprivileged_port_start",
    ),
    change(
        "no ping",
        &[PASST],
        Pod,
        "echo '1 0' > /proc/sys/net/ipv4/ping_group_range",
        "net.ipv4.ping_group_range",
    ),
];

/// The names above are those of rows, and no row is forgotten.
#[test]
fn every_row_has_something_to_be_changed() {
    let all = || CHANGES.iter().chain(&SYSCTLS);
    for name in all().flat_map(|change| change.rows) {
        row_called(name);
    }
    for row in ROWS {
        assert!(all().any(|change| change.rows.contains(&row.name)), "{}", row.name);
    }
}

fn notices(row: &Row, change: &Change) -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    let (config, who) = (stage.config(row), stage.who(0)?);
    let result = stage.add(&config, &who)?;
    stage.is_whole(&config, &who, &result)?;
    let port = port(&result);
    let place = if change.place == Node { stage.node.host()? } else { stage.node.pod(0)? };
    shell(place, change.line, &[("PORT", &port)])?;
    let failure = stage.check(&config, &who, &result)?.failure()?;
    let named = change.named.replace("$PORT", &port);
    ensure!(failure.code == 100, "{failure}");
    ensure!(failure.msg.contains(&named), "{failure} does not name {named:?}");
    // Whatever it was, it does not keep DEL from its work.
    for _ in 0..2 {
        stage.del(&config, &who)?;
    }
    ensure!(stage.journals().is_empty(), "{:?}", stage.journals());
    Ok(())
}

fn notices_all(changes: &[Change]) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    for change in changes {
        for name in change.rows {
            let noticed = notices(&row_called(name), change);
            failures.extend(noticed.err().map(|error| format!("{name}, {}: {error:#}", change.name)));
        }
    }
    ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

#[test]
fn check_notices_what_was_changed_in_the_pod() -> anyhow::Result<()> {
    let changes: Vec<Change> =
        CHANGES.into_iter().chain(SYSCTLS).filter(|change| change.place == Pod).collect();
    notices_all(&changes)
}

#[test]
fn check_notices_what_was_changed_on_the_node() -> anyhow::Result<()> {
    let changes: Vec<Change> = CHANGES.into_iter().filter(|change| change.place == Node).collect();
    notices_all(&changes)
}

#[test]
fn check_notices_another_owner_of_a_device_node() -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    let (config, who) = (stage.config(&row_called(MACVTAP)), stage.who(0)?);
    let result = stage.add(&config, &who)?;
    stage.is_whole(&config, &who, &result)?;
    let node = stage.device_node().context("a device node")?;
    std::os::unix::fs::chown(&node, Some(0), Some(0))?;
    let failure = stage.check(&config, &who, &result)?.failure()?;
    ensure!(failure.code == 100 && failure.msg.contains("0:0"), "{failure}");
    std::fs::remove_file(&node)?;
    let failure = stage.check(&config, &who, &result)?.failure()?;
    ensure!(failure.code == 100 && failure.msg.contains("device node"), "{failure}");
    stage.del(&config, &who)
}

#[test]
fn check_of_an_address_that_is_no_longer_leased_fails() -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    let (config, who) = (stage.config(&row_called(FULL)), stage.who(0)?);
    let result = stage.add(&config, &who)?;
    for lease in stage.leases() {
        std::fs::remove_file(std::path::Path::new(&stage.node.leases()).join("net").join(lease))?;
    }
    let failure = stage.check(&config, &who, &result)?.failure()?;
    ensure!(failure.msg.contains(&who.container), "{failure}");
    stage.del(&config, &who)
}

#[test]
fn check_without_a_result_is_refused() -> anyhow::Result<()> {
    for row in ROWS {
        let stage = Stage::new(1)?;
        let (config, who) = (stage.config(&row), stage.who(0)?);
        stage.add(&config, &who).context(row.name)?;
        let failure = stage.run(&stage.call("CHECK", &config, &who))?.failure().context(row.name)?;
        ensure!(failure.code == 7 && failure.msg.contains("prevResult"), "{}: {failure}", row.name);
        stage.del(&config, &who).context(row.name)?;
    }
    Ok(())
}

/// A namespace of the same path that is not the one of ADD.
#[test]
fn check_in_another_namespace_fails() -> anyhow::Result<()> {
    for row in ROWS {
        let stage = Stage::new(2)?;
        let (config, who) = (stage.config(&row), stage.who(0)?);
        let result = stage.add(&config, &who).context(row.name)?;
        let elsewhere = crate::stage::Who { netns: stage.node.netns(1)?, ..who.clone() };
        let failure = stage.check(&config, &elsewhere, &result)?.failure().context(row.name)?;
        ensure!(failure.code == 100 && failure.msg.contains("CNI_NETNS"), "{}: {failure}", row.name);
        stage.del(&config, &who).context(row.name)?;
    }
    Ok(())
}
