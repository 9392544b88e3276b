//! `ctr run --cni` with our plugin as the machine's default network.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::ensure;
use vm_tests::cni::{Container, Containerd};

use crate::stage::{self, GATEWAY, PORT, VERSION, bridge, network};

#[test]
fn containers_reach_gateway_neighbour_and_outside_and_leave_nothing() -> anyhow::Result<()> {
    let node = stage::node()?;
    let containerd = Containerd::start(&node, &network(VERSION, &[bridge()]))?;
    // The first container leaves a bridge, as with the reference plugin.
    containerd.run("first")?.stop()?;
    stage::is_bare(&node)?;
    let before = node.snapshot(&[])?;
    let one = containerd.run("one")?;
    let two = containerd.run("two")?;
    assert_eq!(stage::links(one.namespace())?, ["eth0"]);
    let address = stage::address(two.namespace(), "eth0")?;
    assert_ne!(stage::address(one.namespace(), "eth0")?, address);
    stage::ping(one.namespace(), GATEWAY)?;
    stage::ping(one.namespace(), address)?;
    stage::is_served(two.namespace(), one.namespace(), address.into(), PORT)?;
    stage::is_served(two.namespace(), node.host()?, address.into(), PORT)?;
    stage::is_masqueraded(one.namespace(), &node)?;
    one.stop()?;
    // The other still works.
    stage::ping(two.namespace(), GATEWAY)?;
    two.stop()?;
    node.comes_back_to(&before, &[], &[])
}

#[test]
fn containers_that_come_at_once_have_addresses_of_their_own() -> anyhow::Result<()> {
    let node = stage::node()?;
    let containerd = Containerd::start(&node, &network(VERSION, &[bridge()]))?;
    containerd.run("first")?.stop()?;
    let before = node.snapshot(&[])?;
    let ids: Vec<String> = (0..6).map(|number| format!("c{number}")).collect();
    let containers = containerd.run_all(&ids)?;
    let addresses: Vec<Ipv4Addr> = containers
        .iter()
        .map(|container| stage::address(container.namespace(), "eth0"))
        .collect::<anyhow::Result<_>>()?;
    let different: BTreeSet<&Ipv4Addr> = addresses.iter().collect();
    ensure!(different.len() == ids.len(), "{addresses:?}");
    for (container, neighbour) in containers.iter().zip(addresses.iter().cycle().skip(1)) {
        stage::ping(container.namespace(), *neighbour)?;
    }
    containers.into_iter().try_for_each(Container::stop)?;
    node.comes_back_to(&before, &[], &[])
}

#[test]
fn every_version_that_the_runtime_knows_is_served() -> anyhow::Result<()> {
    let node = stage::node()?;
    let containerd = Containerd::start(&node, &network(VERSION, &[bridge()]))?;
    containerd.run("first")?.stop()?;
    let before = node.snapshot(&[])?;
    for version in ["0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        containerd.use_network(&network(version, &[bridge()]))?;
        let container = containerd.run("one")?;
        stage::ping(container.namespace(), GATEWAY)?;
        container.stop()?;
        node.comes_back_to(&before, &[], &[])?;
    }
    Ok(())
}
