//! Takes steps back, last one first, but for links, which go together. What is not there is as it should be. It must never
//! remove what another made.

use std::fs;
use std::io;
use std::path::Path;

use crate::attachment::Attachment;
use crate::journal::{Journal, RULES, SHARED_LINKS, Step, Store};
use crate::namespace::Namespace;
use crate::netlink::{Change, Details, Link, Netlink};
use crate::nft::{Nft, NftError};
use crate::protocol::{CniError, Config, Environment, MacAddress, with_source};
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
        let of = |turn| steps.iter().rev().filter(|step| Turn::of(step) == turn).collect::<Vec<_>>();
        let mut failures = self.each(&of(Turn::BeforeLinks));
        let links = of(Turn::Links);
        let results = [self.pod_links(&links), self.host_links(&links)];
        if results.iter().all(Result::is_ok) {
            links.iter().for_each(|step| self.journal.undone(step));
        }
        let shared = of(Turn::SharedLinks);
        for error in results.into_iter().chain([self.shared_links(&shared)]).filter_map(Result::err) {
            tracing::warn!(?links, ?shared, %error, "could not be undone");
            failures.push(error);
        }
        failures.extend(self.each(&of(Turn::BehindLinks)));
        failures
    }

    fn each(&mut self, steps: &[&Step]) -> Vec<CniError> {
        let mut failures = Vec::new();
        for step in steps {
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

    /// Removes the links in the pod, and with them the pairs of which one end is there.
    fn pod_links(&self, steps: &[&Step]) -> Result<(), CniError> {
        let Some(pod) = self.pod.filter(|_| !steps.is_empty()) else { return Ok(()) };
        let inside = Netlink::within(pod)?;
        let mut going = Vec::new();
        for step in steps {
            if let Step::PodLink { name } = step {
                going.extend(self.pod_link(&inside, name)?);
            } else if let Step::HostLink { name } = step {
                going.extend(self.other_end(&inside, name)?);
            }
        }
        Ok(inside.delete_together(&going, self.attachment.link_group())?)
    }

    /// Removes the links that are left on the node. No other attachment has one of such a name.
    fn host_links(&self, steps: &[&Step]) -> Result<(), CniError> {
        let mut going = Vec::new();
        for step in steps {
            if let Step::HostLink { name } | Step::HostShaper { name } = step {
                going.extend(self.host.link(name)?.map(|link| link.index));
            }
        }
        Ok(self.host.delete_together(&going, self.attachment.link_group())?)
    }

    fn step(&mut self, step: &Step) -> Result<(), CniError> {
        match step {
            Step::PodLink { .. }
            | Step::HostLink { .. }
            | Step::HostShaper { .. }
            | Step::SharedLink { .. } => {
                Ok(()) // together
            }
            Step::Lease => {
                crate::ipam::give_back(self.journal.entry().asked(), self.config, self.environment)
            }
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
            Step::LocalRoute { link } => self.local_route(step, link),
            Step::Rules => remove_rules(self.store, &self.attachment.id()),
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
    fn pod_link(&self, inside: &Netlink, name: &str) -> Result<Option<u32>, CniError> {
        let Some(link) = inside.link(name)? else { return Ok(None) };
        let ours = self.attachment.alias();
        if link.alias.as_ref().is_some_and(|alias| *alias != ours) {
            tracing::info!(name, alias = link.alias, "left alone: a link in the pod that is not ours");
            return Ok(None);
        }
        Ok(Some(link.index))
    }

    /// The end in the pod of a pair that begins on the node.
    fn other_end(&self, inside: &Netlink, name: &str) -> Result<Option<u32>, CniError> {
        let Some(link) = self.host.link(name)? else { return Ok(None) };
        let Some(index) = link.parent.filter(|_| link.parent_elsewhere) else { return Ok(None) };
        let end = inside.link_at(index)?;
        let is_its_end = |end: &Link| {
            (end.details == Details::Veth, end.parent, end.parent_elsewhere) == (true, Some(link.index), true)
        };
        Ok(end.filter(is_its_end).map(|end| end.index))
    }

    fn port(&mut self, name: &str) -> Result<(), CniError> {
        let Some(link) = self.host.link(name)? else { return Ok(()) };
        Ok(self.host.change(link.index, &Change { master: Some(None), ..Change::default() })?)
    }

    /// Removes those that no other attachment uses: the last that goes takes them along.
    fn shared_links(&mut self, steps: &[&Step]) -> Result<(), CniError> {
        if steps.is_empty() {
            return Ok(());
        }
        let _alone = self.store.lock_shared(SHARED_LINKS)?;
        let mut going = Vec::new();
        for step in steps {
            if let Step::SharedLink { name } = step
                && !self.store.is_shared(step, self.attachment)?
            {
                going.extend(self.host.link(name)?.map(|link| link.index));
            }
        }
        self.host.delete_together(&going, self.attachment.link_group())?;
        // Still alone: of two that go at a time, the second must not wait for the first's journal to go.
        steps.iter().for_each(|step| self.journal.undone(step));
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

/// Removes the rules that bear the mark of the attachment with this id.
pub fn remove_rules(store: &Store, id: &str) -> Result<(), CniError> {
    let _alone = store.lock_shared(RULES)?;
    match Nft::open().and_then(|mut nft| nft.remove(id)) {
        // A kernel without nf_tables has none of ours.
        Ok(_) | Err(NftError::Unavailable { .. }) => Ok(()),
        Err(error) => Err(CniError::internal(format!("removing rules: {}", with_source(&error)))),
    }
}

/// When a step is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    BeforeLinks,
    Links,
    /// What those may be ports of.
    SharedLinks,
    /// What another may have as soon as it is undone, so that no link of ours may have it still.
    BehindLinks,
}

impl Turn {
    fn of(step: &Step) -> Self {
        match step {
            Step::PodLink { .. } | Step::HostLink { .. } | Step::HostShaper { .. } => Self::Links,
            Step::SharedLink { .. } => Self::SharedLinks,
            Step::Lease => Self::BehindLinks,
            Step::PodRedirect { .. }
            | Step::PodShaper { .. }
            | Step::Port { .. }
            | Step::Rules
            | Step::LocalRoute { .. }
            | Step::DeviceNode { .. }
            | Step::File { .. }
            | Step::Neighbour { .. }
            | Step::PodRules { .. } => Self::BeforeLinks,
        }
    }
}

/// `/dev/tap` and an index.
fn is_of_a_tap(path: &Path) -> bool {
    let index = path.to_str().and_then(|path| path.strip_prefix("/dev/tap"));
    index.is_some_and(|index| !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit()))
}
