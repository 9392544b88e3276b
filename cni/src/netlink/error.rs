//! Why the kernel did not do what it was asked, in its own words. It must never lose the errno.

use std::io;

use crate::protocol::{CniError, Code, with_source};

/// Why a request to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// ENODEV, ENOENT or ESRCH: the link, route, rule, filter or entry is not there.
    #[error("cannot {what}: {}", reason(*errno, kernel_says))]
    NotFound { what: String, errno: i32, kernel_says: String },
    /// EEXIST.
    #[error("cannot {what}: {}", reason(*errno, kernel_says))]
    Exists { what: String, errno: i32, kernel_says: String },
    /// Any other errno; `kernel_says` is the extended acknowledgment's message, empty where it gave none.
    #[error("cannot {what}: {}", reason(*errno, kernel_says))]
    Refused { what: String, errno: i32, kernel_says: String },
    /// The socket itself, or the way into the namespace it shall be of.
    #[error("cannot talk to the kernel over netlink")]
    Io(#[source] io::Error),
    #[error("cannot {what}: the kernel's answer is malformed")]
    Malformed { what: String },
    /// Each of many attempts was interrupted by somebody's change.
    #[error("cannot {what}: it does not stop changing")]
    Unsteady { what: String },
}

impl NetlinkError {
    pub(super) fn of(what: String, errno: i32, kernel_says: String) -> Self {
        match errno {
            libc::ENODEV | libc::ENOENT | libc::ESRCH => Self::NotFound { what, errno, kernel_says },
            libc::EEXIST => Self::Exists { what, errno, kernel_says },
            _ => Self::Refused { what, errno, kernel_says },
        }
    }

    /// The kernel's error number, if it is the kernel that refused.
    pub const fn errno(&self) -> Option<i32> {
        match self {
            Self::NotFound { errno, .. } | Self::Exists { errno, .. } | Self::Refused { errno, .. } => {
                Some(*errno)
            }
            Self::Io(_) | Self::Malformed { .. } | Self::Unsteady { .. } => None,
        }
    }

    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    pub const fn is_existing(&self) -> bool {
        matches!(self, Self::Exists { .. })
    }
}

impl From<NetlinkError> for CniError {
    fn from(error: NetlinkError) -> Self {
        Self::new(Code::Internal, with_source(&error))
    }
}

/// For removals, where a thing that is missing is as good as removed: whether it was there.
pub fn missing_ok(result: Result<(), NetlinkError>) -> Result<bool, NetlinkError> {
    match result {
        Ok(()) => Ok(true),
        Err(NetlinkError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// For additions that may have been made before: whether it is new.
pub fn existing_ok(result: Result<(), NetlinkError>) -> Result<bool, NetlinkError> {
    match result {
        Ok(()) => Ok(true),
        Err(NetlinkError::Exists { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn reason(errno: i32, kernel_says: &str) -> String {
    let error = io::Error::from_raw_os_error(errno);
    if kernel_says.is_empty() { error.to_string() } else { format!("{error}: {kernel_says}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_kernels_own_reason() {
        let error =
            NetlinkError::of("create link x".to_owned(), libc::EOPNOTSUPP, "Unknown device type".to_owned());
        assert_eq!(
            error.to_string(),
            "cannot create link x: Operation not supported (os error 95): Unknown device type"
        );
    }
}
