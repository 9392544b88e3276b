//! DEL: nothing of the attachment is left, whatever of it there was. Missing things are no errors.

use std::path::Path;

use crate::attachment::Attachment;
use crate::journal::{Entry, Step, Store};
use crate::namespace::{Namespace, NamespaceError};
use crate::netlink::Netlink;
use crate::protocol::{CniError, Config, Environment};
use crate::undo::Undo;
use crate::wiring::{self, Call, Settings, device_node};

pub(super) fn run(environment: &Environment, config: &Config) -> Result<(), CniError> {
    // A mode or an MTU that is wrong now does not keep back what was made before.
    let settings = Settings::read(config);
    let attachment = super::attachment(environment, config, settings.as_ref().ok());
    let store = Store::new(Settings::state_directory(config));
    let attachment = store.recorded(attachment);
    let host = Netlink::open()?;
    let mut journal = store.lock(&attachment)?;
    let entry = journal.entry().clone();
    let pod = pod(environment, &entry)?;

    let mut steps = entry.steps;
    if entry.header.is_none() {
        steps = leftovers(environment, config, settings);
        if let Some(pod) = &pod {
            steps.extend(marked(pod, &attachment)?);
        }
    }
    if !steps.contains(&Step::Lease) && config.ipam_type().is_some() {
        steps.insert(0, Step::Lease);
    }
    let mut undo = Undo {
        attachment: &attachment,
        host: &host,
        pod: pod.as_ref(),
        store: &store,
        journal: &mut journal,
        config,
        environment,
    };
    super::all(undo.steps(&steps))?;
    // To try again would change nothing, and a runtime tries until it succeeds: the pod would never end. The file stays,
    // GC fails because of it, and a newer version undoes the rest.
    if let Some(left) = journal.left_over() {
        tracing::warn!(error = %left, "kept: what could not be undone");
        return Ok(());
    }
    journal.remove()
}

/// The namespace that ADD worked in, if it is still there: as the runtime names it now, or as it did then. The runtime may
/// have removed it, or say nothing; of another one of the same path nothing is ours.
///
/// Fails where it cannot be told: what is taken for gone is not undone, and not written down any more.
fn pod(environment: &Environment, entry: &Entry) -> Result<Option<Namespace>, CniError> {
    let named = environment.netns.as_ref().filter(|path| !path.as_os_str().is_empty());
    let named = named.map(|path| there(path)).transpose()?.flatten();
    // Our own is no pod's, since ADD refuses it. What was made on the node goes nevertheless.
    let named = named.filter(|_| super::pod(environment).is_ok());
    let Some(header) = &entry.header else { return Ok(named) };
    if let Some(named) = named.filter(|pod| entry.made_in(pod)) {
        return Ok(Some(named));
    }
    Ok(there(&header.netns)?.filter(|pod| entry.made_in(pod)))
}

fn there(path: &Path) -> Result<Option<Namespace>, CniError> {
    match Namespace::open(path) {
        Ok(pod) => Ok(Some(pod)),
        Err(NamespaceError::NotFound(_) | NamespaceError::NotANamespace(_)) => Ok(None),
        Err(NamespaceError::Io { path, source }) => {
            Err(CniError::io(format!("opening namespace {}", path.display()), source))
        }
    }
}

/// Without a journal: the links in the pod that bear our mark, and what leads to them.
fn marked(pod: &Namespace, attachment: &Attachment) -> Result<Vec<Step>, CniError> {
    let inside = Netlink::within(pod)?;
    let links = inside.links()?;
    let mut steps = Vec::new();
    for link in links.iter().filter(|link| link.alias.as_ref() == Some(&attachment.alias())) {
        if link.kind.as_deref() == Some("macvtap") {
            steps.push(Step::DeviceNode { path: device_node(link.index) });
        }
        steps.push(Step::PodLink { name: link.name.clone() });
        for nic in &links {
            if inside.redirects(nic.index)?.contains(&link.index) {
                // Its queueing discipline may be another's.
                let (name, tap) = (nic.name.clone(), link.name.clone());
                steps.push(Step::PodRedirect { name, tap, ingress: false, mtu: None });
            }
        }
    }
    Ok(steps)
}

/// Without a journal: what an ADD with this configuration would have left on the node.
fn leftovers(environment: &Environment, config: &Config, settings: Result<Settings, CniError>) -> Vec<Step> {
    let Ok(settings) = settings else { return Vec::new() };
    let attachment = super::attachment(environment, config, Some(&settings));
    let call = Call { environment: environment.clone(), config: config.clone(), attachment, settings };
    wiring::of(&call).map(|wiring| wiring.leftovers(&call)).unwrap_or_default()
}
