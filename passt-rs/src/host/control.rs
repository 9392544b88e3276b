//! Control messages: what travels beside a datagram (cmsg(3)).
//!
//! Reads and writes them as bytes, laid out as the kernel's ABI has them on every 64-bit Linux; no pointers.

/// Length of `struct cmsghdr`: a word with the whole length, level and type.
const HEADER_LEN: usize = size_of::<usize>() + 2 * size_of::<libc::c_int>();
/// Room for one message with a 16-bit value.
pub(super) const U16_LEN: usize = align(HEADER_LEN + size_of::<u16>());

/// The messages in a received control buffer.
#[derive(Clone, Debug)]
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) level: libc::c_int,
    pub(super) kind: libc::c_int,
    pub(super) data: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let (len, rest) = self.0.split_first_chunk()?;
        let (level, rest) = rest.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let len = usize::from_ne_bytes(*len);
        let data = self.0.get(HEADER_LEN..len)?;
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some(Message {
            level: libc::c_int::from_ne_bytes(*level),
            kind: libc::c_int::from_ne_bytes(*kind),
            data,
        })
    }
}

impl Message<'_> {
    /// The value of a message that carries an `int`; also of one that carries a byte, as IP_TOS does.
    pub(super) fn int(&self) -> Option<libc::c_int> {
        match self.data.first_chunk() {
            Some(bytes) => Some(libc::c_int::from_ne_bytes(*bytes)),
            None => self.data.first().map(|byte| libc::c_int::from(*byte)),
        }
    }

    pub(super) fn is(&self, level: libc::c_int, kind: libc::c_int) -> bool {
        self.level == level && self.kind == kind
    }
}

/// One message with a 16-bit value, padded.
pub(super) fn u16_message(level: libc::c_int, kind: libc::c_int, value: u16) -> [u8; U16_LEN] {
    let mut bytes = [0; U16_LEN];
    let len = (HEADER_LEN + size_of::<u16>()).to_ne_bytes();
    let fields = [&len[..], &level.to_ne_bytes(), &kind.to_ne_bytes(), &value.to_ne_bytes()];
    for (place, byte) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
        *place = *byte;
    }
    bytes
}

/// The next multiple of a word, where messages start.
const fn align(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_walked_past_their_padding() {
        let mut bytes = u16_message(17, 103, 1200).to_vec();
        bytes.extend(u16_message(0, 2, 64));
        let all: Vec<_> = Messages(&bytes).collect();
        assert_eq!(all.len(), 2);
        assert!(all[0].is(17, 103) && all[1].is(0, 2));
        assert_eq!(all[0].data, 1200u16.to_ne_bytes());
        assert_eq!(all[1].int(), Some(64));
    }

    #[test]
    fn impossible_lengths_end_the_walk() {
        for len in [0usize, 15, 16, 1000, usize::MAX] {
            let mut bytes = u16_message(17, 103, 1200);
            bytes[..8].copy_from_slice(&len.to_ne_bytes());
            assert!(Messages(&bytes).count() <= 1, "{len}");
        }
        let whole = u16_message(17, 103, 1200);
        for len in 0..whole.len() - 6 {
            assert_eq!(Messages(&whole[..len]).count(), 0, "{len}");
        }
    }
}
