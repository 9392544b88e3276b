//! Neighbor discovery: every IPv6 address but the guest's own is at our MAC, and we are its router
//! (RFC 4861, RFC 4862, RFC 8106).
//!
//! A solicitation from `::` is duplicate address detection (RFC 4862 5.4.3) and only answered for our own
//! link-local address: all others are the guest's to take, as for [`super::arp`].
//!
//! **How the guest gets the pod's very address.** By DHCPv6, where it is on: router advertisements then say
//! M (addresses by DHCPv6) and do not let the guest make its own from the prefix (A clear), or it would have a
//! second address that nobody knows and might prefer it. Without DHCPv6 the prefix says A: the guest's address
//! is then another than the pod's, unless its MAC happens to give it, but it has one.
//! A prefix other than /64 is not announced: hosts refuse it for autoconfiguration (RFC 4862 5.5.3), and the
//! router's lifetime alone gives the default route, which is all that a /128 needs.
//!
//! **A pod's interface without default route** has its subnet and nothing behind it, and the guest may have its way
//! out elsewhere. Then the router's lifetime is zero, so that nobody takes us for one (RFC 4861 6.2.3), and the prefix is
//! announced as on-link whatever its length, as nothing else says how to reach it.

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::time::Duration;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Packet, NdiscNeighborFlags, NdiscPrefixInfoFlags, NdiscPrefixInformation,
    NdiscRepr, NdiscRouterFlags,
};

use super::request::Request;
use super::{Network, V6};
use crate::drop_reason::DropReason;
use crate::wire::{ETHERNET_HEADER_LEN, Envelope, IPV6_HEADER_LEN, Mac, name, protocol};

/// Whoever forwards a packet lowers this, so it comes from the link (RFC 4861 6.1.1, 7.1.1).
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
/// ff02::1:ff00:0/104 (RFC 4291 2.7.1).
const SOLICITED_NODE: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
/// Hop limit of the guest's own packets, by our advice.
const GUEST_HOP_LIMIT: u8 = 64;
/// The field's maximum (RFC 8319 4): the pod's network does not go away before the pod.
const ROUTER_LIFETIME_SECS: u64 = 65_535;
/// Infinity of prefixes, resolvers and search lists (RFC 4861 4.6.2, RFC 8106 5).
const INFINITE: u32 = u32::MAX;
/// Smallest MTU of an IPv6 link (RFC 8200 5); nothing smaller may be announced, and advertisements fit it.
const IPV6_MTU_MIN: u16 = 1280;
/// Option types of RFC 8106 5.1 and 5.2, which smoltcp does not have.
const RDNSS: u8 = 25;
const DNSSL: u8 = 31;

/// Whether an ICMPv6 type is one of neighbor discovery's, none of which goes beyond the link.
pub fn is_ndp(message_type: u8) -> bool {
    (133..=137).contains(&message_type)
}

