//! A guest without a machine: a network namespace whose `eth0` is the other end of a pod's tap, so that programs in that
//! namespace are where a VM's would be. It opens the tap as QEMU does, a macvtap by its device node.
//!
//! Frames are copied as they are, and nothing is left undone in them: the kernel segments and sums before it hands a frame
//! over. With `--offload` it does not: frames of up to 64 KiB pass whole, as between a guest's virtio driver and QEMU. It
//! must never answer a frame or change one.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::lab::{Child, Lab, Namespace, binary};
use crate::vhost::cable::tap::{Tap, enter};
use crate::vhost::feature::virtio;

/// What it prints once both ends are open.
pub const READY: &str = "ready";

/// The guest's NIC.
pub const NIC: &str = "eth0";

const USAGE: &str = "usage: tap-guest TAP GUEST-NAMESPACE-FILE MTU [--offload]\n\
    Connects TAP, of this namespace or the path of a macvtap's device, to an eth0 that it makes in the other.";

/// The argument for large frames.
const OFFLOAD: &str = "--offload";

/// `struct virtio_net_hdr_v1`, as QEMU sets it (virtio 1.2 section 5.1.6).
const HEADER_LEN: usize = 12;

/// The longest frame of a tap, 65 535 bytes of IP, with what may be around it.
const FRAME_LEN: usize = HEADER_LEN + 65535 + 18;

const START_LIMIT: Duration = Duration::from_secs(10);

/// Makes `guest` the guest of the tap `tap` of `pod`, with a NIC that is up. It ends with the value.
pub fn start(lab: &Lab, pod: &Namespace, tap: &str, guest: &Namespace, mtu: u16) -> anyhow::Result<Child> {
    start_with(lab.directory(), pod, tap, guest, mtu, &[])
}

/// Like [`start`], with large frames.
pub fn start_offloading(
    lab: &Lab,
    pod: &Namespace,
    tap: &str,
    guest: &Namespace,
    mtu: u16,
) -> anyhow::Result<Child> {
    start_with(lab.directory(), pod, tap, guest, mtu, &[OFFLOAD])
}

/// The same with its log in `folder`, without a lab. `tap` may also be the path of a macvtap's device.
pub fn start_in(
    folder: &Path,
    pod: &Namespace,
    tap: &str,
    guest: &Namespace,
    mtu: u16,
) -> anyhow::Result<Child> {
    start_with(folder, pod, tap, guest, mtu, &[])
}

fn start_with(
    folder: &Path,
    pod: &Namespace,
    tap: &str,
    guest: &Namespace,
    mtu: u16,
    more: &[&str],
) -> anyhow::Result<Child> {
    let mut command = pod.command(binary("tap-guest")?);
    command.arg(tap).arg(guest.path()).arg(mtu.to_string()).args(more);
    let name = format!("tap-guest-{}-{}", pod.name(), tap.replace('/', "-"));
    let mut child = Child::spawn(&name, command, &folder.join(format!("{name}.log")))?;
    child.wait_for_line(START_LIMIT, READY)?;
    Ok(child)
}

/// The program.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tap-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let arguments: Vec<String> = arguments.skip(1).collect();
    let (tap, guest, mtu, offload) = match arguments.as_slice() {
        [tap, guest, mtu] => (tap, guest, mtu, false),
        [tap, guest, mtu, more] if more == OFFLOAD => (tap, guest, mtu, true),
        _ => anyhow::bail!(USAGE),
    };
    let features = if offload { virtio::OFFLOADS } else { 0 };
    let mtu = mtu.parse().with_context(|| format!("the MTU {mtu}"))?;
    let pod = open(tap)?;
    pod.configure(HEADER_LEN, features)?;
    let nic = make_nic(PathBuf::from(guest), mtu, features)?;
    eprintln!("{READY}");
    let mut frame = vec![0; FRAME_LEN];
    loop {
        let mut ends = [&pod, &nic].map(|tap| PollFd::new(tap, PollFlags::IN));
        match poll(&mut ends, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for frames"),
        }
        if !copy(&pod, &nic, &mut frame, offload)? || !copy(&nic, &pod, &mut frame, offload)? {
            return Ok(());
        }
    }
}

/// A tap that somebody made, of either kind, or a macvtap.
fn open(name: &str) -> anyhow::Result<Tap> {
    if name.starts_with('/') {
        return Tap::open_macvtap(Path::new(name));
    }
    // An open of a tap that is not there would make one.
    let links = std::fs::read_to_string("/proc/self/net/dev").context("read the links")?;
    let there = links.lines().any(|line| line.trim_start().starts_with(&format!("{name}:")));
    anyhow::ensure!(there, "there is no tap {name}");
    Tap::open(name, false).or_else(|_| Tap::open(name, true))
}

/// On a thread of its own: the program stays where the pod's tap is.
fn make_nic(guest: PathBuf, mtu: u16, features: u64) -> anyhow::Result<Tap> {
    let work = move || {
        enter(Some(&guest))?;
        let nic = Tap::open(NIC, false)?;
        nic.configure(HEADER_LEN, features)?;
        nic.bring_up(mtu)?;
        Ok(nic)
    };
    std::thread::spawn(work).join().map_err(|_| anyhow::anyhow!("the guest's thread ended"))?
}

/// Moves one frame, if there is one. False when the tap it comes from is gone.
fn copy(from: &Tap, to: &Tap, frame: &mut [u8], offload: bool) -> anyhow::Result<bool> {
    let len = match rustix::io::read(from.as_fd(), &mut *frame) {
        Ok(len) => len,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
        Err(Errno::BADFD) => return Ok(false),
        Err(error) => return Err(error).context("read a frame"),
    };
    let Some((header, _)) = frame.split_at_mut_checked(HEADER_LEN) else { return Ok(true) };
    // Without offloads all that is left in it are hints, which the other kernel would take for requests.
    if !offload {
        header.fill(0);
    }
    match rustix::io::write(to.as_fd(), frame.get(..len).unwrap_or_default()) {
        // A full queue, or a NIC that is down, loses frames.
        Ok(_) | Err(Errno::AGAIN | Errno::IO | Errno::INTR | Errno::NOBUFS) => Ok(true),
        Err(Errno::BADFD) => Ok(false),
        Err(error) => Err(error).context("write a frame"),
    }
}
