//! Nodes on which our plugin is installed, beside those of the CNI project.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_tests::cni::{Node, Plugin};
use vm_tests::lab::binary;

/// What configurations call it.
pub(crate) const TYPE: &str = "sluice";

pub(crate) fn plugin() -> anyhow::Result<Plugin> {
    Ok(Plugin::new(binary("sluice-cni")?))
}

/// Device nodes of macvtaps are called after indices, which links of several nodes share: one test at a time has any.
pub(crate) fn device_nodes(mode: &str) -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());

    (mode == "macvtap").then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A node with our plugin and this many pods.
pub(crate) fn node(pods: usize) -> anyhow::Result<Node> {
    let node = Node::new(pods)?;
    node.install(TYPE, plugin()?.program())?;
    Ok(node)
}
