//! What the labs, VMs, benchmarks and fuzzers need of Debian: found, or installed with a line that says why.
//!
//! Programs are looked for, not packages, so other distributions work once the programs are there. The guest's kernel and
//! busybox are only unpacked into the target folder: nothing touches /boot, and no privilege is needed for them.

mod backports;
mod guest;
mod services;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::Runner;
use services::Stopped;

/// What a command is about to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Labs,
    /// Runtimes that call a CNI plugin, and the plugins ours is compared with.
    Cni,
    Vms,
    Bench,
    Fuzz,
}

/// One program and the package that brings it.
#[derive(Debug)]
struct Package {
    name: &'static str,
    /// What is installed with it, from where it comes: what it is of no use without, and, of backports, what it names
    /// an exact version of, which apt would look for in the release.
    also: &'static [&'static str],
    /// Its name, or its path where it is not among the programs a person calls.
    program: &'static str,
    why: &'static str,
    need: Need,
    /// Which version will do; an older distribution takes it from its backports.
    version: Option<Version>,
}

#[derive(Clone, Copy, Debug)]
struct Version {
    /// The oldest.
    major: u32,
    from_backports: Extent,
}

/// How much comes from backports when a package does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// All it depends on too. For what names no exact versions, but works with new ones only.
    Whole,
    /// Only what is named: it depends on systemd too, which is not ours to renew.
    Least,
}

const PACKAGES: [Package; 14] = [
    Package {
        name: "iproute2",
        program: "ip",
        why: "makes the labs' namespaces",
        need: Need::Labs,
        also: &[],
        version: None,
    },
    Package {
        name: "util-linux",
        program: "setpriv",
        why: "ends a lab's processes with the lab",
        need: Need::Labs,
        also: &[],
        version: None,
    },
    Package {
        name: "iputils-ping",
        program: "ping",
        why: "pings out of the labs' guests",
        need: Need::Labs,
        also: &[],
        version: None,
    },
    Package {
        name: "qemu-system-x86",
        program: "qemu-system-x86_64",
        why: "runs the VMs; 7.2 crashes with a vhost-user NIC under TCG and cannot reconnect a socket",
        need: Need::Vms,
        also: &[],
        version: Some(Version { major: 10, from_backports: Extent::Whole }),
    },
    Package {
        name: "libvirt-daemon",
        also: &[
            "libvirt-daemon-driver-qemu",
            "libvirt-daemon-common",
            "libvirt-daemon-log",
            "libvirt-common",
            "libvirt0",
        ],
        program: "libvirtd",
        why: "starts VMs and our translator as KubeVirt has it do; 9.0 knows no passt over vhost-user",
        need: Need::Vms,
        version: Some(Version { major: 11, from_backports: Extent::Least }),
    },
    Package {
        name: "libvirt-clients",
        also: &[],
        program: "virsh",
        why: "tells libvirtd what to do; of the same version",
        need: Need::Vms,
        version: Some(Version { major: 11, from_backports: Extent::Least }),
    },
    Package {
        name: "xz-utils",
        program: "xz",
        why: "unpacks the guest kernel's modules",
        need: Need::Vms,
        also: &[],
        version: None,
    },
    Package {
        name: "passt",
        program: "passt",
        why: "is what we compare with",
        need: Need::Bench,
        also: &[],
        version: None,
    },
    Package {
        name: "nftables",
        program: "nft",
        why: "loses packets in the labs, and is the NAT we compare with",
        need: Need::Labs,
        also: &[],
        version: None,
    },
    Package {
        name: "containernetworking-plugins",
        program: "/usr/lib/cni/bridge",
        why: "are the CNI plugins that ours is compared and chained with",
        need: Need::Cni,
        also: &[],
        version: None,
    },
    Package {
        name: "iptables",
        program: "iptables",
        why: "is how those plugins translate addresses",
        need: Need::Cni,
        also: &[],
        version: None,
    },
    Package {
        name: "containerd",
        program: "containerd",
        why: "calls a CNI plugin as a node's container runtime does",
        need: Need::Cni,
        also: &[],
        version: None,
    },
    Package {
        name: "runc",
        program: "runc",
        why: "starts containerd's containers",
        need: Need::Cni,
        also: &[],
        version: None,
    },
    Package {
        name: "g++",
        program: "c++",
        why: "compiles libFuzzer, which is C++",
        need: Need::Fuzz,
        also: &[],
        version: None,
    },
];

