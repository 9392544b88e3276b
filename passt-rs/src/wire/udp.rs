//! UDP headers (RFC 768).

/// Length of a UDP header.
pub const HEADER_LEN: usize = 8;

/// A UDP header. The checksum is not part of it: see [`super::checksum`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub src_port: u16,
    pub dst_port: u16,
    /// Payload bytes behind the header.
    pub payload_len: usize,
    /// The sender computed no checksum (allowed over IPv4 only: RFC 8200 8.1).
    pub without_checksum: bool,
}

impl Datagram {
    /// Reads the header of a datagram of `available` bytes whose first bytes are `head`. `None` when it is
    /// cut short or claims more than there is.
    pub fn parse(head: &[u8], available: usize) -> Option<Self> {
        let header = head.first_chunk::<HEADER_LEN>()?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload_len = len.checked_sub(HEADER_LEN)?;
        (len <= available).then_some(Self {
            src_port: u16::from_be_bytes([header[0], header[1]]),
            dst_port: u16::from_be_bytes([header[2], header[3]]),
            payload_len,
            without_checksum: header[6..8] == [0, 0],
        })
    }

    /// Writes the header at the start of `buffer` with `checksum` as it stands.
    pub fn emit(&self, buffer: &mut [u8], checksum: u16) {
        let len = u16::try_from(HEADER_LEN + self.payload_len).unwrap_or(u16::MAX);
        for (at, value) in [(0, self.src_port), (2, self.dst_port), (4, len), (6, checksum)] {
            buffer[at..at + 2].copy_from_slice(&value.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: [u8; 12] = [0x12, 0x34, 0x00, 0x35, 0x00, 0x0c, 0xbe, 0xef, 1, 2, 3, 4];

    #[test]
    fn header_deconstructs_and_constructs() {
        let datagram = Datagram::parse(&BYTES, BYTES.len()).unwrap();
        assert_eq!(
            datagram,
            Datagram { src_port: 0x1234, dst_port: 53, payload_len: 4, without_checksum: false }
        );
        let mut buffer = [0xa5; HEADER_LEN];
        datagram.emit(&mut buffer, 0xbeef);
        assert_eq!(buffer, BYTES[..HEADER_LEN]);
    }

    #[test]
    fn truncations_and_impossible_lengths_are_refused() {
        for len in 0..BYTES.len() {
            assert_eq!(Datagram::parse(&BYTES[..len], len), None, "{len}");
        }
        let mut short = BYTES;
        short[5] = 7;
        assert_eq!(Datagram::parse(&short, short.len()), None);
    }
}
