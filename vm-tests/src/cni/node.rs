//! The namespaces that play a node, its pods and what is beyond its uplink. It must never run a plugin.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::{Allowed, Snapshot};
use crate::lab::{Bare, Namespace, wait_for};

/// Where Debian has the plugins of the CNI project.
pub const REFERENCE: &str = "/usr/lib/cni";

/// For what the kernel does after it has answered: carriers, addresses that follow them.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// A node with pods that have no network yet.
#[derive(Debug)]
pub struct Node {
    bare: Bare,
}

impl Node {
    /// A node with this many pods, `pod0` and up, and a namespace `outside`, so far without a wire to it.
    pub fn new(pods: usize) -> anyhow::Result<Self> {
        let names: Vec<String> = ["node".to_owned(), "outside".to_owned()]
            .into_iter()
            .chain((0..pods).map(|number| format!("pod{number}")))
            .collect();
        let node = Self { bare: Bare::new(names.iter().map(String::as_str))? };
        for folder in ["bin", "leases", "state"] {
            std::fs::create_dir(node.directory().join(folder)).with_context(|| format!("create {folder}"))?;
        }
        Ok(node)
    }

    /// The namespace that plays the machine's own.
    pub fn host(&self) -> anyhow::Result<&Namespace> {
        self.bare.namespace("node")
    }

    /// The network beyond the node's uplink.
    pub fn outside(&self) -> anyhow::Result<&Namespace> {
        self.bare.namespace("outside")
    }

    pub fn pod(&self, number: usize) -> anyhow::Result<&Namespace> {
        self.bare.namespace(&format!("pod{number}"))
    }

    /// The value of `CNI_NETNS` for a pod.
    pub fn netns(&self, number: usize) -> anyhow::Result<String> {
        Ok(self.pod(number)?.path().to_string_lossy().into_owned())
    }

    /// All, by the name of the part they play.
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, &Namespace)> {
        self.bare.namespaces()
    }

    /// Removed with the node, kept when a test fails.
    pub fn directory(&self) -> &Path {
        self.bare.directory()
    }

    /// For `ipam.dataDir`.
    pub fn leases(&self) -> String {
        self.directory().join("leases").to_string_lossy().into_owned()
    }

    /// For `stateDir`.
    pub fn state(&self) -> String {
        self.directory().join("state").to_string_lossy().into_owned()
    }

    /// For `CNI_PATH`: a folder of this node, then that of the reference plugins.
    pub fn plugins(&self) -> Vec<PathBuf> {
        vec![self.directory().join("bin"), PathBuf::from(REFERENCE)]
    }

    /// Makes `program` a plugin of this node that configurations name `kind`.
    pub fn install(&self, kind: &str, program: &Path) -> anyhow::Result<()> {
        let link = self.directory().join("bin").join(kind);
        std::os::unix::fs::symlink(program, &link).with_context(|| format!("link {}", link.display()))
    }

    /// A wire from `name` on the node to `far0` outside; both up.
    pub fn uplink(&self, name: &str, mtu: u32) -> anyhow::Result<()> {
        let outside = self.outside()?;
        self.host()?.ip(&format!(
            "link add {name} mtu {mtu} type veth peer name far0 mtu {mtu} netns {}\nlink set {name} up\n",
            outside.name()
        ))?;
        outside.ip("link set far0 up\n")
    }

    /// What the kernel and the node's folders hold now. `keep`: MAC addresses that were asked for, and so are no
    /// accident of this run.
    pub fn snapshot(&self, keep: &[&str]) -> anyhow::Result<Snapshot> {
        Snapshot::take(self, keep)
    }

    /// Waits until all is as it was in `before`, but for the differences in `allowed`; fails with those that stay.
    pub fn comes_back_to(&self, before: &Snapshot, keep: &[&str], allowed: &[Allowed]) -> anyhow::Result<()> {
        settle(|| before.compare(&self.snapshot(keep)?, allowed))
    }

    /// Waits until two nodes hold the same, but for the differences in `allowed`; fails with those that stay. Both
    /// pictures, as they then are.
    pub fn becomes_like(
        &self,
        other: &Self,
        keep: &[&str],
        allowed: &[Allowed],
    ) -> anyhow::Result<[Snapshot; 2]> {
        settle(|| {
            let pair = [self.snapshot(keep)?, other.snapshot(keep)?];
            let [one, two] = &pair;
            one.compare(two, allowed)?;
            Ok(pair)
        })
    }
}

fn settle<T>(mut compare: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let started = Instant::now();
    let mut last = compare();
    let _ = wait_for(SETTLE_LIMIT, "the kernel to settle", || {
        if last.is_err() {
            last = compare();
        }
        last.is_ok()
    });
    last.with_context(|| format!("still so after {:?}", started.elapsed()))
}
