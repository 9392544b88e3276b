//! Ranges of addresses and which of them is next. It must never touch a file: what is taken, it is told.
//!
//! Defaults, checks and their texts are those of the reference plugin `host-local`. On purpose stricter: the network's
//! own address and an IPv4 broadcast address are never handed out, also where `rangeStart` or `rangeEnd` names them,
//! and neither is any gateway of the same range set.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

/// A range as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RangeConfig {
    #[serde(default, deserialize_with = "optional")]
    pub subnet: Option<IpNet>,
    #[serde(default, rename = "rangestart", deserialize_with = "optional")]
    pub start: Option<IpAddr>,
    #[serde(default, rename = "rangeend", deserialize_with = "optional")]
    pub end: Option<IpAddr>,
    #[serde(default, deserialize_with = "optional")]
    pub gateway: Option<IpAddr>,
}

/// Addresses from `start` to `end`, both included, of one subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    subnet: IpNet,
    start: IpAddr,
    end: IpAddr,
    gateway: IpAddr,
}

/// Ranges of one family without overlap; an attachment gets one address of each set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

/// Why ranges cannot be allocated from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("no subnet")]
    NoSubnet,
    #[error("IPNet IP and Mask version mismatch")]
    Mapped,
    #[error("Network {0} too small to allocate from")]
    TooSmall(IpNet),
    #[error(
        "Network has host bits set. For a subnet mask of length {} the network address is {}",
        .0.prefix_len(),
        .0.network()
    )]
    HostBits(IpNet),
    #[error("{what} {address} not in network {subnet}")]
    Outside { what: &'static str, address: IpAddr, subnet: IpNet },
    #[error("empty range set")]
    Empty,
    #[error("mixed address families")]
    Mixed,
    #[error("subnets {0} and {1} overlap")]
    Overlap(Box<Range>, Box<Range>),
}

impl Range {
    /// Fills in what is not configured: the gateway is the network's first address, the range begins with it and ends
    /// before the broadcast address of IPv4, with the last address of IPv6.
    pub fn new(config: &RangeConfig) -> Result<Self, RangeError> {
        let subnet = config.subnet.ok_or(RangeError::NoSubnet)?;
        if subnet.addr().to_canonical() != subnet.addr() {
            return Err(RangeError::Mapped);
        }
        if subnet.prefix_len() > subnet.max_prefix_len() - 2 {
            return Err(RangeError::TooSmall(subnet));
        }
        if subnet.addr() != subnet.network() {
            return Err(RangeError::HostBits(subnet));
        }
        let first = address(number(subnet.network()) + 1, subnet.network());
        let last = match subnet {
            IpNet::V4(_) => address(number(subnet.broadcast()) - 1, first),
            IpNet::V6(_) => subnet.broadcast(),
        };
        let start = config.start.map_or(first, |start| start.to_canonical());
        if !subnet.contains(&start) {
            return Err(RangeError::Outside { what: "RangeStart", address: start, subnet });
        }
        let end = config.end.map_or(last, |end| end.to_canonical());
        if !subnet.contains(&end) {
            return Err(RangeError::Outside { what: "RangeEnd", address: end, subnet });
        }
        if end < start {
            let (what, address) =
                if config.start.is_some() { ("RangeStart", start) } else { ("RangeEnd", end) };
            return Err(RangeError::Outside { what, address, subnet });
        }
        let gateway = config.gateway.map_or(first, |gateway| gateway.to_canonical());
        Ok(Self { subnet, start, end, gateway })
    }

    pub const fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// `address` with the subnet's prefix length, as results have it.
    pub fn with_prefix(&self, address: IpAddr) -> IpNet {
        IpNet::new_assert(address, self.subnet.prefix_len())
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.start.is_ipv4() && (self.start..=self.end).contains(&address)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start.is_ipv4() == other.start.is_ipv4() && self.start <= other.end && other.start <= self.end
    }

    /// The network's address (of IPv6, that of all its routers: RFC 4291 2.6.1) and the broadcast address.
    fn reserves(&self, address: IpAddr) -> bool {
        address == self.subnet.network() || address.is_ipv4() && address == self.subnet.broadcast()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.start, self.end)
    }
}

impl RangeSet {
    pub fn new(ranges: &[RangeConfig]) -> Result<Self, RangeError> {
        let ranges: Vec<Range> = ranges.iter().map(Range::new).collect::<Result<_, _>>()?;
        let first = ranges.first().ok_or(RangeError::Empty)?;
        if ranges.iter().any(|range| range.start.is_ipv4() != first.start.is_ipv4()) {
            return Err(RangeError::Mixed);
        }
        for (index, range) in ranges.iter().enumerate() {
            if let Some(other) = ranges.iter().skip(index + 1).find(|other| range.overlaps(other)) {
                return Err(RangeError::Overlap(Box::new(range.clone()), Box::new(other.clone())));
            }
        }
        Ok(Self(ranges))
    }

