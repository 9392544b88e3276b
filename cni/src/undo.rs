//! Takes steps back, last one first. What is not there is as it should be. It must never remove what another made.

use std::fs;
use std::io;
use std::path::Path;

use crate::attachment::Attachment;
use crate::journal::{Journal, RULES, SHARED_LINKS, Step, Store};
use crate::namespace::Namespace;
use crate::netlink::{Change, Link, Netlink};
use crate::nft::{Nft, NftError};
use crate::protocol::{CniError, Config, Environment, MacAddress};
use crate::sysctl::{self, SysctlError};

/// Whether the node sends to 127.0.0.0/8 by this link.
pub fn local_route(link: &str) -> String {
    format!("net/ipv4/conf/{link}/route_localnet")
}

/// What undoing needs.
#[derive(Debug)]
pub struct Undo<'a> {
    pub attachment: &'a Attachment,
    pub host: &'a Netlink,
    /// The namespace that the steps were taken in; `None` once it is gone, and all its links with it.
    pub pod: Option<&'a Namespace>,
    pub store: &'a Store,
    /// Where the steps that are undone are struck out.
    pub journal: &'a mut Journal,
    /// For the IPAM plugin.
    pub config: &'a Config,
    pub environment: &'a Environment,
}

impl Undo<'_> {
    /// Undoes all it can, and returns why the rest could not be.
    pub fn steps(&mut self, steps: &[Step]) -> Vec<CniError> {
        let mut failures = Vec::new();
        for step in steps.iter().rev() {
            match self.step(step) {
                Ok(()) => self.journal.undone(step),
                Err(error) => {
                    tracing::warn!(?step, %error, "could not be undone");
                    failures.push(error);
                }
            }
        }
        failures
    }

    fn step(&mut self, step: &Step) -> Result<(), CniError> {
        match step {
            Step::Lease => crate::ipam::delete(self.config, self.environment),
            // No other attachment has a link of this name.
            Step::HostLink { name } | Step::HostShaper { name } => Ok(self.host.delete(name).map(drop)?),
            Step::PodLink { name } => self.pod_link(name),
            Step::PodRedirect { name, tap, ingress, .. } => self.inside(name, |inside, link| {
                for to in inside.redirects(link.index)? {
                    // Ours also if the tap was removed before.
                    if inside.link_at(to)?.is_none_or(|to| to.name == *tap) {
                        inside.delete_redirect(link.index, to)?;
                    }
                }
                // With filters that others have hung on it since, it is theirs.
                if *ingress && !inside.has_filters(link.index)? {
                    inside.delete_ingress(link.index)?;
                }
                Ok(())
            }),
            Step::PodShaper { name } => self.inside(name, |inside, link| {
                // Another kind of queueing is its owner's, set since.
                if inside.tbf(link.index)?.is_some() {
                    inside.delete_root(link.index)?;
                }
                Ok(())
            }),
            Step::Port { name } => self.port(name),
            Step::SharedLink { name } => self.shared(step, name),
            Step::LocalRoute { link } => self.local_route(step, link),
            Step::Rules => self.rules(),
            Step::DeviceNode { path } if !is_of_a_tap(path) => {
                let shown = path.display();
                Err(CniError::internal(format!("a journal names {shown}, which is no tap's device node")))
            }
            Step::DeviceNode { path } | Step::File { path } => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(CniError::io(format!("removing {}", path.display()), error))
                }
                _ => Ok(()),
            },
            Step::Neighbour { link, address, mac } => self.neighbour(link, *address, *mac),
            Step::PodRules { table } => {
                let Some(pod) = self.pod else { return Ok(()) };
                Ok(Netlink::within(pod)?.delete_rules_of(*table)?)
            }
        }
    }

    /// A link in the pod, if it still bears our mark. Where ADD was cut off before the mark it bears none.
    fn pod_link(&mut self, name: &str) -> Result<(), CniError> {
        let ours = self.attachment.alias();
        self.inside(name, |inside, link| {
            if link.alias.as_ref().is_some_and(|alias| *alias != ours) {
                tracing::info!(name, alias = link.alias, "left alone: a link in the pod that is not ours");
                return Ok(());
            }
            Ok(inside.delete(name).map(drop)?)
        })
    }

    fn rules(&self) -> Result<(), CniError> {
        let _alone = self.store.lock_shared(RULES)?;
        match Nft::open().and_then(|mut nft| nft.remove(&self.attachment.id())) {
            // A kernel without nf_tables has none of ours.
            Ok(_) | Err(NftError::Unavailable { .. }) => Ok(()),
            Err(error) => Err(CniError::internal(format!("removing rules: {error}"))),
        }
    }

    fn port(&mut self, name: &str) -> Result<(), CniError> {
        let Some(link) = self.host.link(name)? else { return Ok(()) };
        Ok(self.host.change(link.index, &Change { master: Some(None), ..Change::default() })?)
    }

    /// The last that goes takes it along.
    fn shared(&mut self, step: &Step, name: &str) -> Result<(), CniError> {
        let _alone = self.store.lock_shared(SHARED_LINKS)?;
        if !self.store.is_shared(step, self.attachment)? {
            self.host.delete(name)?;
        }
        // Still alone: of two that go at a time, the second must not wait for the first's journal to go.
        self.journal.undone(step);
        Ok(())
    }

    /// The last with mapped ports behind the link closes it.
    fn local_route(&mut self, step: &Step, link: &str) -> Result<(), CniError> {
        let _alone = self.store.lock_shared(RULES)?;
        if !self.store.is_shared(step, self.attachment)? {
            match sysctl::write(&local_route(link), "0") {
                // The link is gone.
                Ok(()) | Err(SysctlError::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.journal.undone(step);
        Ok(())
    }

    fn neighbour(&mut self, link: &str, address: std::net::IpAddr, mac: MacAddress) -> Result<(), CniError> {
        let Some(link) = self.host.link(link)? else { return Ok(()) };
        let all = self.host.neighbours(link.index)?;
        // With another MAC it is of whoever has the address since.
        if all.iter().any(|one| one.ip == address && one.mac == Some(mac)) {
            self.host.delete_neighbour(link.index, address)?;
        }
        Ok(())
    }

    /// Works on a link of the pod, if both are there.
    fn inside(
        &self,
        name: &str,
        work: impl FnOnce(&Netlink, Link) -> Result<(), CniError>,
    ) -> Result<(), CniError> {
        let Some(pod) = self.pod else { return Ok(()) };
        let inside = Netlink::within(pod)?;
        let Some(link) = inside.link(name)? else { return Ok(()) };
        work(&inside, link)
    }
}

/// `/dev/tap` and an index.
fn is_of_a_tap(path: &Path) -> bool {
    let index = path.to_str().and_then(|path| path.strip_prefix("/dev/tap"));
    index.is_some_and(|index| !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit()))
}
