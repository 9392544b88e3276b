//! Target: a domain and a VMI, of which either may be anything.
//!
//! | promise | holds if |
//! |---|---|
//! | nothing panics | always |
//! | what is answered is answered again, to the byte, when it comes back | the domain is accepted |
//! | each NIC of the VMI is in it | the domain is accepted |
//! | another reader takes the answer | it took the question |

use std::fs;
use std::path::Path;

use binding_sidecar::define::{Surroundings, define};
use binding_sidecar::vmi::{self, Place};

/// An input is one byte of choices, the domain, and behind a zero the VMI, as XML has no zeros.
pub(crate) fn run(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let mut parts = rest.splitn(2, |byte| *byte == 0);
    let document = parts.next().unwrap_or_default();
    let asked = parts.next().unwrap_or_default();
    // A fuzzer breaks a VMI sooner than it finds something in XML.
    let vmi = if vmi::plan(asked, &place()).is_ok() { asked } else { USUAL.as_bytes() };
    let memory_limit = (choice & 1 != 0).then_some(64 << 20);
    let container = "hook-sidecar-0".to_owned();
    let surroundings = Surroundings { container, place: place(), memory_limit };

    let Ok(once) = define(document, vmi, &surroundings) else { return };
    match define(once.domain.as_bytes(), vmi, &surroundings) {
        Ok(twice) => assert_eq!(once, twice, "a second call changes something"),
        Err(error) => panic!("a second call is refused: {error}\n{}", once.domain),
    }
    let answer = once.domain.as_str();
    for nic in &once.plan.nics {
        let alias = format!("ua-{}", nic.name);
        let found = answer.contains(&format!("<alias name=\"{alias}\"/>"))
            || answer.contains(&format!("<alias name='{alias}'/>"));
        assert!(found, "no {alias} in\n{answer}");
    }
    let is_read = |text: &str| roxmltree::Document::parse(text).is_ok();
    if std::str::from_utf8(document).is_ok_and(is_read) {
        assert!(is_read(answer), "{:?}:\n{answer}", roxmltree::Document::parse(answer));
    }
}

/// The golden cases, and a small domain for mutations that need one.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let read = |path: &Path| fs::read(path).expect("a golden case has its files");
    let mut folders: Vec<_> =
        fs::read_dir(folder).expect("golden cases").map(|entry| entry.expect("a case").path()).collect();
    folders.sort();
    let cases = folders.iter().filter(|path| path.is_dir()).map(|folder| {
        let choice = u8::from(folder.join("place.json").exists());
        [&[choice][..], &read(&folder.join("in.xml")), &[0], &read(&folder.join("vmi.json"))].concat()
    });
    let small = [
        "<domain><devices/></domain>",
        "<domain type='kvm'><memoryBacking><access/></memoryBacking><cpu><numa><cell/></numa></cpu>\
         <devices><interface><alias name='ua-default'/><address type='pci'><zpci/></address></interface></devices></domain>",
        "<?xml version='1.0'?><!--a-->\n<domain a=\"&amp;\">\n <memory/>\n <devices>\n <![CDATA[<]]>&#65;</devices></domain>",
    ];
    let small = small.iter().map(|document| [&[1][..], document.as_bytes()].concat());
    small.chain(cases).collect()
}

/// A pod with every kind of interface name.
fn place() -> Place {
    let links = ["eth0", "ovn-udn1", "net1", "net2"].map(|name| (name.to_owned(), 1500));
    Place { binding: "sluice".to_owned(), links: links.into(), search: Vec::new() }
}

/// A VMI that is in order.
const USUAL: &str = r#"{"spec": {"architecture": "amd64",
    "networks": [{"name": "default", "pod": {}}, {"name": "red", "multus": {"networkName": "red"}}],
    "domain": {"devices": {"interfaces": [
        {"name": "default", "binding": {"name": "sluice"}},
        {"name": "red", "binding": {"name": "sluice"}, "pciAddress": "0000:01:00.0", "bootOrder": 1}]}}}}"#;
