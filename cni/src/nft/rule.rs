//! The rules that this plugin makes, one function each. It must never talk to the kernel.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::abi::{
    NF_BR_PRE_ROUTING, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING, NF_INET_PRE_ROUTING, NFPROTO_BRIDGE,
    NFPROTO_INET,
};
use super::expression::Expressions;
use crate::protocol::{MacAddress, PortMapping};

/// Our table in either family, by whose name others know to leave it alone.
pub const TABLE: &str = "sluice";

/// Our base chains, made with the first rule that needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Chain {
    /// Packets as they come in, before flows are looked up: `filter`, priority -300 (raw), family inet.
    Raw,
    /// Addresses of destinations, of packets that come in: `nat`, priority -100 (dstnat), family inet.
    Prerouting,
    /// The same for the host's own packets.
    Output,
    /// Addresses of sources: `nat`, priority 100 (srcnat), family inet.
    Postrouting,
    /// Frames before a bridge looks at them: `filter`, priority -300 (the bridge's dstnat), family bridge.
    BridgePrerouting,
}

impl Chain {
    pub(super) const fn family(self) -> u8 {
        match self {
            Self::Raw | Self::Prerouting | Self::Output | Self::Postrouting => NFPROTO_INET,
            Self::BridgePrerouting => NFPROTO_BRIDGE,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Prerouting | Self::BridgePrerouting => "prerouting",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }

    pub(super) const fn chain_type(self) -> &'static str {
        match self {
            Self::Prerouting | Self::Output | Self::Postrouting => "nat",
            Self::Raw | Self::BridgePrerouting => "filter",
        }
    }

    pub(super) const fn hook(self) -> u32 {
        match self {
            Self::Raw | Self::Prerouting => NF_INET_PRE_ROUTING,
            Self::Output => NF_INET_LOCAL_OUT,
            Self::Postrouting => NF_INET_POST_ROUTING,
            Self::BridgePrerouting => NF_BR_PRE_ROUTING,
        }
    }

    pub(super) const fn priority(self) -> i32 {
        match self {
            Self::Prerouting | Self::Output => -100,
            Self::Postrouting => 100,
            Self::Raw | Self::BridgePrerouting => -300,
        }
    }
}

impl fmt::Display for Chain {
    /// As `nft` would be asked for it: `inet sluice postrouting`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.family() == NFPROTO_BRIDGE { "bridge" } else { "inet" };
        write!(formatter, "{family} {TABLE} {}", self.name())
    }
}

/// A rule that can be installed for an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub(super) chain: Chain,
    /// What it is for, in its comment.
    pub(super) kind: &'static str,
    pub(super) place: Place,
    pub(super) expressions: Expressions,
}

/// Where in its chain a rule goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Before all others: what is more specific than they are.
    First,
    Last,
}

/// Packets from `address` to beyond its prefix get the address of the link they leave by; multicast does not.
pub fn masquerade(address: IpNet) -> Rule {
    let expressions = Expressions::default()
        .family_is(address.addr())
        .source_in(address.addr().into())
        .destination_not_in(address.trunc())
        .destination_not_in(multicast(address.addr()))
        .masquerade();
    Rule { chain: Chain::Postrouting, kind: "masquerade", place: Place::Last, expressions }
}

/// Packets to the host's ports in `mappings` go to `target` (with its prefix) instead, also from the host itself, and
/// from `target`'s own prefix, which then sees the host as their source (or answers would not come back through it).
///
/// Mappings of an address of the other family make no rules: call this once for each address of the container.
/// The caller sets, in the host's namespace: `net/ipv4/ip_forward` or `net/ipv6/conf/all/forwarding`; and
/// `net/ipv4/conf/LINK/route_localnet`, where LINK is the one by which the host reaches `target`, for connections to
/// 127.0.0.1 ([`loopback_guard`] keeps others from using it). There is no such setting in IPv6, so `::1` is
/// not mapped. Where bridges call netfilter (`net/bridge/bridge-nf-call-iptables`), a target that connects to its own
/// mapping needs a bridge port in hairpin mode.
pub fn port_mappings(target: IpNet, mappings: &[PortMapping]) -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        mappings.iter().flat_map(|mapping| redirections(target.addr(), mapping)).collect();
    if rules.is_empty() {
        return rules;
    }
    let mut returning = |kind, sources| {
        let expressions = Expressions::default()
            .family_is(target.addr())
            .destination_was_changed()
            .source_in(sources)
            .destination_in(target.addr().into())
            .masquerade();
        rules.push(Rule { chain: Chain::Postrouting, kind, place: Place::Last, expressions });
    };
    returning("port-hairpin", target.trunc());
    if let Some(loopback) = routable_loopback(target.addr()) {
        returning("port-loopback", loopback);
    }
    rules
}

