//! ADDs that the kernel, the pod or IPAM stops in the middle. Everything is as before, and the journal is gone.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::rows::{leases, row_called};
use crate::stage::{Stage, shell, with};

/// What stops an ADD.
struct Fault {
    name: &'static str,
    row: &'static str,
    /// Other keys.
    keys: fn(&Stage) -> Value,
    /// Done before, on the node and in the pod.
    on_node: &'static str,
    in_pod: &'static str,
    /// In the message.
    named: &'static str,
}

const fn fault(name: &'static str, row: &'static str, named: &'static str) -> Fault {
    Fault { name, row, keys: |_| json!({}), on_node: "", in_pod: "", named }
}

const TAKEN: &str = "ip link add tap1 type bridge";

fn faults() -> Vec<Fault> {
    let mut faults = vec![
        Fault { in_pod: "ip link add tap0 type bridge", ..fault("the tap's name is taken", "tap", "tap0") },
        Fault {
            in_pod: "ip link add vm0 type bridge",
            ..fault("the tap's name is taken", "tap by name", "vm0")
        },
        Fault { in_pod: "ip link del eth0", ..fault("the pod has no NIC", "tap", "eth0") },
        Fault {
            in_pod: "ip link add tap9 type bridge; tc qdisc add dev eth0 ingress; \
                     tc filter add dev eth0 ingress protocol all u32 match u8 0 0 \
                     action mirred egress redirect dev tap9",
            ..fault("another tap has the NIC", "tap", "tap9")
        },
        Fault {
            keys: |_| json!({ "mac": "01:00:00:00:00:01" }),
            ..fault("a group's MAC", "none", "01:00:00:00:00:01")
        },
        Fault {
            on_node: "ip link set up0 mtu 1000",
            keys: |_| json!({ "mtu": 1300 }),
            ..fault("an MTU above the master's", "macvlan", "1300")
        },
        Fault {
            on_node: "ip link set up0 mtu 1000",
            keys: |_| json!({ "mtu": 1300 }),
            ..fault("an MTU above the master's", "macvtap", "1300")
        },
        Fault {
            on_node: "ip link set up0 mtu 1000",
            keys: |_| json!({ "mtu": 1300 }),
            ..fault("an MTU above the overlay's", "vxlan", "1300")
        },
        Fault {
            on_node: "ip link add vxlan77 type vxlan id 78 dstport 4789 local 10.77.0.1",
            ..fault("the overlay's device has another VNI", "vxlan", "78")
        },
        Fault {
            on_node: "ip link add vxlan77 type vxlan id 77 dstport 8472 local 10.77.0.1",
            ..fault("the overlay's device has another port", "vxlan", "8472")
        },
        Fault {
            on_node: "ip link add vxlan77 type veth peer name far9",
            ..fault("the overlay's device is none", "vxlan", "vxlan77")
        },
        Fault {
            on_node: "ip link add vxbr77 type veth peer name far9",
            ..fault("the overlay's bridge is none", "vxlan", "vxbr77")
        },
        Fault {
            on_node: "ip link add vxlan99 type vxlan id 77 dstport 4789 local 10.77.0.1",
            ..fault("another device has the VNI", "vxlan", "vxlan77")
        },
        Fault {
            keys: |stage| json!({ "ipam": with(&with(&leases(&stage.node), "rangeStart", json!("10.7.0.9")), "rangeEnd", json!("10.7.0.9")) }),
            on_node: "ip route add 10.7.0.9/32 dev up0 scope link",
            ..fault("the node has a route to the very address", "ptp", "10.7.0.9")
        },
        Fault {
            on_node: "ip address flush dev br0; ip address add 10.7.0.254/24 dev br0",
            ..fault("the bridge has another address", "bridge with everything", "10.7.0.254")
        },
        Fault {
            on_node: "nft delete table bridge sluice; nft add table bridge sluice; \
                      nft 'add chain bridge sluice prerouting { type filter hook prerouting priority 5; }'",
            ..fault("somebody has a chain of our name", "bridge with everything for a container", "sluice")
        },
        Fault {
            on_node: "ip link set up0 down; ip link del up0",
            ..fault("the master is gone", "macvlan", "up0")
        },
    ];
    faults.extend(of_several_rows());
    faults
}