pub fn answer(network: &Network, frame: &[u8], out: &mut Vec<u8>) -> Result<(), DropReason> {
    out.clear();
    let v6 = network.v6.filter(|_| network.services.ndp).ok_or(DropReason::Disabled)?;
    let request = Request::parse(frame, protocol::ICMPV6)?;
    let IpAddr::V6(src) = request.src else { return Err(DropReason::NotForUs) };
    let packet = Icmpv6Packet::new_checked(request.message).map_err(|_| DropReason::Malformed)?;
    if !is_ndp(packet.msg_type().into()) {
        return Err(DropReason::NotForUs);
    }
    if request.hop_limit != HOP_LIMIT || packet.msg_code() != 0 {
        return Err(DropReason::Malformed);
    }
    let repr = NdiscRepr::parse(&packet).map_err(|_| DropReason::Malformed)?;
    match repr {
        // A sender without address has no link-layer address to tell (RFC 4861 6.1.1, 7.1.1).
        NdiscRepr::RouterSolicit { lladdr: Some(_) } | NdiscRepr::NeighborSolicit { lladdr: Some(_), .. }
            if src.is_unspecified() =>
        {
            Err(DropReason::Malformed)
        }
        NdiscRepr::RouterSolicit { .. } => {
            if !network.services.ra {
                return Err(DropReason::Disabled);
            }
            let asker = (!src.is_unspecified()).then_some((src, request.src_mac));
            advertise_router(network, v6, asker, out);
            Ok(())
        }
        NdiscRepr::NeighborSolicit { target_addr: target, .. } => {
            let IpAddr::V6(dst) = request.dst else { return Err(DropReason::NotForUs) };
            if target.is_multicast() || (src.is_unspecified() && !is_solicited_node(dst)) {
                return Err(DropReason::Malformed); // RFC 4861 7.1.1
            }
            let own = target == v6.guest || target == src || target.is_unspecified() || target.is_loopback();
            let detects_duplicates = src.is_unspecified(); // RFC 4862 5.4.3
            if target != v6.our_link_local && (own || detects_duplicates) {
                return Err(DropReason::NotForUs);
            }
            let asker = (!detects_duplicates).then_some((src, request.src_mac));
            advertise_neighbor(network, target, asker, out);
            Ok(())
        }
        // To what we ask when the link comes up; whoever took the frame has learned the guest's MAC from it.
        NdiscRepr::NeighborAdvert { .. } if request.dst == IpAddr::V6(v6.our_link_local) => Ok(()),
        NdiscRepr::RouterAdvert { .. } | NdiscRepr::NeighborAdvert { .. } | NdiscRepr::Redirect { .. } => {
            Err(DropReason::NotForUs)
        }
    }
}

/// The router advertisement that is sent now and then, unasked (RFC 4861 6.2.4).
pub fn advertisement(network: &Network, out: &mut Vec<u8>) -> Result<(), DropReason> {
    out.clear();
    let on = network.services.ndp && network.services.ra;
    let v6 = network.v6.filter(|_| on).ok_or(DropReason::Disabled)?;
    advertise_router(network, v6, None, out);
    Ok(())
}

/// Says that `target` is at our MAC: to the one who asked, or to all nodes.
pub(super) fn advertise_neighbor(
    network: &Network,
    target: Ipv6Addr,
    asker: Option<(Ipv6Addr, Mac)>,
    out: &mut Vec<u8>,
) {
    let mut flags = NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::SOLICITED, asker.is_some());
    // A router that once advertises itself without this flag loses the guest's routes through it
    // (RFC 4861 7.2.5).
    flags.set(NdiscNeighborFlags::ROUTER, network.v6.is_some_and(|v6| v6.our_link_local == target));
    let our_mac = EthernetAddress(network.our_mac.0).into();
    let envelope = envelope(network, target, asker);
    envelope.open(out);
    emit(&NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr: Some(our_mac) }, out);
    envelope.seal_icmpv6(out);
}

/// Asks where the guest's address is.
pub(super) fn solicit_neighbor(network: &Network, v6: V6, out: &mut Vec<u8>) {
    let [.., high, low, last] = v6.guest.octets();
    let group = Ipv6Addr::from_bits(SOLICITED_NODE | v6.guest.to_bits() & 0xff_ffff);
    let group_mac = Mac([0x33, 0x33, 0xff, high, low, last]); // RFC 2464 7
    let our_mac = EthernetAddress(network.our_mac.0).into();
    let envelope = envelope(network, v6.our_link_local, Some((group, group_mac)));
    envelope.open(out);
    emit(&NdiscRepr::NeighborSolicit { target_addr: v6.guest, lladdr: Some(our_mac) }, out);
    envelope.seal_icmpv6(out);
}

