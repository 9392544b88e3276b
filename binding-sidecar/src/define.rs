//! One hook call as a function: a domain and a VMI in, the domain with our NICs and the NICs themselves out. Pure. It must
//! never start anything.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::domain::{self, Allocation, Attachment};
use crate::names::{HOOKS_FOLDER, NET_FOLDER};
use crate::nic::Nic;
use crate::vmi::{self, Place, Plan};

/// What is known before a call, of container and pod.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Of our container, which is our folder's name in compute.
    pub container: String,
    pub place: Place,
    /// Bytes that our container may have charged to it; none: any.
    pub memory_limit: Option<u64>,
}

/// A domain with its NICs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defined {
    pub domain: String,
    pub plan: Plan,
}

/// Why a domain is not touched.
#[derive(Debug, Error)]
pub enum DefineError {
    #[error("the domain XML is not UTF-8")]
    Text(#[from] std::str::Utf8Error),
    #[error(transparent)]
    Vmi(#[from] vmi::Refusal),
    #[error(transparent)]
    Domain(#[from] domain::DomainError),
}

/// Adds the VMI's NICs to `domain`. Doing it twice is doing it once.
///
/// # Errors
/// What is wrong with the VMI or the XML, by field or by place.
pub fn define(domain: &[u8], vmi: &[u8], surroundings: &Surroundings) -> Result<Defined, DefineError> {
    let document = std::str::from_utf8(domain)?;
    let plan = vmi::plan(vmi, &surroundings.place)?;
    let sockets: Vec<String> = plan.nics.iter().map(|nic| in_compute(&surroundings.container, nic)).collect();
    let nics: Vec<Attachment<'_>> =
        plan.nics.iter().zip(&sockets).map(|(nic, socket)| Attachment { nic, socket }).collect();
    let allocation = allocation(document, surroundings.memory_limit)?;
    let domain = domain::with_nics(document, &nics, allocation)?;
    Ok(Defined { domain, plan })
}

/// Where compute finds a NIC's translator: the same on every node, as a VM takes it along when it migrates.
fn in_compute(container: &str, nic: &Nic) -> String {
    format!("{HOOKS_FOLDER}/{container}/{NET_FOLDER}/{}.sock", stem(nic))
}

/// What the files of a NIC's translator are called, but for their endings. A socket's address has room for 107 bytes, of
/// which the folder takes its share in compute, so long names are hashed.
pub fn stem(nic: &Nic) -> String {
    if nic.name.len() <= STEM_BYTES_MAX {
        return nic.name.clone();
    }
    let digest = Sha256::digest(nic.name.as_bytes());
    digest.iter().take(STEM_BYTES_MAX / 2).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

const STEM_BYTES_MAX: usize = 32;

/// Who is charged for a page of memory that QEMU and translators share is whoever touches it first. A translator writes
/// what the guest receives, so a container with little memory would be charged for all of a guest that receives a lot,
/// and killed. There, QEMU is told to touch everything at start.
fn allocation(document: &str, limit: Option<u64>) -> Result<Allocation, domain::DomainError> {
    let Some(limit) = limit else { return Ok(Allocation::OnDemand) };
    // A guest of unknown size may be large.
    let guest = domain::memory_bytes(document)?.unwrap_or(u64::MAX);
    Ok(match guest.saturating_add(OWN_MEMORY_BYTES) > limit {
        true => Allocation::Immediate,
        false => Allocation::OnDemand,
    })
}

/// What sidecar and translators need for themselves, with room for sockets.
const OWN_MEMORY_BYTES: u64 = 64 << 20;
