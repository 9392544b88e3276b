//! What an ADD did outside the reach of the pod's end, written down before it is done; DEL and GC read it and undo.
//!
//! One file per attachment in the state folder, `<id>.jsonl`, one line of JSON each: who it is for, with what its IPAM
//! plugin is asked, every step before it is taken, and that all is done. Lines are only ever appended, so whoever dies, at
//! any point, leaves either a step that was not written and so not taken, or one that is undone whether it was taken or
//! not. A torn last line is a step that was not taken.
//!
//! The file is also the attachment's lock. The state folder is on a tmpfs: after a reboot neither it nor what it names
//! is there. It must never know what a step means; `undo` does.

mod lock;
mod step;

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::{Signal, geteuid, getpid, kill_process};
use serde::{Deserialize, Serialize};

use crate::attachment::Attachment;
use crate::ipam::Asked;
use crate::namespace::Namespace;
use crate::protocol::{CniError, LONGEST_CONFIG_BYTES, MacAddress};

pub use step::Step;

/// Where attachments are written down unless the configuration's `stateDir` says otherwise.
pub const STATE_DIRECTORY: &str = "/run/sluice/cni";

/// Who makes or removes links that several attachments share holds this lock.
pub const SHARED_LINKS: &str = "shared-links";

/// Who changes or lists rules holds this lock: a list that is changed meanwhile has to be read again, and where dozens of
/// pods come and go at once it would never be read to its end.
pub const RULES: &str = "rules";

/// The mode's bits that let the group or everybody write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Longer than any journal: the longest configuration, each character of which may need another that escapes it, and room
/// for `CNI_ARGS` and steps. A file that has grown past it is none of ours.
const LONGEST_BYTES: u64 = 3 * LONGEST_CONFIG_BYTES;

/// In debug builds: at which step, counted from 1, the program kills itself.
const DIE_AT_STEP: &str = "SLUICE_CNI_DIE_AT_STEP";

/// The state folder.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

/// A lock on what several share, held as long as it lives. Its file goes with it; who waits for it finds that.
#[derive(Debug)]
pub struct Alone {
    _file: File,
    path: PathBuf,
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Who an attachment is for and where it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    #[serde(flatten)]
    pub attachment: Attachment,
    pub mode: String,
    /// The pod's namespace as the runtime named it.
    pub netns: PathBuf,
    /// [`Namespace::identity`] of it: another of the same name is another.
    pub netns_identity: (u64, u64),
    /// For [`Step::Lease`]. Here and not there, so that an older version, which knows nothing of it, still reads the step,
    /// and undoes it with the configuration that it is given. Absent from what such a version wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// [`folder_identity`] of `netns`; older versions did not write it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_folder: Option<(u64, u64)>,
}

/// Device and inode of the folder that `path` is in: another mount namespace may have another by this name. None where it
/// cannot be seen.
pub fn folder_identity(path: &Path) -> Option<(u64, u64)> {
    let folder = fs::metadata(path.parent()?).ok()?;
    Some((folder.dev(), folder.ino()))
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Attachment(Header),
    Step(Step),
    /// The last step was not taken, for a reason that is not ours to undo.
    Retracted,
    /// Nothing is left of the step, and nobody need reckon with it any more.
    Undone(Step),
    /// The guest's MAC address and the bridge that it is known on, for those who come to the same one.
    Mac {
        mac: MacAddress,
        bridge: String,
    },
    Done,
}

/// One attachment's file, locked.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    entry: Entry,
    /// Steps of this run, for [`DIE_AT_STEP`].
    taken: u32,
}

/// What a journal says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    pub header: Option<Header>,
    /// In the order they were taken.
    pub steps: Vec<Step>,
    pub mac: Option<(MacAddress, String)>,
    /// ADD came to its end.
    pub done: bool,
    /// The first line, counted from 1, that this version does not understand: there may be more to undo than `steps`.
    pub unknown: Option<usize>,
}

