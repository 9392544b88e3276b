//! How KubeVirt's macvtap device plugin calls the links it makes. It must never make one.

use twox_hash::XxHash64;

/// The link on the node for a device: `mvt` and 12 hexadecimal digits of the device's XXH64.
pub(super) fn link_name(device: &str) -> String {
    const DIGITS: u64 = 0xffff_ffff_ffff;
    format!("mvt{:012x}", XxHash64::oneshot(0, device.as_bytes()) & DIGITS)
}
