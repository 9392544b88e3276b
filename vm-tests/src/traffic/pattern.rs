//! Bytes that tell their own position, so that loss, repetition and corruption of a stream all show.
//! The pattern has no period a lost buffer could hide in.

/// The 8 bytes at position `8 * index`.
fn word(index: usize) -> [u8; 8] {
    let mixed = (index as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).to_le_bytes()
}

/// The pattern from `position` on, without end.
fn bytes_from(position: usize) -> impl Iterator<Item = u8> {
    (position / 8..).flat_map(word).skip(position % 8)
}

/// Writes the pattern from `position` on.
pub(super) fn fill(buffer: &mut [u8], position: usize) {
    let (head, body) = buffer.split_at_mut(head_length(buffer.len(), position));
    head.iter_mut().zip(bytes_from(position)).for_each(|(byte, right)| *byte = right);
    let position = position + head.len();
    let mut words = body.chunks_exact_mut(8);
    let mut index = position / 8;
    for chunk in &mut words {
        chunk.copy_from_slice(&word(index));
        index += 1;
    }
    words.into_remainder().iter_mut().zip(bytes_from(8 * index)).for_each(|(byte, right)| *byte = right);
}

/// The position of the first byte that is not the pattern's, if `buffer` was read from `position` on.
pub(super) fn first_wrong(buffer: &[u8], position: usize) -> Option<usize> {
    let (head, body) = buffer.split_at(head_length(buffer.len(), position));
    let words = body.chunks_exact(8);
    let tail = words.remainder();
    let start = (position + head.len()) / 8;
    let right = head.iter().copied().eq(bytes_from(position).take(head.len()))
        && words.clone().enumerate().all(|(at, chunk)| chunk == word(start + at))
        && tail.iter().copied().eq(bytes_from(8 * (start + words.len())).take(tail.len()));
    if right {
        return None;
    }
    buffer.iter().zip(bytes_from(position)).position(|(byte, right)| *byte != right).map(|at| position + at)
}

/// How many bytes to the next whole word.
fn head_length(length: usize, position: usize) -> usize {
    ((8 - position % 8) % 8).min(length)
}

#[cfg(test)]
mod tests {
    use super::{fill, first_wrong};

    #[test]
    fn pattern_read_in_any_pieces_is_right() {
        let mut whole = vec![0; 100];
        fill(&mut whole, 0);
        for from in 0..100 {
            for to in from..=100 {
                assert_eq!(first_wrong(&whole[from..to], from), None);
                let mut piece = vec![0; to - from];
                fill(&mut piece, from);
                assert_eq!(piece, whole[from..to]);
            }
        }
    }

    #[test]
    fn one_wrong_byte_is_found_wherever_it_is() {
        for at in 0..64 {
            let mut piece = vec![0; 64];
            fill(&mut piece, 13);
            piece[at] ^= 0x10;
            assert_eq!(first_wrong(&piece, 13), Some(13 + at));
        }
    }

    #[test]
    fn lost_buffers_are_found() {
        let mut piece = vec![0; 64];
        for lost in [1, 8, 1448, 65536, 1 << 20] {
            fill(&mut piece, 4096 + lost);
            assert!(first_wrong(&piece, 4096).is_some(), "{lost} lost bytes");
        }
    }
}
