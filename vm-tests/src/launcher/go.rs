//! What becomes of a domain's XML in virt-launcher, which reads it into Go's structures and writes it again: what they
//! have no field for is gone, the rest is in the fields' order. It must never keep more than KubeVirt would.
//!
//! Only what a sidecar could rely on is listed; below other elements all is kept. Written as Go's `encoding/xml` does:
//! tabs, no empty-element tags, no declaration, comments and processing instructions gone.

use std::fmt::Write as _;

use anyhow::Context as _;
use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};

/// Attributes, and children in their order, of an element as Go knows it.
struct Known {
    attributes: &'static [&'static str],
    children: &'static [&'static str],
}

const DOMAIN: Known = Known {
    // Not the declaration of QEMU's own namespace, nor anything in that.
    attributes: &["type"],
    children: &[
        "name",
        "uuid",
        "memory",
        "currentMemory",
        "maxMemory",
        "memoryBacking",
        "os",
        "sysinfo",
        "devices",
        "clock",
        "resource",
        "metadata",
        "features",
        "cpu",
        "vcpu",
        "vcpus",
        "cputune",
        "numatune",
        "iothreads",
        "launchSecurity",
    ],
};

const MEMORY_BACKING: Known =
    Known { attributes: &[], children: &["hugepages", "source", "access", "allocation", "nosharepages"] };

const DEVICES: Known = Known {
    attributes: &[],
    children: &[
        "emulator",
        "interface",
        "channel",
        "hostdev",
        "controller",
        "video",
        "graphics",
        "memballoon",
        "disk",
        "input",
        "serial",
        "console",
        "watchdog",
        "rng",
        "filesystem",
        "redirdev",
        "sound",
        "tpm",
        "vsock",
        "memory",
        "panic",
    ],
};

const INTERFACE: Known = Known {
    attributes: &["type", "trustGuestRxFilters"],
    children: &[
        "address",
        "source",
        "target",
        "model",
        "mac",
        "mtu",
        "bandwidth",
        "boot",
        "link",
        "filterref",
        "alias",
        "driver",
        "rom",
        "acpi",
        "backend",
        "portForward",
    ],
};

/// Neither the type nor the path of a unix socket, nor how to connect again.
const INTERFACE_SOURCE: Known =
    Known { attributes: &["network", "dev", "bridge", "mode"], children: &["address"] };

const INTERFACE_DRIVER: Known = Known { attributes: &["name", "queues", "iommu"], children: &[] };

/// Not which chassis and port libvirt made it.
const CONTROLLER: Known =
    Known { attributes: &["type", "index", "model"], children: &["alias", "driver", "address", "target"] };

const CONTROLLER_TARGET: Known = Known { attributes: &["hotplug"], children: &[] };

fn known(path: &[&str]) -> Option<&'static Known> {
    Some(match path {
        ["domain"] => &DOMAIN,
        ["domain", "memoryBacking"] => &MEMORY_BACKING,
        ["domain", "devices"] => &DEVICES,
        ["domain", "devices", "interface"] => &INTERFACE,
        ["domain", "devices", "interface", "source"] => &INTERFACE_SOURCE,
        ["domain", "devices", "interface", "driver"] => &INTERFACE_DRIVER,
        ["domain", "devices", "controller"] => &CONTROLLER,
        ["domain", "devices", "controller", "target"] => &CONTROLLER_TARGET,
        _ => return None,
    })
}

/// An element with all it holds. Text beside children is lost, as in Go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    pub name: String,
    pub attributes: Vec<(String, String)>,
    pub children: Vec<Self>,
    pub text: String,
}

/// A document, read into Go's structures and written again.
pub fn round_trip(document: &str) -> anyhow::Result<String> {
    Ok(Element::parse(document)?.as_go_knows_it().written())
}

impl Element {
    /// The root of a document.
    pub fn parse(document: &str) -> anyhow::Result<Self> {
        let mut reader = Reader::from_str(document);
        let mut open: Vec<Self> = Vec::new();
        loop {
            let event = reader.read_event().context("not well-formed")?;
            let closed = match event {
                Event::Start(start) => {
                    open.push(Self::opened(&start)?);
                    continue;
                }
                Event::Empty(start) => Self::opened(&start)?,
                Event::End(_) => {
                    let mut element = open.pop().context("an end without its start")?;
                    if !element.children.is_empty() || element.text.trim().is_empty() {
                        element.text.clear();
                    }
                    element
                }
                Event::Text(text) => {
                    add_text(&mut open, &text);
                    continue;
                }
                Event::CData(text) => {
                    add_text(&mut open, &text);
                    continue;
                }
                Event::GeneralRef(name) => {
                    let reference = format!("&{};", &*name);
                    add_text(&mut open, &unescape(&reference)?);
                    continue;
                }
                Event::Eof => anyhow::bail!("the document ends early"),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => continue,
            };
            match open.last_mut() {
                Some(parent) => parent.children.push(closed),
                None => return Ok(closed),
            }
        }
    }

