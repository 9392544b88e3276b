//! A MAC address as written in configurations. It must never be a group's address.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Of one station: never multicast, never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

/// Why a text is no MAC address of a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    #[error("not six bytes in hexadecimal, like 02:00:00:00:00:01")]
    Format,
    #[error("a group's address, not a station's")]
    Group,
    #[error("all zero, which is no station's address")]
    Zero,
}

impl MacAddress {
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl TryFrom<[u8; 6]> for MacAddress {
    type Error = MacError;

    fn try_from(octets: [u8; 6]) -> Result<Self, MacError> {
        match octets {
            [0, 0, 0, 0, 0, 0] => Err(MacError::Zero),
            [first, ..] if first & 1 != 0 => Err(MacError::Group),
            _ => Ok(Self(octets)),
        }
    }
}

impl FromStr for MacAddress {
    type Err = MacError;

    /// Six bytes, between them colons or hyphens.
    fn from_str(text: &str) -> Result<Self, MacError> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().ok_or(MacError::Format)?;
            if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(MacError::Format);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| MacError::Format)?;
        }
        if parts.next().is_some() {
            return Err(MacError::Format);
        }
        Self::try_from(octets)
    }
}

impl TryFrom<String> for MacAddress {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_stations_are_read() {
        for text in ["02:00:5e:00:0a:01", "02-00-5E-00-0A-01", "02:00:5E:00:0a:01"] {
            assert_eq!(text.parse::<MacAddress>().unwrap().to_string(), "02:00:5e:00:0a:01");
        }
        let address: MacAddress = serde_json::from_str(r#""02:00:5e:00:0a:01""#).unwrap();
        assert_eq!(address.octets(), [2, 0, 0x5e, 0, 10, 1]);
        assert_eq!(serde_json::to_string(&address).unwrap(), r#""02:00:5e:00:0a:01""#);
    }

    #[test]
    fn what_is_no_stations_address_is_refused() {
        for (text, expected) in [
            ("", MacError::Format),
            ("02:00:00:00:00", MacError::Format),
            ("02:00:00:00:00:01:02", MacError::Format),
            ("02:00:00:00:00:0g", MacError::Format),
            ("02:00:00:00:00:+1", MacError::Format),
            ("2:0:0:0:0:1", MacError::Format),
            ("02-00:00-00-00-01", MacError::Format),
            ("0200.0000.0001", MacError::Format),
            ("01:00:5e:00:00:01", MacError::Group),
            ("ff:ff:ff:ff:ff:ff", MacError::Group),
            ("00:00:00:00:00:00", MacError::Zero),
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(expected), "{text}");
        }
    }
}
