//! The resolved configuration for a reader of the log.

use std::fmt::{self, Display};
use std::net::IpAddr;

use crate::flow::forward::Rule;

use super::{Config, Transport};

impl Config {
    /// One line for each thing a user would look for.
    pub fn summary(&self) -> Vec<String> {
        let mut lines = vec![format!("guest's end: {}", self.transport)];
        let mtu = self.network.mtu.map_or_else(|| "not announced".to_owned(), |mtu| mtu.to_string());
        lines.push(format!("our address: {}, MTU {mtu}", self.network.our_mac));
        lines.push(match self.network.v4 {
            None => "IPv4: off".to_owned(),
            Some(v4) => {
                format!("IPv4: {}/{}, gateway {}", v4.guest, v4.prefix_len, or_none(v4.gateway.as_ref()))
            }
        });
        lines.push(match self.network.v6 {
            None => "IPv6: off".to_owned(),
            Some(v6) => {
                let out = if v6.has_default_route { "" } else { " without default route" };
                format!("IPv6: {}/{}, router {}{out}", v6.guest, v6.prefix_len, v6.our_link_local)
            }
        });
        lines.push(format!("DNS: {}; search {}", list(&self.network.dns), list(&self.network.search)));
        lines.extend(self.dhcp());
        lines.extend(self.mappings());
        lines.extend(self.off());
        lines
            .extend(self.socket_memory_bytes.map(|bytes| format!("kernel memory of sockets: {bytes} bytes")));
        lines.push(format!("TCP forwarded in: {}", ports(&self.tcp_forward)));
        lines.push(format!("UDP forwarded in: {}", ports(&self.udp_forward)));
        lines
    }

    /// What DHCP hands out besides, if anything.
    fn dhcp(&self) -> Option<String> {
        let extras = &self.network.extras;
        let said = [
            extras.boot_file.as_ref().map(|name| format!("boot file {name}")),
            extras.tftp_server.as_ref().map(|name| format!("TFTP server {name}")),
            (!extras.ntp_servers.is_empty()).then(|| format!("NTP {}", list(&extras.ntp_servers))),
            (!extras.site.is_empty()).then(|| {
                let codes: Vec<u8> = extras.site.iter().map(|(code, _)| *code).collect();
                format!("options {}", list(&codes))
            }),
        ];
        let said: Vec<String> = said.into_iter().flatten().collect();
        (!said.is_empty()).then(|| format!("DHCP: {}", said.join(", ")))
    }

    fn mappings(&self) -> Vec<String> {
        let nat = &self.nat;
        let pair = |from: Option<IpAddr>, to: &str| from.map(|from| format!("{from} reaches {to}"));
        let dns4 = nat.dns4.map(|dns| (IpAddr::from(dns.seen_by_guest), IpAddr::from(dns.resolver)));
        let dns6 = nat.dns6.map(|dns| (IpAddr::from(dns.seen_by_guest), IpAddr::from(dns.resolver)));
        let dns = [dns4, dns6].into_iter().flatten().map(|(from, to)| format!("DNS to {from} reaches {to}"));
        let plain = [
            pair(nat.map_host_loopback4.map(IpAddr::V4), "127.0.0.1"),
            pair(nat.map_host_loopback6.map(IpAddr::V6), "::1"),
            pair(nat.map_guest_addr4.map(IpAddr::V4), "the pod's own address"),
            pair(nat.map_guest_addr6.map(IpAddr::V6), "the pod's own address"),
        ];
        dns.chain(plain.into_iter().flatten()).map(|line| format!("mapping: {line}")).collect()
    }

    /// What the command line switched off, if anything.
    fn off(&self) -> Option<String> {
        let services = self.network.services;
        let all = [
            ("TCP", self.protocols.tcp),
            ("UDP", self.protocols.udp),
            ("ICMP", self.protocols.icmp),
            ("DHCP", services.dhcp),
            ("DHCPv6", services.dhcpv6),
            ("NDP", services.ndp),
            ("router advertisements", services.ra),
            ("announcing DNS", services.announce_dns),
            ("announcing search domains", services.announce_search),
        ];
        let off: Vec<&str> = all.iter().filter(|(_, on)| !on).map(|(name, _)| *name).collect();
        (!off.is_empty()).then(|| format!("off: {}", off.join(", ")))
    }
}

impl Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream { socket } => write!(f, "socket {}", socket.display()),
            Self::StreamFd(fd) => write!(f, "socket on descriptor {fd}"),
            Self::VhostUser { socket } => write!(f, "vhost-user on socket {}", socket.display()),
            Self::VhostUserFd(fd) => write!(f, "vhost-user on descriptor {fd}"),
            Self::Tap(tap) => write!(f, "tap {} in network namespace {}", tap.ifname, tap.netns),
        }
    }
}

fn ports(rules: &[Rule]) -> String {
    if rules.is_empty() {
        return "none".to_owned();
    }
    let shown: Vec<String> = rules.iter().map(Rule::to_string).collect();
    shown.join("; ")
}

fn list<T: Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    let shown: Vec<String> = items.iter().map(T::to_string).collect();
    shown.join(" ")
}

fn or_none<T: Display>(value: Option<&T>) -> String {
    value.map_or_else(|| "none".to_owned(), T::to_string)
}
