//! Removes what is left of attachments whose pod is gone. Multus never asks plugins of a NetworkAttachmentDefinition to
//! collect garbage, so each ADD looks. It must never take a pod for gone that may be there.

use std::fs;
use std::io;
use std::path::Path;

use crate::attachment::Attachment;
use crate::journal::{Entry, Header, Step, Store, folder_identity};
use crate::namespace::Namespace;
use crate::netlink::Netlink;
use crate::protocol::{Arguments, CniError, Config, Environment};
use crate::undo::Undo;

/// Sweeps this network's attachments. What fails is logged and left to the next.
pub(super) fn run(store: &Store, host: &Netlink, config: &Config, environment: &Environment) {
    for entry in store.entries().unwrap_or_default() {
        let Some(header) = entry.header.as_ref().filter(|header| header.attachment.network == config.name)
        else {
            continue;
        };
        if !is_stale(host, &entry) {
            continue;
        }
        tracing::info!(container = header.attachment.container, "sweeping what a pod that is gone has left");
        let failures =
            remove(store, host, config, environment, &header.attachment, |entry| is_stale(host, entry));
        for error in failures.unwrap_or_default() {
            tracing::warn!(%error, "sweeping");
        }
    }
}

fn is_stale(host: &Netlink, entry: &Entry) -> bool {
    // The kernel takes a veth away with the pod: where it is, so is the pod, under whatever path. A link of an ADD that
    // was killed may never have reached its pod.
    let is_there = |name: &str| host.link(name).ok().flatten().is_some();
    let is_alive = |step: &Step| matches!(step, Step::HostLink { name } if is_there(name));
    entry.header.as_ref().is_some_and(is_gone) && !(entry.done && entry.steps.iter().any(is_alive))
}

/// Runtimes bind namespaces to files in one folder, each under a new name, and remove the file when the pod is gone. A name
/// is in a folder or is not, whatever is mounted where: if this is the very folder that ADD saw, and the name is no longer
/// in it or is another namespace's, the runtime took it away. All else says nothing: a file that is no namespace may be one
/// in the mounts that the runtime sees, and so may what a symbolic link or `/proc/PID/ns/net` leads to.
fn is_gone(header: &Header) -> bool {
    let path: &Path = &header.netns;
    if path.starts_with("/proc") || header.netns_folder.is_none_or(|seen| folder_identity(path) != Some(seen))
    {
        return false;
    }
    match fs::symlink_metadata(path) {
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(named) if named.is_symlink() => false,
        Ok(_) => Namespace::open(path)
            .is_ok_and(|pod| pod.identity().is_ok_and(|identity| identity != header.netns_identity)),
    }
}

/// Undoes all of one attachment of this network, if what is written down of it still is `unwanted`: before it was locked,
/// another call may have made it anew. What failed; `None` where another call is at work on it: then it is no garbage, and
/// need not be waited for.
pub(super) fn remove(
    store: &Store,
    host: &Netlink,
    config: &Config,
    environment: &Environment,
    attachment: &Attachment,
    unwanted: impl Fn(&Entry) -> bool,
) -> Option<Vec<CniError>> {
    let mut journal = match store.lock_at_once(attachment) {
        Ok(journal) => journal?,
        Err(error) => return Some(vec![error]),
    };
    let entry = journal.entry().clone();
    if entry.header.is_some() && !unwanted(&entry) {
        return Some(Vec::new());
    }
    let pod = entry.header.as_ref().and_then(|header| Namespace::open(&header.netns).ok());
    let pod = pod.filter(|pod| entry.made_in(pod));
    let environment = Environment {
        container_id: attachment.container.clone(),
        interface: attachment.interface.clone(),
        netns: None,
        arguments: Arguments::default(),
        of_another: true,
        ..environment.clone()
    };
    let config = &config.of_another();
    let mut undo = Undo {
        attachment,
        host,
        pod: pod.as_ref(),
        store,
        journal: &mut journal,
        config,
        environment: &environment,
    };
    let mut failures = undo.steps(&entry.steps);
    if failures.is_empty() {
        failures.extend(journal.remove().err());
    }
    Some(failures)
}
