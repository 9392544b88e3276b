//! Our plugin first, then `portmap`, `tuning` and `firewall` of the CNI project: each gets our result and passes it on.

use serde_json::{Value, json};
use vm_tests::cni::Containerd;

use crate::stage::{self, GATEWAY, HOST_PORT, NODE, PORT, VERSION, bridge, network};

/// A sysctl of a network namespace, another value than the kernel's.
const SYSCTL: (&str, &str) = ("net/ipv4/conf/all/arp_announce", "2");

/// `ctr` has no option for ports, and a plugin's `runtimeConfig` stays as it is where a runtime has nothing to say.
fn chain() -> [Value; 4] {
    [
        bridge(),
        json!({
            "type": "portmap", "snat": true,
            "runtimeConfig": {
                "portMappings": [{ "hostPort": HOST_PORT, "containerPort": PORT, "protocol": "tcp" }],
            },
        }),
        json!({ "type": "tuning", "sysctl": { SYSCTL.0.replace('/', "."): SYSCTL.1 } }),
        json!({ "type": "firewall", "backend": "iptables" }),
    ]
}

#[test]
fn chained_reference_plugins_serve_a_host_port_and_leave_nothing() -> anyhow::Result<()> {
    let node = stage::node()?;
    let containerd = Containerd::start(&node, &network(VERSION, &chain()))?;
    // The first container leaves a bridge and the chains that the other plugins keep for all.
    containerd.run("first")?.stop()?;
    stage::is_bare(&node)?;
    let before = node.snapshot(&[])?;
    let container = containerd.run("one")?;
    stage::ping(container.namespace(), GATEWAY)?;
    stage::is_served(container.namespace(), node.outside()?, NODE.into(), HOST_PORT)?;
    stage::is_masqueraded(container.namespace(), &node)?;
    let sysctl =
        container.namespace().run(|| std::fs::read_to_string(format!("/proc/sys/{}", SYSCTL.0)))??;
    assert_eq!(sysctl.trim(), SYSCTL.1);
    container.stop()?;
    node.comes_back_to(&before, &[], &[])
}
