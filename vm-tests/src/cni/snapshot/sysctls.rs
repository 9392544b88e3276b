//! The switches of a namespace that a plugin may have a reason to turn. It must never turn one.

use std::path::Path;

use anyhow::Context as _;

use crate::lab::Namespace;

/// Of the whole namespace.
const GLOBAL: [&str; 6] = [
    "ipv4/ip_forward",
    "ipv4/ping_group_range",
    "ipv4/ip_unprivileged_port_start",
    "ipv6/conf/all/forwarding",
    "ipv6/conf/all/disable_ipv6",
    "ipv4/conf/all/route_localnet",
];

/// Of each link.
const IPV4: [&str; 8] = [
    "forwarding",
    "proxy_arp",
    "arp_notify",
    "arp_ignore",
    "arp_announce",
    "arp_filter",
    "rp_filter",
    "route_localnet",
];
const IPV6: [&str; 10] = [
    "forwarding",
    "accept_ra",
    "accept_dad",
    "dad_transmits",
    "enhanced_dad",
    "disable_ipv6",
    "proxy_ndp",
    "ndisc_notify",
    "keep_addr_on_down",
    "addr_gen_mode",
];

/// Lines `path = value`; what the kernel does not have is not there.
pub(super) fn of(namespace: &Namespace, devices: &[String]) -> anyhow::Result<Vec<String>> {
    namespace
        .run(|| {
            let each = devices.iter().flat_map(|device| {
                let ipv4 = IPV4.iter().map(move |name| format!("ipv4/conf/{device}/{name}"));
                ipv4.chain(IPV6.iter().map(move |name| format!("ipv6/conf/{device}/{name}")))
            });
            let all = GLOBAL.iter().map(|name| (*name).to_owned()).chain(each);
            all.filter_map(|path| {
                let value = std::fs::read_to_string(Path::new("/proc/sys/net").join(&path)).ok()?;
                Some(format!("{path} = {}", value.trim()))
            })
            .collect()
        })
        .context("read sysctls")
}
