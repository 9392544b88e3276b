//! A hook socket: it appears under its name when somebody is there to answer, and goes with its value.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// A socket file that is ours.
#[derive(Debug)]
pub struct HookSocket {
    path: PathBuf,
}

impl HookSocket {
    /// Listens where nobody looks, in `aside`, a folder of the same file system as `path`.
    ///
    /// # Errors
    /// What the kernel says of the folder or of the socket.
    pub fn listen(aside: &Path, path: &Path) -> io::Result<(UnixListener, Unpublished)> {
        let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut hidden_name = OsString::from(".");
        hidden_name.push(name);
        let hidden = aside.join(hidden_name);
        remove(&hidden)?;
        let listener = UnixListener::bind(&hidden)?;
        Ok((listener, Unpublished { hidden, path: path.to_owned() }))
    }
}

/// A socket that listens and is not to be found yet.
#[derive(Debug)]
pub struct Unpublished {
    hidden: PathBuf,
    path: PathBuf,
}

impl Unpublished {
    /// Puts it where it is looked for, in place of one that a sidecar before us left there.
    ///
    /// # Errors
    /// What the kernel says of renaming it.
    pub fn publish(self) -> io::Result<HookSocket> {
        fs::rename(&self.hidden, &self.path)?;
        Ok(HookSocket { path: self.path })
    }
}

impl Drop for HookSocket {
    fn drop(&mut self) {
        let _ = remove(&self.path);
    }
}

/// Removes a file, which may be gone.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
