//! What the labs, VMs, benchmarks and fuzzers need of Debian: found, or installed with a line that says why.
//!
//! Programs are looked for, not packages, so other distributions work once the programs are there. The guest's kernel and
//! busybox are only unpacked into the target folder: nothing touches /boot, and no privilege is needed for them.

mod backports;
mod guest;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::Runner;

/// What a command is about to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Labs,
    Vms,
    Bench,
    Fuzz,
}

/// One program and the package that brings it.
#[derive(Debug)]
struct Package {
    name: &'static str,
    program: &'static str,
    why: &'static str,
    need: Need,
    /// Oldest major version that will do; an older distribution takes it from its backports.
    major: Option<u32>,
}

const PACKAGES: [Package; 8] = [
    Package {
        name: "iproute2",
        program: "ip",
        why: "makes the labs' namespaces",
        need: Need::Labs,
        major: None,
    },
    Package {
        name: "util-linux",
        program: "setpriv",
        why: "ends a lab's processes with the lab",
        need: Need::Labs,
        major: None,
    },
    Package {
        name: "iputils-ping",
        program: "ping",
        why: "pings out of the labs' guests",
        need: Need::Labs,
        major: None,
    },
    Package {
        name: "qemu-system-x86",
        program: "qemu-system-x86_64",
        why: "runs the VMs; 7.2 crashes with a vhost-user NIC under TCG and cannot reconnect a socket",
        need: Need::Vms,
        major: Some(10),
    },
    Package {
        name: "xz-utils",
        program: "xz",
        why: "unpacks the guest kernel's modules",
        need: Need::Vms,
        major: None,
    },
    Package {
        name: "passt",
        program: "passt",
        why: "is what we compare with",
        need: Need::Bench,
        major: None,
    },
    Package {
        name: "nftables",
        program: "nft",
        why: "loses packets in the labs, and is the NAT we compare with",
        need: Need::Labs,
        major: None,
    },
    Package {
        name: "g++",
        program: "c++",
        why: "compiles libFuzzer, which is C++",
        need: Need::Fuzz,
        major: None,
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
        let release = if package.needs_backports()? { Some(backports::enable(runner)?) } else { None };
        let mut arguments = vec!["install", "-y", "--no-install-recommends"];
        arguments.extend(release.iter().flat_map(|suite| ["-t", suite.as_str()]));
        arguments.push(package.name);
        apt(runner, &arguments)?;
    }
    if guest {
        guest::unpack(runner)?;
    }
    Ok(())
}

impl Package {
    fn line(&self) -> String {
        let version = self.major.map(|major| format!(" {major} or newer")).unwrap_or_default();
        format!("{}{version} ({})", self.name, self.why)
    }

    fn present(&self) -> bool {
        let Some(program) = find(self.program) else { return false };
        let Some(wanted) = self.major else { return true };
        let output = Command::new(program).arg("--version").output();
        output.is_ok_and(|output| {
            major(&String::from_utf8_lossy(&output.stdout)).is_some_and(|found| found >= wanted)
        })
    }

    /// Whether the release itself has only versions that are too old.
    fn needs_backports(&self) -> Result<bool> {
        let Some(wanted) = self.major else { return Ok(false) };
        let output = Command::new("apt-cache").args(["policy", self.name]).env("LC_ALL", "C").output()?;
        let policy = String::from_utf8_lossy(&output.stdout).into_owned();
        let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"));
        Ok(candidate.and_then(debian_major).is_none_or(|found| found < wanted))
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

pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Services' and containers' PATH often lacks the administrator's folders, where `ip` and `nft` are.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|candidate| Path::new(candidate).is_file())
}

/// The major version in a program's greeting: "QEMU emulator version 10.0.2 (...)".
fn major(greeting: &str) -> Option<u32> {
    let (_, rest) = greeting.split_once("version ")?;
    rest.split('.').next()?.parse().ok()
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
    fn versions_are_read_from_greetings_and_packages() {
        assert_eq!(major("QEMU emulator version 10.0.2 (Debian 1:10.0.2)"), Some(10));
        assert_eq!(major("no such thing"), None);
        assert_eq!(debian_major(" 1:10.0.2+ds-2~bpo12+1"), Some(10));
        assert_eq!(debian_major("7.2"), Some(7));
        assert_eq!(debian_major("(none)"), None);
    }
}