impl Store {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the folder, readable by root alone.
    pub fn prepare(&self) -> Result<(), CniError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|error| CniError::io(format!("making stateDir {}", self.directory.display()), error))?;
        let shown = self.directory.display();
        let there = fs::symlink_metadata(&self.directory)
            .map_err(|error| CniError::io(format!("looking at stateDir {shown}"), error))?;
        // What is written in it is done as root.
        let is_ours = there.uid() == geteuid().as_raw() && there.mode() & WRITABLE_BY_OTHERS == 0;
        if there.is_dir() && is_ours {
            return Ok(());
        }
        let why = "must be a folder of this user's that no other may write to";
        Err(CniError::config("stateDir", shown, why))
    }

    /// The journal of `attachment`, locked; made if it is not there.
    pub fn lock(&self, attachment: &Attachment) -> Result<Journal, CniError> {
        self.prepare()?;
        let path = self.path(attachment);
        let file = lock::exclusively(&path)?;
        Journal::read(file, path)
    }

    /// The same, unless another call has it at work.
    pub fn lock_at_once(&self, attachment: &Attachment) -> Result<Option<Journal>, CniError> {
        self.lock_id_at_once(&attachment.id())
    }

    /// The same for the attachment with this id, if nothing else is known of it.
    pub fn lock_id_at_once(&self, id: &str) -> Result<Option<Journal>, CniError> {
        self.prepare()?;
        let path = self.path_of(id);
        lock::at_once(&path).map(|file| Journal::read(file, path)).transpose()
    }

    /// Serialises what several attachments share, such as a bridge that comes with the first and goes with the last.
    pub fn lock_shared(&self, name: &str) -> Result<Alone, CniError> {
        self.prepare()?;
        let path = self.directory.join(format!("{name}.lock"));
        Ok(Alone { _file: lock::exclusively(&path)?, path })
    }

    /// Removes the files that nothing was written to, of calls that were killed before they did anything. One that is
    /// locked is in use.
    pub fn remove_empty(&self) {
        for file in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let is_empty = || file.metadata().is_ok_and(|data| data.is_file() && data.len() == 0);
            if is_journal(&file.path())
                && is_empty()
                && let Some(_lock) = lock::at_once(&file.path())
                && is_empty()
            {
                let _ = fs::remove_file(file.path());
            }
        }
    }

    /// Whether an attachment other than this one took the same step, of those whose trace several share.
    pub fn is_shared(&self, step: &Step, ours: &Attachment) -> Result<bool, CniError> {
        let is_another =
            |entry: &Entry| entry.header.as_ref().is_some_and(|header| header.attachment != *ours);
        Ok(self.entries()?.iter().any(|entry| is_another(entry) && entry.steps.contains(step)))
    }

    /// `attachment` or, if nothing is written down of it, what the runtime calls the same: its mode was another at ADD.
    pub fn recorded(&self, attachment: Attachment) -> Attachment {
        if self.path(&attachment).exists() {
            return attachment;
        }
        let headers = self.entries().unwrap_or_default().into_iter().filter_map(|entry| entry.header);
        let mut all = headers.map(|header| header.attachment);
        all.find(|other| other.is_alike(&attachment)).unwrap_or(attachment)
    }

    /// What is written down of every attachment, without locks: a look, not a promise.
    pub fn entries(&self) -> Result<Vec<Entry>, CniError> {
        let listing = match fs::read_dir(&self.directory) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(CniError::io(format!("listing stateDir {}", self.directory.display()), error));
            }
        };
        let mut entries = Vec::new();
        for file in listing.flatten() {
            if is_journal(&file.path())
                && let Ok(text) = read_bounded(&file.path())
            {
                entries.push(Entry::parse(&text));
            }
        }
        Ok(entries)
    }

    fn path(&self, attachment: &Attachment) -> PathBuf {
        self.path_of(&attachment.id())
    }

    fn path_of(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.jsonl"))
    }
}

