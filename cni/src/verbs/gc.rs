//! GC: removes what attachments of this network left that the runtime no longer knows. It must never touch another
//! network's, nor one that the runtime named.

use std::collections::HashSet;

use super::sweep;
use crate::ipam;
use crate::journal::Store;
use crate::netlink::Netlink;
use crate::protocol::{CniError, Config, Environment};
use crate::wiring::Settings;

pub(super) fn run(environment: &Environment, config: &Config) -> Result<(), CniError> {
    let valid = config.valid_attachments()?;
    let known: HashSet<(&str, &str)> =
        valid.iter().map(|(container, interface)| (container.as_str(), interface.as_str())).collect();
    let store = Store::new(Settings::state_directory(config));
    let host = Netlink::open()?;
    let mut failures = Vec::new();
    let mut known_or_busy = valid.clone();
    for entry in store.entries()? {
        let Some(header) = entry.header else { continue };
        let attachment = &header.attachment;
        let keep = known.contains(&(attachment.container.as_str(), attachment.interface.as_str()));
        if attachment.network == config.name && !keep {
            match sweep::remove(&store, &host, config, environment, attachment, |_| true) {
                Some(errors) => failures.extend(errors),
                // Its lease is none to release either.
                None => known_or_busy.push((attachment.container.clone(), attachment.interface.clone())),
            }
        }
    }
    store.remove_empty();
    // Last, so that it also finds what the lines above could not release.
    failures.extend(ipam::gc(config, environment, &known_or_busy).err());
    super::all(failures)
}
