//! Which addresses the guest gets and which of them mean something else on the host's side.
//!
//! What the command line does not give is the pod's own. A family is off when neither has an address for it.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::answer::{V4, V6};
use crate::cli::Cli;
use crate::flow::nat::Nat;
use crate::host::netlink::{LinkAddress, LinkSetup, Pod, Uplink};
use crate::wire::Mac;

use super::Surroundings;
use super::values::{Mapping, PerFamily, Values};

/// The result.
#[derive(Debug)]
pub(super) struct Addressing {
    pub(super) our_mac: Mac,
    pub(super) mtu: Option<u16>,
    pub(super) v4: Option<V4>,
    pub(super) v6: Option<V6>,
    /// Without resolvers.
    pub(super) nat: Nat,
}

impl Addressing {
    pub(super) fn resolve(
        cli: &Cli,
        around: &Surroundings,
        values: &mut Values,
        warnings: &mut Vec<String>,
    ) -> Self {
        let pod = around.pod.clone().unwrap_or_default();
        values.interface("--interface", &cli.interface);
        if let Err(fault) = &around.pod {
            values.fault(fault.flag.clone(), fault.problem.clone());
        }
        let no_family = cli.ipv4_only && cli.ipv6_only;
        if no_family {
            values.fault("--ipv4-only", "contradicts --ipv6-only");
        }
        let our_mac = values.mac("--mac-addr", &cli.mac_addr).unwrap_or(OUR_MAC);
        let mtu = mtu(cli, values);
        let given = values.addresses(&cli.address);
        let netmask = values.netmask("--netmask", &cli.netmask);
        if netmask.is_some() && given.v4.is_some_and(|(_, prefix)| prefix.is_some()) {
            values.fault("--netmask", "the prefix length is given with --address already");
        }
        let gateway = values.per_family("--gateway", &cli.gateway);

        let mut v6_on = !cli.ipv4_only;
        if v6_on && mtu.is_some_and(|mtu| mtu < IPV6_MTU_MIN) {
            warnings.push(format!("IPv6 is off: it needs an MTU of {IPV6_MTU_MIN} (RFC 8200 5)"));
            v6_on = false;
        }
        let v4 = if cli.ipv6_only { None } else { v4(pod.v4.as_ref(), given.v4, netmask, gateway.v4) };
        let v6 = if v6_on { v6(pod.v6.as_ref(), given.v6, gateway.v6, our_mac) } else { None };
        if v4.is_none() && v6.is_none() && around.pod.is_ok() && !no_family {
            let problem = "this namespace has no address the guest could take; give one";
            values.fault("--address", problem);
        }
        let gateway6 = gateway.v6.or_else(|| pod.v6.as_ref().and_then(|v6| v6.gateway));
        let nat = nat(cli, values, &pod, v4, v6, gateway6);
        Self { our_mac, mtu, v4, v6, nat }
    }

    /// What `--config-net` gives the tap.
    pub(super) fn link_setup(&self, mac: Option<Mac>) -> LinkSetup {
        LinkSetup {
            mac: mac.map(|mac| mac.0),
            mtu_bytes: self.mtu.map(u32::from),
            v4: self.v4.map(|v4| LinkAddress {
                address: v4.guest,
                prefix_len: v4.prefix_len,
                gateway: v4.gateway,
            }),
            v6: self.v6.map(|v6| LinkAddress {
                address: v6.guest,
                prefix_len: v6.prefix_len,
                gateway: v6.has_default_route.then_some(v6.our_link_local),
            }),
        }
    }
}

fn mtu(cli: &Cli, values: &mut Values) -> Option<u16> {
    let flag = "--mtu";
    let Some(text) = values.once(flag, &cli.mtu) else { return Some(MTU_MAX) };
    match text.parse() {
        Ok(0) => None,
        Ok(mtu @ MTU_MIN..=MTU_MAX) => Some(mtu),
        _ => {
            values.fault(flag, format!("`{text}`: expected {MTU_MIN} to {MTU_MAX}, or 0 to announce none"));
            None
        }
    }
}

