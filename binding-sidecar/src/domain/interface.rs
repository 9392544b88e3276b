//! A NIC as libvirt's `<interface>`, and which element of a document is it already.

use std::borrow::Cow;

use crate::nic::{Link, Model, Nic};

use super::document::{Document, Element};
use super::edit::{Edits, New};
use super::{Attachment, DomainError};

/// What KubeVirt, and libvirt for it, have before the alias that a user chose.
const USER: &str = "ua-";
/// Devices that hold slots for NICs to come.
const PLACEHOLDER: &str = "placeholder-";
/// Seconds between attempts to reach a translator that went away; libvirt takes whole ones.
const RECONNECT_SECONDS: &str = "1";

/// Puts every NIC where it stands already, else behind the last interface.
pub(super) fn put<'a>(
    document: &Document<'a>,
    devices: &Element,
    nics: &[Attachment<'_>],
    edits: &mut Edits<'_, 'a>,
) -> Result<(), DomainError> {
    let interfaces: Vec<Standing<'_>> =
        document.named(devices, "interface").map(|element| Standing::read(document, element)).collect();
    let mut missing = Vec::new();
    for (at, Attachment { nic, socket }) in nics.iter().enumerate() {
        if nics.iter().take(at).any(|earlier| earlier.nic.name == nic.name) {
            return Err(DomainError::SameName(nic.name.clone()));
        }
        match find(document, &interfaces, &nic.name)? {
            Some(old) => edits.replace(old, &element(nic, socket, address(document, old))),
            None => missing.push(element(nic, socket, None)),
        }
    }
    match interfaces.last() {
        Some(last) => edits.insert_after(last.element, &missing),
        None => edits.insert_first(devices, &missing),
    }
    Ok(())
}

/// An interface that the document has.
#[derive(Debug)]
struct Standing<'d> {
    element: &'d Element,
    alias: Option<Cow<'d, str>>,
    is_placeholder: bool,
}

impl<'d> Standing<'d> {
    fn read(document: &'d Document<'_>, element: &'d Element) -> Self {
        let value = |child, name| {
            let child = document.named(element, child).next()?;
            document.value(child, name)
        };
        let is_placeholder = value("target", "dev").is_some_and(|dev| dev.starts_with(PLACEHOLDER));
        Self { element, alias: value("alias", "name"), is_placeholder }
    }
}

/// The interface with a NIC's alias, or with its bare name: libvirt writes the one, Go may leave the other.
fn find<'d>(
    document: &Document<'_>,
    interfaces: &[Standing<'d>],
    name: &str,
) -> Result<Option<&'d Element>, DomainError> {
    let of_user = |alias: &str| alias.strip_prefix(USER) == Some(name);
    // A bare alias that begins as a user's does is that of a user's other interface.
    let bare = |alias: &str| alias == name && !alias.starts_with(USER);
    let with = |matches: &dyn Fn(&str) -> bool| {
        let found: Vec<&'d Element> = interfaces
            .iter()
            .filter(|interface| !interface.is_placeholder && interface.alias.as_deref().is_some_and(matches))
            .map(|interface| interface.element)
            .collect();
        found
    };
    let mut found = with(&of_user);
    if found.is_empty() {
        found = with(&bare);
    }
    match found.as_slice() {
        [] => Ok(None),
        [element] => Ok(Some(element)),
        [first, second, ..] => Err(DomainError::AliasTwice {
            alias: format!("{USER}{name}"),
            first: document.place(first),
            second: document.place(second),
        }),
    }
}

/// The element of one NIC. Its children stand in one order whatever stood there before.
fn element<'n>(nic: &'n Nic, socket: &'n str, kept: Option<Address<'n>>) -> New<'n> {
    let reconnect = New::element("reconnect").with("enabled", "yes").with("timeout", RECONNECT_SECONDS);
    let source = New::element("source").with("type", "unix").with("path", socket).with("mode", "client");
    let mut interface = New::element("interface")
        .with("type", "vhostuser")
        .child(New::element("mac").with("address", nic.mac.to_string()))
        .child(source.child(reconnect))
        .child(New::element("model").with("type", nic.model.to_string()));
    if let Some(queues) = nic.queues.filter(|_| nic.model.is_virtio()) {
        let driver = New::element("driver").with("name", "vhost").with("queues", queues.to_string());
        interface = interface.child(driver);
    }
    if nic.link == Link::Down {
        interface = interface.child(New::element("link").with("state", "down"));
    }
    match nic.boot_order {
        Some(order) => interface = interface.child(New::element("boot").with("order", order.to_string())),
        None if has_rom(nic.model) => interface = interface.child(New::element("rom").with("enabled", "no")),
        None => {}
    }
    interface = interface.child(New::element("alias").with("name", format!("{USER}{}", nic.name)));
    if let Some(index) = nic.acpi_index {
        interface = interface.child(New::element("acpi").with("index", index.to_string()));
    }
    match (nic.pci_address, kept) {
        (Some(address), _) => interface.child(
            New::element("address")
                .with("type", "pci")
                .with("domain", format!("0x{:04x}", address.domain))
                .with("bus", format!("0x{:02x}", address.bus))
                .with("slot", format!("0x{:02x}", address.slot))
                .with("function", format!("0x{:x}", address.function)),
        ),
        (None, Some(Address::Plain(attributes))) => {
            let address = New::element("address");
            interface.child(
                attributes.into_iter().fold(address, |address, (name, value)| address.with(name, value)),
            )
        }
        (None, Some(Address::Nested(text))) => interface.kept(text),
        (None, None) => interface,
    }
}

/// Where there is no PCI there is no ROM to switch off.
fn has_rom(model: Model) -> bool {
    match model {
        Model::Virtio => false,
        Model::VirtioNonTransitional
        | Model::VirtioTransitional
        | Model::E1000
        | Model::E1000e
        | Model::Igb
        | Model::Ne2kPci
        | Model::Pcnet
        | Model::Rtl8139 => true,
    }
}

/// Where libvirt put a device, and would put it again.
#[derive(Debug)]
enum Address<'a> {
    Plain(Vec<(&'a str, Cow<'a, str>)>),
    /// With elements in it (`<zpci>`), as it is written.
    Nested(&'a str),
}

fn address<'a>(document: &Document<'a>, interface: &Element) -> Option<Address<'a>> {
    let address = document.named(interface, "address").next()?;
    if document.children(address).next().is_some() {
        return Some(Address::Nested(document.slice(&address.span)));
    }
    let mut attributes: Vec<_> = document
        .attributes(address)
        .map(|attribute| (attribute.name, document.text_of(&attribute)))
        .collect();
    // Whoever reads and writes it has an order of their own; ours stays.
    attributes.sort_by_key(|(name, _)| {
        (ADDRESS_ORDER.iter().position(|known| known == name).unwrap_or(ADDRESS_ORDER.len()), *name)
    });
    Some(Address::Plain(attributes))
}

/// Of PCI and of s390x's channels, as libvirt writes them.
const ADDRESS_ORDER: [&str; 9] =
    ["type", "domain", "bus", "slot", "function", "multifunction", "cssid", "ssid", "devno"];
