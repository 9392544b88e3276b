//! `ctr run --cni` with our plugin as the machine's default network.

use vm_tests::cni::Containerd;

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
