//! The files of one network that say who has which address, interchangeable with the reference plugin `host-local`. It
//! must never read or change them without the lock, nor leave a file that holds half a name.
//!
//! ```text
//! <dataDir>/<network>/10.1.2.3              container, "\r\n", interface (old plugins: container only)
//! <dataDir>/<network>/last_reserved_ip.0    the address that range set 0 gave last
//! <dataDir>/<network>/lock                  locked with flock(2) by who reads or writes
//! <dataDir>/<network>/.reserving            a file that is not complete yet
//! ```
//!
//! The reference creates an address's file and then fills it: whoever dies in between leaves an empty one, which nobody
//! would ever release. Under the lock an empty file is such a leftover. Its address counts as taken while there are
//! others (an administrator may have made it to keep the address), and is given out before the range is called full.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A network's leases, locked for as long as this lives.
#[derive(Debug)]
pub struct Leases {
    folder: PathBuf,
    /// Closing it gives the lock back.
    _lock: File,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub address: IpAddr,
    pub owner: Owner,
    /// The file, which a person may have named in another way of writing the same address.
    file: PathBuf,
}

/// Who has a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    Attachment {
        container: String,
        interface: String,
    },
    /// Written by an old plugin, which knew one interface per container.
    Container(String),
    /// An empty file.
    Nobody,
    /// What cannot be read as a lease. It is left alone.
    Unknown,
}

impl Leases {
    /// Takes the lock, after whoever has it. Makes the folder.
    ///
    /// # Errors
    /// Those of the files, with their paths in the text.
    pub fn lock(data_dir: &Path, network: &str) -> io::Result<Self> {
        let folder = data_dir.join(network);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&folder)
            .map_err(|error| about(&folder, &error))?;
        Self::locked(folder)
    }

    /// As `lock`, but makes nothing: `None` where this network never had leases.
    pub fn lock_existing(data_dir: &Path, network: &str) -> io::Result<Option<Self>> {
        let folder = data_dir.join(network);
        match folder.symlink_metadata() {
            Ok(_) => Self::locked(folder).map(Some),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(about(&folder, &error)),
        }
    }

    fn locked(folder: PathBuf) -> io::Result<Self> {
        let path = folder.join("lock");
        // flock needs no right to write; the mode is the reference's.
        let lock =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o750).open(&path);
        let lock = lock.map_err(|error| about(&path, &error))?;
        rustix::io::retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
            .map_err(|errno| about(&path, &errno.into()))?;
        let leases = Self { folder, _lock: lock };
        // Of who was killed; nobody else is writing now.
        let _ = remove(&leases.draft_path());
        Ok(leases)
    }

    fn draft_path(&self) -> PathBuf {
        self.folder.join(".reserving")
    }

    /// Every file whose name is an address.
    pub fn all(&self) -> io::Result<Vec<Lease>> {
        let entries = self.folder.read_dir().map_err(|error| about(&self.folder, &error))?;
        let mut leases = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| about(&self.folder, &error))?;
            let Some(address) = entry.file_name().to_str().and_then(|name| name.parse::<IpAddr>().ok())
            else {
                continue;
            };
            let file = entry.path();
            // Opening what is no file could wait for ever, as a pipe's end does.
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            let owner = if is_file { owner_in(&file) } else { Owner::Unknown };
            leases.push(Lease { address: address.to_canonical(), owner, file });
        }
        Ok(leases)
    }

    /// The address that this range set gave last. A file that cannot be read costs no more than the order.
    pub fn last(&self, range_set: usize) -> Option<IpAddr> {
        let text = read_start(&self.folder.join(last_name(range_set))).ok()?;
        text.trim().parse::<IpAddr>().ok().map(|address| address.to_canonical())
    }

    /// Writes that `address` belongs to this attachment; `false` where it has an owner already.
    pub fn reserve(
        &self,
        address: IpAddr,
        container: &str,
        interface: &str,
        range_set: usize,
    ) -> io::Result<bool> {
        let path = self.folder.join(address.to_string());
        let draft = self.draft(&format!("{container}\r\n{interface}"))?;
        let linked = match std::fs::hard_link(&draft, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_empty_file(&path) => {
                std::fs::rename(&draft, &path)
            }
            other => other,
        };
        // After a rename it is gone already; one that stays is overwritten by the next.
        let _ = std::fs::remove_file(&draft);
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(about(&path, &error)),
        }
        let last = self.folder.join(last_name(range_set));
        let noted = self
            .draft(&address.to_string())
            .and_then(|draft| std::fs::rename(draft, &last).map_err(|error| about(&last, &error)));
        if let Err(error) = noted {
            // An ADD that fails leaves no lease.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(true)
    }

    /// Whether `reserve` could write.
    pub fn try_writing(&self) -> io::Result<()> {
        remove(&self.draft("?")?)
    }

    /// Gives an address back. One that has been given back is no error.
    pub fn release(&self, lease: &Lease) -> io::Result<()> {
        remove(&lease.file)
    }

    /// Takes back what `reserve` has written.
    pub fn release_address(&self, address: IpAddr) -> io::Result<()> {
        remove(&self.folder.join(address.to_string()))
    }

    /// A complete file under a name that nobody takes for a lease.
    fn draft(&self, text: &str) -> io::Result<PathBuf> {
        let path = self.draft_path();
        // It may be a second name of a lease, left by who was killed: never write into what is there.
        remove(&path)?;
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| about(&path, &error))?;
        Ok(path)
    }
}

impl Lease {
    /// Left by who was killed.
    pub fn is_leftover(&self) -> bool {
        self.owner == Owner::Nobody
    }

    /// Whether it says whose it is.
    pub const fn has_owner(&self) -> bool {
        matches!(self.owner, Owner::Attachment { .. } | Owner::Container(_))
    }
}

impl Owner {
    fn parse(text: &str) -> Self {
        let text = text.trim();
        let mut lines = text.lines().map(str::trim);
        match (lines.next(), lines.next(), lines.next()) {
            (None, ..) => Self::Nobody,
            (Some(container), None, _) => Self::Container(container.to_owned()),
            (Some(container), Some(interface), None) => {
                Self::Attachment { container: container.to_owned(), interface: interface.to_owned() }
            }
            (Some(_), Some(_), Some(_)) => Self::Unknown,
        }
    }

    pub fn is(&self, container: &str, interface: &str) -> bool {
        matches!(self, Self::Attachment { container: theirs, interface: name } if theirs == container && name == interface)
    }

    pub fn is_container(&self, container: &str) -> bool {
        matches!(self, Self::Container(theirs) if theirs == container)
    }
}

fn owner_in(file: &Path) -> Owner {
    // Gone or unreadable: taken by nobody knows whom.
    read_start(file).map_or(Owner::Unknown, |text| Owner::parse(&text))
}

fn is_empty_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) && owner_in(path) == Owner::Nobody
}

/// As much as a lease can hold: a container's name and an interface's are short.
fn read_start(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(4096).read_to_string(&mut text)?;
    Ok(text)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(about(path, &error)),
        _ => Ok(()),
    }
}

fn last_name(range_set: usize) -> String {
    format!("last_reserved_ip.{range_set}")
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
