//! The modes with the configurations that most of what they do is in. A row more is a mode more in every test.

use serde_json::{Value, json};
use vm_tests::cni::Node;

/// One configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// All keys but those of every configuration.
    pub(crate) keys: fn(&Node) -> Value,
    /// Where the addresses come from, a lease is kept.
    pub(crate) leases: bool,
}

const fn row(name: &'static str, leases: bool, keys: fn(&Node) -> Value) -> Row {
    Row { name, keys, leases }
}

pub(crate) const ROWS: [Row; 14] = [
    row("tap", false, |_| json!({ "mode": "tap" })),
    row(
        "tap by name",
        false,
        |_| json!({ "mode": "tap", "uplink": "eth0", "tapName": "vm0", "multiQueue": true, "mtu": 1400 }),
    ),
    row("none", false, |_| json!({ "mode": "none" })),
    row("passt", false, |_| json!({ "mode": "passt" })),
    row("bridge", false, |_| json!({ "mode": "bridge", "bridge": "br0" })),
    row("bridge with everything", true, |node| bridge_with_everything(node, true)),
    row("bridge with everything for a container", true, |node| bridge_with_everything(node, false)),
    row("ptp", true, |node| json!({ "mode": "ptp", "ipMasq": true, "ipam": leases(node) })),
    row(
        "ptp for a container",
        true,
        |node| json!({ "mode": "ptp", "tap": false, "ipMasq": true, "ipam": leases(node) }),
    ),
    row("macvlan", true, |node| json!({ "mode": "macvlan", "master": "up0", "ipam": leases(node) })),
    row("macvtap", false, |_| json!({ "mode": "macvtap", "master": "up0" })),
    row("vxlan", true, |node| vxlan(node, true)),
    row("vxlan for a container", true, |node| vxlan(node, false)),
    row(
        "vxlan on a bridge that stays",
        false,
        |_| json!({ "mode": "vxlan", "vni": 78, "bridge": "br0", "device": "up0", "multicastGroup": "239.1.1.1" }),
    ),
];

pub(crate) fn row_called(name: &str) -> Row {
    let found = ROWS.into_iter().find(|row| row.name == name);
    found.unwrap_or_else(|| unreachable!("no row is called {name}"))
}

/// 10.7.0.2 and up.
pub(crate) fn leases(node: &Node) -> Value {
    json!({
        "type": "host-local", "dataDir": node.leases(), "subnet": "10.7.0.0/24",
        "routes": [{ "dst": "10.99.0.0/16" }],
    })
}

fn bridge_with_everything(node: &Node, tap: bool) -> Value {
    json!({
        "mode": "bridge", "bridge": "br0", "tap": tap, "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
        "macspoofchk": true, "portIsolation": true, "mtu": 1400, "ipam": leases(node),
    })
}

fn vxlan(node: &Node, tap: bool) -> Value {
    json!({
        "mode": "vxlan", "vni": 77, "local": "10.77.0.1", "peers": ["10.77.0.2", "10.77.0.3"], "arpSuppress": true,
        "tap": tap, "ipam": leases(node),
    })
}
