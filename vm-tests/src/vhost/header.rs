//! The virtio-net header that is in front of every frame (virtio 1.2 section 5.1.6). Plain data.

use super::feature::virtio;
use super::ring::Violation;

/// Bytes of the header with a buffer count, and of a legacy one without.
pub const HEADER_LEN: usize = 12;
pub const LEGACY_HEADER_LEN: usize = 10;

/// In [`Header::flags`]: the checksum at `checksum_start + checksum_offset` is to be completed.
pub const NEEDS_CSUM: u8 = 1;
/// In [`Header::flags`]: the checksum was verified, or never computed.
pub const DATA_VALID: u8 = 2;

/// In [`Header::kind`]: how the frame is a series of segments.
pub const GSO_NONE: u8 = 0;
pub const GSO_TCPV4: u8 = 1;
pub const GSO_UDP: u8 = 3;
pub const GSO_TCPV6: u8 = 4;
pub const GSO_UDP_L4: u8 = 5;
/// May be added to a TCP kind: the segments have ECN marks.
pub const GSO_ECN: u8 = 0x80;

/// A virtio-net header.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// `GSO_*`.
    pub kind: u8,
    /// Bytes of protocol headers in front of the first segment's payload.
    pub headers_len: u16,
    /// Payload bytes per segment.
    pub segment_len: u16,
    /// Where checksumming starts, bytes from the frame's start.
    pub checksum_start: u16,
    /// Where the checksum goes, bytes from `checksum_start`.
    pub checksum_offset: u16,
    /// Buffers the frame is in; 1 from a header that has no such field.
    pub buffers: u16,
}

impl Header {
    pub fn parse(bytes: [u8; HEADER_LEN], has_count: bool) -> Self {
        let [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1, n0, n1] = bytes;
        Self {
            flags,
            kind,
            headers_len: u16::from_le_bytes([h0, h1]),
            segment_len: u16::from_le_bytes([s0, s1]),
            checksum_start: u16::from_le_bytes([c0, c1]),
            checksum_offset: u16::from_le_bytes([o0, o1]),
            buffers: if has_count { u16::from_le_bytes([n0, n1]) } else { 1 },
        }
    }

    /// As a driver sends it: the count is 0.
    pub fn emit(self) -> [u8; HEADER_LEN] {
        let [h0, h1] = self.headers_len.to_le_bytes();
        let [s0, s1] = self.segment_len.to_le_bytes();
        let [c0, c1] = self.checksum_start.to_le_bytes();
        let [o0, o1] = self.checksum_offset.to_le_bytes();
        [self.flags, self.kind, h0, h1, s0, s1, c0, c1, o0, o1, 0, 0]
    }

    /// Whether a device may send this to a driver with these features: section 5.1.6.4.1.
    pub(super) fn check(self, features: u64) -> Result<(), Violation> {
        let has = |bit| features & bit != 0;
        let kind_is_known = match self.kind & !GSO_ECN {
            GSO_NONE => self.kind == GSO_NONE,
            GSO_TCPV4 => has(virtio::GUEST_TSO4),
            GSO_TCPV6 => has(virtio::GUEST_TSO6),
            GSO_UDP => has(virtio::GUEST_UFO),
            GSO_UDP_L4 => has(virtio::GUEST_USO4) || has(virtio::GUEST_USO6),
            _ => false,
        };
        let ecn_is_known = self.kind & GSO_ECN == 0 || has(virtio::GUEST_ECN);
        let checksum_is_known = self.flags & (NEEDS_CSUM | DATA_VALID) == 0 || has(virtio::GUEST_CSUM);
        let segments_have_checksum = self.kind == GSO_NONE || self.flags & NEEDS_CSUM != 0;
        if kind_is_known && ecn_is_known && checksum_is_known && segments_have_checksum {
            Ok(())
        } else {
            Err(Violation::Offload { flags: self.flags, kind: self.kind })
        }
    }
}
