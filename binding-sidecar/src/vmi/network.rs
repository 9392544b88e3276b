//! From a VMI's network to the pod's interface behind it. It must never guess: an interface that is not in the pod is a fault.
//!
//! KubeVirt says which interface it is in the VMI's status. Where it does not (yet), it is `eth0` for the primary network, and
//! for a secondary one the name that KubeVirt gives it: of a hash, or a running number on pods that began with these.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::Place;
use super::fault::{Faults, Quoted};
use super::spec::Vmi;

/// What a network is to the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The one with the pod's address: the pod network, or Multus's default.
    Primary,
    Secondary,
}

/// The VMI's networks, by name.
#[derive(Debug)]
pub(super) struct Networks<'a> {
    kinds: HashMap<&'a str, Kind>,
    /// The pod's interfaces as the VMI's status has them.
    told: HashMap<&'a str, &'a str>,
    place: &'a Place,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Primary,
    /// Which of the secondary networks, from 1.
    Secondary(usize),
    Other,
}

impl<'a> Networks<'a> {
    pub(super) fn read(vmi: &'a Vmi, place: &'a Place, faults: &mut Faults) -> Self {
        let mut kinds = HashMap::new();
        let mut primary: Option<&str> = None;
        let mut secondary = 0;
        for (position, network) in vmi.spec.networks.iter().enumerate() {
            let name = network.name.as_str();
            let kind = match (&network.pod, &network.multus) {
                (Some(_), _) => Kind::Primary,
                (None, Some(multus)) if multus.default => Kind::Primary,
                (None, Some(_)) => {
                    secondary += 1;
                    Kind::Secondary(secondary)
                }
                (None, None) => Kind::Other,
            };
            let field = format_args!("spec.networks[{position}] {}", Quoted(name)).to_string();
            if let (Kind::Primary, Some(before)) = (kind, primary) {
                let allowed = "expected one pod network, or one multus network with default: true";
                faults.add(
                    &field,
                    format_args!("{} is the pod's primary network already, {allowed}", Quoted(before)),
                );
            }
            if matches!(kind, Kind::Primary) {
                primary.get_or_insert(name);
            }
            match kinds.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(kind);
                }
                Entry::Occupied(_) => {
                    faults.add(&field, "a second network of this name, expected one of its own")
                }
            }
        }
        let told = vmi.status.interfaces.iter();
        let told = told.filter(|status| !status.pod_interface_name.is_empty());
        Self {
            kinds,
            told: told.map(|status| (status.name.as_str(), status.pod_interface_name.as_str())).collect(),
            place,
        }
    }

    /// The pod's interface behind the network of this name; or what is wrong.
    pub(super) fn uplink(&self, name: &str) -> Result<(String, Role), NoUplink> {
        let (role, ordinal) = match self.kinds.get(name) {
            None => return Err(NoUplink::NoNetwork),
            Some(Kind::Other) => return Err(NoUplink::OtherKind),
            Some(Kind::Primary) => (Role::Primary, None),
            Some(Kind::Secondary(ordinal)) => (Role::Secondary, Some(*ordinal)),
        };
        let candidates = match (self.told.get(name), ordinal) {
            (Some(told), None) => vec![(*told).to_owned()],
            (None, None) => vec![PRIMARY_LINK.to_owned()],
            // On a migration's target the status may still tell of the source, whose names may be of the other kind.
            (told, Some(ordinal)) => told
                .map(|told| (*told).to_owned())
                .into_iter()
                .chain([hashed(name), format!("net{ordinal}")])
                .collect(),
        };
        match candidates.iter().find(|link| self.place.links.contains_key(*link)) {
            Some(link) => Ok((link.clone(), role)),
            None => Err(NoUplink::NotInPod(candidates)),
        }
    }
}

/// Why an interface has none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoUplink {
    #[error("spec.networks has no network of this name")]
    NoNetwork,
    #[error("its network is neither `pod` nor `multus`, expected one of them")]
    OtherKind,
    #[error("the pod has no interface {}", .0.iter().map(|name| Quoted(name).to_string()).collect::<Vec<_>>().join(" or "))]
    NotInPod(Vec<String>),
}

/// `pod` and the first 11 digits of a hash, as interface names have 15 characters at most and KubeVirt's bridges add
/// some.
fn hashed(network: &str) -> String {
    let mut name = "pod".to_owned();
    for byte in Sha256::digest(network) {
        // Writing to a String does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name.truncate(HASHED_LEN);
    name
}

/// The primary network's, unless the status says otherwise.
const PRIMARY_LINK: &str = "eth0";
const HASHED_LEN: usize = "pod".len() + 11;