/// What can happen in several modes.
fn of_several_rows() -> Vec<Fault> {
    let mut faults = Vec::new();
    for row in ["bridge", "bridge with everything", "ptp", "vxlan", "vxlan on a bridge that stays"] {
        faults.push(Fault { in_pod: TAKEN, ..fault("the tap's name is taken", row, "tap1") });
    }
    for row in
        ["bridge", "bridge with everything for a container", "ptp", "macvlan", "macvtap", "vxlan", "none"]
    {
        faults.push(Fault {
            in_pod: "ip link add net1 type bridge",
            ..fault("the interface's name is taken", row, "net1")
        });
    }
    for row in
        ["bridge with everything for a container", "ptp for a container", "macvlan", "vxlan for a container"]
    {
        faults.push(Fault {
            keys: |stage| json!({ "ipam": with(&leases(&stage.node), "routes", json!([{ "dst": "10.99.0.0/16", "gw": "192.0.2.1" }])) }),
            ..fault("a route through nowhere", row, "10.99.0.0/16")
        });
    }
    for row in ["bridge with everything", "ptp", "macvlan", "vxlan"] {
        faults.push(Fault {
            keys: |stage| json!({ "ipam": with(&leases(&stage.node), "type", json!("no-such-ipam")) }),
            ..fault("IPAM is missing", row, "no-such-ipam")
        });
        faults.push(Fault {
            keys: |stage| json!({ "ipam": with(&leases(&stage.node), "subnet", json!("10.7.0.0/33")) }),
            ..fault("a subnet that is none", row, "10.7.0.0/33")
        });
        faults.push(Fault {
            keys: |stage| json!({ "ipam": with(&leases(&stage.node), "dataDir", json!("/proc/sluice")) }),
            ..fault("leases that cannot be written", row, "/proc/sluice")
        });
    }
    faults
}

#[test]
fn add_that_fails_leaves_everything_as_before() -> anyhow::Result<()> {
    let mut failures = Vec::new();
    for fault in faults() {
        let failed = fails_cleanly(&fault).with_context(|| format!("{}, {}", fault.row, fault.name));
        failures.extend(failed.err().map(|error| format!("{error:#}")));
    }
    ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

fn fails_cleanly(fault: &Fault) -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    let (mut config, who) = (stage.config(&row_called(fault.row)), stage.who(0)?);
    // What a first attachment leaves is there; then something comes in between.
    stage.warm_up(&config, &who)?;
    for (key, value) in (fault.keys)(&stage).as_object().into_iter().flatten() {
        config = with(&config, key, value.clone());
    }
    shell(stage.node.host()?, fault.on_node, &[])?;
    shell(stage.node.pod(0)?, fault.in_pod, &[])?;
    let before = stage.snapshot()?;
    for _ in 0..2 {
        let failure = stage.run(&stage.call("ADD", &config, &who))?.failure()?;
        let text = failure.to_string();
        ensure!(text.contains(fault.named), "{text} does not name {:?}", fault.named);
        if fault.name == "IPAM is missing" {
            // Whoever is missing may hold an address: the journal says so until it is back.
            return Ok(());
        }
        stage.is_as(&before)?;
        ensure!(stage.leases().is_empty(), "{:?}", stage.leases());
    }
    stage.del(&config, &who)?;
    stage.is_as(&before)
}

/// Devices of the overlay's names that somebody else made are used if they fit, and stay.
#[test]
fn overlays_device_that_another_made_stays() -> anyhow::Result<()> {
    let stage = Stage::new(1)?;
    let (config, who) = (stage.config(&row_called("vxlan")), stage.who(0)?);
    stage.warm_up(&config, &who)?;
    let made = "ip link add vxbr77 mtu 1450 type bridge; ip link set vxbr77 up; \
                ip link add vxlan77 mtu 1450 type vxlan id 77 dstport 4789 local 10.77.0.1; ip link set vxlan77 up";
    shell(stage.node.host()?, made, &[])?;
    for _ in 0..2 {
        let result = stage.add(&config, &who)?;
        stage.is_whole(&config, &who, &result)?;
        stage.del(&config, &who)?;
        shell(stage.node.host()?, "ip link show vxbr77; ip link show vxlan77", &[])?;
        ensure!(stage.journals().is_empty(), "{:?}", stage.journals());
    }
    Ok(())
}
