//! One queue of a tap with a virtio-net header, and what the tap's kernel is told of the back end's abilities.
#![expect(unsafe_code, reason = "the ioctls of taps and links have no safe wrapper; see each block")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use rustix::thread::LinkNameSpaceType;

use crate::vhost::feature::virtio;

const TUN_F_CSUM: u64 = 0x01;
const TUN_F_TSO4: u64 = 0x02;
const TUN_F_TSO6: u64 = 0x04;
const TUN_F_TSO_ECN: u64 = 0x08;
const TUN_F_USO4: u64 = 0x20;
const TUN_F_USO6: u64 = 0x40;

/// An open queue.
#[derive(Debug)]
pub(crate) struct Tap {
    device: OwnedFd,
    name: String,
}

/// Moves the calling thread into the network namespace that `path` names.
pub(crate) fn enter(path: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let namespace = File::open(path).with_context(|| format!("open {}", path.display()))?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("enter {}", path.display()))
}

impl Tap {
    /// Creates, or attaches to, the tap `name` in this thread's namespace; one queue of it when it has `many`.
    pub(crate) fn open(name: &str, many: bool) -> anyhow::Result<Self> {
        let kind = if many { libc::IFF_MULTI_QUEUE } else { 0 };
        Self::attach(Path::new("/dev/net/tun"), name, kind)
    }

    /// The macvtap of this device node, which has a name of its own.
    pub(crate) fn open_macvtap(node: &Path) -> anyhow::Result<Self> {
        Self::attach(node, "macvtap", 0)
    }

    fn attach(node: &Path, name: &str, kind: libc::c_int) -> anyhow::Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(node)
            .with_context(|| format!("open {}", node.display()))?
            .into();
        let tap = Self { device, name: name.to_owned() };
        let mut request = Request::named(name)?;
        request.set_flags(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | kind);
        // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, which `request` is.
        let result = unsafe { libc::ioctl(tap.device.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
        check(result).with_context(|| format!("create the tap {name:?}"))?;
        Ok(tap)
    }

    /// Whether the kernel segments UDP (since 6.2).
    pub(super) fn knows_uso(&self) -> bool {
        let knows = self.set_offloads(TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6).is_ok();
        knows && self.set_offloads(0).is_ok()
    }

    /// Sets the virtio-net header's length, and leaves to the back end what it does for a driver with these `features`.
    pub(crate) fn configure(&self, header_len: usize, features: u64) -> anyhow::Result<()> {
        let len = libc::c_int::try_from(header_len).context("a header that long")?;
        // SAFETY: TUNSETVNETHDRSZ reads one int, which `len` is.
        let result =
            unsafe { libc::ioctl(self.device.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const len) };
        check(result).context("set the tap's header length")?;
        let offloads = offloads(features);
        self.set_offloads(offloads).with_context(|| format!("set the tap's offloads to {offloads:#x}"))
    }

    /// Sets the MTU, and the link up.
    pub(crate) fn bring_up(&self, mtu: u16) -> anyhow::Result<()> {
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
                .context("open a socket for link requests")?;
        let mut request = Request::named(&self.name)?;
        request.set_number(mtu.into());
        // SAFETY: SIOCSIFMTU reads a `struct ifreq`, which `request` is.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU as _, &raw const request) };
        check(result).with_context(|| format!("set the MTU {mtu}"))?;
        request = Request::named(&self.name)?;
        request.set_flags(libc::IFF_UP | libc::IFF_RUNNING);
        // SAFETY: SIOCSIFFLAGS reads a `struct ifreq`, which `request` is.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
        check(result).context("bring the tap up")
    }

    fn set_offloads(&self, offloads: u64) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(self.device.as_raw_fd(), libc::TUNSETOFFLOAD as _, offloads) })
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// What the tap's kernel may leave undone in frames it hands over.
fn offloads(features: u64) -> u64 {
    let pairs = [
        (virtio::HOST_TSO4, TUN_F_TSO4),
        (virtio::HOST_TSO6, TUN_F_TSO6),
        (virtio::HOST_ECN, TUN_F_TSO_ECN),
        (virtio::HOST_USO, TUN_F_USO4 | TUN_F_USO6),
    ];
    if features & virtio::CSUM == 0 {
        return 0;
    }
    let mut offloads = TUN_F_CSUM;
    for (feature, offload) in pairs {
        if features & feature != 0 {
            offloads |= offload;
        }
    }
    // ECN is a property of TCP segments, and refused without them.
    if offloads & (TUN_F_TSO4 | TUN_F_TSO6) == 0 { offloads & !TUN_F_TSO_ECN } else { offloads }
}

/// `struct ifreq`: a name, and a union that begins with what is set.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>(), "struct ifreq");

impl Request {
    fn named(name: &str) -> anyhow::Result<Self> {
        let mut request = Self { name: [0; libc::IFNAMSIZ], value: [0; 24] };
        let fits = !name.is_empty() && name.len() < libc::IFNAMSIZ;
        anyhow::ensure!(fits, "the tap's name {name:?} must have 1 to 15 bytes");
        for (to, from) in request.name.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        Ok(request)
    }

    fn set_flags(&mut self, flags: libc::c_int) {
        let [low, high, ..] = flags.to_le_bytes();
        let flags = u16::from_le_bytes([low, high]);
        self.set(&flags.to_ne_bytes());
    }

    fn set_number(&mut self, number: libc::c_int) {
        self.set(&number.to_ne_bytes());
    }

    fn set(&mut self, bytes: &[u8]) {
        for (to, from) in self.value.iter_mut().zip(bytes) {
            *to = *from;
        }
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tap_leaves_to_the_back_end_only_what_it_does() {
        let cases = [
            (0, 0),
            (virtio::GUEST_CSUM | virtio::GUEST_TSO4, 0),
            (virtio::HOST_TSO4, 0),
            (virtio::CSUM, TUN_F_CSUM),
            (virtio::CSUM | virtio::HOST_ECN, TUN_F_CSUM),
            (virtio::CSUM | virtio::HOST_TSO6 | virtio::HOST_ECN, TUN_F_CSUM | TUN_F_TSO6 | TUN_F_TSO_ECN),
            (virtio::OFFLOADS, 0x6f),
        ];
        for (features, expected) in cases {
            assert_eq!(offloads(features), expected, "{features:#x}");
        }
    }
}