impl Journal {
    fn read(mut file: File, path: PathBuf) -> Result<Self, CniError> {
        let failed = |error| CniError::io(format!("reading {}", path.display()), error);
        let text = text(&mut file).map_err(failed)?;
        // Lines that follow must not continue a torn one.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        file.seek(SeekFrom::Start(whole as u64)).map_err(failed)?;
        file.set_len(whole as u64).map_err(failed)?;
        Ok(Self { entry: Entry::parse(&text), file, path, taken: 0 })
    }

    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Begins anew, for this attachment; what was written before is gone.
    pub fn begin(&mut self, header: Header) -> Result<(), CniError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(|error| self.failed(&error))?;
        self.entry = Entry::default();
        self.append(&Line::Attachment(header.clone()))?;
        self.entry.header = Some(header);
        Ok(())
    }

    /// Must be called before the step is taken.
    pub fn will(&mut self, step: Step) -> Result<(), CniError> {
        self.append(&Line::Step(step.clone()))?;
        self.entry.steps.push(step);
        self.die_if_asked();
        Ok(())
    }

    /// The last step turned out to concern what others own, and was not taken.
    pub fn retract(&mut self) -> Result<(), CniError> {
        self.append(&Line::Retracted)?;
        self.entry.steps.pop();
        Ok(())
    }

    /// The step was undone: other attachments no longer find it in [`Store::entries`]. Where it cannot be written down
    /// the removal goes on: what is removed last is the file.
    pub fn undone(&mut self, step: &Step) {
        let Some(place) = self.entry.steps.iter().rposition(|other| other == step) else { return };
        self.entry.steps.remove(place);
        if let Err(error) = self.append(&Line::Undone(step.clone())) {
            tracing::warn!(%error, ?step, "undone, and not written down as such");
        }
    }

    /// Why the file must stay when all its steps are undone: a newer version wrote what this one does not understand.
    pub fn left_over(&self) -> Option<CniError> {
        let line = self.entry.unknown?;
        let msg = format!("line {line} of {} is not understood", self.path.display());
        Some(CniError::internal(msg).with_details("a newer version wrote it, and has to undo it"))
    }

    pub fn mac(&mut self, mac: MacAddress, bridge: &str) -> Result<(), CniError> {
        self.append(&Line::Mac { mac, bridge: bridge.to_owned() })?;
        self.entry.mac = Some((mac, bridge.to_owned()));
        Ok(())
    }

    pub fn done(&mut self) -> Result<(), CniError> {
        self.die_if_asked();
        self.append(&Line::Done)?;
        self.entry.done = true;
        Ok(())
    }

    /// Nothing of the attachment is left: nor is its journal.
    ///
    /// Fails where it says more than was understood.
    pub fn remove(self) -> Result<(), CniError> {
        if let Some(left) = self.left_over() {
            return Err(left);
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(&error)),
            _ => Ok(()),
        }
    }

    /// Death at a chosen step, so that tests can show that DEL puts right whatever an ADD left behind.
    fn die_if_asked(&mut self) {
        self.taken += 1;
        let wanted = || std::env::var(DIE_AT_STEP).ok().and_then(|text| text.parse::<u32>().ok());
        if cfg!(debug_assertions) && wanted() == Some(self.taken) {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }

    fn append(&mut self, line: &Line) -> Result<(), CniError> {
        let mut bytes = serde_json::to_vec(line).map_err(|error| CniError::io("a journal's line", error))?;
        bytes.push(b'\n');
        let end = self.file.stream_position().map_err(|error| self.failed(&error))?;
        self.file.write_all(&bytes).map_err(|error| {
            // Where the disk is full a part of it may be there: the next line must not begin in its midst.
            let _ = self.file.set_len(end).and_then(|()| self.file.seek(SeekFrom::Start(end)));
            self.failed(&error)
        })
    }

    fn failed(&self, error: &io::Error) -> CniError {
        CniError::io(format!("writing {}", self.path.display()), error)
    }
}

impl Entry {
    /// Whether the steps were taken for this namespace, not for another of the same path.
    pub fn made_in(&self, pod: &Namespace) -> bool {
        self.header
            .as_ref()
            .is_some_and(|header| pod.identity().is_ok_and(|identity| header.netns_identity == identity))
    }

    /// What the IPAM plugin was asked with; `None` if ADD did not come so far, or an older version wrote this.
    pub fn asked(&self) -> Option<&Asked> {
        self.header.as_ref().filter(|_| self.steps.contains(&Step::Lease))?.asked.as_ref()
    }