    /// What Go's structures keep of a domain.
    pub fn as_go_knows_it(&self) -> Self {
        self.filtered(&mut Vec::new())
    }

    /// As Go writes it, without what it does not know of namespaces.
    pub fn written(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, 0);
        text
    }

    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    pub fn child_mut(&mut self, name: &str) -> Option<&mut Self> {
        self.children.iter_mut().find(|child| child.name == name)
    }

    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Those children that have this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    fn opened(start: &BytesStart<'_>) -> anyhow::Result<Self> {
        let name = start.name().as_ref().to_owned();
        let mut attributes = Vec::new();
        for attribute in start.attributes() {
            let attribute = attribute?;
            let key = attribute.key.as_ref().to_owned();
            attributes.push((key, unescape(&attribute.value)?.into_owned()));
        }
        Ok(Self { name, attributes, ..Self::default() })
    }

    fn filtered<'a>(&'a self, path: &mut Vec<&'a str>) -> Self {
        path.push(&self.name);
        let mut kept = Self { name: self.name.clone(), text: self.text.clone(), ..Self::default() };
        match known(path) {
            Some(known) => {
                let attributes = self.attributes.iter();
                kept.attributes =
                    attributes.filter(|(key, _)| known.attributes.contains(&key.as_str())).cloned().collect();
                for name in known.children {
                    kept.children.extend(self.all(name).map(|child| child.filtered(path)));
                }
            }
            None => {
                kept.attributes.clone_from(&self.attributes);
                kept.children.extend(self.children.iter().map(|child| child.filtered(path)));
            }
        }
        path.pop();
        kept
    }

    fn write(&self, text: &mut String, depth: usize) {
        let indent = "\t".repeat(depth);
        let _ = write!(text, "{indent}<{}", self.name);
        for (key, value) in &self.attributes {
            let _ = write!(text, " {key}=\"{}\"", escaped(value));
        }
        text.push('>');
        text.push_str(&escaped(&self.text));
        for child in &self.children {
            text.push('\n');
            child.write(text, depth + 1);
        }
        if !self.children.is_empty() {
            let _ = write!(text, "\n{indent}");
        }
        let _ = write!(text, "</{}>", self.name);
    }
}

fn add_text(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\t' => escaped.push_str("&#x9;"),
            '\n' => escaped.push_str("&#xA;"),
            '\r' => escaped.push_str("&#xD;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::round_trip;

    #[test]
    fn vhost_user_interface_loses_its_socket_and_keeps_its_alias() {
        let before = "<?xml version='1.0'?><domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
            <name>a&amp;b</name><!-- gone --><devices>\
            <controller type='pci' index='1' model='pcie-root-port'><model name='pcie-root-port'/>\
            <target chassis='1' port='0x8'/><alias name='pci.1'/></controller><audio id='1' type='none'/>\
            <interface type='vhostuser'>\
            <source type='unix' path='/x' mode='client'><reconnect enabled='yes' timeout='1'/></source>\
            <mac address='02:00:00:00:00:05'/><model type='virtio'/><alias name='ua-default'/>\
            <driver queues='4' rss='on'/></interface></devices>\
            <memoryBacking><access mode='shared'/><source type='memfd'/></memoryBacking>\
            <qemu:commandline><qemu:arg value='x'/></qemu:commandline></domain>";
        let after = "<domain type=\"qemu\">\n\t<name>a&amp;b</name>\n\t<memoryBacking>\n\
            \t\t<source type=\"memfd\"></source>\n\t\t<access mode=\"shared\"></access>\n\t</memoryBacking>\n\
            \t<devices>\n\t\t<interface type=\"vhostuser\">\n\t\t\t<source mode=\"client\"></source>\n\
            \t\t\t<model type=\"virtio\"></model>\n\t\t\t<mac address=\"02:00:00:00:00:05\"></mac>\n\
            \t\t\t<alias name=\"ua-default\"></alias>\n\t\t\t<driver queues=\"4\"></driver>\n\t\t</interface>\n\
            \t\t<controller type=\"pci\" index=\"1\" model=\"pcie-root-port\">\n\
            \t\t\t<alias name=\"pci.1\"></alias>\n\t\t\t<target></target>\n\t\t</controller>\n\
            \t</devices>\n</domain>";
        assert_eq!(round_trip(before).unwrap(), after);
        assert_eq!(round_trip(after).unwrap(), after);
        assert!(round_trip("<domain><name></domain>").is_err());
    }
}
