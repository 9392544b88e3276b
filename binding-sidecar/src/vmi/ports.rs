//! Which ports are forwarded to the guest. It must never take time or memory beyond one step for each listed port.

use std::collections::BTreeSet;

use crate::nic::Ports;

use super::fault::{AtInterface, Quoted};
use super::spec::{Interface, Metadata};

/// Ports of TCP and of UDP.
///
/// None listed: all of both. One listed: only those, and a protocol without any forwards nothing. With Istio's proxy in the
/// pod, the ports that are the proxy's stay with it, listed or not.
pub(super) fn read(interface: &Interface, istio: bool, at: &mut AtInterface<'_>) -> (Ports, Ports) {
    let (taken, taken_udp): (&[u16], &[u16]) = if istio { (&ISTIO, &ISTIO_UDP) } else { (&[], &[]) };
    if interface.ports.is_empty() {
        return (Ports::AllBut(taken.to_vec()), Ports::AllBut(taken_udp.to_vec()));
    }
    let (mut tcp, mut udp) = (BTreeSet::new(), BTreeSet::new());
    for (position, listed) in interface.ports.iter().enumerate() {
        let protocol = match listed.protocol.as_str() {
            "" | "TCP" => Some(&mut tcp),
            "UDP" => Some(&mut udp),
            _ => None,
        };
        let port = u16::try_from(listed.port).ok().filter(|port| *port != 0);
        if protocol.is_none() {
            let found = Quoted(&listed.protocol);
            at.add(format_args!("ports[{position}].protocol"), format_args!("{found}, expected TCP or UDP"));
        }
        if port.is_none() {
            let found = listed.port;
            at.add(format_args!("ports[{position}].port"), format_args!("{found}, expected 1 to 65535"));
        }
        if let (Some(protocol), Some(port)) = (protocol, port) {
            protocol.insert(port);
        }
    }
    tcp.retain(|port| !taken.contains(port));
    udp.retain(|port| !taken_udp.contains(port));
    (Ports::Only(tcp.into_iter().collect()), Ports::Only(udp.into_iter().collect()))
}

/// Whether Istio puts its proxy into the VM's pod. Older versions of it read the annotation, newer ones the label.
pub(super) fn istio(metadata: &Metadata) -> bool {
    [&metadata.annotations, &metadata.labels]
        .iter()
        .filter_map(|texts| texts.get("sidecar.istio.io/inject"))
        .any(|text| text.eq_ignore_ascii_case("true"))
}

/// What Istio's proxy listens on (istio.io, "Application Requirements", ports used by Istio).
const ISTIO: [u16; 10] = [15000, 15001, 15004, 15006, 15008, 15009, 15020, 15021, 15053, 15090];
/// Of them, the one that its DNS proxy also has in UDP.
const ISTIO_UDP: [u16; 1] = [15053];
