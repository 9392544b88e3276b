//! How many pairs of queues a NIC has: one for each vCPU, if the VM wants several. Counts vCPUs as KubeVirt does, so that
//! ours are as many as other NICs of the VM have.

use serde_json::Value;

use super::fault::{Faults, Quoted};
use super::spec::Domain;

/// None: one.
pub(super) fn read(domain: &Domain, faults: &mut Faults) -> Option<u16> {
    if !domain.devices.network_interface_multiqueue {
        return None;
    }
    let cpu = &domain.cpu;
    let topology = [cpu.sockets, cpu.cores, cpu.threads];
    let vcpus = if topology == [0, 0, 0] {
        from_resources(domain, faults)
    } else {
        let product = topology.into_iter().map(|of| u64::from(of.max(1))).fold(1, u64::saturating_mul);
        product.try_into().unwrap_or(u16::MAX)
    };
    Some(vcpus.min(QUEUES_MAX)).filter(|queues| *queues > 1)
}

/// Limits count before requests.
fn from_resources(domain: &Domain, faults: &mut Faults) -> u16 {
    let resources = &domain.resources;
    let (kind, cpu) = match (&resources.limits.cpu, &resources.requests.cpu) {
        (Some(cpu), _) => ("limits", cpu),
        (None, Some(cpu)) => ("requests", cpu),
        (None, None) => return 1,
    };
    let text = match cpu {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => String::new(),
    };
    ceil_quantity(&text).unwrap_or_else(|| {
        let problem = format_args!("{}, expected a quantity such as 2 or 1500m", Quoted(&text)).to_string();
        faults.add(format_args!("spec.domain.resources.{kind}.cpu"), problem);
        1
    })
}

/// A quantity of Kubernetes (a decimal number with an exponent or a suffix), rounded up, at most [`QUEUES_MAX`].
fn ceil_quantity(text: &str) -> Option<u16> {
    let is_number = |text: &str| {
        // Rust's floats may also be words.
        text.bytes().all(|byte| byte.is_ascii_digit() || b".+-eE".contains(&byte))
    };
    let plain = |text: &str| is_number(text).then(|| text.parse::<f64>().ok()).flatten();
    let value = plain(text).or_else(|| {
        SUFFIXES.iter().find_map(|(suffix, times)| Some(plain(text.strip_suffix(suffix)?)? * times))
    })?;
    if value < 0.0 {
        return None;
    }
    Some((1..QUEUES_MAX).find(|whole| f64::from(*whole) >= value).unwrap_or(QUEUES_MAX))
}

/// passt-rs's.
const QUEUES_MAX: u16 = 128;
const SUFFIXES: [(&str, f64); 15] = [
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
];
