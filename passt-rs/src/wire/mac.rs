//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

/// An Ethernet (MAC) address.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set (broadcast included); such an address never is a frame's source.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }

    /// The link-local address of this interface: fe80::/64 and the modified EUI-64 (RFC 4291 appendix A).
    pub fn link_local(self) -> std::net::Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&[0xfe, 0x80]);
        bytes[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        bytes.into()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not six colon-separated bytes in hexadecimal.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected six bytes in hexadecimal separated by colons")]
pub struct MacParseError;

impl FromStr for Mac {
    type Err = MacParseError;

    fn from_str(text: &str) -> Result<Self, MacParseError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacParseError)?;
            if !matches!(part.len(), 1..=2) || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(MacParseError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacParseError)?;
        }
        parts.next().is_none().then_some(Self(bytes)).ok_or(MacParseError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_wrong_lengths_are_refused() {
        let mac: Mac = "9a:55:9a:55:9a:55".parse().unwrap();
        assert_eq!(mac.to_string(), "9a:55:9a:55:9a:55");
        for bad in ["", "9a:55:9a:55:9a", "9a:55:9a:55:9a:55:00", "9a:55:9a:55:9a:+5", "9a-55-9a-55-9a-55"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn link_local_flips_the_universal_bit() {
        assert_eq!(
            Mac([0x02, 0, 0, 0x11, 0x22, 0x33]).link_local(),
            "fe80::ff:fe11:2233".parse::<std::net::Ipv6Addr>().unwrap()
        );
    }
}
