//! Nodes on which our plugin is installed, beside those of the CNI project.

use vm_tests::cni::{Node, Plugin};
use vm_tests::lab::binary;

/// What configurations call it.
pub(crate) const TYPE: &str = "sluice";

pub(crate) fn plugin() -> anyhow::Result<Plugin> {
    Ok(Plugin::new(binary("sluice-cni")?))
}

/// A node with our plugin and this many pods.
pub(crate) fn node(pods: usize) -> anyhow::Result<Node> {
    let node = Node::new(pods)?;
    node.install(TYPE, plugin()?.program())?;
    Ok(node)
}
