//! The guest's memory, so that another process can have it too: `<memoryBacking>`, NUMA cells, memory devices, and what
//! decides who is charged for it.

use super::document::{Document, Element};
use super::edit::{Edits, New};
use super::{Allocation, DomainError};

/// Makes all of the guest's memory shared, and has QEMU touch it first if asked.
pub(super) fn share(
    document: &Document<'_>,
    domain: &Element,
    devices: &Element,
    allocation: Allocation,
    edits: &mut Edits<'_, '_>,
) -> Result<(), DomainError> {
    let backing = super::at_most_one(document, domain, "memoryBacking")?;
    let cells: Vec<&Element> = document
        .named(domain, "cpu")
        .flat_map(|cpu| document.named(cpu, "numa"))
        .flat_map(|numa| document.named(numa, "cell"))
        .collect();
    for cell in &cells {
        check_mode(document, cell, "memAccess")?;
    }
    for device in document.named(devices, "memory") {
        check_mode(document, device, "access")?;
    }
    let was_shared = match backing {
        Some(backing) => complete(document, backing, allocation, edits)?,
        None => {
            add(document, domain, allocation, edits);
            false
        }
    };
    // A cell takes the mode of `<access>` where it has none. It says so itself where we wrote that.
    for cell in cells.iter().filter(|cell| !was_shared && document.attribute(cell, "memAccess").is_none()) {
        edits.set(cell, "memAccess", SHARED);
    }
    if allocation == Allocation::Immediate {
        keep_touched(document, devices, edits);
    }
    Ok(())
}

const SHARED: &str = "shared";
const IMMEDIATE: &str = "immediate";

fn add(document: &Document<'_>, domain: &Element, allocation: Allocation, edits: &mut Edits<'_, '_>) {
    let mut backing = New::element("memoryBacking").child(source()).child(access());
    if allocation == Allocation::Immediate {
        backing = backing.child(allocate());
    }
    let is_size = |element: &&Element| SIZES.iter().any(|name| document.is(element, name));
    match document.children(domain).filter(is_size).last() {
        Some(size) => edits.insert_after(size, &[backing]),
        None => edits.insert_first(domain, &[backing]),
    }
}

/// How much memory there is; how it is backed follows.
const SIZES: [&str; 3] = ["maxMemory", "memory", "currentMemory"];

/// Adds what a `<memoryBacking>` has not. Whether it was shared before.
fn complete(
    document: &Document<'_>,
    backing: &Element,
    allocation: Allocation,
    edits: &mut Edits<'_, '_>,
) -> Result<bool, DomainError> {
    let child = |name| document.named(backing, name).next();
    let has_hugepages = child("hugepages").is_some();
    let mut missing = Vec::new();

    match child("source").map(|source| (source, document.value(source, "type"))) {
        // Huge pages without a source lie in files of hugetlbfs, which can be shared: who does not want memfd
        // (annotation `kubevirt.io/memfd: "false"`) gets none.
        None | Some((_, None)) if has_hugepages => {}
        None => missing.push(source()),
        Some((source, None)) => edits.set(source, "type", "memfd"),
        Some((source, Some(kind))) if kind == "anonymous" && !has_hugepages => {
            return Err(DomainError::AnonymousMemory(document.place(source)));
        }
        Some((_, Some(_))) => {}
    }
    let was_shared = match child("access") {
        Some(access) if check_mode(document, access, "mode")? => true,
        Some(access) => {
            edits.set(access, "mode", SHARED);
            false
        }
        None => {
            missing.push(access());
            false
        }
    };
    // libvirt has QEMU touch huge pages in any case.
    if allocation == Allocation::Immediate && !has_hugepages {
        match child("allocation") {
            Some(allocation) if document.value(allocation, "mode").is_some_and(|mode| mode == IMMEDIATE) => {}
            Some(allocation) => edits.set(allocation, "mode", IMMEDIATE),
            None => missing.push(allocate()),
        }
    }
    edits.insert_last(backing, &missing);
    Ok(was_shared)
}

/// Whether it says shared; private is refused.
fn check_mode(
    document: &Document<'_>,
    element: &Element,
    attribute: &'static str,
) -> Result<bool, DomainError> {
    match document.value(element, attribute) {
        None => Ok(false),
        Some(mode) if mode == SHARED => Ok(true),
        Some(mode) => Err(DomainError::PrivateMemory {
            at: document.place(element),
            element: document.name(element).to_owned(),
            attribute,
            mode: mode.into_owned(),
        }),
    }
}

/// Pages that the guest reports as free are taken from it; whoever touches them next, we for one, is charged for them.
fn keep_touched(document: &Document<'_>, devices: &Element, edits: &mut Edits<'_, '_>) {
    for balloon in document.named(devices, "memballoon") {
        if document.value(balloon, REPORTING).is_some_and(|state| state == "on") {
            edits.set(balloon, REPORTING, "off");
        }
    }
}

const REPORTING: &str = "freePageReporting";

fn source<'a>() -> New<'a> {
    New::element("source").with("type", "memfd")
}

fn access<'a>() -> New<'a> {
    New::element("access").with("mode", SHARED)
}

fn allocate<'a>() -> New<'a> {
    New::element("allocation").with("mode", IMMEDIATE)
}
