//! What a mode works with: the call, both namespaces, the journal. It must never decide anything.

use std::path::Path;

use super::settings::Settings;
use crate::attachment::Attachment;
use crate::journal::{Entry, Journal, Step, Store};
use crate::namespace::Namespace;
use crate::netlink::{Link, Netlink};
use crate::protocol::{CniError, Code, Config, Environment};
use crate::sysctl;

/// What the runtime asked for.
#[derive(Debug)]
pub struct Call {
    pub environment: Environment,
    pub config: Config,
    pub attachment: Attachment,
    pub settings: Settings,
}

/// Where an ADD works.
#[derive(Debug)]
pub struct Site<'a> {
    pub host: &'a Netlink,
    pub pod: &'a Namespace,
    /// Netlink inside the pod.
    pub inside: &'a Netlink,
    pub journal: &'a mut Journal,
    pub store: &'a Store,
}

/// Where a CHECK looks.
#[derive(Debug)]
pub struct View<'a> {
    pub host: &'a Netlink,
    pub pod: &'a Namespace,
    pub inside: &'a Netlink,
    pub entry: &'a Entry,
}

impl Call {
    /// The pod's namespace as results name it.
    pub fn sandbox(&self) -> Option<String> {
        self.environment.netns.as_deref().map(Path::to_string_lossy).map(String::from)
    }

    /// The alias that marks links as this attachment's.
    pub fn alias(&self) -> String {
        self.attachment.alias()
    }
}

impl View<'_> {
    /// The first name that a step of the ADD has, of the steps that `wanted` looks for.
    pub(super) fn recorded(&self, wanted: fn(&Step) -> Option<&String>) -> Result<String, CniError> {
        let name = self.entry.steps.iter().find_map(wanted);
        name.cloned().ok_or_else(|| changed("the record of ADD is not whole"))
    }
}

impl Site<'_> {
    /// Writes a sysctl inside the pod.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<(), CniError> {
        in_pod(self.pod, || sysctl::write(path, value))?
            .map_err(|error| CniError::internal(error.to_string()))
    }
}

/// Runs `work` inside the pod's namespace.
pub(super) fn in_pod<T>(pod: &Namespace, work: impl FnOnce() -> T) -> Result<T, CniError> {
    pod.run(work).map_err(|error| CniError::io("entering CNI_NETNS", error))
}

/// The link of this name, which CHECK expects where `place` says.
pub(super) fn existing(netlink: &Netlink, name: &str, place: &str) -> Result<Link, CniError> {
    netlink.link(name)?.ok_or_else(|| changed(format!("link {name} is no longer {place}")))
}

/// The link that was just made.
pub(super) fn made_link(netlink: &Netlink, name: &str) -> Result<Link, CniError> {
    netlink
        .link(name)?
        .ok_or_else(|| CniError::internal(format!("link {name} was removed while it was made")))
}

/// What CHECK answers where something is not as ADD made it.
pub fn changed(what: impl Into<String>) -> CniError {
    CniError::new(Code::Changed, what)
}

/// CHECK's comparison of one property.
pub(super) fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: &T, was: &T) -> Result<(), CniError> {
    if is == was { Ok(()) } else { Err(changed(format!("{what} is {is:?}, was made {was:?}"))) }
}