    pub fn is_ipv4(&self) -> bool {
        self.0.iter().all(|range| range.start.is_ipv4())
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|range| other.0.iter().any(|theirs| range.overlaps(theirs)))
    }

    /// The range that `address` lies in.
    pub fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(address))
    }

    /// What no container gets: networks' and broadcast addresses, and gateways.
    pub fn reserves(&self, address: IpAddr) -> bool {
        self.is_gateway(address) || self.0.iter().any(|range| range.reserves(address))
    }

    pub fn is_gateway(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.gateway == address)
    }

    /// The next address after `last` that is free, round and round through the set: who comes and goes often does not
    /// get the same address at once. Takes as many steps as addresses are taken, not as many as there are.
    pub fn next_free(&self, last: Option<IpAddr>, taken: &BTreeSet<IpAddr>) -> Option<(IpAddr, &Range)> {
        self.stretches(last).into_iter().find_map(|(range, from, to)| {
            let mut candidate = from;
            while candidate <= to {
                let found = address(candidate, range.start);
                if !taken.contains(&found) && !self.reserves(found) {
                    return Some((found, range));
                }
                candidate = candidate.checked_add(1)?;
            }
            None
        })
    }

    /// How many addresses can be handed out, and how many of those are taken. Saturates at 2^128 - 1.
    pub fn usage(&self, taken: &BTreeSet<IpAddr>) -> (u128, u128) {
        let mut reserved: BTreeSet<IpAddr> = BTreeSet::new();
        for range in &self.0 {
            reserved.extend([range.gateway, range.subnet.network()]);
            if range.start.is_ipv4() {
                reserved.insert(range.subnet.broadcast());
            }
        }
        reserved.retain(|address| self.range_of(*address).is_some());
        let all = self.0.iter().fold(0_u128, |sum, range| {
            sum.saturating_add(number(range.end) - number(range.start)).saturating_add(1)
        });
        let used =
            taken.iter().filter(|address| self.range_of(**address).is_some() && !self.reserves(**address));
        (all.saturating_sub(reserved.len() as u128), used.count() as u128)
    }

    /// The set from behind `last` to `last`, in pieces from and to, both included.
    fn stretches(&self, last: Option<IpAddr>) -> Vec<(&Range, u128, u128)> {
        let whole = |range: &'_ Range| (number(range.start), number(range.end));
        let began = last.and_then(|last| {
            let index = self.0.iter().position(|range| range.contains(last))?;
            Some((index, number(last)))
        });
        let mut stretches = Vec::with_capacity(self.0.len() + 1);
        let Some((index, last)) = began else {
            stretches.extend(self.0.iter().map(|range| (range, whole(range).0, whole(range).1)));
            return stretches;
        };
        let round = self.0.iter().cycle().skip(index).take(self.0.len() + 1);
        for (step, range) in round.enumerate() {
            let (start, end) = whole(range);
            if step == 0 {
                // Behind the last address there is nothing: the range's end cannot lie there.
                stretches.extend(last.checked_add(1).map(|from| (range, from, end)));
            } else if step == self.0.len() {
                stretches.push((range, start, last));
            } else {
                stretches.push((range, start, end));
            }
        }
        stretches
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            write!(formatter, "{}{range}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// An address or a prefix; an empty text is none, as for Go.
pub(super) fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The address with this number, of the same family as `family`.
fn address(number: u128, family: IpAddr) -> IpAddr {
    match family {
        // Numbers come from addresses of the same family: none is cut.
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn last_number(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// One or two ranges of 192.0.2.0/28 that do not overlap.
    fn sets() -> impl Strategy<Value = RangeSet> {
        let range = |from: u8, to: u8, gateway: u8| RangeConfig {
            subnet: "192.0.2.0/28".parse().ok(),
            start: Some(last_number(from)),
            end: Some(last_number(to)),
            gateway: Some(last_number(gateway)),
        };
        (0..8_u8, 0..8_u8, 8..16_u8, 8..16_u8, 0..20_u8, 0..20_u8, any::<bool>(), any::<bool>()).prop_map(
            move |(a, b, c, d, first, second, two, upper_first)| {
                let mut ranges = vec![range(a.min(b), a.max(b), first), range(c.min(d), c.max(d), second)];
                if upper_first {
                    ranges.reverse();
                }
                ranges.truncate(if two { 2 } else { 1 });
                RangeSet::new(&ranges).expect("ranges apart")
            },
        )
    }

    proptest! {
        #[test]
        fn next_is_what_a_walk_finds(
            set in sets(),
            taken in prop::collection::btree_set(0..16_u8, 0..16),
            last in prop::option::of(0..20_u8),
        ) {
            let taken: BTreeSet<IpAddr> = taken.into_iter().map(last_number).collect();
            let last = last.map(last_number);
            let in_order: Vec<IpAddr> = set.0.iter()
                .flat_map(|range| (0..=u8::MAX).map(last_number).filter(|address| range.contains(*address)))
                .collect();
            let begin = last
                .and_then(|last| in_order.iter().position(|address| *address == last))
                .map_or(0, |position| position + 1);
            let usable: Vec<IpAddr> = in_order.iter().cycle().skip(begin).take(in_order.len()).copied()
                .filter(|address| {
                    let gateway = set.0.iter().any(|range| range.gateway == *address);
                    !gateway && *address != last_number(0) && *address != last_number(15)
                })
                .collect();
            let expected = usable.iter().find(|address| !taken.contains(*address)).copied();
            prop_assert_eq!(set.next_free(last, &taken).map(|(address, _)| address), expected);
            let used = usable.iter().filter(|address| taken.contains(*address)).count();
            prop_assert_eq!(set.usage(&taken), (usable.len() as u128, used as u128));
        }
    }

    #[test]
    fn usage_of_all_of_ipv6_does_not_overflow() {
        let all =
            RangeConfig { subnet: "::/0".parse().ok(), start: "::".parse().ok(), ..RangeConfig::default() };
        let set = RangeSet::new(&[all]).expect("a range");
        assert_eq!(set.usage(&BTreeSet::new()), (u128::MAX - 2, 0));
        let end = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().ok();
        assert_eq!(set.next_free(end, &BTreeSet::new()).map(|(address, _)| address), "::2".parse().ok());
    }
}
