//! TCP headers and options (RFC 9293 3.1, RFC 7323, RFC 2018).

use std::fmt;
use std::ops::{Add, AddAssign, Sub};

/// Length of a TCP header without options.
pub const HEADER_LEN: usize = 20;
/// Length of a TCP header with as many options as the offset field can express.
pub const HEADER_MAX: usize = 60;
/// SACK blocks that fit a header beside nothing else.
pub const SACK_BLOCKS_MAX: usize = 4;

/// A sequence number; arithmetic and order wrap (RFC 9293 3.4).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// Bytes from `earlier` to this one; meaningful when `earlier` is not after it.
    pub fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether this is after `other` on the circle.
    pub fn is_after(self, other: Self) -> bool {
        other.0.wrapping_sub(self.0) >> 31 == 1
    }

    pub fn is_at_or_after(self, other: Self) -> bool {
        !other.is_after(self)
    }

    #[must_use]
    pub fn max(self, other: Self) -> Self {
        if other.is_after(self) { other } else { self }
    }

    #[must_use]
    pub fn min(self, other: Self) -> Self {
        if other.is_after(self) { self } else { other }
    }
}

impl Add<u32> for Seq {
    type Output = Self;

    fn add(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, bytes: u32) {
        *self = *self + bytes;
    }
}

impl Sub<u32> for Seq {
    type Output = Self;

    fn sub(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The control bits we act on. URG is ignored: urgent data is ordinary bytes (RFC 6093 6).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    pub const FIN: Self = Self(0x01);
    pub const SYN: Self = Self(0x02);
    pub const RST: Self = Self(0x04);
    pub const PSH: Self = Self(0x08);
    pub const ACK: Self = Self(0x10);

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            [(Self::SYN, "S"), (Self::FIN, "F"), (Self::RST, "R"), (Self::PSH, "P"), (Self::ACK, ".")];
        for (flag, name) in names {
            if self.has(flag) {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

/// SACK blocks of one header, `left..right` each (RFC 2018 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlocks {
    blocks: [(Seq, Seq); SACK_BLOCKS_MAX],
    count: u8,
}

impl SackBlocks {
    /// Adds a block; beyond [`SACK_BLOCKS_MAX`] it is left out.
    pub fn push(&mut self, left: Seq, right: Seq) {
        if let Some(block) = self.blocks.get_mut(usize::from(self.count)) {
            *block = (left, right);
            self.count += 1;
        }
    }

    pub fn as_slice(&self) -> &[(Seq, Seq)] {
        &self.blocks[..usize::from(self.count)]
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// A TCP header with the options we use. Others, timestamps included, are skipped: we never offer them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    pub src_port: u16,
    pub dst_port: u16,
    pub seq: Seq,
    /// Meaningful with [`Flags::ACK`].
    pub ack: Seq,
    pub flags: Flags,
    /// As in the header, not scaled.
    pub window: u16,
    pub mss: Option<u16>,
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
    pub sack: SackBlocks,
}

impl Segment {
    /// Reads a header from the first bytes of a TCP segment; gives it with its length in bytes.
    /// `None` when it is cut short or its length fields are impossible.
    pub fn parse(head: &[u8]) -> Option<(Self, usize)> {
        let fixed = head.first_chunk::<HEADER_LEN>()?;
        let header_len = usize::from(fixed[12] >> 4) * 4;
        if header_len < HEADER_LEN {
            return None;
        }
        let options = head.get(HEADER_LEN..header_len)?;
        let half = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let word =
            |at: usize| Seq(u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]));
        let mut segment = Self {
            src_port: half(0),
            dst_port: half(2),
            seq: word(4),
            ack: word(8),
            flags: Flags(fixed[13] & 0x1f),
            window: half(14),
            ..Self::default()
        };
        segment.parse_options(options);
        Some((segment, header_len))
    }

    /// A malformed option ends the list; what stands before it counts (RFC 9293 3.2, MUST-7).
    fn parse_options(&mut self, mut options: &[u8]) {
        while let [kind, rest @ ..] = options {
            if *kind == OPTION_END {
                return;
            }
            if *kind == OPTION_NOP {
                options = rest;
                continue;
            }
            let Some(len) = rest.first().map(|len| usize::from(*len)).filter(|len| *len >= 2) else { return };
            let Some(value) = options.get(2..len) else { return };
            match (*kind, value) {
                (OPTION_MSS, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])),
                // Shifts above 14 count as 14 (RFC 7323 2.3).
                (OPTION_WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift.min(14)),
                (OPTION_SACK_PERMITTED, &[]) => self.sack_permitted = true,
                (OPTION_SACK, blocks) if blocks.len().is_multiple_of(8) => {
                    for block in blocks.as_chunks::<8>().0 {
                        let [a, b, c, d, e, f, g, h] = *block;
                        self.sack.push(
                            Seq(u32::from_be_bytes([a, b, c, d])),
                            Seq(u32::from_be_bytes([e, f, g, h])),
                        );
                    }
                }
                _ => {}
            }
            options = &options[len..];
        }
    }

