//! Mode `bridge`: a port of a bridge on the node, and the VM or container at its other end. It must never remove the
//! bridge, which others use too, nor change what it was made with.

mod options;
mod gateway;
mod port;
mod overlay;

use super::pod_interface::{self, on_node};
use super::rules::{self, Wanted};
use super::shaping::{self, Place};
use super::site::{Call, Site, View, changed, existing, made_link, same};
use super::{Wiring, kernel, pod_tap};
use crate::ipam;
use crate::journal::{Header, SHARED_LINKS, Step, Store};
use crate::netlink::{Change, Details, Kind, Link, Netlink, NetlinkError, NewLink, existing_ok};
use crate::protocol::{CniError, CniResult, Code, MacAddress};
use options::Options;
use overlay::Overlay;

/// The mode with its keys.
#[derive(Debug)]
pub(super) struct Bridge {
    options: Options,
    /// Of mode `vxlan`.
    overlay: Option<Overlay>,
}

impl Bridge {
    pub(super) fn read(call: &Call) -> Result<Self, CniError> {
        Ok(Self { options: Options::read(call)?, overlay: None })
    }

    /// Mode `vxlan`: the bridge is the overlay's on this node, and goes with it unless it was named.
    pub(super) fn read_overlay(call: &Call) -> Result<Self, CniError> {
        let overlay = Overlay::read(call)?;
        let mut options = Options::read(call)?;
        if options.vlans.is_some() {
            let why = "an overlay is one network: each of its own has a vni";
            return Err(CniError::config(options.vlan_key(), "given", why));
        }
        if !options.named {
            options.bridge = overlay.bridge_name();
        }
        // The key is about the overlay's end here; the bridge has to learn where its own ports' guests are.
        options.learning = None;
        Ok(Self { options, overlay: Some(overlay) })
    }

    /// What its ports get: what is asked for, else what the overlay leaves, else the bridge's own.
    fn mtu(&self, call: &Call, host: &Netlink) -> Result<Option<u32>, CniError> {
        self.overlay.as_ref().map_or(Ok(call.settings.mtu), |overlay| overlay.mtu(call, host).map(Some))
    }

    /// The bridge, and the overlay's port of it.
    fn prepare(&self, site: &mut Site<'_>, mtu: Option<u32>) -> Result<Link, CniError> {
        let Some(overlay) = &self.overlay else { return self.ensure(site.host, mtu) };
        // Whoever goes as the last meanwhile waits, and then finds us.
        let _alone = site.store.lock_shared(SHARED_LINKS)?;
        let ours = !self.options.named && share(site, &self.options.bridge)?;
        let bridge = self.ensure(site.host, mtu)?;
        if ours {
            mark(site.host, &bridge)?;
        }
        overlay.ensure(site, &bridge)?;
        Ok(bridge)
    }