/// Packets that enter by `link` for the host's 127.0.0.0/8 are dropped, which `route_localnet` of the link lets in. Answers
/// are not concerned: they come to the address that [`port_mappings`] gives the host as their question's source.
pub fn loopback_guard(link: &str) -> Rule {
    let expressions = Expressions::default()
        .enters_by(link)
        .family_is(LOOPBACK_V4.addr().into())
        .destination_in(LOOPBACK_V4.into())
        .drop();
    Rule { chain: Chain::Raw, kind: "loopback", place: Place::Last, expressions }
}

/// Frames that enter a bridge by `port` with another source address than `mac` are counted and dropped.
///
/// `port` is at most 15 bytes, as the kernel's names of links are; of a longer one the kernel refuses the rule.
pub fn spoof_check(port: &str, mac: MacAddress) -> Rule {
    let expressions = Expressions::default().enters_by(port).source_mac_is_not(mac).counter().drop();
    Rule { chain: Chain::BridgePrerouting, kind: "mac", place: Place::Last, expressions }
}

/// One rule for what comes in and one for what the host sends itself.
fn redirections(target: IpAddr, mapping: &PortMapping) -> Vec<Rule> {
    let host_ip = mapping.host_ip.filter(|address| !address.is_unspecified());
    if mapping.host_ip.is_some_and(|address| address.is_ipv4() != target.is_ipv4()) {
        return Vec::new();
    }
    let to_host = Expressions::default().family_is(target);
    let (place, to_host) = match host_ip {
        Some(address) => (Place::First, to_host.destination_in(address.into())),
        None if target.is_ipv4() => (Place::Last, to_host.destination_is_local()),
        None => (Place::Last, to_host.destination_not_in(LOOPBACK_V6.into()).destination_is_local()),
    };
    let expressions = to_host
        .destination_port(mapping.protocol.number(), mapping.host_port)
        .destination_becomes(target, mapping.container_port);
    [Chain::Prerouting, Chain::Output]
        .map(|chain| Rule { chain, kind: "port", place, expressions: expressions.clone() })
        .to_vec()
}

fn multicast(like: IpAddr) -> IpNet {
    if like.is_ipv4() { MULTICAST_V4.into() } else { MULTICAST_V6.into() }
}

/// Sources inside the host that the kernel lets out, given `route_localnet`.
fn routable_loopback(like: IpAddr) -> Option<IpNet> {
    like.is_ipv4().then(|| LOOPBACK_V4.into())
}

