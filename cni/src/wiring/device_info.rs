//! What `runtimeConfig.CNIDeviceInfoFile` asks for: a file that says which device an attachment has, in the words of the
//! Network Plumbing Working Group's device information specification. It must never describe a device that is not there.
//!
//! That specification knows devices of PCI, vDPA, vhost-user and memif. A tap, a veth or a macvlan is none of these, so all
//! modes but one have nothing to write; they pass over the key, and what a device plugin has put into the file stays.
//! Mode `passt` with the key `socketPath` has the vhost-user socket of its translator. The `mode` written is the VM's: it
//! connects (`client`), the translator listens.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::settings::Mode;
use super::site::{Call, Site, changed};
use crate::journal::Step;
use crate::protocol::CniError;

const VERSION: &str = "1.1.0";

/// For a mode that has no such device.
pub(super) fn pass_over(call: &Call) {
    if call.settings.mode != Mode::Passt
        && let Ok(Some(path)) = call.config.device_info_file()
    {
        tracing::debug!(path = %path.display(), "CNIDeviceInfoFile: this mode has no device that it could describe");
    }
}

/// Writes the file, if the runtime asked for one: all of it or nothing.
pub(super) fn write(call: &Call, site: &mut Site<'_>, socket: &Path) -> Result<(), CniError> {
    let Some(path) = call.config.device_info_file()? else { return Ok(()) };
    let failed = |error| CniError::io(format!("CNIDeviceInfoFile {}", path.display()), error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let unfinished = unfinished(&path, &call.attachment.id());
    for path in [&unfinished, &path] {
        site.journal.will(Step::File { path: path.clone() })?;
    }
    fs::write(&unfinished, contents(socket).to_string())
        .and_then(|()| fs::rename(&unfinished, &path))
        .map_err(failed)
}

/// CHECK of [`write`].
pub(super) fn check(call: &Call, socket: &Path) -> Result<(), CniError> {
    let Some(path) = call.config.device_info_file()? else { return Ok(()) };
    let text =
        fs::read(&path).map_err(|error| changed(format!("CNIDeviceInfoFile {}: {error}", path.display())))?;
    if serde_json::from_slice::<Value>(&text).ok() == Some(contents(socket)) {
        return Ok(());
    }
    Err(changed(format!("CNIDeviceInfoFile {} is not what ADD wrote", path.display())))
}

fn contents(socket: &Path) -> Value {
    json!({ "type": "vhost-user", "version": VERSION, "vhost-user": { "mode": "client", "path": socket } })
}

/// Beside the file, so that it can take its place.
fn unfinished(path: &Path, id: &str) -> PathBuf {
    path.with_file_name(format!(".sluice-{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_as_specified() {
        assert_eq!(
            contents(Path::new("/run/vm.sock")).to_string(),
            r#"{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"client","path":"/run/vm.sock"}}"#
        );
    }

    #[test]
    fn unfinished_file_is_beside_the_other() {
        assert_eq!(unfinished(Path::new("/run/info/a.json"), "0123"), Path::new("/run/info/.sluice-0123"));
    }
}
