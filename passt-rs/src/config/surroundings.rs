//! What the command line leaves open and the pod answers: its addresses, resolvers, and port range.

use std::fs;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::cli::{Cli, Fault};
use crate::host::netlink::{NetlinkError, Pod};

use super::ResolvConf;

/// Read once at start; tests write their own.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The pod's own network, or why it could not be read.
    pub pod: Result<Pod, Fault>,
    pub resolv_conf: ResolvConf,
    /// Ports the kernel hands out to clients.
    pub ephemeral_ports: RangeInclusive<u16>,
    /// Where to listen unless told.
    pub free_socket: PathBuf,
}

impl Surroundings {
    /// Reads the network namespace and file system this process was started in.
    pub fn read(cli: &Cli) -> Self {
        Self {
            pod: pod(cli),
            resolv_conf: ResolvConf::parse(&fs::read_to_string(RESOLV_CONF).unwrap_or_default()),
            ephemeral_ports: fs::read_to_string(EPHEMERAL_PORTS)
                .ok()
                .and_then(|text| ephemeral_ports(&text))
                .unwrap_or(EPHEMERAL_DEFAULT),
            free_socket: free_socket(Path::new("/tmp")),
        }
    }

    /// Name of the interface that leads out.
    pub(super) fn uplink_name(&self) -> Option<String> {
        let pod = self.pod.as_ref().ok()?;
        let v4 = pod.v4.as_ref().map(|v4| &v4.name);
        v4.or_else(|| pod.v6.as_ref().map(|v6| &v6.name)).cloned()
    }
}

/// The pod as its `--interface` shows it; else each family as the interface its connections leave by does, as with passt.
fn pod(cli: &Cli) -> Result<Pod, Fault> {
    let read = |flag: &str, interfaces: &[String]| {
        Pod::read(interfaces.first().map(String::as_str)).map_err(|error| fault(flag, &error))
    };
    let mut pod = read("--interface", &cli.interface)?;
    if cli.interface.is_empty() && !cli.outbound_if4.is_empty() {
        pod.v4 = read("--outbound-if4", &cli.outbound_if4)?.v4;
    }
    if cli.interface.is_empty() && !cli.outbound_if6.is_empty() {
        pod.v6 = read("--outbound-if6", &cli.outbound_if6)?.v6;
    }
    Ok(pod)
}

fn fault(flag: &str, error: &NetlinkError) -> Fault {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Fault::new(flag, format!("{error}{cause}"))
}

fn ephemeral_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace();
    Some(words.next()?.parse().ok()?..=words.next()?.parse().ok()?)
}

/// The first path nobody listens on; a socket left behind by a process that ended counts as free.
fn free_socket(directory: &Path) -> PathBuf {
    let path = |n: u32| directory.join(format!("passt_{n}.socket"));
    (1..SOCKETS_MAX).map(path).find(|path| is_free(path)).unwrap_or_else(|| path(SOCKETS_MAX))
}

fn is_free(path: &Path) -> bool {
    UnixStream::connect(path)
        .is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused))
}

const RESOLV_CONF: &str = "/etc/resolv.conf";
const EPHEMERAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Linux's own default.
const EPHEMERAL_DEFAULT: RangeInclusive<u16> = 32768..=60999;
/// Default paths tried; past it the last one is used and listening on it says what is wrong.
const SOCKETS_MAX: u32 = 100;

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn sockets_in_use_are_passed_over_and_stale_ones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = |n: u32| directory.path().join(format!("passt_{n}.socket"));
        let _in_use = UnixListener::bind(path(1)).unwrap();
        drop(UnixListener::bind(path(2)).unwrap());
        assert_eq!(free_socket(directory.path()), path(2));
        fs::remove_file(path(2)).unwrap();
        fs::write(path(2), "not a socket").unwrap();
        // Connecting to a file that is no socket is refused too; listening there will say so.
        assert_eq!(free_socket(directory.path()), path(2));
    }

    #[test]
    fn port_range_reads_as_the_kernel_writes_it() {
        assert_eq!(ephemeral_ports("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(ephemeral_ports("32768"), None);
    }
}
