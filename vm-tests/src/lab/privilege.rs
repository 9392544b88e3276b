//! What a lab needs from the machine: the right to make namespaces, and a congestion control every program shares.
//! It changes nothing outside namespaces that it does not put back.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use rustix::mount::{MountFlags, mount};

use super::Namespace;

/// Set for the process started again inside a user namespace, so that it does not do so for ever.
const INSIDE: &str = "SLUICE_LAB_INSIDE_USER_NAMESPACE";

/// Which congestion controls a namespace other than the first may choose.
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// Returns as root: of the machine, or of a user namespace in which the whole program was started again.
pub(super) fn ensure() -> anyhow::Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return own_run_directory();
    }
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let me = std::env::current_exe().context("path of the running program")?;
    let error = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--"])
        .arg(me)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(error).context("labs need root, or `unshare` and the right to create user namespaces")
}

/// `ip netns` keeps its names below /run, which belongs to the machine's root; inside, there is one of our own.
fn own_run_directory() -> anyhow::Result<()> {
    static MOUNTED: Mutex<bool> = Mutex::new(false);

    let mut mounted = MOUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*mounted {
        mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).context("mount a /run of our own")?;
        std::fs::create_dir("/run/netns").context("create /run/netns")?;
        *mounted = true;
    }
    Ok(())
}

/// Makes every program in `namespaces` use CUBIC, which all contenders then share whatever the machine prefers.
///
/// A namespace may choose only what the first one allows; it is allowed for the moment of choosing. The caller holds
/// the lock of the labs. Where the machine does not let us, its default stays, the same for every program.
pub(super) fn use_cubic<const N: usize>(namespaces: [&Namespace; N]) -> anyhow::Result<()> {
    let before = std::fs::read_to_string(ALLOWED).unwrap_or_default();
    let needs_permit = !before.split_whitespace().any(|name| name == "cubic");
    if needs_permit && std::fs::write(ALLOWED, format!("{} cubic", before.trim())).is_err() {
        return Ok(());
    }
    let result = namespaces
        .into_iter()
        .try_for_each(|namespace| namespace.sysctl("net/ipv4/tcp_congestion_control", "cubic"));
    if needs_permit {
        std::fs::write(ALLOWED, before).context("restore the allowed congestion controls")?;
    }
    result
}