    /// Length of the header that [`Self::emit`] writes; a multiple of 4.
    pub fn header_len(&self) -> usize {
        let mut len = HEADER_LEN;
        if self.mss.is_some() {
            len += 4;
        }
        if self.window_scale.is_some() {
            len += 4;
        }
        if self.sack_permitted {
            len += 4;
        }
        if !self.sack.is_empty() {
            len += 4 + 8 * self.sack.as_slice().len();
        }
        len.min(HEADER_MAX)
    }

    /// Writes the header into `buffer[..self.header_len()]` with `checksum` as it stands.
    pub fn emit(&self, buffer: &mut [u8], checksum: u16) {
        let header_len = self.header_len();
        let header = &mut buffer[..header_len];
        header[0..2].copy_from_slice(&self.src_port.to_be_bytes());
        header[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        header[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        header[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        header[12] = u8::try_from(header_len / 4).unwrap_or(15) << 4;
        header[13] = self.flags.0;
        header[14..16].copy_from_slice(&self.window.to_be_bytes());
        header[16..18].copy_from_slice(&checksum.to_be_bytes());
        header[18..20].fill(0);
        let mut at = HEADER_LEN;
        let mut put = |bytes: &[u8]| {
            if let Some(place) = header.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            put(&[OPTION_MSS, 4, a, b]);
        }
        if let Some(shift) = self.window_scale {
            put(&[OPTION_NOP, OPTION_WINDOW_SCALE, 3, shift]);
        }
        if self.sack_permitted {
            put(&[OPTION_NOP, OPTION_NOP, OPTION_SACK_PERMITTED, 2]);
        }
        let blocks = self.sack.as_slice();
        if !blocks.is_empty() {
            put(&[OPTION_NOP, OPTION_NOP, OPTION_SACK, 2 + 8 * self.sack.count]);
            for (left, right) in blocks {
                put(&left.0.to_be_bytes());
                put(&right.0.to_be_bytes());
            }
        }
    }
}

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const OPTION_WINDOW_SCALE: u8 = 3;
const OPTION_SACK_PERMITTED: u8 = 4;
const OPTION_SACK: u8 = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// SYN 0x1234 -> 80, MSS 1460, SACK permitted, timestamps, NOP, window scale 7, as Linux sends it.
    const SYN: [u8; 40] = [
        0x12, 0x34, 0x00, 0x50, 0x01, 0x02, 0x03, 0x04, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0xbe, 0xef, 0,
        0, //
        2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
    ];

    #[test]
    fn options_of_a_linux_syn_are_found() {
        let (segment, len) = Segment::parse(&SYN).unwrap();
        assert_eq!(len, 40);
        assert_eq!((segment.src_port, segment.dst_port, segment.seq), (0x1234, 80, Seq(0x0102_0304)));
        assert_eq!((segment.flags, segment.window), (Flags::SYN, 0xfaf0));
        assert_eq!((segment.mss, segment.window_scale, segment.sack_permitted), (Some(1460), Some(7), true));
    }

    #[test]
    fn truncations_are_refused_at_every_length() {
        for len in 0..SYN.len() {
            assert_eq!(Segment::parse(&SYN[..len]), None, "{len}");
        }
    }

    #[test]
    fn an_option_that_claims_no_length_ends_the_list_without_a_loop() {
        let mut bytes = SYN;
        bytes[25] = 0;
        let (segment, _) = Segment::parse(&bytes).unwrap();
        assert_eq!((segment.mss, segment.sack_permitted), (Some(1460), false));
    }

    #[test]
    fn order_wraps() {
        assert!(Seq(5).is_after(Seq(u32::MAX - 5)));
        assert!(!Seq(u32::MAX - 5).is_after(Seq(5)));
        assert!(Seq(7).is_at_or_after(Seq(7)) && !Seq(7).is_after(Seq(7)));
        assert_eq!(Seq(3).since(Seq(u32::MAX)), 4);
    }

    proptest! {
        #[test]
        fn what_is_emitted_parses_to_the_same(
            seq in any::<u32>(), ack in any::<u32>(), window in any::<u16>(), mss in proptest::option::of(any::<u16>()),
            window_scale in proptest::option::of(0u8..15), sack_permitted in any::<bool>(),
            blocks in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..4),
        ) {
            let mut segment = Segment { src_port: 1, dst_port: 2, seq: Seq(seq), ack: Seq(ack), flags: Flags::ACK, window, ..Segment::default() };
            if blocks.is_empty() {
                segment = Segment { mss, window_scale, sack_permitted, ..segment };
            }
            for (left, right) in blocks {
                segment.sack.push(Seq(left), Seq(right));
            }
            let mut buffer = [0xa5; HEADER_MAX];
            segment.emit(&mut buffer, 0xbeef);
            let (parsed, len) = Segment::parse(&buffer).unwrap();
            prop_assert_eq!(parsed, segment);
            prop_assert_eq!(len, segment.header_len());
            prop_assert_eq!(&buffer[16..18], &[0xbe, 0xef]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Segment::parse(&bytes);
        }
    }
}
