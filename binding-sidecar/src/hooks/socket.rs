//! A hook socket: it appears under its name when somebody is there to answer, and goes with its value. It must never take
//! the name from somebody who answers, nor remove what another put there.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// A socket file that is ours.
#[derive(Debug)]
pub struct HookSocket {
    path: PathBuf,
    /// By what it is told from one that came after it.
    file: FileId,
}

/// Device and inode.
type FileId = (u64, u64);

impl HookSocket {
    /// Listens where nobody looks, in `aside`, a folder of the same file system as `path`.
    ///
    /// # Errors
    /// `AddrInUse`: somebody serves `path`. Otherwise what the kernel says of the folder or of the socket.
    pub async fn listen(aside: &Path, path: &Path) -> io::Result<(UnixListener, Unpublished)> {
        match UnixStream::connect(path).await {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            // So many wait there that no more can.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            Err(_) => {}
        }
        let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut hidden_name = OsString::from(".");
        hidden_name.push(name);
        let hidden = aside.join(hidden_name);
        remove(&hidden)?;
        let listener = UnixListener::bind(&hidden)?;
        Ok((listener, Unpublished { hidden, path: path.to_owned() }))
    }
}

/// A socket that listens and is not to be found yet; dropped, its file goes.
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
        let file = file_id(&self.hidden)?;
        fs::rename(&self.hidden, &self.path)?;
        Ok(HookSocket { path: self.path.clone(), file })
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        // Published, it has another name.
        let _ = remove(&self.hidden);
    }
}

impl Drop for HookSocket {
    fn drop(&mut self) {
        if file_id(&self.path).is_ok_and(|file| file == self.file) {
            let _ = remove(&self.path);
        }
    }
}

fn file_id(path: &Path) -> io::Result<FileId> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Removes a file, which may be gone.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name()).collect()
    }

    #[tokio::test]
    async fn a_socket_is_found_when_published_and_is_gone_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let (_listener, unpublished) = HookSocket::listen(folder.path(), &path).await.unwrap();
        assert!(!path.exists());
        let socket = unpublished.publish().unwrap();
        UnixStream::connect(&path).await.unwrap();
        assert_eq!(files(folder.path()), ["x.sock"]);
        drop(socket);
        assert_eq!(files(folder.path()), [""; 0]);
    }

    #[tokio::test]
    async fn a_socket_that_is_not_published_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(HookSocket::listen(folder.path(), &folder.path().join("x.sock")).await.unwrap());
        assert_eq!(files(folder.path()), [""; 0]);
        let elsewhere = folder.path().join("no-such-folder/x.sock");
        let (_listener, unpublished) = HookSocket::listen(folder.path(), &elsewhere).await.unwrap();
        unpublished.publish().unwrap_err();
        assert_eq!(files(folder.path()), [""; 0]);
    }

    #[tokio::test]
    async fn only_a_dead_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, unpublished) = HookSocket::listen(folder.path(), &path).await.unwrap();
        let _socket = unpublished.publish().unwrap();
        let in_use = HookSocket::listen(folder.path(), &path).await.unwrap_err();
        assert_eq!(in_use.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        HookSocket::listen(folder.path(), &path).await.unwrap();
    }

    #[tokio::test]
    async fn a_successor_keeps_its_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let (listener, unpublished) = HookSocket::listen(folder.path(), &path).await.unwrap();
        let first = unpublished.publish().unwrap();
        drop(listener);
        let (_listener, unpublished) = HookSocket::listen(folder.path(), &path).await.unwrap();
        let _second = unpublished.publish().unwrap();
        drop(first);
        UnixStream::connect(&path).await.unwrap();
    }
}
