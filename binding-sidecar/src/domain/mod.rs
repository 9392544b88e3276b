//! The libvirt domain XML with our NICs in it. Pure; every byte that is not ours stays. It must never know of VMIs or of
//! processes.
//!
//! KubeVirt asks several times for one domain, and between two calls its Go structures read and write what we wrote: they
//! drop a source's type, path and reconnect, `xmlns:qemu`, and put children into an order of theirs. So nothing is
//! believed that a pass before may have written. An interface is known by its alias, and written anew as a whole:
//!
//! | the document has | becomes |
//! |---|---|
//! | no interface with the NIC's alias | ours behind the last `<interface>`, else first of `<devices>` |
//! | one with alias `ua-NAME`, else `NAME`, of any type | ours in its place |
//! | two of them | an error |
//! | an interface whose target is `placeholder-N`, any other interface | itself |
//!
//! *Of any type*: where a binding has a sidecar and `domainAttachmentType: tap` both, KubeVirt writes a tap's interface
//! first. The VMI names one binding, and its NIC is to be ours; the tap would stay without a user.
//!
//! Of what stood there only `<address>` is kept, and only if the NIC asks for none: libvirt assigned it, KubeVirt counts
//! free slots by it, and the guest names the device by it. Anything else is the NIC's, and the VMI says it.
//!
//! `<rom enabled='no'/>` stands where nobody boots from the NIC: it saves the time in which firmware asks the network,
//! and is what KubeVirt does for its own interfaces on PCI (amd64, arm64). On s390x there is no PCI and no ROM.
//!
//! There is no `<mtu>`: starting a domain, libvirt gives it to the host's network device too, which vhost-user has not
//! ("Cannot set interface MTU on '(null)'", 11.3). The guest hears of the MTU from DHCP and router advertisements. A
//! model other than virtio stands as the VMI says it; libvirt refuses to define such a domain, and says why.
//!
//! **Memory.** vhost-user shares the guest's memory, of which KubeVirt knows only for its own bindings.
//!
//! | `<memoryBacking>` has | is added |
//! |---|---|
//! | nothing, or is missing | memfd, shared |
//! | a source, but no access | shared; also as `memAccess` of NUMA cells without one |
//! | huge pages, no source | shared only: hugetlbfs's files can be, and `kubevirt.io/memfd: "false"` asks for them |
//! | shared | nothing; NUMA cells without `memAccess` and memory devices without `access` inherit it |
//! | private, here or in a cell or memory device; anonymous without huge pages | an error |
//!
//! KubeVirt avoids memfd on s390x, where libvirt before 6.9 wanted a NUMA cell for it and the machine has none. Those
//! that run KubeVirt's images are newer and need no cell, so nothing differs here.

mod document;
mod edit;
mod interface;
mod memory;
mod size;

#[cfg(test)]
mod tests;

use crate::nic::Nic;

use document::{Document, Element};
use edit::{Edits, Style};

pub use document::{ATTRIBUTES_MAX, DEPTH_MAX, Fault, LENGTH_MAX, NotWellFormed, Place};
pub use size::memory_bytes;

/// A NIC, and what it is plugged into.
#[derive(Debug, Clone, Copy)]
pub struct Attachment<'a> {
    pub nic: &'a Nic,
    /// The translator's socket, as QEMU in the compute container sees it.
    pub socket: &'a str,
}

/// When the guest's memory gets its pages, and so who is charged for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// As the document says: by default when a page is first touched, to whoever touches it.
    OnDemand,
    /// All at start, to QEMU; free pages are not given back either.
    Immediate,
}

/// Why a domain stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    #[error(transparent)]
    NotWellFormed(#[from] NotWellFormed),
    #[error("{at}: the root element is `{name}`, not `domain` without a namespace")]
    NotADomain { at: Place, name: String },
    #[error("the domain has no `<devices>`")]
    NoDevices,
    #[error("the domain has two elements `<{element}>`: {first}, and {second}")]
    Twice { element: &'static str, first: Place, second: Place },
    #[error("two interfaces are called `{alias}`: {first}, and {second}")]
    AliasTwice { alias: String, first: Place, second: Place },
    #[error("two of the NICs are called `{0}`")]
    SameName(String),
    #[error(
        "{at}: `<{element} {attribute}=\"{mode}\">`, but the binding needs \"shared\" memory. KubeVirt writes no such \
         thing: look for a hook sidecar in the VMI's metadata.annotations[\"hooks.kubevirt.io/hookSidecars\"], or a \
         Plugin, that does"
    )]
    PrivateMemory { at: Place, element: String, attribute: &'static str, mode: String },
    #[error(
        "{0}: `<source type=\"anonymous\">`, but the binding needs memory that can be shared (\"memfd\" or \"file\"). \
         KubeVirt writes no such thing: look for a hook sidecar in the VMI's \
         metadata.annotations[\"hooks.kubevirt.io/hookSidecars\"], or a Plugin, that does"
    )]
    AnonymousMemory(Place),
}

/// The document with the NICs in it, and with memory that their translators can have too.
///
/// Its own result, given again with the same NICs, stays as it is. Without NICs any well-formed domain does.
///
/// # Errors
///
/// If the text is not a domain's, is not well-formed, is larger than [`LENGTH_MAX`] or deeper than [`DEPTH_MAX`], or says
/// something of an interface or of memory that would have to be overruled.
pub fn with_nics(
    document: &str,
    nics: &[Attachment<'_>],
    allocation: Allocation,
) -> Result<String, DomainError> {
    let document = Document::parse(document)?;
    let domain = document.root().ok_or(DomainError::NoDevices)?;
    if !document.is(domain, "domain") {
        return Err(DomainError::NotADomain {
            at: document.place(domain),
            name: document.name(domain).to_owned(),
        });
    }
    let devices = at_most_one(&document, domain, "devices")?.ok_or(DomainError::NoDevices)?;
    let mut edits = Edits::new(&document, Style::of(&document, domain, devices));
    if !nics.is_empty() {
        interface::put(&document, devices, nics, &mut edits)?;
        memory::share(&document, domain, devices, allocation, &mut edits)?;
    }
    let result = edits.apply();
    // What came near a limit may have passed it. Also, a fault of ours is better found here than by libvirt.
    Document::parse(&result)?;
    Ok(result)
}

fn at_most_one<'d>(
    document: &'d Document<'_>,
    parent: &Element,
    element: &'static str,
) -> Result<Option<&'d Element>, DomainError> {
    let mut found = document.named(parent, element);
    match (found.next(), found.next()) {
        (Some(first), Some(second)) => {
            Err(DomainError::Twice { element, first: document.place(first), second: document.place(second) })
        }
        (first, _) => Ok(first),
    }
}
