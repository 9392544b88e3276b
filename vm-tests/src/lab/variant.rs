//! The shapes of pod networks a lab can have, as addresses and routes. It must never run anything.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Servers of the outside, one hop behind the gateway.
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x99, 0, 0, 0, 0, 1);

/// The world's end of the veth, and the pod's gateway where the variant is not Calico-like.
pub const WORLD_LINK_V4: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
pub const WORLD_LINK_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1);

/// The gateway of a Calico-like pod.
pub const UPLINK_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
pub const UPLINK_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeee, 0xeeee, 0xeeee);

pub const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
pub const POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 5);
pub const POD_MAC: &str = "0a:58:0a:f4:01:05";

/// What the pod's network looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// 10.244.1.5/24 and fd00:10:244::5/64, default routes to the world's end of the veth.
    DualStack,
    Ipv4Only,
    Ipv6Only,
    /// 10.244.1.5/32 and fd00:10:244::5/128, gateways 169.254.1.1 and a link-local one, reached without a prefix.
    Calico,
    /// Dual stack with this MTU on both ends of the veth.
    Mtu(u32),
}

impl Variant {
    pub fn mtu(self) -> u32 {
        match self {
            Self::Mtu(mtu) => mtu,
            Self::DualStack | Self::Ipv4Only | Self::Ipv6Only | Self::Calico => 1500,
        }
    }

    pub fn has_v4(self) -> bool {
        self != Self::Ipv6Only
    }

    pub fn has_v6(self) -> bool {
        self != Self::Ipv4Only
    }

    /// Lines for `ip -batch` in the world, which has the server addresses and a `pod0` that is up.
    pub(super) fn world_addresses(self) -> String {
        if self == Self::Calico {
            return format!(
                "address add {UPLINK_V4}/32 dev pod0 scope link\n\
                 address add {UPLINK_V6}/64 dev pod0 nodad\n\
                 route add {POD_V4}/32 dev pod0 src {SERVER_V4}\n\
                 route add {POD_V6}/128 dev pod0 src {SERVER_V6}\n"
            );
        }
        let mut lines = String::new();
        if self.has_v4() {
            let _ = writeln!(lines, "address add {WORLD_LINK_V4}/24 dev pod0");
        }
        if self.has_v6() {
            let _ = writeln!(lines, "address add {WORLD_LINK_V6}/64 dev pod0 nodad");
        }
        lines
    }

    /// Lines for `ip -batch` that give `device`, which is up, the pod's addresses and routes.
    pub fn pod_configuration(self, device: &str) -> String {
        if self == Self::Calico {
            return format!(
                "address add {POD_V4}/32 dev {device}\n\
                 route add {UPLINK_V4} dev {device} scope link\n\
                 route add default via {UPLINK_V4} dev {device}\n\
                 address add {POD_V6}/128 dev {device} nodad\n\
                 route add default via {UPLINK_V6} dev {device}\n"
            );
        }
        let mut lines = String::new();
        if self.has_v4() {
            let _ = writeln!(lines, "address add {POD_V4}/24 dev {device}");
            let _ = writeln!(lines, "route add default via {WORLD_LINK_V4}");
        }
        if self.has_v6() {
            let _ = writeln!(lines, "address add {POD_V6}/64 dev {device} nodad");
            let _ = writeln!(lines, "route add default via {WORLD_LINK_V6}");
        }
        lines
    }
}

/// An IPv6 address must be usable at once.
pub(super) fn no_dad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { " nodad" } else { "" }
}
