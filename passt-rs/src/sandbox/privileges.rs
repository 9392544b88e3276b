//! Whose rights this process has: fewer than it was started with, in two steps.
//!
//! Root in the first user namespace is never needed to translate packets, so it becomes nobody. Root inside another
//! user namespace is an ordinary user outside it and stays, as does everybody else.

use std::fs;
use std::io;

use rustix::process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_gid, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::config::{Config, RunAs};

/// Why rights could not be given up; going on with them is no option.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("--runas needs root: only root can become another user")]
    NotRoot,
    #[error("cannot become user {uid}, group {gid}")]
    Identity { uid: u32, gid: u32, source: io::Error },
    #[error("cannot give up capabilities")]
    Capabilities(#[source] io::Error),
    #[error("cannot shut off privileges")]
    LockDown(#[source] io::Error),
}

/// What the process must still be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Bind ports below 1024, also while serving: a UDP source port of the guest is kept.
    pub low_ports: bool,
}

impl Needs {
    pub fn of(config: &Config) -> Self {
        let low = |port: u16| port < 1024;
        let forwards_low =
            || config.tcp_forward.iter().any(|rule| rule.ports.iter().any(|(host, _)| low(host)));
        Self { low_ports: config.protocols.udp || forwards_low() }
    }

    fn serving(self) -> CapabilitySet {
        if self.low_ports { CapabilitySet::NET_BIND_SERVICE } else { CapabilitySet::empty() }
    }
}

/// The user to become; `None` stays who we are.
pub fn identity(run_as: Option<RunAs>) -> Result<Option<RunAs>, PrivilegeError> {
    let is_root = rustix::process::geteuid().is_root();
    match run_as {
        Some(_) if !is_root => Err(PrivilegeError::NotRoot),
        Some(target) => Ok(Some(target)),
        None => Ok((is_root && is_first_user_namespace()).then_some(NOBODY)),
    }
}

/// Becomes `identity`, keeping the capabilities that binding ports needs.
pub fn assume_identity(identity: Option<RunAs>, needs: Needs) -> Result<(), PrivilegeError> {
    let Some(target) = identity else { return keep_only(needs.serving()) };
    let failed = |error: rustix::io::Errno| PrivilegeError::Identity {
        uid: target.uid,
        gid: target.gid,
        source: error.into(),
    };
    let (uid, gid) = (Uid::from_raw(target.uid), Gid::from_raw(target.gid));
    set_keep_capabilities(true).map_err(failed)?;
    set_thread_groups(&[]).map_err(failed)?;
    set_thread_gid(gid).map_err(failed)?;
    set_thread_res_gid(gid, gid, gid).map_err(failed)?;
    set_thread_res_uid(uid, uid, uid).map_err(failed)?;
    set_keep_capabilities(false).map_err(failed)?;
    keep_only(needs.serving())
}

/// Last step before serving: no way back to any right.
pub fn lock_down(needs: Needs) -> Result<(), PrivilegeError> {
    keep_only(needs.serving())?;
    let failed = |error: rustix::io::Errno| PrivilegeError::LockDown(error.into());
    set_no_new_privs(true).map_err(failed)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)
}

fn keep_only(wanted: CapabilitySet) -> Result<(), PrivilegeError> {
    let failed = |error: rustix::io::Errno| PrivilegeError::Capabilities(error.into());
    let kept = capabilities(None).map_err(failed)?.permitted & wanted;
    clear_ambient_capability_set().map_err(failed)?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(failed)
}

/// Whether user ids mean what they mean to the machine: one line that maps all of them to themselves.
fn is_first_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The user that owns nothing.
const NOBODY: RunAs = RunAs { uid: 65534, gid: 65534 };

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Credentials belong to a thread; each case gets one of its own.
    fn on_a_thread(work: impl FnOnce() + Send) {
        thread::scope(|scope| {
            scope.spawn(work);
        });
    }

    fn held() -> CapabilitySet {
        capabilities(None).unwrap().permitted
    }

    #[test]
    fn root_becomes_nobody_and_keeps_low_ports_only() {
        on_a_thread(|| {
            let needs = Needs { low_ports: true };
            assume_identity(identity(None).unwrap(), needs).unwrap();
            assert_eq!(
                (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
                (65534, 65534)
            );
            assert_eq!(held(), CapabilitySet::NET_BIND_SERVICE);
        });
    }

    #[test]
    fn needs_of_nothing_leave_nothing() {
        on_a_thread(|| {
            assume_identity(Some(RunAs { uid: 0, gid: 0 }), Needs { low_ports: false }).unwrap();
            assert!(rustix::process::getuid().is_root());
            assert_eq!(held(), CapabilitySet::empty());
        });
    }

    #[test]
    fn becoming_somebody_takes_root() {
        on_a_thread(|| {
            let needs = Needs { low_ports: false };
            assume_identity(Some(RunAs { uid: 107, gid: 107 }), needs).unwrap();
            let root = Some(RunAs { uid: 0, gid: 0 });
            assert!(matches!(identity(root), Err(PrivilegeError::NotRoot)));
            assume_identity(identity(None).unwrap(), needs).unwrap();
            assert_eq!(rustix::process::getuid().as_raw(), 107);
        });
    }
}
