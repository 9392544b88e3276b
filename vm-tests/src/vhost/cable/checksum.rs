//! Headers of frames whose checksum the device vouches for, as a tap understands them.
//!
//! A driver takes DATA_VALID for "do not look". A tap ignores it (its kernel then finds a wrong checksum, or none), but
//! takes a checksum that is yet to be completed for right. It must never touch a frame's own bytes.

use crate::vhost::header::{Header, NEEDS_CSUM};

/// Bytes of a frame that are enough to find the checksum: Ethernet, IPv6, or IPv4 with all options.
pub(super) const HEAD: usize = 14 + 60;

const ETHERNET: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The header that says where the TCP or UDP checksum is and that it is to be completed. None for other frames, for
/// fragments, and behind extension headers: their checksums are left to be found right.
pub(super) fn partial(header: Header, head: &[u8]) -> Option<Header> {
    let (protocol, len) = match head.get(12..ETHERNET)? {
        [0x08, 0x00] => {
            let more_or_offset = u16::from_be_bytes(*head.get(ETHERNET + 6..)?.first_chunk()?) & 0x3fff;
            (more_or_offset == 0).then_some(())?;
            (*head.get(ETHERNET + 9)?, usize::from(head.get(ETHERNET)? & 0xf) * 4)
        }
        [0x86, 0xdd] => (*head.get(ETHERNET + 6)?, 40),
        _ => return None,
    };
    let checksum_offset = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let checksum_start = u16::try_from(ETHERNET + len).ok()?;
    Some(Header { flags: NEEDS_CSUM, checksum_start, checksum_offset, ..header })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vhost::header::DATA_VALID;

    fn start_and_offset(head: &[u8]) -> Option<(u16, u16)> {
        let header = Header { flags: DATA_VALID, ..Header::default() };
        let partial = partial(header, head)?;
        assert_eq!(partial.flags, NEEDS_CSUM);
        Some((partial.checksum_start, partial.checksum_offset))
    }

    #[test]
    fn checksums_are_found_behind_ip_headers() {
        let mut v4 = [0; HEAD];
        (v4[12], v4[14], v4[14 + 9]) = (8, 0x45, TCP);
        assert_eq!(start_and_offset(&v4), Some((34, 16)));
        (v4[14], v4[14 + 9]) = (0x4f, UDP);
        assert_eq!(start_and_offset(&v4), Some((74, 6)));
        v4[14 + 6] = 0x20; // more fragments
        assert_eq!(start_and_offset(&v4), None);
        v4[14 + 6] = 0x40; // do not fragment
        assert_eq!(start_and_offset(&v4), Some((74, 6)));
        v4[14 + 9] = 1;
        assert_eq!(start_and_offset(&v4), None);

        let mut v6 = [0; HEAD];
        (v6[12], v6[13], v6[14 + 6]) = (0x86, 0xdd, TCP);
        assert_eq!(start_and_offset(&v6), Some((54, 16)));
        assert_eq!(start_and_offset(&v6[..20]), None);
        assert_eq!(start_and_offset(&[0; HEAD]), None);
    }
}
