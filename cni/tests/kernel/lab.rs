//! A network namespace for each test, made by its own thread. It must never touch the machine's.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::Value;
use sluice_cni::namespace::Namespace;
use sluice_cni::netlink::{Change, Link, Netlink};

/// Set for the program started again inside a user namespace, so that it does not do so for ever.
const INSIDE: &str = "SLUICE_KERNEL_TESTS_INSIDE_USER_NAMESPACE";

/// Moves the calling thread into a new namespace and opens a socket there.
pub(crate) fn enter_new_namespace() -> Netlink {
    become_root();
    unshare();
    Netlink::open().unwrap()
}

/// Another new namespace, which the thread does not enter.
pub(crate) fn other_namespace() -> Namespace {
    become_root();
    std::thread::spawn(|| {
        unshare();
        Namespace::current().unwrap()
    })
    .join()
    .unwrap()
}

fn unshare() {
    #[expect(unsafe_code, reason = "a namespace for the test's thread alone")]
    // SAFETY: other threads need this thread's file descriptors; a network namespace has none of them.
    let result = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
    result.expect("a test of the kernel needs the right to make network namespaces");
}

/// Whoever is not root is so inside a user namespace, in which the whole program is started again.
fn become_root() {
    if std::env::var_os(INSIDE).is_some() || rustix::process::geteuid().is_root() {
        return;
    }
    let error = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    panic!("tests of the kernel need root, or `unshare` and user namespaces: {error}");
}

/// Runs a program in the thread's namespace.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `ip`, `tc` or `bridge` says as JSON.
pub(crate) fn json(command: &str) -> Value {
    let text = run(command);
    if text.trim().is_empty() {
        return Value::Array(Vec::new());
    }
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"))
}

/// What `ip -d -j link` says of one link.
pub(crate) fn ip_link(name: &str) -> Value {
    json(&format!("ip -d -j link show dev {name}"))[0].clone()
}

/// A link that must be there.
pub(crate) fn link(netlink: &Netlink, name: &str) -> Link {
    netlink.link(name).unwrap().unwrap_or_else(|| panic!("no link {name}"))
}

/// Sets a link up.
pub(crate) fn up(netlink: &Netlink, name: &str) {
    netlink.change(link(netlink, name).index, &Change { up: Some(true), ..Change::default() }).unwrap();
}
