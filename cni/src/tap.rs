//! Persistent tap devices, as a VMM opens them. It must never take over a device that exists.

pub mod label;

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd as _;

/// A tap to make in the namespace the thread is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTap {
    /// 1 to 15 bytes.
    pub name: String,
    /// Numeric user who may open it without `CAP_NET_ADMIN`; nobody in particular without.
    pub owner: Option<u32>,
    /// Numeric group, likewise.
    pub group: Option<u32>,
    /// Whether a VMM may open it more than once, each time for a queue. One that asks for a single queue is then
    /// refused by the kernel, and the other way round.
    pub multi_queue: bool,
    /// Whether each frame has a `virtio_net_hdr` before it.
    pub vnet_hdr: bool,
}

/// Why a tap could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error("there is no {DEVICE}: load the module tun, and let this program see the device")]
    NoDevice,
    #[error("cannot open {DEVICE}")]
    Open(#[source] io::Error),
    #[error("{0:?} is no name for a tap: 1 to 15 bytes, no slash, colon, percent sign or space")]
    BadName(String),
    #[error("there is an interface {0} already")]
    Exists(String),
    #[error(
        "telling the kernel the SELinux label {label:?} of the tap's maker, at /proc/thread-self/attr/exec"
    )]
    Label { label: String, source: io::Error },
    #[error("making tap {name} by a child with the SELinux label {label:?}, from /proc/self/exe")]
    Child { label: String, name: String, source: io::Error },
    #[error("{ioctl} of tap {name}")]
    Ioctl { ioctl: &'static str, name: String, source: io::Error },
}

/// Makes a persistent tap, without packet information, down, with the kernel's MTU and MAC.
///
/// It becomes persistent in the last step: should this fail or be killed before, the kernel removes it.
pub fn create(new: &NewTap) -> Result<(), TapError> {
    let mut request = request(new)?;
    let device = open()?;
    let failed = |ioctl| move |source| TapError::Ioctl { ioctl, name: new.name.clone(), source };
    set_interface(&device, &mut request).map_err(|error| match error.raw_os_error() {
        // With IFF_TUN_EXCL: whatever bears the name, a tap or not (drivers/net/tun.c, tun_set_iff).
        Some(libc::EBUSY) => TapError::Exists(new.name.clone()),
        _ => failed("TUNSETIFF")(error),
    })?;
    if let Some(owner) = new.owner {
        set(&device, libc::TUNSETOWNER, owner).map_err(failed("TUNSETOWNER"))?;
    }
    if let Some(group) = new.group {
        set(&device, libc::TUNSETGROUP, group).map_err(failed("TUNSETGROUP"))?;
    }
    set(&device, libc::TUNSETPERSIST, 1).map_err(failed("TUNSETPERSIST"))
}

fn open() -> Result<File, TapError> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| match error.raw_os_error() {
        // A node without its driver is ENODEV or ENXIO.
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDevice,
        _ => TapError::Open(error),
    })
}

fn request(new: &NewTap) -> Result<libc::ifreq, TapError> {
    let name = new.name.as_bytes();
    // The kernel would put a number in the place of "%d".
    let forbidden =
        |byte: &u8| matches!(byte, b'/' | b':' | b'%') || byte.is_ascii_whitespace() || *byte == 0;
    if name.is_empty()
        || name.len() >= libc::IFNAMSIZ
        || name.iter().any(forbidden)
        || matches!(name, b"." | b"..")
    {
        return Err(TapError::BadName(new.name.clone()));
    }
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_TUN_EXCL;
    if new.vnet_hdr {
        flags |= libc::IFF_VNET_HDR;
    }
    if new.multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "16 flags, of which the last is the sign bit of the field"
    )]
    let flags = flags as libc::c_short;
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    Ok(libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } })
}

fn set_interface(device: &File, request: &mut libc::ifreq) -> io::Result<()> {
    #[expect(unsafe_code, reason = "taps are made by ioctl only")]
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is, for the time of the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, std::ptr::from_mut(request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// One of the requests whose argument is a number, not a pointer.
fn set(device: &File, request: libc::Ioctl, value: u32) -> io::Result<()> {
    const { assert!(size_of::<libc::c_ulong>() >= size_of::<u32>()) };
    #[expect(unsafe_code, reason = "taps are configured by ioctl only")]
    // SAFETY: TUNSETOWNER, TUNSETGROUP and TUNSETPERSIST, the only callers' requests, take an unsigned long by value.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), request, libc::c_ulong::from(value)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const DEVICE: &str = "/dev/net/tun";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_the_kernel_would_change_or_refuse_is_refused() {
        for name in ["", "sixteen-bytes-xx", "tap%d", "a/b", "a:b", "a b", ".", "..", "a\0b"] {
            let new = NewTap {
                name: name.to_owned(),
                owner: None,
                group: None,
                multi_queue: false,
                vnet_hdr: true,
            };
            assert!(matches!(request(&new), Err(TapError::BadName(_))), "{name}");
        }
    }
}