    /// Reads up to the first line that is not whole.
    fn parse(text: &[u8]) -> Self {
        let mut entry = Self::default();
        let mut unknown_before = false;
        let lines = text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
        for (number, line) in (1..).zip(lines) {
            let line = serde_json::from_slice(line);
            let unknown = line.is_err();
            match line {
                Ok(Line::Attachment(header)) => entry.header = Some(header),
                Ok(Line::Step(step)) => entry.steps.push(step),
                // Of a step that is not known, the one known before it stays.
                Ok(Line::Retracted) if unknown_before => {}
                Ok(Line::Retracted) => drop(entry.steps.pop()),
                Ok(Line::Undone(step)) => {
                    if let Some(place) = entry.steps.iter().rposition(|other| *other == step) {
                        entry.steps.remove(place);
                    }
                }
                Ok(Line::Mac { mac, bridge }) => entry.mac = Some((mac, bridge)),
                Ok(Line::Done) => entry.done = true,
                Err(error) => {
                    // A newer version may have steps that this one does not know; what it knows it can still undo.
                    tracing::warn!(%error, number, "a journal has a line that is not understood");
                    entry.unknown.get_or_insert(number);
                }
            }
            unknown_before = unknown;
        }
        entry
    }
}

fn is_journal(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jsonl")
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    text(&mut regular(fs::OpenOptions::new().read(true), path)?)
}

