//! Target: a domain and a VMI, of which either may be anything.
//!
//! | promise | holds if |
//! |---|---|
//! | nothing panics | always |
//! | what is answered is answered again, to the byte, when it comes back | the domain is accepted |
//! | each NIC of the VMI is in it once | the domain is accepted |
//! | another reader takes the answer | it took the question |

use std::fs;
use std::path::Path;

use binding_sidecar::domain::{Allocation, Attachment, with_nics};
use binding_sidecar::nic::Nic;
use binding_sidecar::vmi::{self, Place};

/// An input is one byte of choices, the domain, and behind a zero the VMI, as XML has no zeros.
pub(crate) fn run(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let mut parts = rest.splitn(2, |byte| *byte == 0);
    let Ok(document) = std::str::from_utf8(parts.next().unwrap_or_default()) else { return };
    let asked = vmi::plan(parts.next().unwrap_or_default(), &place());
    // A fuzzer breaks a VMI sooner than it finds something in XML.
    let nics = asked.map_or_else(|_| usual(), |plan| plan.nics);
    let allocation = if choice & 1 == 0 { Allocation::OnDemand } else { Allocation::Immediate };
    let apply = |document: &str| {
        let sockets: Vec<String> = nics.iter().map(|nic| format!("/net/{}.sock", nic.name)).collect();
        let nics: Vec<_> =
            nics.iter().zip(&sockets).map(|(nic, socket)| Attachment { nic, socket }).collect();
        with_nics(document, &nics, allocation)
    };
    let Ok(once) = apply(document) else { return };
    match apply(&once) {
        Ok(twice) => assert_eq!(once, twice, "a second call changes something"),
        Err(error) => panic!("a second call is refused: {error}\n{once}"),
    }
    for nic in &nics {
        let alias = format!("ua-{}", nic.name);
        let found = once.matches(&format!("<alias name=\"{alias}\"/>")).count()
            + once.matches(&format!("<alias name='{alias}'/>")).count();
        assert!(found >= 1, "no {alias} in\n{once}");
    }
    if roxmltree::Document::parse(document).is_ok() {
        let answer = roxmltree::Document::parse(&once);
        assert!(answer.is_ok(), "{answer:?}:\n{once}");
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

/// Of a VMI that is in order.
fn usual() -> Vec<Nic> {
    let vmi = r#"{"spec": {"architecture": "amd64",
        "networks": [{"name": "default", "pod": {}}, {"name": "red", "multus": {"networkName": "red"}}],
        "domain": {"devices": {"interfaces": [
            {"name": "default", "binding": {"name": "sluice"}},
            {"name": "red", "binding": {"name": "sluice"}, "pciAddress": "0000:01:00.0", "bootOrder": 1}]}}}}"#;
    vmi::plan(vmi.as_bytes(), &place()).expect("a VMI that is in order").nics
}
