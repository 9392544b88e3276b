//! Stream contents that tell where a byte belongs: a byte lost, repeated or moved is found where it happens.

use std::sync::OnceLock;

use super::random::Random;

/// A prime, so that no power of two of bytes brings the same again.
const PERIOD: usize = 1_000_003;

fn table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut random = Random::new(1);
        let mut bytes: Vec<u8> = (0..PERIOD).map(|_| random.next().to_le_bytes()[7]).collect();
        bytes.extend_from_within(..);
        bytes
    })
}

/// Up to `len` bytes of the stream `salt` from `position` on.
pub fn at(salt: u64, position: u64, len: usize) -> &'static [u8] {
    let start = usize::try_from((position + salt * 7919) % PERIOD as u64).unwrap();
    &table()[start..start + len.min(PERIOD)]
}

/// Asserts that `bytes` are those of the stream `salt` at `position`.
pub fn check(salt: u64, position: u64, bytes: &[u8]) {
    let mut position = position;
    for bytes in bytes.chunks(PERIOD) {
        let expected = at(salt, position, bytes.len());
        if bytes != expected {
            let wrong = bytes.iter().zip(expected).position(|(a, b)| a != b).unwrap();
            panic!("stream {salt}: byte {} is wrong", position + wrong as u64);
        }
        position += bytes.len() as u64;
    }
}
