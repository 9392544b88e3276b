//! A lab for one VM's traffic: three network namespaces, `world` - veth - `pod`, and `guest`.
//!
//! Servers and clients of the outside live in `world`; the program under test runs in `pod` and makes the guest's
//! NIC appear in `guest` (nothing does so here). Everything a lab makes is named after its process, is removed when
//! the lab is dropped (also by a panic), and is swept by the next lab when the process was killed.
//! It must never touch an interface, an address or a rule of the namespace the tests were started in.

mod wait;
mod privilege;
mod namespace;
mod variant;
mod pod;
mod bare;
mod child;
mod memory;
mod groups;
mod sweep;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

pub use bare::Bare;
pub use child::Child;
pub(crate) use groups::Groups;
pub use memory::MemoryGroup;
pub use namespace::Namespace;
pub use pod::{SECOND_POD_V4, SECOND_POD_V6, SecondPod};
pub use variant::{
    POD_MAC, POD_V4, POD_V6, SERVER_V4, SERVER_V6, UPLINK_V4, UPLINK_V6, Variant, WORLD_LINK_V4,
    WORLD_LINK_V6,
};
pub use wait::wait_for;

/// Three namespaces and a directory for logs.
#[derive(Debug)]
pub struct Lab {
    world: Namespace,
    pod: Namespace,
    guest: Namespace,
    variant: Variant,
    directory: PathBuf,
}

impl Lab {
    /// Builds the namespaces, the veth between `world` and `pod`, and the pod's addresses and routes.
    ///
    /// Without root the whole process starts again inside a user namespace of its own.
    pub fn new(variant: Variant) -> anyhow::Result<Self> {
        privilege::ensure()?;
        let prefix = bare::prefix();
        let directory = std::env::temp_dir().join(&prefix);
        let lock = sweep::Lock::take()?;
        sweep::stale_labs();
        std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        // Programs under test give up root before they make their sockets.
        std::fs::set_permissions(&directory, Permissions::from_mode(0o1777))
            .context("open the directory to all")?;
        // From here on Drop removes what was made, also when a later step fails.
        let lab = Self {
            world: Namespace::create(&format!("{prefix}-world"))?,
            pod: Namespace::create(&format!("{prefix}-pod"))?,
            guest: Namespace::create(&format!("{prefix}-guest"))?,
            variant,
            directory,
        };
        for namespace in [&lab.world, &lab.pod, &lab.guest] {
            namespace.prepare()?;
        }
        privilege::use_cubic([&lab.world, &lab.pod, &lab.guest])?;
        drop(lock);
        lab.world.sysctl("net/ipv4/ip_forward", "1")?;
        lab.world.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        lab.wire_pod_to_world()?;
        Ok(lab)
    }

    /// Where servers and clients of the outside run.
    pub fn world(&self) -> &Namespace {
        &self.world
    }

    /// Where the program under test runs.
    pub fn pod(&self) -> &Namespace {
        &self.pod
    }

    /// Where the tap appears. Empty, but for `lo`.
    pub fn guest(&self) -> &Namespace {
        &self.guest
    }

    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// For sockets, pid files and logs of this lab. Removed with the lab, kept when a test fails.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The outside's addresses as the guest is meant to reach them: behind the gateway, not the gateway itself
    /// (a translator may map that one to the pod's loopback). IPv4 first.
    pub fn servers(&self) -> Vec<IpAddr> {
        let mut servers = Vec::new();
        if self.variant.has_v4() {
            servers.push(IpAddr::V4(SERVER_V4));
        }
        if self.variant.has_v6() {
            servers.push(IpAddr::V6(SERVER_V6));
        }
        servers
    }

    /// The pod's addresses: what the outside connects to, and what the guest gets as its own. IPv4 first.
    pub fn pod_addresses(&self) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        if self.variant.has_v4() {
            addresses.push(IpAddr::V4(POD_V4));
        }
        if self.variant.has_v6() {
            addresses.push(IpAddr::V6(POD_V6));
        }
        addresses
    }

    /// Starts `command`, with what it prints going to `<name>.log` in the lab's directory.
    pub fn spawn(&self, name: &str, command: Command) -> anyhow::Result<Child> {
        Child::spawn(name, command, &self.directory.join(format!("{name}.log")))
    }

    fn wire_pod_to_world(&self) -> anyhow::Result<()> {
        let mtu = self.variant.mtu();
        let mut world = format!(
            "link add pod0 mtu {mtu} type veth peer name eth0 mtu {mtu} address {POD_MAC} netns {pod}\n\
             link set pod0 up\n",
            pod = self.pod.name(),
        );
        for (address, length) in [(IpAddr::V4(SERVER_V4), 32), (IpAddr::V6(SERVER_V6), 128)] {
            if self.servers().contains(&address) {
                let _ = writeln!(world, "address add {address}/{length} dev lo{}", variant::no_dad(address));
            }
        }
        world.push_str(&self.variant.world_addresses());
        self.world.ip(&world)?;
        self.pod.ip(&format!("link set eth0 up\n{}", self.variant.pod_configuration("eth0")))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.guest, &self.pod, &self.world] {
            namespace.remove();
        }
        leave(&self.directory);
    }
}

/// Removes a lab's directory, unless a test has just failed in it.
fn leave(directory: &Path) {
    if std::thread::panicking() {
        eprintln!("logs of the failed test are in {}", directory.display());
    } else {
        let _ = std::fs::remove_dir_all(directory);
    }
}

/// The program `name` built beside the running executable: `target/<profile>/<name>`, also for a test in `deps/`.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe().context("path of the running program")?;
    let mut directory = me.parent().context("directory of the running program")?;
    if directory.file_name() == Some(OsStr::new("deps")) {
        directory = directory.parent().context("directory of the built programs")?;
    }
    let path = directory.join(name);
    anyhow::ensure!(path.exists(), "{name} is not built beside {}; run `cargo xtask test`", me.display());
    Ok(path)
}
