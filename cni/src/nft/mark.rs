//! Our rules as somebody looking at them wants them: whose, what for, how often they matched. It must never change one.

use super::abi::*;
use super::wire::attributes;
use super::{Nft, NftError, TABLE, id_of};
use crate::protocol::MacAddress;

/// One rule of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The attachment's.
    pub id: String,
    /// `masquerade`, `mac`, `port`...
    pub kind: String,
    /// As in `nft list chain`: family, table, name.
    pub chain: String,
    /// Frames that a rule with a counter has counted.
    pub frames: Option<u64>,
    /// Of the check of a port's MAC: the one that is let in.
    pub mac: Option<MacAddress>,
}

impl Nft {
    /// All our rules. None where the kernel has no nf_tables.
    pub fn marks(&mut self) -> Result<Vec<Mark>, NftError> {
        let read = self.patiently("list rules", |nft| {
            let mut marks = Vec::new();
            for (family, name) in [(NFPROTO_INET, "inet"), (NFPROTO_BRIDGE, "bridge")] {
                for found in nft.transport.rules(family, TABLE)? {
                    let kind = found.comment.rsplit(':').next().unwrap_or_default();
                    let Some(id) = id_of(&found.comment) else { continue };
                    marks.push(Mark {
                        id: id.to_owned(),
                        kind: kind.to_owned(),
                        chain: format!("{name} {TABLE} {}", found.chain),
                        frames: frames(&found.expressions),
                        mac: mac(&found.expressions),
                    });
                }
            }
            Ok(marks)
        });
        match read {
            Err(NftError::Unavailable { .. }) => Ok(Vec::new()),
            other => other,
        }
    }
}

/// Name and settings of each expression of a rule.
fn expressions(rule: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    attributes(rule).filter_map(|(_, element)| {
        let find = |wanted| attributes(element).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let name = find(NFTA_EXPR_NAME)?;
        Some((name.strip_suffix(&[0]).unwrap_or(name), find(NFTA_EXPR_DATA)?))
    })
}

fn frames(rule: &[u8]) -> Option<u64> {
    let (_, counter) = expressions(rule).find(|(name, _)| *name == b"counter")?;
    let (_, value) = attributes(counter).find(|(kind, _)| *kind == NFTA_COUNTER_PACKETS)?;
    value.first_chunk().copied().map(u64::from_be_bytes)
}

/// What the only comparison with six bytes in our rules compares with.
fn mac(rule: &[u8]) -> Option<MacAddress> {
    expressions(rule).filter(|(name, _)| *name == b"cmp").find_map(|(_, comparison)| {
        let (_, data) = attributes(comparison).find(|(kind, _)| *kind == NFTA_CMP_DATA)?;
        let (_, value) = attributes(data).find(|(kind, _)| *kind == NFTA_DATA_VALUE)?;
        MacAddress::try_from(<[u8; 6]>::try_from(value).ok()?).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::super::wire::Attributes;
    use super::*;

    fn expression(name: &str, settings: &Attributes) -> Attributes {
        Attributes::default().text(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, settings)
    }

    #[test]
    fn counter_and_mac_are_read_from_a_rule_as_the_kernel_tells_it() {
        let counter = Attributes::default()
            .put(1, &640u64.to_be_bytes()) // bytes
            .put(NFTA_COUNTER_PACKETS, &10u64.to_be_bytes());
        let data = Attributes::default().put(NFTA_DATA_VALUE, &[2, 0, 0, 0, 0, 5]);
        let rule = Attributes::default()
            .nest(NFTA_LIST_ELEM, &expression("cmp", &Attributes::default().nest(NFTA_CMP_DATA, &data)))
            .nest(NFTA_LIST_ELEM, &expression("counter", &counter));
        assert_eq!(frames(rule.bytes()), Some(10));
        assert_eq!(mac(rule.bytes()), "02:00:00:00:00:05".parse().ok());
    }

    #[test]
    fn rule_without_either_has_neither() {
        let rule = Attributes::default().nest(NFTA_LIST_ELEM, &expression("masq", &Attributes::default()));
        assert_eq!((frames(rule.bytes()), mac(rule.bytes())), (None, None));
    }
}