    /// The bridge, made if it is not there.
    fn ensure(&self, host: &Netlink, mtu: Option<u32>) -> Result<Link, CniError> {
        let name = &self.options.bridge;
        if let Some(link) = host.link(name)? {
            let link = self.ensure_usable(host, link)?;
            self.refuse_wider(host, &link, mtu)?;
            return Ok(link);
        }
        let kind = Kind::Bridge { vlan_filtering: self.options.vlans.is_some(), default_pvid: None };
        match host.create(&NewLink { mtu, ..NewLink::new(name, kind) }) {
            Ok(()) => {}
            // Another ADD made it a moment ago.
            Err(NetlinkError::Exists { .. }) => {
                return self.ensure_usable(host, made_link(host, name)?);
            }
            Err(error) => return Err(CniError::internal(format!("making bridge {name}: {error}"))),
        }
        pod_interface::sysctl_if_there(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
        if !self.options.is_gateway {
            // Guests have no business with the node's own services, which listen on link-local addresses too. A bridge
            // that answers for neighbours has to know them, which it does not without IPv6: it has no such address.
            let answers = self.overlay.as_ref().is_some_and(|overlay| overlay.suppress);
            let key = if answers { "addr_gen_mode" } else { "disable_ipv6" };
            pod_interface::sysctl_if_there(&format!("net/ipv6/conf/{name}/{key}"), "1")?;
        }
        self.ensure_usable(host, made_link(host, name)?)
    }

    /// Sets it up if it is down: just made, or by an ADD that was killed in between.
    fn ensure_usable(&self, host: &Netlink, link: Link) -> Result<Link, CniError> {
        let link = self.usable(link)?;
        if link.up {
            return Ok(link);
        }
        // An address that was set stays when ports come and go; neighbours remember it as the gateway's.
        let pinned = Change { mac: link.mac, up: Some(true), ..Change::default() };
        host.change(link.index, &pinned)?;
        made_link(host, &link.name)
    }

    /// A port beyond the bridge's MTU would lose what is longer at every other port.
    fn refuse_wider(&self, host: &Netlink, bridge: &Link, mtu: Option<u32>) -> Result<(), CniError> {
        let Some(mtu) = mtu.filter(|mtu| *mtu > bridge.mtu) else { return Ok(()) };
        let links = host.links()?;
        let narrow = links.iter().find(|link| link.master == Some(bridge.index) && link.mtu < mtu);
        let Some(narrow) = narrow else { return Ok(()) };
        let why = format!("above {}'s, a port of {}, which is {}", narrow.name, bridge.name, narrow.mtu);
        Err(CniError::config("mtu", mtu, &why))
    }

    fn usable(&self, link: Link) -> Result<Link, CniError> {
        let Details::Bridge { vlan_filtering, .. } = link.details else {
            let why = format!("a link of this name is on the node, but it is no bridge ({})", kind(&link));
            return Err(CniError::config("bridge", &link.name, &why));
        };
        if self.options.vlans.is_some() && !vlan_filtering {
            // To switch it on for a bridge in use would cut off every port without a VLAN of its own.
            let why = "bridge was made without VLAN filtering; whoever made it must switch it on \
                       (ip link set dev BRIDGE type bridge vlan_filtering 1)";
            return Err(CniError::config(self.options.vlan_key(), &link.name, why));
        }
        Ok(link)
    }

    /// Refuses a MAC that another of this bridge has, and writes down ours.
    fn claim(&self, site: &mut Site<'_>, bridge: &Link, mac: MacAddress) -> Result<(), CniError> {
        let name = &self.options.bridge;
        let _alone = site.store.lock_shared(&format!("bridge-{name}"))?;
        let ours = site.journal.entry().header.as_ref().map(|header| header.attachment.clone());
        let used = |why: String| Err(CniError::config("mac", mac, &why));
        for entry in site.store.entries()? {
            let theirs = entry.header.map(|header| header.attachment);
            if theirs != ours && entry.mac.is_some_and(|(other, place)| other == mac && place == *name) {
                let whose =
                    theirs.map_or_else(String::new, |other| format!(" by container {}", other.container));
                return used(format!("used on bridge {name}{whose}"));
            }
        }
        for link in site.host.links()? {
            if link.mac == Some(mac) && (link.index == bridge.index || link.master == Some(bridge.index)) {
                return used(format!("used on bridge {name} by link {}", link.name));
            }
        }
        site.journal.mac(mac, name)
    }

    /// The port: one that the plugin before us made, or a veth pair's end of our own.
    fn port(
        &self,
        call: &Call,
        site: &mut Site<'_>,
        bridge: &Link,
        mtu: Option<u32>,
        given: Option<&CniResult>,
    ) -> Result<(Link, Option<Link>), CniError> {
        if let Some(given) = given {
            let why = "the port is another plugin's: chain one that limits it behind that";
            shaping::refuse(call.config.bandwidth()?, why)?;
            let link = options::given_port(given, site.host)?;
            if link.master.is_some_and(|master| master != bridge.index) {
                return Err(CniError::config(
                    "prevResult",
                    &link.name,
                    "this link is a port of another bridge",
                ));
            }
            if link.master.is_none() {
                site.journal.will(Step::Port { name: link.name.clone() })?;
            }
            return Ok((link, None));
        }
        let mac = call.config.mac(&call.environment)?;
        if let Some(mac) = mac {
            self.claim(site, bridge, mac)?;
        }
        let (port, inside) = pod_interface::veth(call, site, mtu.or(Some(bridge.mtu)), mac)?;
        if let (None, Some(chosen)) = (mac, inside.mac) {
            // By the kernel, at random; whoever asks for this very one later is refused.
            site.journal.mac(chosen, &bridge.name)?;
        }
        pod_interface::mute_node_end(call, &port)?;
        Ok((port, Some(inside)))
    }
}

impl Wiring for Bridge {
    fn add(&self, call: &Call, site: &mut Site<'_>) -> Result<CniResult, CniError> {
        let previous = port::given_by(&call.config)?;
        let mtu = self.mtu(call, site.host)?;
        let bridge = self.prepare(site, mtu)?;
        let (port, inside) = self.port(call, site, &bridge, mtu, previous.as_ref())?;
        port::enslave(&self.options, site, &bridge, &port)?;
        let Some(inside) = inside else {
            let mut result = previous.unwrap_or_default();
            rules::install(call, site, self.rules(&port, &result)?, &result, &bridge)?;
            result.interfaces.push(on_node(&bridge));
            return Ok(result);
        };
        let mut result =
            CniResult { interfaces: vec![pod_interface::interface(call, &inside)], ..CniResult::default() };
        let wanted = self.rules(&port, &result)?;
        if call.config.ipam_type().is_some() {
            site.journal.will(Step::Lease)?;
            result = ipam::add(&call.config, &call.environment)?.unwrap_or_default();
            gateway::prepare(&self.options, site, &bridge, &mut result)?;
        }
        rules::install(call, site, wanted, &result, &bridge)?;
        self.tell_neighbours(site, &bridge, &inside, &result)?;
        let tap = if self.options.disable_container_interface {
            None
        } else {
            pod_interface::finish(call, site, &inside, &result)?
        };
        shaping::limit(call, site, Place::veth(&port, &inside, tap.as_ref()))?;
        for ip in &mut result.ips {
            ip.interface = Some(2);
        }
        let bridge = made_link(site.host, &bridge.name)?;
        result.interfaces = vec![on_node(&bridge), on_node(&port), pod_interface::interface(call, &inside)];
        result.interfaces.extend(tap.map(|tap| pod_tap::interface(call, &tap)));
        result.merge_dns(call.config.dns()?);
        Ok(result)
    }

