//! The guest's name, as KubeVirt gives it: the VMI's, or the one it asks for. It must never be one that DNS cannot carry.

use super::fault::{Faults, Quoted};
use super::spec::Vmi;
use super::{Identity, Place};

/// The first label and the whole name.
#[derive(Debug, Clone, Default)]
pub(super) struct Hostname {
    pub(super) label: Option<String>,
    /// Only where the VMI has a subdomain, as nobody resolves it otherwise, and the pod knows the cluster's domain.
    pub(super) fqdn: Option<String>,
}

pub(super) fn read(vmi: &Vmi, identity: &Identity, place: &Place, faults: &mut Faults) -> Hostname {
    let (field, text) = match vmi.spec.hostname.as_str() {
        "" => ("metadata.name", identity.name.as_str()),
        hostname => ("spec.hostname", hostname),
    };
    if text.is_empty() {
        return Hostname::default();
    }
    let label = to_label(text);
    if label.is_none() {
        faults.add(field, format_args!("{}, {LABEL}", Quoted(text)));
    }
    let subdomain = vmi.spec.subdomain.to_ascii_lowercase();
    if !subdomain.is_empty() && !is_label(&subdomain) {
        faults.add("spec.subdomain", format_args!("{}, {LABEL}", Quoted(&vmi.spec.subdomain)));
        return Hostname { label, fqdn: None };
    }
    let fqdn = label.as_ref().filter(|_| !subdomain.is_empty()).and_then(|label| {
        let services = services_domain(&identity.namespace, place)?;
        Some(format!("{label}.{subdomain}.{services}")).filter(|fqdn| fqdn.len() <= NAME_LEN_MAX)
    });
    Hostname { label, fqdn }
}

/// `NAMESPACE.svc.DOMAIN`, of which only the pod's resolver configuration knows the end.
fn services_domain<'a>(namespace: &str, place: &'a Place) -> Option<&'a str> {
    let start = format!("{namespace}.svc.");
    place.search.iter().map(|domain| domain.trim_end_matches('.')).find(|domain| domain.starts_with(&start))
}

fn to_label(text: &str) -> Option<String> {
    let label = text.split('.').next().unwrap_or_default().to_ascii_lowercase();
    // Names of VMIs may be longer than labels, and the cut may fall behind a hyphen.
    let cut = label.get(..LABEL_LEN_MAX).map(|cut| cut.trim_end_matches('-'));
    Some(cut.unwrap_or(&label).to_owned()).filter(|label| is_label(label))
}

/// RFC 1123 2.1, in lower case.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_LEN_MAX).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

const LABEL: &str = "expected letters, digits and hyphens, none at the ends";
/// RFC 1035 2.3.4.
const LABEL_LEN_MAX: usize = 63;
const NAME_LEN_MAX: usize = 253;
