//! Puts this very program into a folder of CNI plugins, and takes it out again. Whoever executes it there meanwhile must
//! never find half a file, nor none.
//!
//! The copy is made in the same folder under a name that no configuration can have as its `type`, so that it is on the
//! same file system and gets the SELinux label that files of that folder get. It is complete, on disk and executable before
//! it takes the old one's place by rename(2). A process that runs the old one keeps it: the kernel frees the file when the
//! last one has ended. Installers take turns by a lock on the folder, which ends with its holder, so what one that was
//! killed has left is found and removed by the next.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// What configurations name as their `type`.
pub const PROGRAM: &str = "sluice";

/// The copy until it is complete.
const UNFINISHED: &str = ".sluice.new";

/// For everybody to execute: runtimes may be other users than who installs.
const MODE: u32 = 0o755;

/// What was found where the program is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    Nothing,
    /// Another build, whose file was replaced.
    Another,
    /// This one, which was left alone.
    This,
}

/// Why the program could not be installed or removed. What was in the folder before is there still.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(
        "{} is no folder that is there: where the host's plugins are has to be mounted there; it is not made, for a \
         runtime would look for plugins elsewhere",
        .0.display()
    )]
    NoFolder(PathBuf),
    #[error("{what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// Installs the program that is running. `folder` is the one in which the runtime looks for plugins, as seen from here.
pub fn install(folder: &Path) -> Result<Before, InstallError> {
    let ourselves = Path::new("/proc/self/exe");
    let mut program = File::open(ourselves).map_err(failed("opening", ourselves))?;
    place(&mut program, folder)
}

/// Removes what [`install`] put there; whether there was anything.
pub fn uninstall(folder: &Path) -> Result<bool, InstallError> {
    let _alone = match alone(folder) {
        Err(InstallError::NoFolder(_)) => return Ok(false),
        other => other?,
    };
    remove(&folder.join(UNFINISHED))?;
    remove(&folder.join(PROGRAM))
}

fn place(program: &mut impl Read, folder: &Path) -> Result<Before, InstallError> {
    let alone = alone(folder)?;
    let mut bytes = Vec::new();
    program.read_to_end(&mut bytes).map_err(failed("reading the program for", folder))?;
    let target = folder.join(PROGRAM);
    let before = before(&target, &bytes)?;
    let unfinished = folder.join(UNFINISHED);
    remove(&unfinished)?;
    if before == Before::This {
        return Ok(before);
    }
    let placed = write(&unfinished, &bytes)
        .and_then(|()| fs::rename(&unfinished, &target).map_err(failed("renaming to", &target)));
    if placed.is_err() {
        // The error that matters is the one before.
        let _ = fs::remove_file(&unfinished);
    }
    placed?;
    // The name too shall survive a power cut.
    alone.sync_all().map_err(failed("syncing", folder))?;
    Ok(before)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), InstallError> {
    use std::io::Write as _;

    // Not executable until it is complete, and never somebody's symbolic link.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("making", path))?;
    file.write_all(bytes).map_err(failed("writing", path))?;
    // After its creation: umask withholds nothing here.
    file.set_permissions(Permissions::from_mode(MODE)).map_err(failed("setting the mode of", path))?;
    file.sync_all().map_err(failed("syncing", path))
    // Closed here, before it can be executed: a file that is open for writing cannot (ETXTBSY).
}

fn before(target: &Path, bytes: &[u8]) -> Result<Before, InstallError> {
    let metadata = match fs::symlink_metadata(target) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Before::Nothing),
        Err(error) => return Err(failed("looking at", target)(error)),
    };
    let alike = metadata.is_file()
        && metadata.permissions().mode() & 0o7777 == MODE
        && u64::try_from(bytes.len()) == Ok(metadata.len());
    if alike && fs::read(target).map_err(failed("reading", target))? == bytes {
        return Ok(Before::This);
    }
    Ok(Before::Another)
}

/// The folder, locked until it is dropped.
fn alone(folder: &Path) -> Result<File, InstallError> {
    if !folder.is_dir() {
        return Err(InstallError::NoFolder(folder.to_owned()));
    }
    let open = File::open(folder).map_err(failed("opening", folder))?;
    flock(&open, FlockOperation::LockExclusive)
        .map_err(|errno| failed("locking", folder)(io::Error::from(errno)))?;
    Ok(open)
}

