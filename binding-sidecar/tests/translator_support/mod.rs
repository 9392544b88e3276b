//! A folder with translators in it.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "each test program uses a part of it")]

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use binding_sidecar::translator::{Phase, Translators, Wanted};
use rustix::process::{Pid, Signal, geteuid};

pub(crate) struct Room {
    folder: PathBuf,
    /// Removed at the end.
    _own: Option<tempfile::TempDir>,
}

impl Room {
    pub(crate) fn new() -> Self {
        let own = tempfile::tempdir().unwrap();
        Self { folder: own.path().to_owned(), _own: Some(own) }
    }

    /// In somebody else's folder.
    pub(crate) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), _own: None }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The real passt-rs. It is another package's program, which building these tests does not build.
    pub(crate) fn program(&self) -> PathBuf {
        let program = Path::new(env!("CARGO_BIN_EXE_sluice-sidecar")).with_file_name("passt-rs");
        assert!(program.exists(), "{}: run cargo build -p passt-rs first", program.display());
        program
    }

    pub(crate) fn translators(&self) -> Translators {
        Translators::new(self.program())
    }

    /// A NIC that needs nothing of the machine it is on.
    pub(crate) fn wanted(&self, name: &str) -> Wanted {
        let socket = self.path(&format!("{name}.sock"));
        let control = self.path(&format!("{name}.control"));
        let mut arguments: Vec<OsString> = [
            "--foreground",
            "--vhost-user",
            "--address=192.0.2.2/24",
            "--gateway=192.0.2.1",
            "--no-map-gw",
            "--dns=none",
        ]
        .map(OsString::from)
        .to_vec();
        arguments.push(format!("--socket={}", socket.display()).into());
        arguments.push(format!("--control={}", control.display()).into());
        let users = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        if geteuid().is_root() && users.split_whitespace().eq(["0", "0", "4294967295"]) {
            // It would become nobody, and forget that it ends with us.
            arguments.push("--runas=0:0".into());
        }
        Wanted {
            name: name.to_owned(),
            pod_interface: "eth0".to_owned(),
            arguments,
            socket,
            control,
            descriptors_max: None,
        }
    }

    /// A program that does what `script` says.
    pub(crate) fn script(&self, script: &str) -> PathBuf {
        let path = self.path("program");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// Which process serves an interface.
    pub(crate) fn pid(&self, translators: &Translators, name: &str) -> u32 {
        let entries = translators.board().entries();
        let entry = entries.iter().find(|entry| entry.interface == name).unwrap();
        let Phase::Running { pid, .. } = entry.phase else {
            panic!("{name} does not run: {:?}", entry.phase)
        };
        pid
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(&self.folder).unwrap();
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !so() {
        assert!(Instant::now() < deadline, "waited 10 s until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether there is such a process, a zombie too.
pub(crate) fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
