//! `sluice install` and `sluice uninstall` as a DaemonSet's container runs them.
#![expect(clippy::tests_outside_test_module, reason = "the whole file is tests")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn sluice(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-cni"));
    command.args(arguments).arg(folder).stdin(Stdio::null());
    command
}

#[test]
fn installed_program_is_this_one_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let output = sluice(&["install", "--to"], folder.path()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");

    let installed = folder.path().join("sluice");
    let version = Command::new(&installed).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8(version.stdout).unwrap(), format!("sluice {}\n", env!("CARGO_PKG_VERSION")));
    // The installed one can install itself, into its own place too.
    assert!(
        Command::new(&installed).args(["install", "--to"]).arg(folder.path()).status().unwrap().success()
    );
    assert!(sluice(&["uninstall", "--from"], folder.path()).status().unwrap().success());
    assert!(!installed.exists());
}

#[test]
fn missing_folder_is_named_and_not_made() {
    let folder = tempfile::tempdir().unwrap().path().join("bin");
    let output = sluice(&["install", "--wait", "--to"], &folder).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(folder.to_str().unwrap()), "{said}");
    assert!(!folder.exists());
}

#[test]
fn who_waits_ends_with_success_when_told_to() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let folder = tempfile::tempdir().unwrap();
        let mut child =
            sluice(&["install", "--wait", "--to"], folder.path()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(fs::exists(folder.path().join("sluice")).unwrap(), "{line}");
        assert_eq!(child.try_wait().unwrap(), None, "{line}");
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal:?}");
    }
}
