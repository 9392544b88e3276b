//! Values as a person reads them. It must never look anything up.

use crate::netlink::{Tbf, Vlan};

/// `a`, `a and b`, `a, b and c`.
pub(super) fn and<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<&str> = items.iter().map(T::as_ref).collect();
    match items.split_last() {
        None => String::new(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// `1 frame`, `2 frames`.
pub(super) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// How fast frames leave in a direction.
pub(super) fn limit(direction: &str, tbf: &Tbf) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1000, "kbit/s")];
    let bits = tbf.rate.saturating_mul(8);
    let (unit, name) = UNITS.into_iter().find(|(unit, _)| bits >= *unit).unwrap_or((1, "bit/s"));
    let (whole, tenths) = (bits / unit, bits % unit * 10 / unit);
    let rate = if tenths == 0 { whole.to_string() } else { format!("{whole}.{tenths}") };
    format!("at most {rate} {name} {direction}")
}

/// A MAC address that need not be a station's, in its VLAN.
pub(super) fn station(octets: [u8; 6], vlan: Option<u16>) -> String {
    let octets = octets.map(|octet| format!("{octet:02x}")).join(":");
    vlan.map_or_else(|| octets.clone(), |vlan| format!("{octets} in VLAN {vlan}"))
}

/// VLANs of a port, the untagged one apart; nothing where there are none.
pub(super) fn vlans(vlans: &[Vlan]) -> Vec<String> {
    let untagged = vlans.iter().find(|vlan| vlan.pvid).map(|vlan| format!("VLAN {} untagged", vlan.id));
    let tagged: Vec<u16> = vlans.iter().filter(|vlan| !vlan.pvid).map(|vlan| vlan.id).collect();
    let tagged = (!tagged.is_empty()).then(|| format!("VLAN {} tagged", ranges(&tagged)));
    untagged.into_iter().chain(tagged).collect()
}

/// `1, 3-5`.
pub(super) fn ranges(ids: &[u16]) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for id in ids {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*id) => *last = *id,
            _ => ranges.push((*id, *id)),
        }
    }
    let text = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_numbers_read_as_sentences_do() {
        assert_eq!(and::<&str>(&[]), "");
        assert_eq!(and(&["a"]), "a");
        assert_eq!(and(&["a", "b", "c"]), "a, b and c");
        assert_eq!(count(1, "frame"), "1 frame");
        assert_eq!(count(0, "frame"), "0 frames");
        assert_eq!(ranges(&[1, 3, 4, 5]), "1, 3-5");
        assert_eq!(station([2, 0, 0, 0, 0, 5], Some(7)), "02:00:00:00:00:05 in VLAN 7");
    }

    #[test]
    fn rates_are_in_bits_of_the_fitting_unit() {
        for (bytes, text) in [
            (10, "at most 80 bit/s out"),
            (1_250_000, "at most 10 Mbit/s out"),
            (187_500, "at most 1.5 Mbit/s out"),
            (1_250_000_000, "at most 10 Gbit/s out"),
        ] {
            assert_eq!(limit("out", &Tbf { rate: bytes, burst: 0, limit: 0 }), text);
        }
    }
}