fn remove(path: &Path) -> Result<bool, InstallError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("removing", path)(error)),
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::process::{Child, Command};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use tempfile::TempDir;

    use super::*;

    /// Ends a program that a test has started.
    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn folder() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    fn names(folder: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn installed_file_is_the_program_and_executable() {
        let folder = folder();
        assert_eq!(place(&mut File::open("/bin/true").unwrap(), folder.path()).unwrap(), Before::Nothing);
        let program = folder.path().join(PROGRAM);
        assert_eq!(fs::metadata(&program).unwrap().mode() & 0o7777, MODE);
        assert_eq!(fs::read(&program).unwrap(), fs::read("/bin/true").unwrap());
        assert_eq!(names(&folder), [PROGRAM]);
    }

    #[test]
    fn running_program_goes_on_while_it_is_replaced() {
        let folder = folder();
        place(&mut File::open("/bin/sleep").unwrap(), folder.path()).unwrap();
        let program = folder.path().join(PROGRAM);
        let mut old = Running(Command::new(&program).arg("600").spawn().unwrap());
        assert_eq!(place(&mut &b"another"[..], folder.path()).unwrap(), Before::Another);
        assert_eq!(fs::read(&program).unwrap(), b"another");
        assert_eq!(old.0.try_wait().unwrap(), None);
    }

    #[test]
    fn whoever_looks_finds_one_build_or_the_other_whole() {
        let builds = [vec![1_u8; 3 << 20], vec![2_u8; 2 << 20]];
        let folder = folder();
        place(&mut &builds[0][..], folder.path()).unwrap();
        let program = folder.path().join(PROGRAM);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut looks = 0;
                while !done.load(Ordering::Relaxed) {
                    let found = fs::read(&program).unwrap();
                    assert!(builds.contains(&found), "{} bytes", found.len());
                    looks += 1;
                }
                looks
            });
            for build in builds.iter().cycle().skip(1).take(20) {
                assert_eq!(place(&mut &build[..], folder.path()).unwrap(), Before::Another);
            }
            done.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
    }

    #[test]
    fn same_build_is_left_alone() {
        let folder = folder();
        place(&mut &b"program"[..], folder.path()).unwrap();
        let inode = || fs::metadata(folder.path().join(PROGRAM)).unwrap().ino();
        let first = inode();
        assert_eq!(place(&mut &b"program"[..], folder.path()).unwrap(), Before::This);
        assert_eq!(inode(), first);
        fs::set_permissions(folder.path().join(PROGRAM), Permissions::from_mode(0o644)).unwrap();
        assert_eq!(place(&mut &b"program"[..], folder.path()).unwrap(), Before::Another);
        assert_eq!(fs::metadata(folder.path().join(PROGRAM)).unwrap().mode() & 0o7777, MODE);
    }

    #[test]
    fn failure_leaves_the_old_one_and_nothing_else() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 > 3 { Err(io::Error::other("broken")) } else { Ok(buffer.len().min(1000)) }
            }
        }
        let folder = folder();
        place(&mut &b"old"[..], folder.path()).unwrap();
        assert!(place(&mut Broken(0), folder.path()).is_err());
        assert_eq!(fs::read(folder.path().join(PROGRAM)).unwrap(), b"old");
        assert_eq!(names(&folder), [PROGRAM]);
    }

    #[test]
    fn place_that_a_folder_has_is_an_error_without_remains() {
        let folder = folder();
        fs::create_dir(folder.path().join(PROGRAM)).unwrap();
        let error = place(&mut &b"program"[..], folder.path()).unwrap_err();
        assert!(error.to_string().starts_with("renaming to "), "{error}");
        assert_eq!(names(&folder), [PROGRAM]);
    }

    #[test]
    fn what_a_killed_installer_left_is_removed() {
        let folder = folder();
        fs::write(folder.path().join(UNFINISHED), "half").unwrap();
        place(&mut &b"program"[..], folder.path()).unwrap();
        assert_eq!(names(&folder), [PROGRAM]);
        fs::write(folder.path().join(UNFINISHED), "half").unwrap();
        assert_eq!(place(&mut &b"program"[..], folder.path()).unwrap(), Before::This);
        assert_eq!(names(&folder), [PROGRAM]);
    }

    #[test]
    fn symbolic_link_is_replaced_and_its_target_is_not() {
        let (folder, elsewhere) = (folder(), folder());
        let target = elsewhere.path().join("file");
        fs::write(&target, "not ours").unwrap();
        symlink(&target, folder.path().join(PROGRAM)).unwrap();
        symlink(&target, folder.path().join(UNFINISHED)).unwrap();
        assert_eq!(place(&mut &b"program"[..], folder.path()).unwrap(), Before::Another);
        assert!(fs::symlink_metadata(folder.path().join(PROGRAM)).unwrap().is_file());
        assert_eq!(fs::read(target).unwrap(), b"not ours");
    }

    #[test]
    fn folder_that_is_missing_is_not_made() {
        let folder = folder();
        let missing = folder.path().join("bin");
        let error = place(&mut &b"program"[..], &missing).unwrap_err();
        assert!(matches!(error, InstallError::NoFolder(_)), "{error}");
        assert!(!missing.exists());
        fs::write(&missing, "a file").unwrap();
        assert!(matches!(install(&missing), Err(InstallError::NoFolder(_))));
    }

    #[test]
    fn uninstalled_leaves_the_others() {
        let folder = folder();
        for name in [PROGRAM, UNFINISHED, "bridge"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        assert!(uninstall(folder.path()).unwrap());
        assert_eq!(names(&folder), ["bridge"]);
        assert!(!uninstall(folder.path()).unwrap());
        assert!(!uninstall(&folder.path().join("missing")).unwrap());
    }
}
