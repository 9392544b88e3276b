//! The Internet checksum (RFC 1071) and the pseudo-headers of IPv4 and IPv6.

use std::net::IpAddr;

/// A sum of 16-bit words still to be folded. Sums add up in any order (RFC 1071 2 B); pieces must start
/// at even offsets of the data they cover.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes in network order, padding an odd end with zero.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        // Four lanes of 32-bit words, which the compiler turns into vector code; a lane of u64 holds
        // 2^32 words before it could overflow, frames have 2^14.
        let mut lanes = [0u64; 4];
        let mut chunks = bytes.chunks_exact(16);
        for chunk in &mut chunks {
            for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<4>().0) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let mut total = fold(lanes.iter().sum());
        let mut pairs = chunks.remainder().chunks_exact(2);
        for pair in &mut pairs {
            total += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
        }
        if let [last] = pairs.remainder() {
            total += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        // The sum was taken in host order; swapping the folded result gives network order (RFC 1071 2 B).
        Self(self.0 + u64::from(u16::from_be(fold16(total))))
    }

    /// Adds one 16-bit word.
    #[must_use]
    pub fn with_word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word))
    }

    /// The pseudo-header of a transport `protocol` with `len` bytes (RFC 9293 3.1, RFC 8200 8.1).
    /// Addresses of different families give a sum that matches nothing.
    pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Self {
        let sum = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Self::default().with(&src.octets()).with(&dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Self::default().with(&src.octets()).with(&dst.octets()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Self::default(),
        };
        Self(sum.0 + u64::from(protocol) + (len as u64 & 0xffff) + (len as u64 >> 16))
    }

    /// The sum without complement: what a device that completes a partial checksum expects in the field.
    pub fn partial(self) -> u16 {
        fold16(self.0)
    }

    /// The value for a checksum field; over data that includes a correct field, 0.
    pub fn finish(self) -> u16 {
        !fold16(self.0)
    }
}

fn fold(sum: u64) -> u64 {
    (sum & 0xffff_ffff) + (sum >> 32)
}

fn fold16(mut sum: u64) -> u16 {
    sum = fold(fold(sum));
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word by word.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().with(&bytes).partial(), 0xddf2);
    }

    proptest! {
        #[test]
        fn equals_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Sum::default().with(&bytes).finish(), reference(&bytes));
        }

        #[test]
        fn pieces_add_up(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..150) {
            let cut = (cut * 2).min(bytes.len() / 2 * 2);
            let (head, tail) = bytes.split_at(cut);
            prop_assert_eq!(Sum::default().with(head).with(tail).finish(), reference(&bytes));
        }
    }
}
