//! A network namespace, held by an open descriptor. It must never leave the thread in another one than it found it in.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FsWord, Mode, OFlags, fstat, fstatfs, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A network namespace that lives at least as long as this.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

/// Why a path is no network namespace to work in.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    #[error("there is no {0}")]
    NotFound(PathBuf),
    #[error("{0} is no network namespace")]
    NotANamespace(PathBuf),
    #[error("cannot open {path}")]
    Io { path: PathBuf, source: io::Error },
}

impl Namespace {
    /// Opens what `CNI_NETNS` names: `/var/run/netns/NAME` or `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> Result<Self, NamespaceError> {
        // Not blocking: whatever else the path may name, a pipe without a writer say, must not hold us up.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match open(path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            // The process of /proc/PID is gone.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::SRCH) => {
                return Err(NamespaceError::NotFound(path.to_owned()));
            }
            Err(Errno::NXIO) => return Err(NamespaceError::NotANamespace(path.to_owned())),
            Err(error) => return Err(NamespaceError::Io { path: path.to_owned(), source: error.into() }),
        };
        match is_network_namespace(&file) {
            Ok(true) => Ok(Self { file }),
            Ok(false) => Err(NamespaceError::NotANamespace(path.to_owned())),
            Err(source) => Err(NamespaceError::Io { path: path.to_owned(), source }),
        }
    }

    /// The one this thread is in.
    pub fn current() -> Result<Self, NamespaceError> {
        Self::open(Path::new(CURRENT))
    }

    /// A new one, which goes with this value. Nothing is in it but the loopback.
    ///
    /// # Errors
    ///
    /// As of [`Self::run`].
    pub fn scratch() -> io::Result<Self> {
        let home = WayHome { home: Some(File::open(CURRENT)?) };
        #[expect(unsafe_code, reason = "unsharing anything at all is unsafe to rustix")]
        // SAFETY: only the network namespace is unshared, which owns no memory and no descriptors of this process.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        let file = File::open(CURRENT);
        home.take()?;
        Ok(Self { file: file? })
    }

    /// Whether both are the same namespace, by whatever paths they were opened (namespaces(7): device and inode).
    pub fn same_as(&self, other: &Self) -> io::Result<bool> {
        let (ours, theirs) = (fstat(&self.file)?, fstat(&other.file)?);
        Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
    }

    /// What no other namespace has. Its inode is given away again once it is gone, so with it comes the cookie that the
    /// kernel numbers namespaces by (`SO_NETNS_COOKIE`, Linux 5.14), or before that the device.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let status = fstat(&self.file)?;
        let cookie = self.run(cookie)?;
        Ok((cookie.unwrap_or(status.st_dev), status.st_ino))
    }

    /// Does `work` inside, on this thread.
    ///
    /// # Errors
    ///
    /// When the thread cannot get in, before `work`, or back out, after it. In the latter case it is still inside, and
    /// its only safe continuation is to end.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let home = File::open(CURRENT)?;
        enter(self.file.as_fd())?;
        let home = WayHome { home: Some(home) };
        let result = work();
        home.take()?;
        Ok(result)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Goes back also when the work panics.
struct WayHome {
    home: Option<File>,
}

impl WayHome {
    fn take(mut self) -> io::Result<()> {
        self.home.take().map_or(Ok(()), |home| enter(home.as_fd()))
    }
}

impl Drop for WayHome {
    fn drop(&mut self) {
        if let Some(home) = self.home.take()
            && let Err(error) = enter(home.as_fd())
        {
            tracing::error!(%error, "cannot go back to the namespace this thread came from");
        }
    }
}

fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?)
}

/// Of the namespace that this thread is in; none where the kernel has none.
fn cookie() -> Option<u64> {
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    let mut cookie: u64 = 0;
    let mut size = libc::socklen_t::try_from(size_of::<u64>()).ok()?;
    #[expect(unsafe_code, reason = "rustix does not have this option")]
    // SAFETY: the kernel writes at most `size` bytes to `cookie`, which has as many, and then their number to `size`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    (result == 0).then_some(cookie)
}

/// Asks the kernel without entering: a namespace of another type must not be mistaken for one of the network.
fn is_network_namespace(file: &File) -> io::Result<bool> {
    if fstatfs(file)?.f_type != NSFS_MAGIC {
        return Ok(false);
    }
    #[expect(unsafe_code, reason = "the type of a namespace is told by an ioctl only")]
    // SAFETY: the descriptor is open; this request takes no argument and returns a number (ioctl_ns(2)).
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(kind == libc::CLONE_NEWNET)
}

/// The thread's own, whichever thread of a process asks.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// include/uapi/linux/magic.h.
const NSFS_MAGIC: FsWord = 0x6e73_6673;

/// include/uapi/linux/nsfs.h: `_IO(0xb7, 0x3)`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
