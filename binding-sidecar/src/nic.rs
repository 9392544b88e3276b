//! One NIC of a VM: all that the VMI and the pod say of it, checked. Plain data between `vmi`, which makes it, `domain`,
//! which tells libvirt, and `translator`, which tells passt-rs. It must never know where its facts came from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One NIC, served by one translator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// The VMI's name of the interface and of its network: letters, digits, `-` and `_`.
    pub name: String,
    pub mac: Mac,
    pub model: Model,
    pub pci_address: Option<PciAddress>,
    /// 1 to 16383 (SMBIOS, and what udev makes a name of).
    pub acpi_index: Option<u16>,
    /// From 1; the lowest boots first.
    pub boot_order: Option<u16>,
    pub link: Link,
    /// Of the guest's link, bytes, 68 to 65520.
    pub mtu: u16,
    /// Pairs of queues, where the VM wants more than one: 2 to 128.
    pub queues: Option<u16>,
    pub uplink: Uplink,
    pub tcp: Ports,
    pub udp: Ports,
    pub dhcp: DhcpOptions,
    /// One DNS label.
    pub hostname: Option<String>,
    /// With the hostname, where the VMI has a subdomain.
    pub fqdn: Option<String>,
    pub tuning: Tuning,
}

/// A hardware address of one station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What the guest's driver sees, in libvirt's words (`<model type='...'/>`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// virtio 1.x on PCI, the only kind with all features.
    VirtioNonTransitional,
    /// virtio for guests that know the older version only.
    VirtioTransitional,
    /// virtio where there is no PCI (s390x).
    Virtio,
    E1000,
    E1000e,
    Igb,
    Ne2kPci,
    Pcnet,
    Rtl8139,
}

impl Model {
    /// Others have no vhost-user in QEMU, and libvirt says so when the domain is defined.
    pub fn is_virtio(self) -> bool {
        match self {
            Self::VirtioNonTransitional | Self::VirtioTransitional | Self::Virtio => true,
            Self::E1000 | Self::E1000e | Self::Igb | Self::Ne2kPci | Self::Pcnet | Self::Rtl8139 => false,
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VirtioNonTransitional => "virtio-non-transitional",
            Self::VirtioTransitional => "virtio-transitional",
            Self::Virtio => "virtio",
            Self::E1000 => "e1000",
            Self::E1000e => "e1000e",
            Self::Igb => "igb",
            Self::Ne2kPci => "ne2k_pci",
            Self::Pcnet => "pcnet",
            Self::Rtl8139 => "rtl8139",
        })
    }
}

/// `DDDD:BB:SS.F`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciAddress {
    pub domain: u16,
    pub bus: u8,
    /// 0 to 31
    pub slot: u8,
    /// 0 to 7
    pub function: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Up,
    Down,
}

/// The pod's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The pod's interface: `eth0`, `ovn-udn1`, `pod37a8eec1ce1`, `net1`.
    pub interface: String,
    /// How many other NICs of the VM have translators in this pod.
    pub sharing: Sharing,
}

/// Whom a translator leaves room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// The only one: it may listen on every address, the pod's loopback too.
    Alone,
    /// Of several, the one with the pod's primary network: it listens on that network's addresses and on loopback.
    Primary,
    /// Of several, one with a secondary network: it listens there, and connections leave there.
    Secondary,
}

/// What is forwarded to the guest, of one protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// All but these, which are in order.
    AllBut(Vec<u16>),
    /// These, in order; none of them twice.
    Only(Vec<u16>),
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllBut(excluded) if excluded.is_empty() => f.write_str("all"),
            Self::AllBut(excluded) => write!(f, "all but {excluded:?}"),
            Self::Only(listed) => write!(f, "{listed:?}"),
        }
    }
}

/// `dhcpOptions` of the VMI's interface, for DHCPv4.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DhcpOptions {
    pub boot_file: Option<String>,
    pub tftp_server: Option<String>,
    pub ntp_servers: Vec<Ipv4Addr>,
    /// Options 224 to 254, none twice, with their texts.
    pub private: Vec<(u8, String)>,
}

/// What the VMI's spec has no field for; of annotations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tuning {
    /// Resolvers instead of the pod's; empty: the pod's.
    pub dns: Vec<IpAddr>,
    /// Search domains instead of the pod's; empty: the pod's.
    pub dns_search: Vec<String>,
    /// Addresses by which the guest reaches the pod's loopback; none: it does not.
    pub host_loopback_v4: Option<Ipv4Addr>,
    pub host_loopback_v6: Option<Ipv6Addr>,
    pub log_level: LogLevel,
    /// Most flows at a time; none: as many as descriptors allow.
    pub flows_max: Option<u32>,
}

/// What a translator logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// Warnings and errors.
    Warn,
    /// Start, end, guests that come and go.
    #[default]
    Info,
    /// Each flow's start and end.
    Debug,
    /// Each change of a state.
    Trace,
}
