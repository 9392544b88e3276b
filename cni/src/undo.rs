//! Takes steps back, last one first. What is not there is as it should be. It must never remove what another made.

use std::fs;
use std::io;

use crate::attachment::Attachment;
use crate::journal::{Entry, SHARED_LINKS, Step, Store};
use crate::namespace::Namespace;
use crate::netlink::{Change, Link, Netlink};
use crate::nft::Nft;
use crate::protocol::{CniError, Config, Environment, MacAddress};

/// What undoing needs.
#[derive(Debug)]
pub struct Undo<'a> {
    pub attachment: &'a Attachment,
    pub host: &'a Netlink,
    /// The namespace that the steps were taken in; `None` once it is gone, and all its links with it.
    pub pod: Option<&'a Namespace>,
    pub store: &'a Store,
    /// For the IPAM plugin.
    pub config: &'a Config,
    pub environment: &'a Environment,
}

impl Undo<'_> {
    /// Undoes all it can, and returns why the rest could not be.
    pub fn steps(&mut self, steps: &[Step]) -> Vec<CniError> {
        let mut failures = Vec::new();
        for step in steps.iter().rev() {
            if let Err(error) = self.step(step) {
                tracing::warn!(?step, %error, "could not be undone");
                failures.push(error);
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
            Step::MovedLink { name } => self.inside(name, |inside, _| Ok(inside.delete(name).map(drop)?)),
            Step::PodRedirect { name, ingress } => self.inside(name, |inside, link| {
                let removed =
                    if *ingress { inside.delete_ingress(link.index) } else { inside.delete_redirects(link.index) };
                Ok(removed.map(drop)?)
            }),
            Step::PodShaper { name } => self.inside(name, |inside, link| {
                // Another kind of queueing is its owner's, set since.
                if inside.tbf(link.index)?.is_some() {
                    inside.delete_root(link.index)?;
                }
                Ok(())
            }),
            Step::Port { name, in_pod } => self.port(name, *in_pod),
            Step::SharedLink { name } => self.shared(name),
            Step::Rules => Nft::open()
                .and_then(|mut nft| nft.remove(&self.attachment.id()).map(drop))
                .map_err(|error| CniError::internal(format!("removing rules: {error}"))),
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
        let ours = format!("sluice:{}", self.attachment.id());
        self.inside(name, |inside, link| {
            if link.alias.as_ref().is_some_and(|alias| *alias != ours) {
                tracing::info!(name, alias = link.alias, "left alone: a link in the pod that is not ours");
                return Ok(());
            }
            Ok(inside.delete(name).map(drop)?)
        })
    }

    fn port(&mut self, name: &str, in_pod: bool) -> Result<(), CniError> {
        let release = |netlink: &Netlink, link: Link| -> Result<(), CniError> {
            Ok(netlink.change(link.index, &Change { master: Some(None), ..Change::default() })?)
        };
        if in_pod {
            return self.inside(name, release);
        }
        self.host.link(name)?.map_or(Ok(()), |link| release(self.host, link))
    }

    /// The last that goes takes it along.
    fn shared(&mut self, name: &str) -> Result<(), CniError> {
        let _alone = self.store.lock_shared(SHARED_LINKS)?;
        let ours = self.attachment;
        let others = self.store.entries()?;
        if others.iter().any(|entry| entry.header.as_ref().is_some_and(|header| header.attachment != *ours) && entry.shares(name)) {
            return Ok(());
        }
        Ok(self.host.delete(name).map(drop)?)
    }

    fn neighbour(&mut self, link: &str, address: std::net::IpAddr, _mac: MacAddress) -> Result<(), CniError> {
        self.host.link(link)?.map_or(Ok(()), |link| Ok(self.host.delete_neighbour(link.index, address).map(drop)?))
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

impl Entry {
    /// Whether the attachment uses this link that several share.
    pub fn shares(&self, name: &str) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::SharedLink { name: shared } if shared == name))
    }
}
