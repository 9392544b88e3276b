//! A program as KubeVirt's launcher runs QEMU: an ordinary user without capabilities, and a `/dev/net/tun` of its own. It
//! must never change a device of the machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::Namespace;

/// Runs in a mount namespace of its own: `$1` is the user and group, the rest is the program. The kubelet's device plugin
/// puts a node into the container that its user may open; the machine's own is often closed to all but root. What the
/// kernel sends when the parent dies is asked for again, as it is forgotten with the user.
const BECOME: &str = "set -e
user=$1
shift
mount -t tmpfs -o mode=0755 tmpfs /dev/net
mknod /dev/net/tun c 10 200
chown \"$user:$user\" /dev/net/tun
chmod 0600 /dev/net/tun
exec setpriv --reuid \"$user\" --regid \"$user\" --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \
    --pdeathsig KILL -- \"$@\"";

/// The user opens the files before `--`, from descriptor 3 on, and becomes the program behind it.
const OPEN: &str = "set -e
descriptor=3
while [ \"$1\" != -- ]; do
    eval \"exec $descriptor<>\\\"\\$1\\\"\"
    descriptor=$((descriptor + 1))
    shift
done
shift
exec \"$@\"";

/// The first of the descriptors of `devices`.
pub(super) const FIRST_DESCRIPTOR: usize = 3;

/// A shell's descriptors have one digit.
const MOST_DEVICES: usize = 7;

/// A command that runs `program` in `namespace` as user and group `user`, which has opened `devices`.
pub(super) fn command(
    namespace: &Namespace,
    user: u32,
    devices: &[&PathBuf],
    program: &str,
) -> anyhow::Result<Command> {
    anyhow::ensure!(devices.len() <= MOST_DEVICES, "no more than {MOST_DEVICES} devices are opened");
    anyhow::ensure!(
        rustix::process::geteuid().is_root() && Path::new("/dev/net").is_dir(),
        "becoming user {user} with a /dev/net/tun of its own needs root, and the directory /dev/net"
    );
    let mut command = namespace.command("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c", BECOME, "sh", &user.to_string()]);
    if !devices.is_empty() {
        command.args(["sh", "-c", OPEN, "sh"]).args(devices).arg("--");
    }
    command.arg(program);
    Ok(command)
}
