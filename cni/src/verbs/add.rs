//! ADD: makes the attachment, or leaves everything as it was.

use serde_json::Value;

use super::sweep;
use crate::ipam::Asked;
use crate::journal::{Header, Journal, Store, folder_identity};
use crate::namespace::Namespace;
use crate::netlink::Netlink;
use crate::protocol::CniError;
use crate::undo::Undo;
use crate::wiring::{self, Call, Site};

pub(super) fn run(call: &Call) -> Result<Value, CniError> {
    let wiring = wiring::of(call)?;
    readable(call)?;
    let pod = super::pod(&call.environment)?;
    let store = Store::new(&call.settings.state_directory);
    let host = Netlink::open()?;
    let inside = Netlink::within(&pod)?;
    sweep::run(&store, &host, &call.config, &call.environment);

    let mut journal = store.lock(&call.attachment)?;
    if journal.entry().done && journal.entry().made_in(&pod) {
        return Err(CniError::internal(format!(
            "container {} has {} on network {} already; DEL comes before another ADD",
            call.attachment.container, call.attachment.interface, call.attachment.network
        )));
    }
    // A call that was killed, or one for a namespace that is gone. What cannot be undone must stay written down.
    super::all(undo(call, &host, &store, &mut journal, &pod))?;
    if let Some(left) = journal.left_over() {
        return Err(left);
    }
    let netns = call.environment.netns.clone().unwrap_or_default();
    journal.begin(Header {
        attachment: call.attachment.clone(),
        mode: call.settings.mode.as_str().to_owned(),
        netns_folder: folder_identity(&netns),
        netns,
        netns_identity: pod.identity().map_err(|error| CniError::io("CNI_NETNS", error))?,
        asked: Asked::of(&call.config, &call.environment),
    })?;
    let made = {
        let mut site = Site { host: &host, pod: &pod, inside: &inside, journal: &mut journal, store: &store };
        wiring.add(call, &mut site)
    };
    let result = made
        .and_then(|result| result.render(call.config.version))
        .and_then(|result| journal.done().map(|()| result));
    match result {
        Ok(result) => Ok(result),
        Err(error) => {
            if undo(call, &host, &store, &mut journal, &pod).is_empty() {
                let _ = journal.remove();
            }
            Err(error)
        }
    }
}

/// What comes by other channels than the mode's keys is looked at before anything is made, not where it is needed.
fn readable(call: &Call) -> Result<(), CniError> {
    call.config.mac(&call.environment)?;
    call.config.port_mappings()?;
    call.config.bandwidth()?;
    call.config.dns()?;
    Ok(())
}

/// Undoes what the journal says; why something is left, if it is.
fn undo(call: &Call, host: &Netlink, store: &Store, journal: &mut Journal, pod: &Namespace) -> Vec<CniError> {
    let entry = journal.entry().clone();
    let mut undo = Undo {
        attachment: &call.attachment,
        host,
        pod: entry.made_in(pod).then_some(pod),
        store,
        journal,
        config: &call.config,
        environment: &call.environment,
    };
    undo.steps(&entry.steps)
}
