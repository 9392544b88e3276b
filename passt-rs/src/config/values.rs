//! Texts of the command line to values, noting what is wrong with them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::Fault;
use crate::wire::Mac;

/// Reads values and collects the faults found on the way.
#[derive(Debug, Default)]
pub(super) struct Values {
    faults: Vec<Fault>,
}

/// At most one value of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PerFamily<A4, A6> {
    pub(super) v4: Option<A4>,
    pub(super) v6: Option<A6>,
}

impl<A4, A6> Default for PerFamily<A4, A6> {
    fn default() -> Self {
        Self { v4: None, v6: None }
    }
}

/// Addresses of a flag that can also be told `none`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mapping {
    None,
    To(PerFamily<Ipv4Addr, Ipv6Addr>),
}

impl Values {
    pub(super) fn fault(&mut self, flag: impl Into<String>, problem: impl Into<String>) {
        self.faults.push(Fault::new(flag, problem));
    }

    pub(super) fn finish(self) -> Result<(), Vec<Fault>> {
        if self.faults.is_empty() { Ok(()) } else { Err(self.faults) }
    }

    /// The value of a flag that may be given once.
    pub(super) fn once<'a>(&mut self, flag: &str, values: &'a [String]) -> Option<&'a str> {
        if let [_, second, ..] = values {
            self.fault(flag, format!("`{second}`: given more than once"));
        }
        let first = values.first()?;
        if first.is_empty() {
            self.fault(flag, "the value is empty");
            return None;
        }
        Some(first)
    }

    fn parsed<T: FromStr>(&mut self, flag: &str, text: &str, expected: &str) -> Option<T> {
        let value = text.parse().ok();
        if value.is_none() {
            self.fault(flag, format!("`{text}`: expected {expected}"));
        }
        value
    }

    pub(super) fn number(
        &mut self,
        flag: &str,
        values: &[String],
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let text = self.once(flag, values)?;
        let number = text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            self.fault(
                flag,
                format!("`{text}`: expected a number from {} to {}", range.start(), range.end()),
            );
        }
        number
    }

    pub(super) fn path(&mut self, flag: &str, values: &[String]) -> Option<PathBuf> {
        self.once(flag, values).map(PathBuf::from)
    }

    pub(super) fn socket_path(&mut self, flag: &str, values: &[String]) -> Option<PathBuf> {
        let path = self.once(flag, values)?;
        if path.len() > SOCKET_PATH_MAX {
            self.fault(flag, format!("`{path}`: a socket's path has at most {SOCKET_PATH_MAX} bytes"));
        }
        Some(path.into())
    }

    pub(super) fn descriptor(&mut self, flag: &str, values: &[String]) -> Option<RawFd> {
        let text = self.once(flag, values)?;
        let fd = text.parse().ok().filter(|fd| *fd > 2);
        if fd.is_none() {
            self.fault(flag, format!("`{text}`: expected the number of an open descriptor, 3 or more"));
        }
        fd
    }

    pub(super) fn interface(&mut self, flag: &str, values: &[String]) -> Option<String> {
        let name = self.once(flag, values)?;
        if name.len() > 15 || name.contains('/') || name.chars().any(char::is_whitespace) {
            self.fault(flag, format!("`{name}`: expected an interface name (1 to 15 characters)"));
        }
        Some(name.to_owned())
    }

    pub(super) fn mac(&mut self, flag: &str, values: &[String]) -> Option<Mac> {
        let text = self.once(flag, values)?;
        let mac: Mac = self.parsed(flag, text, "an address such as 9a:55:9a:55:9a:55")?;
        if mac.is_multicast() || mac.is_zero() {
            self.fault(
                flag,
                format!("`{text}`: expected the address of one station, neither group nor zero"),
            );
        }
        Some(mac)
    }

    /// A host or domain name (RFC 1035 2.3.4: labels of 1 to 63 bytes, 253 in all).
    pub(super) fn name(&mut self, flag: &str, values: &[String]) -> Option<String> {
        let text = self.once(flag, values)?;
        self.domain(flag, text)
    }

    pub(super) fn domain(&mut self, flag: &str, text: &str) -> Option<String> {
        let name = text.trim_end_matches('.');
        let label =
            |label: &str| matches!(label.len(), 1..=63) && label.bytes().all(|byte| byte.is_ascii_graphic());
        if name.len() > 253 || !name.split('.').all(label) {
            self.fault(
                flag,
                format!("`{text}`: expected a name of labels of 1 to 63 characters, 253 in all"),
            );
            return None;
        }
        Some(name.to_owned())
    }

    /// At most one address of each family.
    pub(super) fn per_family(&mut self, flag: &str, values: &[String]) -> PerFamily<Ipv4Addr, Ipv6Addr> {
        let mut found = PerFamily::default();
        for text in values {
            match self.parsed::<IpAddr>(flag, text, "an IPv4 or IPv6 address") {
                Some(address) if !is_station(address) => self.not_a_station(flag, text),
                Some(IpAddr::V4(address)) => self.first(flag, text, &mut found.v4, address),
                Some(IpAddr::V6(address)) => self.first(flag, text, &mut found.v6, address),
                None => {}
            }
        }
        found
    }

    /// At most one address of each family, or `none` alone.
    pub(super) fn mapping(&mut self, flag: &str, values: &[String]) -> Mapping {
        match values {
            [none] if none == "none" => Mapping::None,
            _ if values.iter().any(|value| value == "none") => {
                self.fault(flag, "`none`: cannot be combined with addresses");
                Mapping::None
            }
            _ => Mapping::To(self.per_family(flag, values)),
        }
    }

    /// `ADDR[/PREFIX]`, at most one of each family.
    pub(super) fn addresses(
        &mut self,
        values: &[String],
    ) -> PerFamily<(Ipv4Addr, Option<u8>), (Ipv6Addr, Option<u8>)> {
        let flag = "--address";
        let mut found = PerFamily::default();
        for text in values {
            let (address, prefix) = match text.split_once('/') {
                None => (text.as_str(), None),
                Some((address, prefix)) => (address, Some(prefix)),
            };
            let Some(address) = self.parsed::<IpAddr>(flag, address, "an IPv4 or IPv6 address") else {
                continue;
            };
            if !is_station(address) {
                self.not_a_station(flag, text);
            }
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.map(|prefix| {
                let length = prefix.parse::<u8>().ok().filter(|length| (1..=longest).contains(length));
                if length.is_none() {
                    self.fault(flag, format!("`{text}`: expected a prefix length from 1 to {longest}"));
                }
                length.unwrap_or(longest)
            });
            match address {
                IpAddr::V4(address) => self.first(flag, text, &mut found.v4, (address, prefix)),
                IpAddr::V6(address) => self.first(flag, text, &mut found.v6, (address, prefix)),
            }
        }
        found
    }

    /// An IPv4 netmask as a prefix length.
    pub(super) fn netmask(&mut self, flag: &str, values: &[String]) -> Option<u8> {
        let text = self.once(flag, values)?;
        let bits = text.parse::<u8>().ok().filter(|bits| (1..=32).contains(bits));
        let dotted = || text.parse().ok().and_then(|mask| ipnet::ipv4_mask_to_prefix(mask).ok());
        let length = bits.or_else(dotted).filter(|length| *length > 0);
        if length.is_none() {
            self.fault(flag, format!("`{text}`: expected 1 to 32, or a mask such as 255.255.255.0"));
        }
        length
    }

    pub(super) fn not_a_station(&mut self, flag: &str, text: &str) {
        self.fault(flag, format!("`{text}`: expected the address of one station on a network"));
    }

    fn first<A>(&mut self, flag: &str, text: &str, place: &mut Option<A>, value: A) {
        if place.is_some() {
            self.fault(flag, format!("`{text}`: a second address of the same family"));
        }
        place.get_or_insert(value);
    }
}

/// Whether an address can name one station: neither loopback, unspecified, a group, nor IPv4 inside IPv6.
pub(super) fn is_station(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || broadcast || mapped)
}

/// `sun_path` holds 108 bytes with the final zero.
const SOCKET_PATH_MAX: usize = 107;
