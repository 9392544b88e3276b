//! The guest's kernel and programs, unpacked from Debian's packages into the target folder. Nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::find;
use crate::process::Runner;
use crate::target;

/// Depends on the current kernel's package, whose name changes with each version.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Busybox is the guest's user space. It lacks a DHCPv6 client: dhclient, and the library it needs.
const PROGRAMS: [&str; 3] = ["busybox-static", "isc-dhcp-client", "libc6"];

/// Names what was unpacked: a folder of an older list is made anew.
const LIST: &str = "packages";

fn names() -> impl Iterator<Item = &'static str> {
    [KERNEL].into_iter().chain(PROGRAMS)
}

/// Where `vm-tests` looks for all of it.
fn folder() -> Result<PathBuf> {
    Ok(target()?.join("vm/debian"))
}

pub(super) fn present() -> Result<bool> {
    let list = fs::read_to_string(folder()?.join(LIST));
    Ok(list.is_ok_and(|list| list.lines().eq(names())))
}

/// Downloads and unpacks; the folder appears only when it is complete.
pub(super) fn unpack(runner: &Runner) -> Result<()> {
    if find("apt-get").is_none() || find("dpkg-deb").is_none() {
        let names: Vec<&str> = names().collect();
        bail!("the VMs' guest is made of Debian's {}: this needs apt-get and dpkg-deb", names.join(", "));
    }
    let folder = folder()?;
    let partial = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&partial); // of an interrupted run, or not there
    fs::create_dir_all(&partial)?;
    let kernel = dependency(KERNEL)?;
    eprintln!(
        "xtask: downloading {kernel}, {} (the VMs' guest; unpacked, not installed)",
        PROGRAMS.join(", ")
    );
    runner.run(
        Command::new("apt-get")
            .current_dir(&partial)
            .args(["-o", "APT::Sandbox::User=root"]) // the target folder need not be open to apt's own user
            .args(["-qq", "download", &kernel])
            .args(PROGRAMS),
    )?;
    for package in packages(&partial)? {
        runner.run(Command::new("dpkg-deb").arg("--extract").args([&package, &partial]))?;
        fs::remove_file(package)?;
    }
    fs::write(partial.join(LIST), names().map(|name| format!("{name}\n")).collect::<String>())?;
    let _ = fs::remove_dir_all(&folder); // of an older list, or not there
    fs::rename(&partial, &folder).context("putting the guest's files in place")
}

/// The one package that `name` depends on.
fn dependency(name: &str) -> Result<String> {
    let output = Command::new("apt-cache").args(["depends", name]).env("LC_ALL", "C").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    found.map(str::to_owned).with_context(|| format!("apt knows no {name}: is its package list up to date?"))
}

fn packages(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    Ok(entries.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect())
}
