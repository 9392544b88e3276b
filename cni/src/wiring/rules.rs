//! The rules in nf_tables that an attachment has: masquerading, port mappings, the check of its MAC. All of one attachment
//! are installed at once; CHECK derives them again and compares.

use ipnet::IpNet;

use super::pod_interface::sysctl_if_there;
use super::settings::Mode;
use super::site::{Call, Site, changed};
use crate::attachment::network_id;
use crate::journal::{RULES, Step, Store};
use crate::netlink::Link;
use crate::nft::{self, Nft, Rule};
use crate::protocol::{CniError, CniResult, Code, MacAddress, PortMapping, with_source};
use crate::sysctl;
use crate::undo::local_route;

/// What a mode's own keys ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted<'a> {
    /// What leaves the pod for other networks has the node's address.
    pub(super) masquerade: bool,
    /// This port of a bridge lets frames with this MAC in, and no others.
    pub(super) spoof_check: Option<(&'a str, MacAddress)>,
}

/// Installs what is wanted, and the port mappings that the runtime asked for. `device` is where the node's packets for the
/// pod leave.
pub(super) fn install(
    call: &Call,
    site: &mut Site<'_>,
    wanted: Wanted<'_>,
    result: &CniResult,
    device: &Link,
) -> Result<(), CniError> {
    let rules = rules(call, wanted, result, device)?;
    if rules.is_empty() {
        return Ok(());
    }
    let targets = targets(call, result)?;
    site.journal.will(Step::Rules)?;
    let _alone = site.store.lock_shared(RULES)?;
    Nft::open()
        .and_then(|nft| {
            let mut nft = nft.of_network(network_id(&call.config.name, site.store.directory()));
            nft.install(&call.attachment.id(), &rules)?;
            // Clients that kept sending to the port would else stay with whoever had it before.
            targets.iter().try_for_each(|(ip, mappings)| nft.forget_udp(*ip, mappings).map(drop))
        })
        .map_err(|error| refused(&error))?;
    if targets.iter().any(|(ip, _)| ip.addr().is_ipv4()) {
        // So that the node reaches a mapped port at 127.0.0.1 too. The rules that keep others out of there come first.
        let (path, step) = (local_route(&device.name), Step::LocalRoute { link: device.name.clone() });
        let is_open = sysctl::read(&path).is_ok_and(|value| value.trim() == "1");
        // What an administrator opened stays open.
        if !is_open || site.store.is_shared(&step, &call.attachment)? {
            site.journal.will(step)?;
            sysctl_if_there(&path, "1")?;
        }
    }
    Ok(())
}

/// Refuses port mappings in a mode that has no rules.
pub(super) fn refuse_mappings(call: &Call) -> Result<(), CniError> {
    let why = match call.settings.mode {
        Mode::Bridge | Mode::Vxlan | Mode::Ptp => return Ok(()),
        Mode::Tap => "the NIC is another plugin's: map them to that one",
        Mode::None => "the VM has no network",
        Mode::Passt => "the translator forwards ports, as the VM's interface lists them",
        Mode::Macvlan | Mode::Macvtap | Mode::Ipvlan => {
            "the network delivers past the node, at an address of its own: use the ports there"
        }
    };
    let mappings = call.config.port_mappings()?;
    if mappings.is_empty() {
        return Ok(());
    }
    let why = format!("there are none in mode {}: {why}", call.settings.mode.as_str());
    Err(CniError::unsupported("portMappings", mappings.len(), &why))
}

/// CHECK of [`install`].
pub(super) fn check(
    call: &Call,
    wanted: Wanted<'_>,
    previous: &CniResult,
    device: &Link,
) -> Result<(), CniError> {
    let rules = rules(call, wanted, previous, device)?;
    if rules.is_empty() {
        return Ok(());
    }
    let _alone = Store::new(&call.settings.state_directory).lock_shared(RULES)?;
    let differences = Nft::open()
        .and_then(|mut nft| nft.check(&call.attachment.id(), &rules))
        .map_err(|error| refused(&error))?;
    differences.first().map_or(Ok(()), |difference| Err(changed(difference.to_string())))
}

/// STATUS: whether the kernel takes such rules.
pub(super) fn ready(masquerade: bool, spoof_check: bool) -> Result<(), CniError> {
    // Of documentation's networks (RFC 5737, RFC 7042): only whether the kernel knows the expressions is asked.
    let mut rules = Vec::new();
    if masquerade {
        rules.push(nft::masquerade(IpNet::from(std::net::IpAddr::from([192, 0, 2, 1]))));
    }
    if spoof_check {
        let mac = MacAddress::try_from([0x00, 0x00, 0x5e, 0x00, 0x53, 0x01]);
        rules.extend(mac.ok().map(|mac| nft::spoof_check("sluice-status", mac)));
    }
    if rules.is_empty() {
        return Ok(());
    }
    Nft::open()
        .and_then(|mut nft| nft.supports(&rules))
        .map_err(|error| CniError::new(Code::NotAvailable, error.to_string()))
}

fn rules(call: &Call, wanted: Wanted<'_>, result: &CniResult, device: &Link) -> Result<Vec<Rule>, CniError> {
    let mut rules = Vec::new();
    if wanted.masquerade {
        rules.extend(result.ips.iter().map(|ip| nft::masquerade(ip.address)));
    }
    if let Some((port, mac)) = wanted.spoof_check {
        rules.push(nft::spoof_check(port, mac));
    }
    for (ip, mappings) in targets(call, result)? {
        rules.extend(nft::port_mappings(ip, &mappings));
        if ip.addr().is_ipv4() {
            rules.push(nft::loopback_guard(&device.name));
        }
    }
    Ok(rules)
}

/// The addresses that ports of the node lead to, with the mappings of each.
fn targets(call: &Call, result: &CniResult) -> Result<Vec<(IpNet, Vec<PortMapping>)>, CniError> {
    let mappings = call.config.port_mappings()?;
    if mappings.is_empty() {
        return Ok(Vec::new());
    }
    if result.ips.is_empty() {
        let why = "there is no address to map them to: the attachment has no ipam";
        return Err(CniError::config("portMappings", mappings.len(), why));
    }
    // Of each family the first address, as with the reference plugin.
    let of_family = |v4: bool| {
        let ip = result.ips.iter().find(|ip| ip.address.addr().is_ipv4() == v4)?;
        let fits = |mapping: &&PortMapping| mapping.host_ip.is_none_or(|host| host.is_ipv4() == v4);
        Some((ip.address, mappings.iter().filter(fits).copied().collect()))
    };
    Ok([true, false].into_iter().filter_map(of_family).collect())
}

fn refused(error: &nft::NftError) -> CniError {
    let code =
        if matches!(error, nft::NftError::Unavailable { .. }) { Code::NotAvailable } else { Code::Internal };
    CniError::new(code, with_source(error))
}
