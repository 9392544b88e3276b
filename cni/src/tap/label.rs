//! Taps with an SELinux label of choice. It must never leave this program's own later children with that label.
//!
//! The kernel labels a tap as it labels the process that makes it, and a policy says which domains may attach to which
//! labels: QEMU's may attach to its own. So the tap has to be made by a process with QEMU's label: this program executes
//! itself, having told the kernel the label that the child is to have (`/proc/thread-self/attr/exec`, as setexeccon(3)
//! does), and the child, in the same network namespace, makes the tap. The reference plugin has `ip` executed that way;
//! as there, the policy must allow the transition, with this program's file as its entry point.
//!
//! `/proc` must be mounted where this program sees it, also in a chroot. Tests show that the label is there when the child
//! is executed and gone afterwards, that the child makes the tap, and that all of this is left out without SELinux. What an
//! enforcing kernel says to it they do not show: none was at hand.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use super::{NewTap, TapError};
use crate::protocol::with_source;

/// Whether the kernel labels anything.
pub fn is_enabled() -> bool {
    Path::new(ENFORCE).exists()
}

/// [`super::create`], by a child with this label.
pub fn create(new: &NewTap, label: &str) -> Result<(), TapError> {
    create_by(Path::new(EXECUTABLE), Path::new(ATTRIBUTE), new, label)
}

/// What the child does, where `arguments` (without the program's name) say that this is one.
pub fn child(mut arguments: impl Iterator<Item = String>) -> Option<ExitCode> {
    if arguments.next()? != COMMAND {
        return None;
    }
    let Some(new) = parse(arguments) else {
        eprintln!("{COMMAND} is for this program's own use");
        return Some(ExitCode::FAILURE);
    };
    Some(match super::create(&new) {
        Ok(()) => ExitCode::SUCCESS,
        Err(TapError::Exists(_)) => ExitCode::from(EXISTS),
        Err(error) => {
            eprintln!("{}", with_source(&error));
            ExitCode::FAILURE
        }
    })
}

