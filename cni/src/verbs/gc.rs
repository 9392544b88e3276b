//! GC: removes what attachments of this network left that the runtime no longer knows. It must never touch another
//! network's, nor one that the runtime named.

use std::collections::HashSet;

use super::sweep;
use crate::attachment::{Attachment, network_id};
use crate::ipam;
use crate::journal::{Entry, RULES, Store};
use crate::netlink::Netlink;
use crate::nft::{Nft, NftError};
use crate::protocol::{CniError, Config, Environment, with_source};
use crate::undo::remove_rules;
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
    failures.extend(rules_of_nobody(&store, config, &valid).err());
    store.remove_empty();
    // Last, so that it also finds what the lines above could not release.
    failures.extend(ipam::gc(config, environment, &known_or_busy).err());
    super::all(failures)
}

/// Removes rules of attachments that neither the runtime knows nor a journal: the state folder was lost with a container's
/// `/run`, while the rules stayed. Which network and folder an attachment is of is marked on its rules.
fn rules_of_nobody(store: &Store, config: &Config, valid: &[(String, String)]) -> Result<(), CniError> {
    let network = network_id(&config.name, store.directory());
    let listed = {
        let _alone = store.lock_shared(RULES)?;
        Nft::open().and_then(|mut nft| nft.attachments_of(&network))
    };
    let mut left = match listed {
        // A kernel without nf_tables has none of ours.
        Err(NftError::Unavailable { .. }) => return Ok(()),
        listed => {
            listed.map_err(|error| CniError::internal(format!("listing rules: {}", with_source(&error))))?
        }
    };
    for (container, interface) in valid {
        let (network, container, interface) = (config.name.clone(), container.clone(), interface.clone());
        // Of modes with rules, none is beside another.
        left.remove(&Attachment { network, container, interface, beside: None }.id());
    }
    for id in left {
        // An ADD under way has its journal locked, and one that came to its end has something in it.
        let Some(journal) = store.lock_id_at_once(&id)? else { continue };
        if *journal.entry() != Entry::default() {
            continue;
        }
        tracing::info!(id, "removing rules of an attachment that nobody knows");
        remove_rules(store, &id)?;
        journal.remove()?;
    }
    Ok(())
}