fn advertise_router(network: &Network, v6: V6, asker: Option<(Ipv6Addr, Mac)>, out: &mut Vec<u8>) {
    let mut flags = NdiscRouterFlags::empty();
    flags.set(NdiscRouterFlags::MANAGED, network.services.dhcpv6);
    let mut prefix_flags = NdiscPrefixInfoFlags::ON_LINK;
    prefix_flags.set(NdiscPrefixInfoFlags::ADDRCONF, !network.services.dhcpv6 && v6.prefix_len == 64);
    let is_announced = v6.prefix_len == 64 || (!v6.has_default_route && (1..128).contains(&v6.prefix_len));
    let lifetime_secs = if v6.has_default_route { ROUTER_LIFETIME_SECS } else { 0 };
    let prefix_info = is_announced.then(|| NdiscPrefixInformation {
        prefix_len: v6.prefix_len,
        flags: prefix_flags,
        valid_lifetime: Duration::from_secs(INFINITE.into()),
        preferred_lifetime: Duration::from_secs(INFINITE.into()),
        prefix: ipnet::Ipv6Net::new(v6.guest, v6.prefix_len).map_or(v6.guest, |net| net.network()),
    });
    let envelope = envelope(network, v6.our_link_local, asker);
    envelope.open(out);
    let advert = NdiscRepr::RouterAdvert {
        hop_limit: GUEST_HOP_LIMIT,
        flags,
        router_lifetime: Duration::from_secs(lifetime_secs),
        reachable_time: Duration::ZERO,
        retrans_time: Duration::ZERO,
        lladdr: Some(EthernetAddress(network.our_mac.0).into()),
        mtu: network.mtu.filter(|mtu| *mtu >= IPV6_MTU_MIN).map(u32::from),
        prefix_info,
    };
    emit(&advert, out);
    let limit = ETHERNET_HEADER_LEN + usize::from(IPV6_MTU_MIN);
    push_option(out, RDNSS, limit, |out, room| {
        network.resolvers_v6().take(room / 16).for_each(|address| out.extend(address.octets()));
    });
    push_option(out, DNSSL, limit, |out, room| name::push_list(out, network.search_list(), room));
    envelope.seal_icmpv6(out);
}

/// Appends an option of RFC 8106 (type, length in units of 8, reserved, lifetime, data, padding) unless `fill`
/// leaves it empty. `fill` is told how many bytes it may append;
/// they are fewer than the length byte can say, as the limit is below 2 KiB.
fn push_option(out: &mut Vec<u8>, kind: u8, limit: usize, fill: impl FnOnce(&mut Vec<u8>, usize)) {
    let start = out.len();
    out.extend([kind, 0, 0, 0]);
    out.extend(INFINITE.to_be_bytes());
    let data = out.len();
    // Whole units, or the padding would pass the limit.
    fill(out, limit.saturating_sub(data) / 8 * 8);
    let units = (out.len() - start).div_ceil(8);
    if out.len() == data {
        out.truncate(start);
        return;
    }
    out.resize(start + units * 8, 0);
    if let (Some(length), Ok(units)) = (out.get_mut(start + 1), u8::try_from(units)) {
        *length = units;
    }
}

fn emit(repr: &NdiscRepr<'_>, out: &mut Vec<u8>) {
    out.resize(ETHERNET_HEADER_LEN + IPV6_HEADER_LEN + repr.buffer_len(), 0);
    if let Some(message) = out.get_mut(ETHERNET_HEADER_LEN + IPV6_HEADER_LEN..) {
        repr.emit(&mut Icmpv6Packet::new_unchecked(message));
    }
}

fn envelope(network: &Network, src: Ipv6Addr, asker: Option<(Ipv6Addr, Mac)>) -> Envelope {
    let (dst, dst_mac) = asker.unwrap_or((ALL_NODES, ALL_NODES_MAC));
    Envelope { src_mac: network.our_mac, dst_mac, src: src.into(), dst: dst.into(), hop_limit: HOP_LIMIT }
}

fn is_solicited_node(address: Ipv6Addr) -> bool {
    address.to_bits() >> 24 == SOLICITED_NODE >> 24
}

#[cfg(test)]
mod tests;
