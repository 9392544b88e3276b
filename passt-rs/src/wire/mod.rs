//! Bytes to meaning and back: views and builders of packet headers over private memory.
//!
//! Views are checked once on construction; accessors cannot fail afterwards. Everything here works on
//! bytes that nobody else can write (a frame's headers are copied out of guest memory first) and knows
//! no policy: it says what a packet is, never what to do with it. Formats that smoltcp has (ARP, NDP,
//! ICMP, DHCPv4) are used from `smoltcp::wire`; this module holds what it lacks or what must be fast.
#![expect(clippy::indexing_slicing, reason = "offsets are checked once on construction; see each view")]

mod mac;
mod offload;
pub mod checksum;
mod headers;
mod ip;
mod envelope;
pub mod fragment;
pub mod icmp_error;
pub mod tcp;
pub mod udp;
pub mod name;
pub mod dhcpv4;
pub mod dhcpv6;

pub use envelope::Envelope;
pub use headers::{EtherType, Fragment, Headers, IpHeaders, Malformed, Payload};
pub use ip::{IpRepr, emit_ethernet, emit_ip, ip_header_len};
pub use mac::Mac;
pub use offload::{Checksum, Offload, Segmentation, VNET_HEADER_LEN};

/// Length of an Ethernet II header: two addresses and the EtherType.
pub const ETHERNET_HEADER_LEN: usize = 14;
/// Length of an IPv4 header without options (RFC 791 3.1).
pub const IPV4_HEADER_LEN: usize = 20;
/// Length of the fixed IPv6 header (RFC 8200 3).
pub const IPV6_HEADER_LEN: usize = 40;

/// IANA protocol numbers of the transports we translate.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
}
