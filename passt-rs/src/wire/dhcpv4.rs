//! DHCPv4's options as we write them; requests are read with `smoltcp::wire::DhcpPacket`.
//!
//! smoltcp's writer knows neither a bound below its buffer nor options longer than 255 bytes (RFC 3396).

use std::net::Ipv4Addr;

/// The first bytes of the options, telling them from a BOOTP vendor area (RFC 2131 3).
pub const MAGIC_COOKIE: u32 = 0x6382_5363;
/// Length of everything before the options, cookie included (RFC 2131 2).
pub const FIXED_LEN: usize = 240;
/// Where the name of the boot file stands in that, closed by a zero (RFC 2131 2).
pub const FILE: std::ops::Range<usize> = 108..236;

/// Option codes (RFC 2132 unless said otherwise).
pub mod option {
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS_SERVERS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const INTERFACE_MTU: u8 = 26;
    pub const NTP_SERVERS: u8 = 42;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETER_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_MESSAGE_SIZE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const CLIENT_ID: u8 = 61;
    pub const TFTP_SERVER_NAME: u8 = 66;
    pub const BOOT_FILE_NAME: u8 = 67;
    /// RFC 4039.
    pub const RAPID_COMMIT: u8 = 80;
    /// RFC 4702.
    pub const CLIENT_FQDN: u8 = 81;
    /// RFC 3397.
    pub const DOMAIN_SEARCH: u8 = 119;
    /// RFC 3442.
    pub const CLASSLESS_ROUTES: u8 = 121;
    /// RFC 5859.
    pub const TFTP_SERVER_ADDRESS: u8 = 150;
    /// Codes that a site may use as it likes (RFC 3942 3).
    pub const SITE_SPECIFIC: std::ops::RangeInclusive<u8> = 224..=254;
    pub const END: u8 = 255;
}

/// Appends options to a message until a bound. An option that does not fit is left out whole.
#[derive(Debug)]
pub struct Options<'a> {
    message: &'a mut Vec<u8>,
    /// Length of `message` not to exceed, end mark included.
    limit: usize,
}

/// Bytes before an option's data: code and length.
const HEADER_LEN: usize = 2;
/// What one option's length byte can say; longer data is split (RFC 3396 5).
const DATA_LEN_MAX: usize = 255;

impl<'a> Options<'a> {
    pub fn new(message: &'a mut Vec<u8>, limit: usize) -> Self {
        Self { message, limit }
    }

    /// Appends an option, which may be empty; false when there is no room.
    pub fn push(&mut self, code: u8, data: &[u8]) -> bool {
        if data.len() > self.room().unwrap_or(0) || self.room().is_none() {
            return false;
        }
        self.write(code, |message| message.extend(data));
        true
    }

    /// Appends an option whose data `fill` appends, to at most the bytes it is told. Without data there
    /// is no option.
    pub fn push_with(&mut self, code: u8, fill: impl FnOnce(&mut Vec<u8>, usize)) {
        let Some(room) = self.room() else { return };
        let start = self.message.len();
        self.write(code, |message| fill(message, room));
        let data_len = self.message.len() - start - HEADER_LEN;
        if data_len == 0 || self.message.len() >= self.limit {
            self.message.truncate(start);
        }
    }

    /// Appends an option of as many whole addresses as fit one. Split in the middle of an address it would still be
    /// right (RFC 3396), but clients differ.
    pub fn push_addresses(&mut self, code: u8, addresses: impl Iterator<Item = Ipv4Addr>) {
        self.push_with(code, |data, room| {
            addresses.take(room.min(DATA_LEN_MAX) / 4).for_each(|address| data.extend(address.octets()));
        });
    }

    /// Marks the end of the options.
    pub fn end(self) {
        self.message.push(option::END);
    }

    /// Data bytes the next option may have; the end mark keeps its place.
    fn room(&self) -> Option<usize> {
        let free = self.limit.checked_sub(self.message.len() + 1)?;
        let (whole, rest) = (free / (HEADER_LEN + DATA_LEN_MAX), free % (HEADER_LEN + DATA_LEN_MAX));
        (free >= HEADER_LEN).then_some(whole * DATA_LEN_MAX + rest.saturating_sub(HEADER_LEN))
    }

    fn write(&mut self, code: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.message.len();
        self.message.extend([code, 0]);
        fill(self.message);
        let data_len = self.message.len() - start - HEADER_LEN;
        // From the last cut to the first, so that cuts to come do not move.
        for piece in (1..data_len.div_ceil(DATA_LEN_MAX)).rev() {
            let at = start + HEADER_LEN + piece * DATA_LEN_MAX;
            self.message.splice(at..at, [code, 0]);
        }
        let mut at = start;
        for piece in 0..data_len.div_ceil(DATA_LEN_MAX) {
            let len = (data_len - piece * DATA_LEN_MAX).min(DATA_LEN_MAX);
            self.message[at + 1] = u8::try_from(len).unwrap_or(u8::MAX);
            at += HEADER_LEN + len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_one_after_the_other_and_end() {
        let mut message = vec![9];
        let mut options = Options::new(&mut message, 100);
        assert!(options.push(option::MESSAGE_TYPE, &[5]));
        assert!(options.push(option::RAPID_COMMIT, &[]));
        options.push_with(option::ROUTER, |data, _| data.extend([10, 0, 0, 1]));
        options.push_with(option::DNS_SERVERS, |_, _| {});
        options.end();
        assert_eq!(message, [9, 53, 1, 5, 80, 0, 3, 4, 10, 0, 0, 1, 255]);
    }

    #[test]
    fn what_does_not_fit_before_the_end_mark_is_left_out_whole() {
        for (limit, expected) in [
            (0, &[255][..]),
            (2, &[255]),
            (6, &[255]),
            (7, &[12, 4, 1, 2, 3, 4, 255]),
            (9, &[12, 4, 1, 2, 3, 4, 255]),
            (10, &[12, 4, 1, 2, 3, 4, 15, 1, 7, 255]),
        ] {
            let mut message = Vec::new();
            let mut options = Options::new(&mut message, limit);
            options.push(12, &[1, 2, 3, 4]);
            if limit > 6 {
                options.push_with(15, |data, _| data.push(7));
            }
            options.end();
            assert_eq!(message, expected, "{limit}");
        }
    }

    /// RFC 3396 5: same code again, data continues.
    #[test]
    fn long_data_is_split_into_options_of_255_bytes() {
        for len in [255usize, 256, 510, 511, 700] {
            let data: Vec<u8> = (0..=250).cycle().take(len).collect();
            let mut message = Vec::new();
            assert!(Options::new(&mut message, 2000).push(119, &data));
            let (mut rest, mut joined) = (&message[..], Vec::<u8>::new());
            while let [code, len, tail @ ..] = rest {
                assert_eq!(*code, 119);
                joined.extend(&tail[..usize::from(*len)]);
                rest = &tail[usize::from(*len)..];
            }
            assert_eq!(joined, data);
        }
    }

    #[test]
    fn the_room_told_is_what_fits() {
        for limit in 3..900 {
            let mut message = Vec::new();
            let mut options = Options::new(&mut message, limit);
            options.push_with(119, |data, room| data.resize(data.len() + room, 1));
            options.end();
            assert!(message.len() <= limit, "{limit}: {}", message.len());
            assert!(limit < 4 || message.len() + 3 > limit, "{limit}: {}", message.len());
        }
    }
}
