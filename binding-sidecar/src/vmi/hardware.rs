//! What the guest sees of a NIC as a device: address, model, slot, order. It must never know of networks.

use std::ops::RangeInclusive;

use sha2::{Digest, Sha256};

use crate::nic::{Link, Mac, Model, PciAddress};

use super::Identity;
use super::fault::{AtInterface, Quoted};
use super::spec::{Interface, Spec};

/// The address that was asked for, or one of ours.
pub(super) fn mac(interface: &Interface, vmi: &Identity, at: &mut AtInterface<'_>) -> Mac {
    let text = interface.mac_address.as_str();
    if text.is_empty() {
        return stable_mac(vmi, &interface.name);
    }
    let mac = parse_mac(text);
    let problem = match mac {
        None => "expected 6 bytes such as 02:00:00:00:00:01",
        Some(Mac([0, 0, 0, 0, 0, 0])) => "expected an address other than zero",
        Some(Mac([first, ..])) if first & 1 == 1 => "expected the address of one station, not of a group",
        Some(_) => "",
    };
    if !problem.is_empty() {
        at.add("macAddress", format_args!("{}, {problem}", Quoted(text)));
    }
    mac.unwrap_or(Mac([0; 6]))
}

/// As Go's net.ParseMAC reads it, which admits a VMI: two digits between `:` or `-`, or four between dots.
fn parse_mac(text: &str) -> Option<Mac> {
    let (separator, digits) = match text.as_bytes().get(2)? {
        b':' => (':', 2),
        b'-' => ('-', 2),
        _ => ('.', 4),
    };
    let is_piece = |piece: &str| piece.len() == digits && piece.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !text.split(separator).all(is_piece) {
        return None;
    }
    let hex: String = text.split(separator).collect();
    if hex.len() != 12 {
        return None;
    }
    let [_, _, mac @ ..] = u64::from_str_radix(&hex, 16).ok()?.to_be_bytes();
    Some(Mac(mac))
}

/// Stays the same as long as VM and interface keep their names, over restarts and migrations: guests remember NICs by it.
/// Locally administered (IEEE 802 8.4). It is never seen on a real link, so it need not be the only one in a cluster, only
/// in its VM; there 40 bits of a hash do not meet.
fn stable_mac(vmi: &Identity, interface: &str) -> Mac {
    let mut hash = Sha256::new();
    // No name contains a zero, so no two triples are one text.
    for part in [vmi.namespace.as_str(), "\0", &vmi.name, "\0", interface] {
        hash.update(part);
    }
    let hash: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, e, ..] = hash;
    Mac([0x02, a, b, c, d, e])
}

pub(super) fn model(interface: &Interface, spec: &Spec, at: &mut AtInterface<'_>) -> Model {
    match interface.model.as_str() {
        "" | "virtio" if spec.architecture == "s390x" => Model::Virtio,
        "" | "virtio" if spec.domain.devices.use_virtio_transitional => Model::VirtioTransitional,
        "" | "virtio" => Model::VirtioNonTransitional,
        "e1000" => Model::E1000,
        "e1000e" => Model::E1000e,
        "igb" => Model::Igb,
        "ne2k_pci" => Model::Ne2kPci,
        "pcnet" => Model::Pcnet,
        "rtl8139" => Model::Rtl8139,
        other => {
            let allowed = "virtio, e1000, e1000e, igb, ne2k_pci, pcnet or rtl8139";
            at.add("model", format_args!("{}, expected {allowed}", Quoted(other)));
            Model::VirtioNonTransitional
        }
    }
}

pub(super) fn pci_address(interface: &Interface, at: &mut AtInterface<'_>) -> Option<PciAddress> {
    let text = interface.pci_address.as_str();
    if text.is_empty() {
        return None;
    }
    let address = parse_pci_address(text);
    if address.is_none() {
        let allowed = "DDDD:BB:SS.F in hexadecimal, slot 00 to 1f, function 0 to 7";
        at.add("pciAddress", format_args!("{}, expected {allowed}", Quoted(text)));
    }
    address
}

fn parse_pci_address(text: &str) -> Option<PciAddress> {
    let (domain, rest) = text.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (slot, function) = rest.split_once('.')?;
    let number = |text: &str, digits: usize| {
        let fits = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        fits.then(|| u16::from_str_radix(text, 16).ok()).flatten()
    };
    Some(PciAddress {
        domain: number(domain, 4)?,
        bus: number(bus, 2)?.try_into().ok()?,
        slot: number(slot, 2)?.try_into().ok().filter(|slot| *slot < 32)?,
        function: number(function, 1)?.try_into().ok().filter(|function| *function < 8)?,
    })
}

pub(super) fn acpi_index(interface: &Interface, at: &mut AtInterface<'_>) -> Option<u16> {
    number("acpiIndex", interface.acpi_index, 1..=16383, at)
}

pub(super) fn boot_order(interface: &Interface, at: &mut AtInterface<'_>) -> Option<u16> {
    number("bootOrder", interface.boot_order, 1..=u16::MAX, at)
}

fn number(
    field: &str,
    value: Option<i64>,
    range: RangeInclusive<u16>,
    at: &mut AtInterface<'_>,
) -> Option<u16> {
    let value = value?;
    let number = value.try_into().ok().filter(|number| range.contains(number));
    if number.is_none() {
        at.add(field, format_args!("{value}, expected {} to {}", range.start(), range.end()));
    }
    number
}

/// `absent` is not asked for here.
pub(super) fn link(interface: &Interface, at: &mut AtInterface<'_>) -> Link {
    match interface.state.as_str() {
        "" | "up" => Link::Up,
        "down" => Link::Down,
        other => {
            at.add("state", format_args!("{}, expected up, down or absent", Quoted(other)));
            Link::Up
        }
    }
}
