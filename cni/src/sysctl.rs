//! Kernel settings below /proc/sys. Those below `net` are of the calling thread's namespace: enter it before. It must
//! never reach a file outside /proc/sys.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};

use crate::protocol::{CniError, Code, with_source};

/// Why a setting could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    #[error("no path of a setting below /proc/sys: {0}")]
    BadPath(String),
    #[error("this kernel has no setting /proc/sys/{0}")]
    NotFound(String),
    #[error("cannot read /proc/sys/{path}")]
    Read { path: String, source: io::Error },
    #[error("cannot write {value} to /proc/sys/{path}")]
    Write { path: String, value: String, source: io::Error },
}

impl From<SysctlError> for CniError {
    fn from(error: SysctlError) -> Self {
        Self::new(Code::Io, with_source(&error))
    }
}

/// The value of `path`, as in `net/ipv4/conf/eth0/proxy_arp`, without the newline.
pub fn read(path: &str) -> Result<String, SysctlError> {
    match fs::read_to_string(file(path)?) {
        Ok(value) => Ok(value.trim_end().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SysctlError::NotFound(path.to_owned())),
        Err(source) => Err(SysctlError::Read { path: path.to_owned(), source }),
    }
}

/// What is in the folder `path`, as in `net/ipv6/conf`: there, the names of the links.
pub fn list(path: &str) -> Result<Vec<String>, SysctlError> {
    let entries: io::Result<_> = fs::read_dir(file(path)?).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    });
    match entries {
        Ok(names) => Ok(names),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SysctlError::NotFound(path.to_owned())),
        Err(source) => Err(SysctlError::Read { path: path.to_owned(), source }),
    }
}

/// Sets `path`, as in `net/ipv4/conf/eth0/proxy_arp`, to `value`.
pub fn write(path: &str, value: &str) -> Result<(), SysctlError> {
    // Never created, never truncated: what is not there is a setting that the kernel lacks.
    let result = OpenOptions::new().write(true).open(file(path)?);
    match result.and_then(|mut file| file.write_all(value.as_bytes())) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SysctlError::NotFound(path.to_owned())),
        Err(source) => Err(SysctlError::Write { path: path.to_owned(), value: value.to_owned(), source }),
    }
}

/// Names of interfaces come from configurations, so a path is checked even where the caller composed it.
fn file(path: &str) -> Result<PathBuf, SysctlError> {
    let plain = Path::new(path).components().all(|component| matches!(component, Component::Normal(_)));
    if path.is_empty() || !plain {
        return Err(SysctlError::BadPath(path.to_owned()));
    }
    Ok(Path::new("/proc/sys").join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_stays_below_proc_sys() {
        for path in ["", "/etc/passwd", "../etc/passwd", "net/../../etc/passwd", "net/ipv4/conf/../../x", "."]
        {
            assert!(matches!(read(path), Err(SysctlError::BadPath(_))), "{path}");
            assert!(matches!(write(path, "1"), Err(SysctlError::BadPath(_))), "{path}");
        }
    }

    #[test]
    fn dot_of_a_name_is_kept() {
        assert_eq!(
            file("net/ipv4/conf/eth0.100/proxy_arp").unwrap(),
            Path::new("/proc/sys/net/ipv4/conf/eth0.100/proxy_arp")
        );
    }

    #[test]
    fn errors_name_path_and_value() {
        assert_eq!(
            write("net/ipv4/conf/nosuchlink/proxy_arp", "1").unwrap_err().to_string(),
            "this kernel has no setting /proc/sys/net/ipv4/conf/nosuchlink/proxy_arp"
        );
        let refused = SysctlError::Write {
            path: "net/ipv4/ip_forward".to_owned(),
            value: "2x".to_owned(),
            source: io::ErrorKind::InvalidInput.into(),
        };
        assert_eq!(refused.to_string(), "cannot write 2x to /proc/sys/net/ipv4/ip_forward");
    }
}
