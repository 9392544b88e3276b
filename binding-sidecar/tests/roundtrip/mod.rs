//! What KubeVirt's Go structures do to a document between two calls, and what tests ask of documents. XML is read by
//! roxmltree here, which shares nothing with what is tested.

use std::ops::Range;

use roxmltree::{Document, Node, ParsingOptions};

const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// Runs `use_it` with the document's tree. A prefix `qemu` that is not declared is: KubeVirt loses the declaration.
///
/// `declared` is what was put into the text for that; places in the tree count it.
fn with_tree<T>(text: &str, use_it: impl FnOnce(&Document<'_>, usize) -> T) -> T {
    match Document::parse(text) {
        Ok(document) => use_it(&document, 0),
        Err(roxmltree::Error::UnknownNamespace(..)) => {
            let declaration = format!(" xmlns:qemu='{QEMU}'");
            let text = text.replacen("<domain", &format!("<domain{declaration}"), 1);
            use_it(&Document::parse(&text).unwrap(), declaration.len())
        }
        Err(error) => panic!("{error}:\n{text}"),
    }
}

/// Whether another reader takes it.
pub(crate) fn is_well_formed(text: &str) -> bool {
    let options = ParsingOptions { nodes_limit: 100_000, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).is_ok()
}

/// As the third call brings a document: read into Go's structures and written again.
///
/// Of a vhost-user interface the source's type, path and reconnect are gone, and its children stand in the structures'
/// order; interfaces stand first among devices; comments, processing instructions and the declaration of `qemu` are
/// gone; every empty element has two tags; indentation is by tabs, quotes are double.
pub(crate) fn lossy(text: &str) -> String {
    with_tree(text, |document, _| {
        let mut written = String::new();
        write(document.root_element(), 0, &mut written);
        written
    })
}

fn write(node: Node<'_, '_>, depth: usize, to: &mut String) {
    let name = qualified(node);
    let indent = "\t".repeat(depth);
    to.push_str(&format!("{indent}<{name}"));
    if node.tag_name().name() == "kubevirt" {
        to.push_str(&format!(" xmlns=\"{}\"", node.tag_name().namespace().unwrap_or_default()));
    }
    let is_ours = |node: &Node<'_, '_>| node.attribute("type") == Some("vhostuser");
    let loses_source = node.tag_name().name() == "source" && node.parent().as_ref().is_some_and(is_ours);
    for attribute in node.attributes() {
        if !(loses_source && matches!(attribute.name(), "type" | "path")) {
            to.push_str(&format!(" {}=\"{}\"", attribute.name(), escaped(attribute.value())));
        }
    }
    to.push('>');
    let mut children: Vec<Node<'_, '_>> = node.children().filter(Node::is_element).collect();
    if loses_source {
        children.retain(|child| child.tag_name().name() != "reconnect");
    }
    // Stable: what has no rank keeps its order behind.
    match node.tag_name().name() {
        "devices" => children.sort_by_key(|child| child.tag_name().name() != "interface"),
        "interface" => children.sort_by_key(|child| rank(&INTERFACE, child)),
        "domain" => children.sort_by_key(|child| rank(&DOMAIN, child)),
        _ => {}
    }
    let text: String = node.children().filter(Node::is_text).filter_map(|text| text.text()).collect();
    if children.is_empty() {
        to.push_str(&escaped(text.trim()));
    } else {
        to.push('\n');
        for child in children {
            write(child, depth + 1, to);
        }
        to.push_str(&indent);
    }
    to.push_str(&format!("</{name}>\n"));
}

fn rank(order: &[&str], child: &Node<'_, '_>) -> usize {
    order.iter().position(|name| *name == child.tag_name().name()).unwrap_or(order.len())
}

/// Of `api.Interface` and `api.DomainSpec`.
const INTERFACE: [&str; 18] = [
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
    "teaming",
    "tune",
];
const DOMAIN: [&str; 6] = ["name", "uuid", "memory", "currentMemory", "maxMemory", "memoryBacking"];

fn qualified(node: Node<'_, '_>) -> String {
    let name = node.tag_name();
    if name.namespace() == Some(QEMU) { format!("qemu:{}", name.name()) } else { name.name().to_owned() }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' => escaped.push_str("&#x9;"),
            '\n' => escaped.push_str("&#xA;"),
            '\r' => escaped.push_str("&#xD;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The interface with the alias `ua-NAME`, as what it says: names, attributes and children in their order.
pub(crate) fn interface(text: &str, name: &str) -> Option<String> {
    with_tree(text, |document, _| {
        let interface = interfaces(document).find(|node| alias(*node) == Some(&format!("ua-{name}")))?;
        Some(said(interface))
    })
}

fn said(node: Node<'_, '_>) -> String {
    let attributes: Vec<String> =
        node.attributes().map(|attribute| format!("{}={:?}", attribute.name(), attribute.value())).collect();
    let children: Vec<String> = node.children().filter(Node::is_element).map(said).collect();
    format!("{}({})[{}]", node.tag_name().name(), attributes.join(" "), children.join(", "))
}

fn interfaces<'a, 'input>(document: &'a Document<'input>) -> impl Iterator<Item = Node<'a, 'input>> {
    let devices = document.root_element().children().find(|node| node.has_tag_name("devices"));
    devices.into_iter().flat_map(|devices| devices.children()).filter(|node| node.has_tag_name("interface"))
}

fn alias<'a>(interface: Node<'a, '_>) -> Option<&'a str> {
    interface.children().find(|node| node.has_tag_name("alias"))?.attribute("name")
}

/// The document without what is ours to write, and without the white space before that: the interfaces with these
/// names, `<memoryBacking>`, the cells' `memAccess`, and whether the balloon reports free pages. Devices that have nothing
/// else are `<devices></devices>`.
pub(crate) fn without_ours(text: &str, names: &[&str]) -> String {
    with_tree(text, |document, declared| {
        let root = document.root_element();
        let mut ours: Vec<Range<usize>> = Vec::new();
        let is_ours = |node: Node<'_, '_>| {
            let alias = alias(node).unwrap_or_default();
            names.contains(&alias.strip_prefix("ua-").unwrap_or(alias))
        };
        ours.extend(interfaces(document).filter(|node| is_ours(*node)).map(|node| node.range()));
        let backing = root.children().filter(|node| node.has_tag_name("memoryBacking"));
        ours.extend(backing.map(|node| node.range()));
        for node in root.descendants().filter(Node::is_element) {
            let attribute = match node.tag_name().name() {
                "cell" => node.attribute_node("memAccess"),
                "memballoon" => node.attribute_node("freePageReporting"),
                _ => None,
            };
            ours.extend(attribute.map(|attribute| attribute.range()));
        }
        ours.sort_by_key(|range| range.start);
        let input = document.input_text();
        let mut rest = String::new();
        let mut done = 0;
        for range in ours {
            rest.push_str(input[done..range.start].trim_end());
            done = range.end;
        }
        rest.push_str(&input[done..]);
        let rest = without_white_space_in_empty_devices(&rest);
        if declared > 0 { rest.replacen(&format!(" xmlns:qemu='{QEMU}'"), "", 1) } else { rest }
    })
}

fn without_white_space_in_empty_devices(text: &str) -> String {
    let text = text.replace("<devices/>", "<devices></devices>");
    let trimmed = text.split("<devices>").map(|part| {
        let inside = part.trim_start();
        if inside.starts_with("</devices") { inside } else { part }
    });
    trimmed.collect::<Vec<_>>().join("<devices>")
}