    fn check(&self, call: &Call, view: &View<'_>, previous: &CniResult) -> Result<(), CniError> {
        let bridge = existing(view.host, &self.options.bridge, "on the node")?;
        if !matches!(bridge.details, Details::Bridge { .. }) {
            return Err(changed(format!("{} is no bridge ({})", bridge.name, kind(&bridge))));
        }
        same(&format!("whether {} is up", bridge.name), &bridge.up, &true)?;
        if self.options.promiscuous {
            same(&format!("{}'s promiscMode", bridge.name), &bridge.promiscuous, &true)?;
        }
        let name = view.recorded(|step| {
            if let Step::HostLink { name } | Step::Port { name } = step { Some(name) } else { None }
        })?;
        let port = existing(view.host, &name, "on the node")?;
        port::check(&self.options, view, &bridge, &port)?;
        pod_interface::check_mtu(previous, &port)?;
        rules::check(call, self.rules(&port, previous)?, previous, &bridge)?;
        if view.entry.steps.iter().any(|step| matches!(step, Step::Port { .. })) {
            return Ok(());
        }
        if self.options.disable_container_interface {
            let link = existing(view.inside, &call.attachment.interface, "in the pod")?;
            shaping::check(call, view, Place::NodeEnd(&port))?;
            return same(&format!("whether {} is up", link.name), &link.up, &false);
        }
        if let Some(overlay) = &self.overlay {
            overlay.check(view, &bridge)?;
        }
        let (inside, tap) = pod_interface::check_veth(call, view, previous, &port)?;
        shaping::check(call, view, Place::veth(&port, &inside, tap.as_ref()))?;
        gateway::check(&self.options, view, &bridge, previous)
    }

