//! One interface of the spec to one NIC. It must never stop at the first fault.

use crate::nic::{Link, Nic, Sharing, Uplink};

use super::annotations::{Annotations, MTU_MAX, MTU_MIN};
use super::fault::Faults;
use super::hostname::{self, Hostname};
use super::network::{Networks, Role};
use super::spec::{Interface, Vmi};
use super::{Identity, Place, dhcp, hardware, ports, queues};

/// What all NICs of a VMI have in common.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    vmi: &'a Vmi,
    place: &'a Place,
    identity: &'a Identity,
    networks: &'a Networks<'a>,
    annotations: &'a Annotations,
    hostname: Hostname,
    queues: Option<u16>,
    istio: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        vmi: &'a Vmi,
        place: &'a Place,
        identity: &'a Identity,
        networks: &'a Networks<'a>,
        annotations: &'a Annotations,
        faults: &mut Faults,
    ) -> Self {
        Self {
            vmi,
            place,
            identity,
            networks,
            annotations,
            hostname: hostname::read(vmi, identity, place, faults),
            queues: queues::read(&vmi.spec.domain, faults),
            istio: ports::istio(&vmi.metadata),
        }
    }

    /// The NIC, and what its network is; none where there is no such network. How it shares the pod is the caller's to say.
    pub(super) fn nic(
        &self,
        position: usize,
        interface: &Interface,
        faults: &mut Faults,
    ) -> Option<(Nic, Role)> {
        let name = interface.name.as_str();
        let mut at = faults.at_interface(position, name);
        if !is_name(name) {
            at.add("name", format_args!("expected 1 to {NAME_BYTES_MAX} letters, digits, - and _"));
        }
        let mac = hardware::mac(interface, self.identity, &mut at);
        let model = hardware::model(interface, &self.vmi.spec, &mut at);
        let pci_address = hardware::pci_address(interface, &mut at);
        let acpi_index = hardware::acpi_index(interface, &mut at);
        let boot_order = hardware::boot_order(interface, &mut at);
        let link: Link = hardware::link(interface, &mut at);
        let (tcp, udp) = ports::read(interface, self.istio, &mut at);
        let dhcp = dhcp::read(interface, &mut at);
        let uplink = self.networks.uplink(name).map_err(|problem| at.add("network", problem));
        let (uplink, role) = uplink.ok()?;
        let nic = Nic {
            name: name.to_owned(),
            mac,
            model,
            pci_address,
            acpi_index,
            boot_order,
            link,
            mtu: self.mtu(name, &uplink),
            queues: self.queues.filter(|_| model.is_virtio()),
            uplink: Uplink { interface: uplink, sharing: Sharing::Alone },
            tcp,
            udp,
            dhcp,
            hostname: self.hostname.label.clone(),
            fqdn: self.hostname.fqdn.clone(),
            tuning: self.annotations.tuning(name),
        };
        Some((nic, role))
    }

    /// Of the pod's interface, unless told: larger segments would be cut in the pod, smaller ones cost speed.
    fn mtu(&self, name: &str, uplink: &str) -> u16 {
        self.annotations.mtu(name).unwrap_or_else(|| {
            let of_link = self.place.links.get(uplink).copied().unwrap_or_default();
            u16::try_from(of_link).unwrap_or(MTU_MAX).clamp(MTU_MIN, MTU_MAX)
        })
    }
}

/// What KubeVirt allows interfaces; it has no limit for their length, and annotations and logs want one.
fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(inner)
}

/// As long as names of Kubernetes' objects.
const NAME_BYTES_MAX: usize = 253;