/// Makes `needs` available, or says what is missing.
pub(crate) fn run(runner: &Runner, needs: &[Need]) -> Result<()> {
    let missing: Vec<&Package> =
        PACKAGES.iter().filter(|package| needs.contains(&package.need) && !package.present()).collect();
    let guest = needs.contains(&Need::Vms) && !guest::present()?;
    if missing.is_empty() && !guest {
        return Ok(());
    }
    if !missing.is_empty() && !may_install() {
        let list: Vec<String> = missing.iter().map(|package| package.line()).collect();
        bail!("not root on a Debian system, so please install:\n  {}", list.join("\n  "));
    }
    if may_install() {
        eprintln!("xtask: refreshing the package lists");
        apt(runner, &["update", "-qq"])?;
    }
    for package in missing {
        eprintln!("xtask: installing {}", package.line());
        let release = match package.needed_of_backports()? {
            Some(extent) => Some((backports::enable(runner)?, extent)),
            None => None,
        };
        let mut arguments = vec!["install", "-y", "--no-install-recommends"];
        let packages = package.arguments(release.as_ref());
        arguments.extend(packages.iter().map(String::as_str));
        let _stopped = Stopped::during_install()?;
        apt(runner, &arguments)?;
    }
    if guest {
        guest::unpack(runner)?;
    }
    Ok(())
}

impl Package {
    fn line(&self) -> String {
        let version = self.version.map(|wanted| format!(" {} or newer", wanted.major)).unwrap_or_default();
        format!("{}{version} ({})", self.name, self.why)
    }

    fn present(&self) -> bool {
        let Some(program) = find(self.program) else { return false };
        let Some(wanted) = self.version else { return true };
        let output = Command::new(program).arg("--version").output();
        output.is_ok_and(|output| {
            major(&String::from_utf8_lossy(&output.stdout)).is_some_and(|found| found >= wanted.major)
        })
    }

    /// What apt-get is to install, from this suite if not from the release itself.
    fn arguments(&self, release: Option<&(String, Extent)>) -> Vec<String> {
        let names = [self.name].into_iter().chain(self.also.iter().copied());
        match release {
            None => names.map(str::to_owned).collect(),
            Some((suite, Extent::Least)) => names.map(|name| format!("{name}/{suite}")).collect(),
            Some((suite, Extent::Whole)) => {
                ["-t", suite].into_iter().chain(names).map(str::to_owned).collect()
            }
        }
    }

    /// How much has to come from backports, if the release itself has only versions that are too old.
    fn needed_of_backports(&self) -> Result<Option<Extent>> {
        let Some(wanted) = self.version else { return Ok(None) };
        let output = Command::new("apt-cache").args(["policy", self.name]).env("LC_ALL", "C").output()?;
        let policy = String::from_utf8_lossy(&output.stdout).into_owned();
        let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"));
        let too_old = candidate.and_then(debian_major).is_none_or(|found| found < wanted.major);
        Ok(too_old.then_some(wanted.from_backports))
    }
}

/// apt-get, quiet about what it does not need to ask, patient with another apt that holds the lock.
fn apt(runner: &Runner, arguments: &[&str]) -> Result<()> {
    runner.run(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"])
            .args(arguments),
    )
}

fn may_install() -> bool {
    rustix::process::geteuid().is_root() && find("apt-get").is_some()
}

/// The program of this name, or at this path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Services' and containers' PATH often lacks the administrator's folders, where `ip` and `nft` are.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    // A path takes the place of the folder it is joined to.
    folders.map(|folder| folder.join(program)).find(|candidate| Path::new(candidate).is_file())
}

/// The major version in a program's greeting: "QEMU emulator version 10.0.2 (...)", "libvirtd (libvirt) 11.3.0".
fn major(greeting: &str) -> Option<u32> {
    greeting.split_whitespace().find_map(|word| word.split_once('.')?.0.parse().ok())
}

/// The major version in a Debian version: "1:10.0.2+ds-2~bpo12+1".
fn debian_major(version: &str) -> Option<u32> {
    let version = version.trim();
    let upstream = version.split_once(':').map_or(version, |(_, upstream)| upstream);
    upstream.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backports_are_used_for_as_much_as_a_package_needs() {
        let package = |also: &'static [&'static str]| Package {
            name: "one",
            also,
            program: "one",
            why: "of the test",
            need: Need::Labs,
            version: None,
        };
        let suite = |extent| Some(("b-backports".to_owned(), extent));
        let line = |release: Option<_>| package(&["other"]).arguments(release.as_ref()).join(" ");
        assert_eq!(line(suite(Extent::Whole)), "-t b-backports one other");
        assert_eq!(line(suite(Extent::Least)), "one/b-backports other/b-backports");
        assert_eq!(line(None), "one other");
    }

    #[test]
    fn a_program_is_found_by_name_and_by_path() {
        assert!(find("sh").is_some());
        assert_eq!(find("/bin/sh"), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find("/bin/no-such-program"), None);
    }

    #[test]
    fn versions_are_read_from_greetings_and_packages() {
        assert_eq!(major("QEMU emulator version 10.0.2 (Debian 1:10.0.2)"), Some(10));
        assert_eq!(major("libvirtd (libvirt) 11.3.0\n"), Some(11));
        assert_eq!(major("11.3.0\n"), Some(11));
        assert_eq!(major("no such thing. at all"), None);
        assert_eq!(debian_major(" 1:10.0.2+ds-2~bpo12+1"), Some(10));
        assert_eq!(debian_major("7.2"), Some(7));
        assert_eq!(debian_major("(none)"), None);
    }
}
