//! What this process gives up, and how it goes to the background.
//!
//! `main` takes the steps in this order; each leaves the process able to do what the later ones need:
//!
//! | step | when | effect |
//! |---|---|---|
//! | [`start`] | before any thread or file | a child goes on in its own session, the parent waits for its word |
//! | [`prepare`] | first in the child | umask, inherited descriptors closed, descriptor limit raised |
//! | [`assume_identity`] | files and the guest's end are open | root becomes nobody, or `--runas`; only needed capabilities stay |
//! | [`lock_down`] | everything is open | no capabilities, no new privileges, no core dumps or tracing |
//! | [`Readiness::announce`] | ready to serve | pid written, stdio closed, the parent exits with success |
//!
//! Not here yet: a seccomp filter, namespaces of its own and an empty root directory. Until then the process
//! still sees the file system of its container.

mod daemon;
mod descriptors;
mod privileges;

pub use daemon::{PidFile, Readiness, Started, start};
pub use descriptors::{adopt, prepare};
pub use privileges::{Needs, PrivilegeError, assume_identity, identity, lock_down};
