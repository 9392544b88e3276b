//! What the sidecar's container sees of its pod: network interfaces, search domains, its memory limit. It must never change
//! any of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketType, socket};

/// The network interfaces of this process's namespace with their MTUs in bytes, loopback too.
///
/// # Errors
/// /proc/net/dev cannot be read, or is not what proc(5) says.
pub fn links() -> io::Result<BTreeMap<String, u32>> {
    let table = fs::read_to_string("/proc/self/net/dev")?;
    let names = table.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    let handle = socket(AddressFamily::INET, SocketType::DGRAM, None)
        .or_else(|_| socket(AddressFamily::INET6, SocketType::DGRAM, None))?;
    let mut links = BTreeMap::new();
    for name in names {
        match mtu::of(&handle, name) {
            Ok(mtu) => {
                links.insert(name.to_owned(), mtu);
            }
            // Gone since the table was read.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(links)
}

/// Search domains of the pod, as its dnsPolicy and dnsConfig became resolv.conf(5); the last line counts. None if there is
/// no such file.
pub fn search_domains(resolv_conf: &Path) -> Vec<String> {
    let text = fs::read_to_string(resolv_conf).unwrap_or_default();
    let last = text.lines().filter_map(|line| line.trim().strip_prefix("search")).next_back();
    last.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Bytes of memory that this container may have charged to it, by cgroup v2 or v1; none if it may have any.
pub fn memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_of(&groups, Path::new("/sys/fs/cgroup"), |file| fs::read_to_string(file).ok())
}

/// The lowest limit between a process's group, by its lines of /proc/self/cgroup, and the root that it sees.
fn limit_of(groups: &str, root: &Path, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let limits = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            v1 if v1.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        let group = Path::new(group.trim_start_matches('/'));
        group.ancestors().map(|part| base.join(part).join(file)).collect::<Vec<PathBuf>>()
    });
    // "max", and v1's largest number of pages, are no limits.
    let bytes = limits.filter_map(|file| read(&file)?.trim().parse::<u64>().ok());
    bytes.filter(|bytes| *bytes < 1 << 62).min()
}

mod mtu {
    //! One number that rustix has no call for.

    use std::io;
    use std::os::fd::OwnedFd;

    use rustix::ioctl::{Opcode, Updater, ioctl};

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a number of 16 bits, in a wider type with some C libraries"
    )]
    const GET_MTU: Opcode = libc::SIOCGIFMTU as Opcode;

    /// Of the interface `name`, in bytes.
    pub(super) fn of(socket: &OwnedFd, name: &str) -> io::Result<u32> {
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_mtu: 0 },
        };
        if name.len() >= libc::IFNAMSIZ {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        #[expect(unsafe_code, reason = "an ioctl")]
        // SAFETY: SIOCGIFMTU reads and writes one ifreq (netdevice(7)).
        let update = unsafe { Updater::<GET_MTU, libc::ifreq>::new(&mut request) };
        #[expect(unsafe_code, reason = "an ioctl")]
        // SAFETY: see above; the socket is open.
        unsafe { ioctl(socket, update) }?;
        #[expect(unsafe_code, reason = "a union")]
        // SAFETY: the call set this member.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        u32::try_from(mtu).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_a_link() {
        let links = links().unwrap();
        assert!(links.get("lo").is_some_and(|mtu| *mtu >= 1500), "{links:?}");
    }

    #[test]
    fn last_search_line_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        fs::write(
            &file,
            "nameserver 10.96.0.10\nsearch a.example\nsearch demo.svc.cluster.local svc.cluster.local\n",
        )
        .unwrap();
        assert_eq!(search_domains(&file), ["demo.svc.cluster.local", "svc.cluster.local"]);
        assert!(search_domains(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn memory_limit_is_the_lowest_of_the_groups_around() {
        let files = [
            ("/c/memory.max", "max\n"),
            ("/c/pod/memory.max", "2000000000\n"),
            ("/c/pod/sidecar/memory.max", "64000000\n"),
            ("/c/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/c/memory/pod/memory.limit_in_bytes", "5000\n"),
        ];
        let read = |file: &Path| {
            files.iter().find(|(name, _)| Path::new(name) == file).map(|(_, text)| (*text).to_owned())
        };
        let limit = |groups| limit_of(groups, Path::new("/c"), read);
        assert_eq!(limit("0::/pod/sidecar\n"), Some(64_000_000));
        assert_eq!(limit("0::/pod\n"), Some(2_000_000_000));
        assert_eq!(limit("0::/\n"), None);
        assert_eq!(limit("12:cpu,cpuacct:/pod\n3:memory:/pod\n"), Some(5000));
        assert_eq!(limit("3:memory:/\n"), None);
        assert_eq!(limit(""), None);
    }
}