fn create_by(executable: &Path, attribute: &Path, new: &NewTap, label: &str) -> Result<(), TapError> {
    let of_label = |source| TapError::Label { label: label.to_owned(), source };
    let told = Told::tell(attribute, label).map_err(of_label)?;
    let output = Command::new(executable)
        .arg(COMMAND)
        .args(arguments(new))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    // Before anything else: an IPAM plugin would be executed with the label, too.
    told.take_back().map_err(of_label)?;
    let failed = |source| TapError::Child { label: label.to_owned(), name: new.name.clone(), source };
    let output = output.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    if output.status.code() == Some(i32::from(EXISTS)) {
        return Err(TapError::Exists(new.name.clone()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(io::Error::other(format!("{} ({})", said.trim(), output.status))))
}

/// The label that this thread's next program will have.
struct Told<'a> {
    attribute: &'a Path,
}

impl<'a> Told<'a> {
    fn tell(attribute: &'a Path, label: &str) -> io::Result<Self> {
        write(attribute, label)?;
        Ok(Self { attribute })
    }

    fn take_back(self) -> io::Result<()> {
        write(self.attribute, NO_LABEL)
    }
}

/// One write, which the kernel takes as a whole.
fn write(attribute: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(attribute)?.write_all(value.as_bytes())
}

fn arguments(new: &NewTap) -> [String; 5] {
    let id = |id: Option<u32>| id.map_or_else(|| NOBODY.to_owned(), |id| id.to_string());
    [new.name.clone(), id(new.owner), id(new.group), new.multi_queue.to_string(), new.vnet_hdr.to_string()]
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<NewTap> {
    let id = |text: String| if text == NOBODY { Some(None) } else { text.parse().ok().map(Some) };
    let new = NewTap {
        name: arguments.next()?,
        owner: id(arguments.next()?)?,
        group: id(arguments.next()?)?,
        multi_queue: arguments.next()?.parse().ok()?,
        vnet_hdr: arguments.next()?.parse().ok()?,
    };
    arguments.next().is_none().then_some(new)
}

/// There while selinuxfs is mounted.
const ENFORCE: &str = "/sys/fs/selinux/enforce";

/// The thread's own, of whichever thread of a process.
const ATTRIBUTE: &str = "/proc/thread-self/attr/exec";
const EXECUTABLE: &str = "/proc/self/exe";

/// Takes a label back (security/selinux/hooks.c, `selinux_setprocattr`); nothing at all might not reach the kernel.
const NO_LABEL: &str = "\n";

/// The first argument of the child. Runtimes give none, so none can ask for it by accident.
const COMMAND: &str = "make-labelled-tap";

/// In the place of a number.
const NOBODY: &str = "-";

/// The child's exit status for a name that is taken; EEXIST.
const EXISTS: u8 = 17;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const LABEL: &str = "system_u:system_r:container_t:s0";

    fn new() -> NewTap {
        NewTap { name: "tap0".to_owned(), owner: Some(107), group: None, multi_queue: true, vnet_hdr: false }
    }

    #[test]
    fn child_is_told_all_of_the_tap() {
        assert_eq!(parse(arguments(&new()).into_iter()), Some(new()));
        for wrong in
            [&["tap0"][..], &["tap0", "-", "x", "true", "true"], &["tap0", "-", "-", "true", "true", "x"]]
        {
            assert_eq!(parse(wrong.iter().map(|text| (*text).to_owned())), None, "{wrong:?}");
        }
    }

    #[test]
    fn call_without_the_command_is_no_childs() {
        for arguments in [&[][..], &["explain"], &["--version"]] {
            assert!(child(arguments.iter().map(|text| (*text).to_owned())).is_none(), "{arguments:?}");
        }
    }

    /// A program of its own, in the place of this one, and a file in that of the kernel's attribute.
    fn with_program(text: &str) -> (tempfile::TempDir, Result<(), TapError>, String) {
        let folder = tempfile::tempdir().unwrap();
        let (program, attribute) = (folder.path().join("program"), folder.path().join("exec"));
        fs::write(&attribute, "").unwrap();
        fs::write(&program, text.replace("ATTRIBUTE", &attribute.to_string_lossy())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let result = loop {
            match create_by(&program, &attribute, &new(), LABEL) {
                // A process that another test has just forked has our file open still.
                Err(TapError::Child { source, .. }) if source.kind() == io::ErrorKind::ExecutableFileBusy => {
                    std::thread::yield_now();
                }
                result => break result,
            }
        };
        let left = fs::read_to_string(&attribute).unwrap();
        (folder, result, left)
    }

    #[test]
    fn label_is_told_before_the_child_and_taken_back_after() {
        let (_folder, result, left) =
            with_program("#!/bin/sh\n/bin/cat ATTRIBUTE >&2\necho \" $*\" >&2\nexit 1\n");
        let TapError::Child { source, .. } = result.unwrap_err() else { panic!("another error") };
        let expected = format!("{LABEL} make-labelled-tap tap0 107 - true false");
        assert!(source.to_string().contains(&expected), "{source}");
        assert!(left.starts_with(NO_LABEL), "{left:?}");
    }

    #[test]
    fn childs_end_is_the_taps() {
        let (_folder, result, _) = with_program("#!/bin/sh\nexit 0\n");
        assert!(result.is_ok(), "{result:?}");
        let (_folder, result, _) = with_program("#!/bin/sh\nexit 17\n");
        assert!(matches!(result, Err(TapError::Exists(_))), "{result:?}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let attribute = folder.path().join("exec");
        let missing = Path::new("/no/such/program");
        let error = create_by(missing, &attribute, &new(), LABEL).unwrap_err();
        assert!(matches!(error, TapError::Label { .. }), "{error:?}");
        fs::write(&attribute, "").unwrap();
        let error = create_by(missing, &attribute, &new(), LABEL).unwrap_err();
        assert!(matches!(error, TapError::Child { .. }), "{error:?}");
        assert!(fs::read_to_string(&attribute).unwrap().starts_with(NO_LABEL));
    }
}