fn text(file: &mut File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(LONGEST_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

/// Opens for appending at the end of what was read, by root alone.
fn open(path: &Path) -> io::Result<File> {
    regular(fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600), path)
}

/// A file of the folder itself, not one that a link in it leads to, nor a pipe that would hold us up.
fn regular(options: &mut fs::OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Config, Environment};

    fn attachment(interface: &str, beside: Option<&str>) -> Attachment {
        Attachment {
            network: "net".to_owned(),
            container: "c1".to_owned(),
            interface: interface.to_owned(),
            beside: beside.map(str::to_owned),
        }
    }

    fn header(attachment: Attachment, asked: Option<Asked>) -> Header {
        Header {
            attachment,
            mode: String::new(),
            netns: PathBuf::new(),
            netns_identity: (0, 0),
            netns_folder: None,
            asked,
        }
    }

    fn write_down(store: &Store, attachment: Attachment) {
        let mut journal = store.lock(&attachment).unwrap();
        journal.begin(header(attachment, None)).unwrap();
    }

    #[test]
    fn each_part_of_a_list_has_its_own_record() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        for beside in [None, Some("tap")] {
            write_down(&store, attachment("eth0", beside));
        }
        for beside in [None, Some("tap")] {
            assert_eq!(store.recorded(attachment("eth0", beside)), attachment("eth0", beside));
        }
    }

    #[test]
    fn record_of_another_mode_is_found_when_there_is_none_of_this() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        write_down(&store, attachment("eth0", Some("tap")));
        assert_eq!(store.recorded(attachment("eth0", None)), attachment("eth0", Some("tap")));
        assert_eq!(store.recorded(attachment("eth1", None)), attachment("eth1", None));
    }

    fn shared() -> Step {
        Step::SharedLink { name: "br".to_owned() }
    }

    #[test]
    fn step_that_was_undone_is_not_counted_by_others() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        for interface in ["eth0", "eth1"] {
            write_down(&store, attachment(interface, None));
            store.lock(&attachment(interface, None)).unwrap().will(shared()).unwrap();
        }
        let mut first = store.lock(&attachment("eth0", None)).unwrap();
        let mut second = store.lock(&attachment("eth1", None)).unwrap();
        assert!(
            store.is_shared(&Step::SharedLink { name: "br".to_owned() }, &attachment("eth0", None)).unwrap()
        );
        first.undone(&shared());
        assert!(
            !store.is_shared(&Step::SharedLink { name: "br".to_owned() }, &attachment("eth1", None)).unwrap()
        );
        second.undone(&shared());
        assert_eq!(second.entry().steps, []);
    }

    #[test]
    fn lines_say_what_is_left_to_undo() {
        let rows: [(&str, &str, Vec<Step>, Option<usize>); 6] = [
            ("torn", "{\"step\":\"rules\"}\n{\"step\":\"lea", vec![Step::Rules], None),
            (
                "retracted",
                "{\"step\":\"rules\"}\n{\"step\":\"lease\"}\n\"retracted\"\n",
                vec![Step::Rules],
                None,
            ),
            (
                "undone",
                "{\"step\":\"rules\"}\n{\"step\":\"lease\"}\n{\"undone\":\"rules\"}\n",
                vec![Step::Lease],
                None,
            ),
            (
                "twice",
                "{\"step\":\"rules\"}\n{\"step\":\"rules\"}\n{\"undone\":\"rules\"}\n",
                vec![Step::Rules],
                None,
            ),
            (
                "newer",
                "{\"step\":\"rules\"}\n{\"step\":{\"portal\":{}}}\n\"done\"\n",
                vec![Step::Rules],
                Some(2),
            ),
            (
                "newer, retracted",
                "{\"step\":\"rules\"}\n{\"step\":{\"portal\":{}}}\n\"retracted\"\n",
                vec![Step::Rules],
                Some(2),
            ),
        ];
        for (name, text, steps, unknown) in rows {
            let entry = Entry::parse(text.as_bytes());
            assert_eq!((entry.steps, entry.unknown), (steps, unknown), "{name}");
        }
        assert_eq!(Entry::parse(b"\xff\n").unknown, Some(1));
    }

    #[test]
    fn journal_that_is_not_understood_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let path = store.path(&attachment("eth0", None));
        fs::write(&path, "{\"step\":{\"portal\":{}}}\n").unwrap();
        let error = store.lock(&attachment("eth0", None)).unwrap().remove().unwrap_err();
        assert_eq!(error.msg, format!("line 1 of {} is not understood", path.display()));
        assert!(path.exists());
    }

    #[test]
    fn torn_line_is_not_continued() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        fs::write(store.path(&attachment("eth0", None)), "{\"step\":\"rules\"}\n{\"st").unwrap();
        store.lock(&attachment("eth0", None)).unwrap().will(Step::Lease).unwrap();
        let journal = store.lock(&attachment("eth0", None)).unwrap();
        assert_eq!(
            (journal.entry().steps.as_slice(), journal.entry().unknown),
            ([Step::Rules, Step::Lease].as_slice(), None)
        );
    }

    fn asked(config: &str) -> Asked {
        let variable = |name: &str| match name {
            "CNI_COMMAND" => Some("ADD".to_owned()),
            "CNI_ARGS" => None,
            _ => Some("x".to_owned()),
        };
        let environment = Environment::read(variable).unwrap();
        Asked::of(&Config::parse(config.as_bytes()).unwrap(), &environment).unwrap()
    }

    /// Every character of it needs one more that escapes it.
    #[test]
    fn longest_configuration_is_kept_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let keys = r#"{"name":"n","ipam":{"type":"other"},"x":""#;
        let room = usize::try_from(LONGEST_CONFIG_BYTES).unwrap() - keys.len() - r#""}"#.len();
        let longest = asked(&format!(r#"{keys}{}"}}"#, r#"\""#.repeat(room / 2)));
        let who = attachment("eth0", None);
        let mut journal = store.lock(&who).unwrap();
        journal.begin(header(who.clone(), Some(longest.clone()))).unwrap();
        journal.will(Step::Lease).unwrap();
        drop(journal);
        let journal = store.lock(&who).unwrap();
        assert!(journal.entry().asked() == Some(&longest));
        journal.remove().unwrap();
    }

    #[test]
    fn what_was_asked_with_counts_from_the_step_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let who = attachment("eth0", None);
        let mut journal = store.lock(&who).unwrap();
        let asked = asked(r#"{"name":"n","ipam":{"type":"other"}}"#);
        journal.begin(header(who, Some(asked.clone()))).unwrap();
        assert_eq!(journal.entry().asked(), None);
        journal.will(Step::Lease).unwrap();
        assert_eq!(journal.entry().asked(), Some(&asked));
    }

    /// As the version before wrote it, to the byte.
    #[test]
    fn journal_that_does_not_say_what_was_asked_with_is_read() {
        let text = concat!(
            r#"{"attachment":{"network":"net","container":"c1","interface":"net1","mode":"bridge","#,
            r#""netns":"/run/netns/p","netns_identity":[4,4026532000]}}"#,
            "\n{\"step\":{\"host-link\":{\"name\":\"veth0\"}}}\n{\"step\":\"lease\"}\n\"done\"\n",
        );
        let entry = Entry::parse(text.as_bytes());
        assert_eq!((entry.unknown, entry.done, entry.asked()), (None, true, None));
        assert_eq!(entry.steps, [Step::HostLink { name: "veth0".to_owned() }, Step::Lease]);
        assert_eq!(entry.header.unwrap().attachment, attachment("net1", None));
    }
}