fn v4(
    pod: Option<&Uplink<Ipv4Addr>>,
    given: Option<(Ipv4Addr, Option<u8>)>,
    netmask: Option<u8>,
    gateway: Option<Ipv4Addr>,
) -> Option<V4> {
    let (guest, prefix) = given.or_else(|| pod.map(|pod| (pod.address, None)))?;
    let of_pod = || {
        let pod = pod?;
        let network = ipnet::Ipv4Net::new(pod.address, pod.prefix_len).ok()?;
        network.contains(&guest).then_some(pod.prefix_len)
    };
    let prefix_len = netmask.or(prefix).or_else(of_pod).unwrap_or_else(|| classful(guest));
    Some(V4 { guest, prefix_len, gateway: gateway.or_else(|| pod.and_then(|pod| pod.gateway)) })
}

fn v6(
    pod: Option<&Uplink<Ipv6Addr>>,
    given: Option<(Ipv6Addr, Option<u8>)>,
    gateway: Option<Ipv6Addr>,
    our_mac: Mac,
) -> Option<V6> {
    let (guest, prefix) = given.or_else(|| pod.map(|pod| (pod.address, None)))?;
    let own = pod.filter(|pod| pod.address == guest).map(|pod| pod.prefix_len);
    let has_default_route = gateway.is_some() || pod.is_some_and(|pod| pod.has_default_route);
    let gateway = gateway.or_else(|| pod.and_then(|pod| pod.gateway));
    Some(V6 {
        guest,
        prefix_len: prefix.or(own).unwrap_or(IPV6_PREFIX_LEN),
        // A router that is link-local already is the one the guest would see in the pod's place.
        our_link_local: gateway
            .filter(Ipv6Addr::is_unicast_link_local)
            .unwrap_or_else(|| our_mac.link_local()),
        has_default_route,
    })
}

fn nat(
    cli: &Cli,
    values: &mut Values,
    pod: &Pod,
    v4: Option<V4>,
    v6: Option<V6>,
    gateway6: Option<Ipv6Addr>,
) -> Nat {
    let gateway4 = v4.and_then(|v4| v4.gateway);
    let loopback = match values.mapping("--map-host-loopback", &cli.map_host_loopback) {
        Mapping::None => PerFamily::default(),
        Mapping::To(given) if cli.no_map_gw => given,
        Mapping::To(given) => PerFamily { v4: given.v4.or(gateway4), v6: given.v6.or(gateway6) },
    };
    let guest_addr = match values.mapping("--map-guest-addr", &cli.map_guest_addr) {
        Mapping::None => PerFamily::default(),
        Mapping::To(given) => given,
    };
    for (flag, mapping) in [("--map-host-loopback", loopback), ("--map-guest-addr", guest_addr)] {
        if mapping.v4.is_some() && mapping.v4 == v4.map(|v4| v4.guest)
            || mapping.v6.is_some() && mapping.v6 == v6.map(|v6| v6.guest)
        {
            values.fault(flag, "is the guest's own address, which never leaves it");
        }
    }
    Nat {
        guest4: v4.map(|v4| v4.guest),
        guest6: v6.map(|v6| v6.guest),
        guest_link_local6: None,
        host4: v4.and(pod.v4.as_ref()).map(|v4| v4.address),
        host6: v6.and(pod.v6.as_ref()).map(|v6| v6.address),
        gateway4,
        our_link_local6: v6.map(|v6| v6.our_link_local),
        map_host_loopback4: v4.and(loopback.v4),
        map_host_loopback6: v6.and(loopback.v6),
        map_guest_addr4: v4.and(guest_addr.v4),
        map_guest_addr6: v6.and(guest_addr.v6),
        dns4: None,
        dns6: None,
        own: pod.own.clone(),
        link_local_scope6: pod.v6.as_ref().map(|v6| v6.index).unwrap_or_default(),
    }
}

/// The prefix an address had before there were prefixes (RFC 791 3.2), as passt assumes for an address that
/// is none of the pod's.
fn classful(address: Ipv4Addr) -> u8 {
    let [first, ..] = address.octets();
    match first {
        0..128 => 8,
        128..192 => 16,
        192..224 => 24,
        224.. => 32,
    }
}

/// passt's own, so that a guest moved between the two keeps its neighbour entry.
const OUR_MAC: Mac = Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);
/// RFC 791 3.2: every link carries this much.
const MTU_MIN: u16 = 68;
/// The largest multiple of 8 below 65536 that leaves room for an Ethernet header in 65535 bytes; passt's default.
const MTU_MAX: u16 = 65520;
/// RFC 8200 5.
const IPV6_MTU_MIN: u16 = 1280;
/// RFC 4291 2.5.4.
const IPV6_PREFIX_LEN: u8 = 64;
