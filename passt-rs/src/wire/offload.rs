//! The virtio-net header: what a frame's sender left to the receiver (virtio 1.2 section 5.1.6).

/// Length of the header with `num_buffers`, as virtio 1 devices and our taps use it (TUNSETVNETHDRSZ).
pub const VNET_HEADER_LEN: usize = 12;

const FLAG_NEEDS_CSUM: u8 = 1;
const FLAG_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Who computes a frame's transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The checksum in the header is complete; whoever cares verifies it.
    #[default]
    Complete,
    /// Known good; need not be verified.
    Valid,
    /// The field holds the pseudo-header's sum only; the device completes it from `start`, the offset of
    /// the transport header in the frame, into the field `offset` bytes further on.
    Partial { start: u16, offset: u16 },
}

/// How the device is to cut a frame that is larger than the link's MTU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Segmentation {
    #[default]
    None,
    Tcp4 {
        /// Payload bytes of each segment but the last.
        size: u16,
    },
    Tcp6 {
        size: u16,
    },
    /// UDP datagrams of `size` bytes each, the last may be shorter.
    Udp {
        size: u16,
    },
}

/// What accompanies a frame on a transport with offloads. The default is a plain frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    pub checksum: Checksum,
    pub segmentation: Segmentation,
    /// Length of all headers of a frame to be cut; a hint, 0 otherwise.
    pub header_len: u16,
}

impl Offload {
    /// Reads a header. Segmentation kinds we never negotiated give `None`.
    pub fn parse(bytes: &[u8; VNET_HEADER_LEN]) -> Option<Self> {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let checksum = match bytes[0] {
            flags if flags & FLAG_NEEDS_CSUM != 0 => Checksum::Partial { start: half(6), offset: half(8) },
            flags if flags & FLAG_DATA_VALID != 0 => Checksum::Valid,
            _ => Checksum::Complete,
        };
        let size = half(4);
        let segmentation = match bytes[1] & !GSO_ECN {
            GSO_NONE => Segmentation::None,
            GSO_TCPV4 => Segmentation::Tcp4 { size },
            GSO_TCPV6 => Segmentation::Tcp6 { size },
            GSO_UDP_L4 => Segmentation::Udp { size },
            _ => return None,
        };
        Some(Self { checksum, segmentation, header_len: half(2) })
    }

    /// Writes the header; `num_buffers` is 1, which every non-merging receiver expects.
    pub fn emit(self) -> [u8; VNET_HEADER_LEN] {
        let (flags, start, offset) = match self.checksum {
            Checksum::Complete => (0, 0, 0),
            Checksum::Valid => (FLAG_DATA_VALID, 0, 0),
            Checksum::Partial { start, offset } => (FLAG_NEEDS_CSUM, start, offset),
        };
        let (kind, size) = match self.segmentation {
            Segmentation::None => (GSO_NONE, 0),
            Segmentation::Tcp4 { size } => (GSO_TCPV4, size),
            Segmentation::Tcp6 { size } => (GSO_TCPV6, size),
            Segmentation::Udp { size } => (GSO_UDP_L4, size),
        };
        let mut bytes = [0; VNET_HEADER_LEN];
        bytes[0] = flags;
        bytes[1] = kind;
        for (at, value) in [(2, self.header_len), (4, size), (6, start), (8, offset), (10, 1)] {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_emitted_parses_to_the_same() {
        for checksum in [Checksum::Complete, Checksum::Valid, Checksum::Partial { start: 34, offset: 16 }] {
            for segmentation in [
                Segmentation::None,
                Segmentation::Tcp4 { size: 1460 },
                Segmentation::Tcp6 { size: 1440 },
                Segmentation::Udp { size: 1472 },
            ] {
                let offload = Offload { checksum, segmentation, header_len: 54 };
                assert_eq!(Offload::parse(&offload.emit()), Some(offload));
            }
        }
    }

    #[test]
    fn ufo_is_refused_since_we_never_negotiate_it() {
        let mut bytes = Offload::default().emit();
        bytes[1] = 3;
        assert_eq!(Offload::parse(&bytes), None);
    }
}
