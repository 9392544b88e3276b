//! containerd as it runs on a cluster's node: in the network namespace that plays the node, with mounts and processes of its
//! own. It must never touch what the machine itself mounts, routes or runs, nor outlive the test, however that ends.
//!
//! Its process namespace ends with its first process, which ends with the test's thread; so do containers and mounts. What it
//! and `ctr` look for at fixed places is mounted there, for them alone:
//!
//! | path | holds |
//! |---|---|
//! | `/etc/cni/net.d` | the node's one network |
//! | `/opt/cni/bin` | the node's plugins |
//! | `/run/sluice/cni` | the node's `state`, so that our plugin's default place is in a snapshot |
//! | `/var/lib/cni/networks` | the node's `leases`, for the same reason |
//! | the rest of `/run`, `/opt`, `/var/lib` | nothing at first |

mod container;
mod cri;
mod image;
mod messages;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::Node;
use crate::lab::{Child, Groups, wait_for};

pub use container::Container;
pub use cri::{Cri, HostPort, Sandbox};

/// A busy machine is slow to start it; else it takes a tenth of a second.
const START_LIMIT: Duration = Duration::from_secs(60);

/// For its end with all its containers, and for one command of `ctr`.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Makes containerd's surroundings and starts it. `$1` is its folder, `$2` the node's. /etc becomes a folder of links, because
/// the machine's may have no place for networks.
const SCRIPT: &str = "
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/netns /run/sluice/cni /run/etc
mount --bind /etc /run/etc
mount -t tmpfs -o mode=0755 tmpfs /etc
for entry in /run/etc/*; do
  [ \"$entry\" = /run/etc/cni ] || ln -s \"$entry\" /etc/
done
mkdir -p /etc/cni/net.d
mount --bind \"$1/networks\" /etc/cni/net.d
mount -t tmpfs -o mode=0755 tmpfs /opt
mkdir -p /opt/cni/bin
mount --bind \"$2/bin\" /opt/cni/bin
mount -t tmpfs -o mode=0755 tmpfs /var/lib
mkdir -p /var/lib/cni/networks
mount --bind \"$2/leases\" /var/lib/cni/networks
mount --bind \"$2/state\" /run/sluice/cni
containerd --config \"$1/config.toml\" &
wait";

/// A running containerd. All that it runs ends with the value.
#[derive(Debug)]
pub struct Containerd<'n> {
    node: &'n Node,
    folder: PathBuf,
    daemon: Child,
    /// The first process of its process namespace.
    init: Pid,
    groups: Groups,
}

impl<'n> Containerd<'n> {
    /// Starts it on `node` with `network`, a configuration list, as the default.
    pub fn start(node: &'n Node, network: &Value) -> anyhow::Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "containerd needs root");
        let folder = node.directory().join("containerd");
        for part in ["networks", "rootfs"] {
            std::fs::create_dir_all(folder.join(part)).with_context(|| format!("create {part}"))?;
        }
        write_network(&folder, network)?;
        image::write_pause(&folder.join("rootfs").join(image::PAUSE_NAME))?;
        std::fs::write(folder.join("config.toml"), config(&folder)).context("write config.toml")?;
        let name = node.directory().file_name().context("a node's folder has a name")?.to_string_lossy();
        let groups = Groups::new(&name)?;
        let mut command = node.host()?.command("unshare");
        command
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-ec", SCRIPT, "sh"])
            .args([&folder, node.directory()]);
        let mut daemon = Child::spawn("containerd", command, &folder.join("log"))?;
        let init = init_of(&mut daemon)?;
        // From here on Drop ends what was started, also when it is not what it should be.
        let mut containerd = Self { node, folder, daemon, init, groups };
        containerd.daemon.wait_for_line(START_LIMIT, "containerd successfully booted")?;
        Ok(containerd)
    }

    /// Another default network, from the next `ctr` on.
    pub fn use_network(&self, network: &Value) -> anyhow::Result<()> {
        write_network(&self.folder, network)
    }

    /// Where something of containerd's own mounts, for instance `/run/netns/NAME`, is for anybody else.
    pub fn path(&self, inside: &Path) -> PathBuf {
        // A link in /var leads out of its root, so it is followed here.
        let inside = inside
            .strip_prefix("/var/run")
            .map(|rest| Path::new("/run").join(rest))
            .unwrap_or_else(|_| inside.to_owned());
        let root = PathBuf::from(format!("/proc/{}/root", self.init.as_raw_nonzero()));
        root.join(inside.strip_prefix("/").unwrap_or(&inside))
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    /// `ctr`, where containerd is: it calls plugins itself, with paths of containerd's processes.
    fn ctr(&self, namespace: &str) -> anyhow::Result<Command> {
        let mut command = self.node.host()?.command("nsenter");
        command
            .args([
                "--target",
                &self.init.as_raw_nonzero().to_string(),
                "--mount",
                "--pid",
                "--",
                "ctr",
                "--address",
            ])
            .arg(self.socket())
            .args(["--namespace", namespace]);
        Ok(command)
    }

    fn run_to_end(&self, command: Command, what: &str) -> anyhow::Result<()> {
        let log = self.folder.join(format!("{}.log", what.replace(' ', "-")));
        let mut child = Child::spawn(what, command, &log)?;
        let status = child.wait(COMMAND_LIMIT)?;
        ensure!(status.success(), "{what}: {status}: {}", child.log());
        Ok(())
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        // When the first process has ended, so have all, and with them the mounts in the node's folder.
        let _ = rustix::process::kill_process(self.init, Signal::KILL);
        let _ = self.daemon.wait(COMMAND_LIMIT);
    }
}

/// The child of `unshare`, as we see it.
fn init_of(unshare: &mut Child) -> anyhow::Result<Pid> {
    let pid = unshare.pid();
    let children = format!("/proc/{pid}/task/{pid}/children");
    let mut found = None;
    let waited = wait_for(START_LIMIT, "containerd's first process", || {
        let text = std::fs::read_to_string(&children).unwrap_or_default();
        found = text.trim().parse().ok().and_then(Pid::from_raw);
        found.is_some() || unshare.has_ended()
    });
    waited.and_then(|()| found.context("it ended")).with_context(|| unshare.log())
}

fn write_network(folder: &Path, network: &Value) -> anyhow::Result<()> {
    let place = folder.join("networks/10-default.conflist");
    std::fs::write(&place, network.to_string()).with_context(|| format!("write {}", place.display()))
}

/// The native snapshotter works on every file system. AppArmor's profiles would be loaded for the whole machine. A sandbox is
/// otherwise harder to kill than what starts it, which takes a capability that not every root has (`CAP_SYS_RESOURCE`).
fn config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "version = 2
root = \"{folder}/root\"
state = \"{folder}/state\"

[grpc]
address = \"{folder}/containerd.sock\"

[plugins.\"io.containerd.grpc.v1.cri\"]
sandbox_image = \"{}\"
disable_apparmor = true
restrict_oom_score_adj = true

[plugins.\"io.containerd.grpc.v1.cri\".containerd]
snapshotter = \"{}\"

[plugins.\"io.containerd.grpc.v1.cri\".cni]
bin_dir = \"/opt/cni/bin\"
conf_dir = \"/etc/cni/net.d\"
",
        image::PAUSE_IMAGE,
        image::SNAPSHOTTER,
    )
}
