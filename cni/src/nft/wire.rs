//! Messages and attributes of nfnetlink as bytes, both ways. It must never know what a rule means.
//!
//! Headers are in the host's byte order, numbers inside attributes in the network's (include/uapi/linux/netlink.h,
//! include/uapi/linux/netfilter/nfnetlink.h).

use netlink_packet_core::{NLA_F_NESTED, NLA_TYPE_MASK, NLM_F_REQUEST};

use super::abi::{NFNL_BATCH_GENID, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES};

/// Attributes one after the other, each padded to four bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn put(self, kind: u16, value: &[u8]) -> Self {
        self.add(kind, value)
    }

    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.add(kind, &value.to_be_bytes())
    }

    /// Text, with a zero byte after it.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.add(kind, &bytes)
    }

    pub(super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.nest_bytes(kind, &inner.0)
    }

    /// A nest whose inside is as it came from the kernel.
    pub(super) fn nest_bytes(self, kind: u16, inner: &[u8]) -> Self {
        self.add(kind | NLA_F_NESTED, inner)
    }

    fn add(mut self, kind: u16, value: &[u8]) -> Self {
        // Our longest rule is below 1 KiB. A length that is no length is what the kernel refuses.
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(0);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        self
    }
}

/// One message: `nlmsghdr`, `nfgenmsg`, attributes.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) kind: u16,
    /// `NLM_F_*`; `NLM_F_REQUEST` is always added.
    pub(super) flags: u16,
    /// `NFPROTO_*`.
    pub(super) family: u8,
    /// In the host's byte order; zero but for a batch's ends.
    pub(super) resource: u16,
    pub(super) attributes: Attributes,
}

impl Message {
    pub(super) fn new(kind: u16, flags: u16, family: u8, attributes: Attributes) -> Self {
        Self { kind, flags, family, resource: 0, attributes }
    }

    /// Opens a batch; one for `generation` is refused with ERESTART when the rules have changed since.
    pub(super) fn batch_begin(generation: Option<u32>) -> Self {
        let attributes = match generation {
            Some(generation) => Attributes::default().number(NFNL_BATCH_GENID, generation),
            None => Attributes::default(),
        };
        Self { resource: NFNL_SUBSYS_NFTABLES, ..Self::new(NFNL_MSG_BATCH_BEGIN, 0, 0, attributes) }
    }

    /// Closes a batch. Without it, the kernel tries everything and keeps nothing.
    pub(super) fn batch_end() -> Self {
        Self { resource: NFNL_SUBSYS_NFTABLES, ..Self::new(NFNL_MSG_BATCH_END, 0, 0, Attributes::default()) }
    }

    pub(super) fn append_to(&self, bytes: &mut Vec<u8>, sequence: u32) {
        let attributes = self.attributes.bytes();
        let length = u32::try_from(MESSAGE_HEADER + FAMILY_HEADER + attributes.len()).unwrap_or(0);
        bytes.extend(length.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend((self.flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]); // the kernel fills in the port
        bytes.extend([self.family, 0]);
        bytes.extend(self.resource.to_be_bytes());
        bytes.extend(attributes);
    }
}

/// One message as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// What follows `nlmsghdr`.
    pub(super) payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// Attributes after an `nfgenmsg`.
    pub(super) fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        attributes(self.payload.get(FAMILY_HEADER..).unwrap_or_default())
    }

    /// Of an `nlmsgerr`: zero, or the negated error number. `None` if there is none.
    pub(super) fn error(&self) -> Option<i32> {
        self.payload.first_chunk().copied().map(i32::from_ne_bytes)
    }
}

/// The messages of a datagram. What does not parse ends it.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let (header, rest) = bytes.split_first_chunk::<MESSAGE_HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let payload = rest.get(..length.checked_sub(MESSAGE_HEADER)?)?;
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(Received {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        })
    })
}

/// Attributes as type and value. What does not parse ends them.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    raw_attributes(bytes).map(|(kind, value)| (kind & NLA_TYPE_MASK, value))
}

/// Whether two lists are as long as each other and each element in `found` has all that the one in `sent` has, with
/// the same value: the kernel tells more about a rule than it was given (defaults, counters), and more of it with each
/// version.
pub(super) fn covers_list(sent: &[u8], found: &[u8]) -> bool {
    let (sent, found): (Vec<_>, Vec<_>) = (attributes(sent).collect(), attributes(found).collect());
    sent.len() == found.len() && sent.iter().zip(&found).all(|(sent, found)| covers(sent.1, found.1))
}

