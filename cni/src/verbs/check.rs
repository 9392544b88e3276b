//! CHECK: whether the attachment still is what ADD made of it. It must never mend anything.

use crate::journal::Store;
use crate::netlink::Netlink;
use crate::protocol::{CniError, Code};
use crate::wiring::{self, Call, View, changed};

pub(super) fn run(call: &Call) -> Result<(), CniError> {
    let wiring = wiring::of(call)?;
    let previous = call
        .config
        .previous()?
        .ok_or_else(|| CniError::new(Code::InvalidConfig, "CHECK needs prevResult, what ADD answered"))?;
    let pod = super::pod(&call.environment)?;
    let store = Store::new(&call.settings.state_directory);
    let journal = store.lock(&call.attachment)?;
    let entry = journal.entry().clone();
    if entry.header.is_none() {
        journal.remove()?;
        return Err(changed(format!(
            "there is no record of this attachment in {}",
            store.directory().display()
        )));
    }
    if !entry.done {
        return Err(changed("ADD did not come to its end"));
    }
    if !entry.made_in(&pod) {
        return Err(changed("CNI_NETNS is another namespace than at ADD"));
    }
    let host = Netlink::open()?;
    let inside = Netlink::within(&pod)?;
    let view = View { host: &host, pod: &pod, inside: &inside, entry: &entry };
    wiring.check(call, &view, &previous)?;
    crate::ipam::check(&call.config, &call.environment)
}
