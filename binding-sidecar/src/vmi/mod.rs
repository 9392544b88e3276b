//! From a VMI to its NICs. Pure: the VMI's JSON and what is known of container and pod go in, checked facts come out. It
//! must never know of XML or of processes.
//!
//! Modules stand in the order the VMI is read: `spec` reads the JSON, `network` finds the pod's interface behind a network,
//! `annotations` reads what the spec has no field for, `interface` puts a NIC together with `hardware`, `ports`, `dhcp`,
//! `queues` and `hostname`. All of them note what is wrong in one list (`fault`), and go on: whoever corrects a VMI wants to
//! correct it once.
//!
//! What passt-rs or libvirt would refuse is refused here, where the VMI's field can be named.

mod fault;
mod spec;
mod network;
mod annotations;
mod interface;
mod hardware;
mod ports;
mod dhcp;
mod queues;
mod hostname;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;

use crate::nic::{Nic, Ports, Sharing};
use annotations::Annotations;
use fault::{Faults, Quoted};
use interface::Reader;
use network::{Networks, Role};
use spec::{Headed, Interface, Metadata, Vmi};

pub use annotations::annotation_keys;
pub use fault::{Fault, Refusal};

/// Where this sidecar stands: what the VMI does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The name under which the VMI's interfaces ask for us: [`crate::names::BINDING_NAME`] of the environment, or
    /// [`crate::names::DEFAULT_BINDING_NAME`].
    pub binding: String,
    pub links: Links,
    /// The pod's search domains, in the order of its resolv.conf.
    pub search: Vec<String>,
}

/// The pod's network interfaces, with their MTUs in bytes.
pub type Links = BTreeMap<String, u32>;

/// Which VMI it is, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name, uid: _ } = self;
        write!(f, "{}/{}", namespace.escape_debug(), name.escape_debug())
    }
}

/// What a VMI asks of us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub identity: Identity,
    /// In the order of the VMI's spec; empty where no interface names our binding.
    pub nics: Vec<Nic>,
    /// Where metrics are to be served; by default nowhere, as the pod's ports are the VM's.
    pub metrics_address: Option<SocketAddr>,
}

/// Reads a VMI as KubeVirt's hooks send it.
///
/// # Errors
/// All that is wrong with it; then nothing may be done for it.
pub fn plan(vmi_json: &[u8], place: &Place) -> Result<Plan, Refusal> {
    let vmi: Vmi = spec::object(vmi_json).map_err(|error| {
        // Where only some field has a wrong type, the name can be read all the same.
        let headed: Option<Headed> = spec::object(vmi_json).ok();
        Refusal::unreadable(headed.map(|headed| identity(&headed.metadata)), &error)
    })?;
    let identity = identity(&vmi.metadata);
    let mut faults = Faults::default();
    let found = read(&vmi, place, &identity, &mut faults);
    match (faults.is_empty(), found) {
        (true, (nics, metrics_address)) => Ok(Plan { identity, nics, metrics_address }),
        (false, _) => Err(faults.refuse(identity)),
    }
}

fn read(
    vmi: &Vmi,
    place: &Place,
    identity: &Identity,
    faults: &mut Faults,
) -> (Vec<Nic>, Option<SocketAddr>) {
    let interfaces = &vmi.spec.domain.devices.interfaces;
    let asks_us = |interface: &Interface| {
        interface.binding.as_ref().is_some_and(|binding| binding.name == place.binding)
    };
    let ours: Vec<(usize, &Interface)> =
        interfaces.iter().enumerate().filter(|(_, interface)| asks_us(interface)).collect();
    let names: HashSet<&str> = ours.iter().map(|(_, interface)| interface.name.as_str()).collect();
    let bound: HashSet<&str> = interfaces
        .iter()
        .filter(|interface| interface.binding.is_some())
        .map(|interface| interface.name.as_str())
        .collect();
    let annotations = Annotations::read(&vmi.metadata.annotations, &bound, faults);
    if ours.is_empty() {
        return (Vec::new(), annotations.metrics_address);
    }
    unique_names(interfaces, &names, faults);
    let networks = Networks::read(vmi, place, faults);
    let reader = Reader::new(vmi, place, identity, &networks, &annotations, faults);
    let mut found: Vec<(Nic, Role)> = Vec::new();
    for (position, interface) in ours.into_iter().filter(|(_, interface)| interface.state != ABSENT) {
        found.extend(reader.nic(position, interface, faults));
    }
    unique_uplinks(&found, faults);
    if let Some(address) = annotations.metrics_address {
        found.iter_mut().for_each(|(nic, _)| keep_for_us(address.port(), nic, faults));
    }
    // Another binding's sidecar, ours under a second name too, listens in this pod as well.
    let has_company = interfaces
        .iter()
        .any(|interface| interface.binding.is_some() && !asks_us(interface) && interface.state != ABSENT);
    let alone = found.len() == 1 && !has_company;
    let share = |(mut nic, role): (Nic, Role)| {
        nic.uplink.sharing = match role {
            Role::Primary if alone => Sharing::Alone,
            Role::Primary => Sharing::Primary,
            // Even alone: the pod's primary network is somebody else's.
            Role::Secondary => Sharing::Secondary,
        };
        nic
    };
    (found.into_iter().map(share).collect(), annotations.metrics_address)
}

/// A translator that listens on every port would take the one that metrics are wanted on.
fn keep_for_us(port: u16, nic: &mut Nic, faults: &mut Faults) {
    match &mut nic.tcp {
        Ports::AllBut(excluded) => {
            if let Err(place) = excluded.binary_search(&port) {
                excluded.insert(place, port);
            }
        }
        Ports::Only(listed) if listed.contains(&port) => faults.add(
            "metadata.annotations \"sluice.dev/metrics-address\"",
            format_args!("interface {:?} forwards port {port} to the guest, expected another", nic.name),
        ),
        Ports::Only(_) => {}
    }
}

/// libvirt's aliases and our sockets are named after interfaces.
fn unique_names(interfaces: &[Interface], ours: &HashSet<&str>, faults: &mut Faults) {
    let mut first: HashMap<&str, usize> = HashMap::new();
    for (position, interface) in interfaces.iter().enumerate() {
        let name = interface.name.as_str();
        let before = *first.entry(name).or_insert(position);
        if before != position && ours.contains(name) {
            faults
                .at_interface(position, name)
                .add("name", format_args!("interfaces[{before}] has the same name, expected one of its own"));
        }
    }
}

/// Two translators on one interface would take each other's ports.
fn unique_uplinks(found: &[(Nic, Role)], faults: &mut Faults) {
    let mut users: HashMap<&str, &str> = HashMap::new();
    for (nic, _) in found {
        let link = nic.uplink.interface.as_str();
        let before = *users.entry(link).or_insert(&nic.name);
        if before != nic.name {
            faults.add(
                format_args!("status.interfaces {}: podInterfaceName", Quoted(&nic.name)),
                format_args!("{} serves {} already, expected another", Quoted(link), Quoted(before)),
            );
        }
    }
}

fn identity(metadata: &Metadata) -> Identity {
    let Metadata { namespace, name, uid, .. } = metadata;
    Identity { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() }
}

/// `state` of an interface that is to be treated as if it were not there.
const ABSENT: &str = "absent";

#[cfg(test)]
mod tests;
