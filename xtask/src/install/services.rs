//! Keeps Debian's packages from starting the services they bring, now and at the next start of the machine: what is
//! installed here is for tests, which start what they need themselves. It must never change a service that was there.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::find;

/// Debian's packages ask this program before they start a service ("policy-rc.d", invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// 101: the action is not allowed (invoke-rc.d(8)).
const REFUSAL: &str = "#!/bin/sh\n# here only while a test's programs are installed\nexit 101\n";

/// Of the packages in our table, the only one that enables a service.
const SERVICE: &str = "containerd.service";

/// While this lives, no package starts a service.
#[derive(Debug)]
pub(super) struct Stopped {
    /// Whether the policy is ours to remove: a machine's own one decides instead.
    ours: bool,
    /// Whether the service is ours to disable.
    new: bool,
}

impl Stopped {
    pub(super) fn during_install() -> Result<Self> {
        let new = !Path::new("/lib/systemd/system").join(SERVICE).exists();
        let ours = match OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY) {
            Ok(mut file) => {
                file.write_all(REFUSAL.as_bytes()).with_context(|| format!("writing {POLICY}"))?;
                true
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error).with_context(|| format!("creating {POLICY}")),
        };
        Ok(Self { ours, new })
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
        let came = self.new && Path::new("/lib/systemd/system").join(SERVICE).exists();
        if came && find("deb-systemd-helper").is_some() {
            let _ = Command::new("deb-systemd-helper")
                .args(["disable", SERVICE])
                .env("DPKG_MAINTSCRIPT_PACKAGE", "containerd")
                .status();
        }
    }
}