/// RFC 5771 section 3.
const MULTICAST_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);
/// RFC 4291 section 2.7.
const MULTICAST_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
/// RFC 1122 section 3.2.1.3 (g).
const LOOPBACK_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
const LOOPBACK_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Protocol;

    #[test]
    fn rules_are_these_expressions() {
        let address: IpNet = "10.88.1.5/24".parse().unwrap();
        let mapping =
            PortMapping { host_ip: None, host_port: 8080, protocol: Protocol::Tcp, container_port: 80 };
        let ports = port_mappings(address, &[mapping]);
        for (rule, expected) in [
            (&masquerade(address), MASQUERADE),
            (&ports[0], PORT),
            (&ports[1], PORT),
            (&ports[2], HAIRPIN),
            (&spoof_check("p0", "02:00:00:00:00:05".parse().unwrap()), SPOOF_CHECK),
        ] {
            let bytes = rule.expressions.attributes().bytes();
            assert_eq!(words(bytes), expected.split_whitespace().collect::<Vec<_>>(), "{}", rule.kind);
        }
    }

    #[test]
    fn chains_hook_in_where_their_names_say() {
        for (chain, name, kind, hook, priority) in [
            (Chain::Raw, "inet sluice raw", "filter", 0, -300),
            (Chain::Prerouting, "inet sluice prerouting", "nat", 0, -100),
            (Chain::Output, "inet sluice output", "nat", 3, -100),
            (Chain::Postrouting, "inet sluice postrouting", "nat", 4, 100),
            (Chain::BridgePrerouting, "bridge sluice prerouting", "filter", 0, -300),
        ] {
            assert_eq!(chain.to_string(), name);
            assert_eq!(
                (chain.chain_type(), chain.hook(), chain.priority()),
                (kind, hook, priority),
                "{name}"
            );
        }
    }

    fn words(bytes: &[u8]) -> Vec<String> {
        bytes.chunks(4).map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect()).collect()
    }

    // One expression a line: the element's header, its name, its attributes; in words of four bytes of a little-endian
    // machine, where 24000180 is an attribute of 36 bytes, type 1, nested.

    /// `ip saddr 10.88.1.5 ip daddr != 10.88.1.0/24 ip daddr != 224.0.0.0/4 masquerade`
    const MASQUERADE: &str = "
        24000180 09000100 6d657461 00000000 14000280 08000200 0000000f 08000100 00000001
        2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000000 0c000380 05000100 02000000
        34000180 0c000100 7061796c 6f616400 24000280 08000100 00000001 08000200 00000001 08000300 0000000c 08000400 00000004
        2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000000 0c000380 08000100 0a580105
        34000180 0c000100 7061796c 6f616400 24000280 08000100 00000001 08000200 00000001 08000300 00000010 08000400 00000004
        44000180 0c000100 62697477 69736500 34000280 08000100 00000001 08000200 00000001 08000300 00000004 0c000480 08000100 ffffff00 0c000580 08000100 00000000
        2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000001 0c000380 08000100 0a580100
        34000180 0c000100 7061796c 6f616400 24000280 08000100 00000001 08000200 00000001 08000300 00000010 08000400 00000004
        44000180 0c000100 62697477 69736500 34000280 08000100 00000001 08000200 00000001 08000300 00000004 0c000480 08000100 f0000000 0c000580 08000100 00000000
        2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000001 0c000380 08000100 e0000000
        14000180 09000100 6d617371 00000000 04000280";

    /// `meta nfproto ipv4 fib daddr type local tcp dport 8080 dnat ip to 10.88.1.5:80`
    const PORT: &str = "
        24000180 09000100 6d657461 00000000 14000280 08000200 0000000f 08000100 00000001
        2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000000 0c000380 05000100 02000000
        28000180 08000100 66696200 1c000280 08000300 00000002 08000200 00000003 08000100 00000001
        2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000000 0c000380 08000100 02000000
        24000180 09000100 6d657461 00000000 14000280 08000200 00000010 08000100 00000001
        2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000000 0c000380 05000100 06000000
        34000180 0c000100 7061796c 6f616400 24000280 08000100 00000001 08000200 00000002 08000300 00000002 08000400 00000002
        2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000000 0c000380 06000100 1f900000
        2c000180 0e000100 696d6d65 64696174 65000000 18000280 08000100 00000001 0c000280 08000100 0a580105
        2c000180 0e000100 696d6d65 64696174 65000000 18000280 08000100 00000002 0c000280 06000100 00500000
        30000180 08000100 6e617400 24000280 08000100 00000001 08000200 00000002 08000300 00000001 08000500 00000002";

    /// `ct status dnat ip saddr 10.88.1.0/24 ip daddr 10.88.1.5 masquerade`
    const HAIRPIN: &str = "
        24000180 09000100 6d657461 00000000 14000280 08000200 0000000f 08000100 00000001
        2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000000 0c000380 05000100 02000000
        20000180 07000100 63740000 14000280 08000100 00000001 08000200 00000002
        44000180 0c000100 62697477 69736500 34000280 08000100 00000001 08000200 00000001 08000300 00000004 0c000480 08000100 20000000 0c000580 08000100 00000000
        2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000001 0c000380 08000100 00000000
        34000180 0c000100 7061796c 6f616400 24000280 08000100 00000001 08000200 00000001 08000300 0000000c 08000400 00000004
        44000180 0c000100 62697477 69736500 34000280 08000100 00000001 08000200 00000001 08000300 00000004 0c000480 08000100 ffffff00 0c000580 08000100 00000000
        2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000000 0c000380 08000100 0a580100
        34000180 0c000100 7061796c 6f616400 24000280 08000100 00000001 08000200 00000001 08000300 00000010 08000400 00000004
        2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000000 0c000380 08000100 0a580105
        14000180 09000100 6d617371 00000000 04000280";

    /// `iifname "p0" ether saddr != 02:00:00:00:00:05 counter drop`
    const SPOOF_CHECK: &str = "
        24000180 09000100 6d657461 00000000 14000280 08000200 00000006 08000100 00000001
        38000180 08000100 636d7000 2c000280 08000100 00000001 08000200 00000000 18000380 14000100 70300000 00000000 00000000 00000000
        34000180 0c000100 7061796c 6f616400 24000280 08000100 00000001 08000200 00000000 08000300 00000006 08000400 00000006
        30000180 08000100 636d7000 24000280 08000100 00000001 08000200 00000001 10000380 0a000100 02000000 00050000
        14000180 0c000100 636f756e 74657200 04000280
        30000180 0e000100 696d6d65 64696174 65000000 1c000280 08000100 00000000 10000280 0c000280 08000100 00000000";
}