    fn ready(&self, call: &Call, host: &Netlink) -> Result<(), CniError> {
        if let Some(link) = host.link(&self.options.bridge)? {
            self.usable(link).map_err(|error| error.with_code(Code::NotAvailable))?;
        } else if self.recorded(call)? {
            // Made by an earlier ADD, and gone: those attachments lead nowhere.
            return Err(CniError::new(
                Code::LimitedConnectivity,
                format!("bridge {} is gone, and attachments to it are not", self.options.bridge),
            ));
        }
        self.overlay.as_ref().map_or(Ok(()), |overlay| overlay.ready(host))?;
        rules::ready(self.options.masquerade, self.options.spoof_check)?;
        kernel::ready(call)
    }

    fn leftovers(&self, call: &Call) -> Vec<Step> {
        let shaper = Step::HostShaper { name: call.attachment.shaper() };
        vec![Step::HostLink { name: call.attachment.host_link() }, shaper, Step::Rules]
    }
}

/// The alias of links that go with the last attachment that uses them.
pub(in crate::wiring) const SHARED: &str = "sluice:shared";

/// Writes down that the attachment uses a link which goes with the last that does; whether it does. One that was there
/// before any of ours is another's, and stays.
///
/// The caller holds the lock of shared links.
fn share(site: &mut Site<'_>, name: &str) -> Result<bool, CniError> {
    let ours = site.journal.entry().header.as_ref().map(|header| header.attachment.clone());
    if let (Some(link), Some(ours)) = (site.host.link(name)?, ours)
        && link.alias.as_deref() != Some(SHARED)
        && !site.store.is_shared(&Step::SharedLink { name: name.to_owned() }, &ours)?
    {
        return Ok(false);
    }
    site.journal.will(Step::SharedLink { name: name.to_owned() })?;
    Ok(true)
}

fn mark(host: &Netlink, link: &Link) -> Result<(), CniError> {
    Ok(host.change(link.index, &Change { alias: Some(SHARED.to_owned()), ..Change::default() })?)
}

fn kind(link: &Link) -> &str {
    link.kind.as_deref().unwrap_or("a NIC")
}

impl Bridge {
    /// The rules that the keys ask for; the MAC is the one that the result's interface in the pod has.
    fn rules<'a>(&self, port: &'a Link, result: &CniResult) -> Result<Wanted<'a>, CniError> {
        let mut wanted = Wanted { masquerade: self.options.masquerade, spoof_check: None };
        if self.options.spoof_check {
            let inside = result.interfaces.iter().find(|interface| interface.sandbox.is_some());
            let mac = inside.and_then(|inside| inside.mac.as_ref()).and_then(|mac| mac.parse().ok());
            let unknown = "no interface in the pod is known whose MAC the port could have";
            let mac = mac.ok_or_else(|| CniError::config("macspoofchk", true, unknown))?;
            wanted.spoof_check = Some((&port.name, mac));
        }
        Ok(wanted)
    }

    /// Where ARP is not to cross the overlay, the bridge answers for this VM.
    fn tell_neighbours(
        &self,
        site: &mut Site<'_>,
        bridge: &Link,
        inside: &Link,
        result: &CniResult,
    ) -> Result<(), CniError> {
        let (true, Some(mac)) = (self.overlay.as_ref().is_some_and(|overlay| overlay.suppress), inside.mac)
        else {
            return Ok(());
        };
        for ip in &result.ips {
            let address = ip.address.addr();
            site.journal.will(Step::Neighbour { link: bridge.name.clone(), address, mac })?;
            existing_ok(site.host.add_neighbour(bridge.index, address, mac, true))?;
        }
        Ok(())
    }

    /// Whether an attachment of this network is written down.
    fn recorded(&self, call: &Call) -> Result<bool, CniError> {
        let store = Store::new(&call.settings.state_directory);
        let ours = |header: &Header| header.attachment.network == call.config.name;
        Ok(store.entries()?.iter().any(|entry| entry.done && entry.header.as_ref().is_some_and(ours)))
    }
}