fn covers(sent: &[u8], found: &[u8]) -> bool {
    raw_attributes(sent).all(|(kind, value)| {
        let (nested, kind) = (kind & NLA_F_NESTED != 0, kind & NLA_TYPE_MASK);
        let same = |other| if nested { covers(value, other) } else { value == other };
        attributes(found).any(|(found, other)| found == kind && same(other))
    })
}

fn raw_attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let ([l0, l1, k0, k1], rest) = bytes.split_first_chunk::<ATTRIBUTE_HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let value = rest.get(..length.checked_sub(ATTRIBUTE_HEADER)?)?;
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((u16::from_ne_bytes([*k0, *k1]), value))
    })
}

const ALIGNMENT: usize = 4;
/// `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// `struct nlmsghdr`.
const MESSAGE_HEADER: usize = 16;
/// `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn batch_begin_for_a_generation_is_these_bytes() {
        let mut bytes = Vec::new();
        Message::batch_begin(Some(7)).append_to(&mut bytes, 0x0102_0304);
        let expected = [
            28, 0, 0, 0, 0x10, 0, 1, 0, 4, 3, 2, 1, 0, 0, 0, 0, // length, type, request, number, port
            0, 0, 0, 10, // no family, version 0, for nf_tables
            8, 0, 1, 0, 0, 0, 0, 7, // NFNL_BATCH_GENID
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn text_ends_with_zero_and_is_padded() {
        let attributes =
            Attributes::default().text(3, "abcd").nest(4, &Attributes::default().number(1, 0x0a0b));
        assert_eq!(attributes.bytes(), b"\x09\0\x03\0abcd\0\0\0\0\x0c\0\x04\x80\x08\0\x01\0\0\0\x0a\x0b");
    }

    #[test]
    fn datagram_cut_off_anywhere_has_the_messages_before_the_cut() {
        let mut bytes = Vec::new();
        let message = Message::new(1, 0, 2, Attributes::default().put(5, b"12345"));
        message.append_to(&mut bytes, 1);
        let one = bytes.len();
        message.append_to(&mut bytes, 2);
        for length in 0..=bytes.len() {
            let sequences: Vec<u32> = messages(&bytes[..length]).map(|received| received.sequence).collect();
            assert_eq!(sequences, (1..=u32::try_from(length / one).unwrap()).collect::<Vec<_>>(), "{length}");
        }
        let received = messages(&bytes).next().unwrap();
        assert_eq!(received.attributes().collect::<Vec<_>>(), [(5, b"12345".as_slice())]);
    }

    #[test]
    fn list_covers_what_has_more_but_not_what_differs() {
        let list = |elements: &[Attributes]| {
            elements.iter().fold(Attributes::default(), |list, element| list.nest(1, element))
        };
        let value = |value: u32| Attributes::default().number(7, value);
        let nested = |value: u32| Attributes::default().nest(8, &Attributes::default().number(9, value));
        let sent = list(&[value(1), nested(2)]);
        for (name, found, covered) in [
            ("the same", vec![value(1), nested(2)], true),
            ("more in an element", vec![value(1).number(5, 5), nested(2)], true),
            ("less in an element", vec![Attributes::default(), nested(2)], false),
            ("another value", vec![value(3), nested(2)], false),
            ("another value inside", vec![value(1), nested(3)], false),
            ("another order", vec![nested(2), value(1)], false),
            ("an element more", vec![value(1), nested(2), value(1)], false),
            ("an element less", vec![value(1)], false),
        ] {
            assert_eq!(covers_list(sent.bytes(), list(&found).bytes()), covered, "{name}");
        }
        // The kernel does not set the flag of a nest in every answer.
        let unflagged = Attributes::default().put(1, value(1).bytes()).put(1, nested(2).bytes());
        assert!(covers_list(sent.bytes(), unflagged.bytes()));
    }

    proptest! {
        #[test]
        fn attributes_come_back_as_they_were_put(
            list in proptest::collection::vec((0..0x4000u16, proptest::collection::vec(any::<u8>(), 0..40)), 0..8)
        ) {
            let put = list.iter().fold(Attributes::default(), |all, (kind, value)| all.put(*kind, value));
            let back: Vec<_> = attributes(put.bytes()).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(back, list);
        }

        #[test]
        fn no_bytes_are_read_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(attributes(&bytes).count() <= bytes.len() / 4);
            prop_assert!(messages(&bytes).count() <= bytes.len() / 16);
        }
    }
}
