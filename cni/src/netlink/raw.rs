//! Attributes as they are in a message (include/uapi/linux/netlink.h). It must never fail because of one it does not
//! know: links of other programs have attributes of all kinds.

use std::net::IpAddr;

/// Attributes one after the other. What is cut off at the end is not there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

/// The value of one attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// Those after a header of `header` bytes.
    pub(super) fn after(message: &'a [u8], header: usize) -> Self {
        Self { rest: message.get(header..).unwrap_or_default() }
    }

    /// The first of a type.
    pub(super) fn find(mut self, wanted: u16) -> Option<Value<'a>> {
        self.find_map(|(kind, value)| (kind == wanted).then_some(value))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.rest, 0)?);
        let kind = u16_at(self.rest, 2)? & NLA_TYPE_MASK;
        let value = self.rest.get(HEADER..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, Value(value)))
    }
}

impl<'a> Value<'a> {
    pub(super) fn nested(self) -> Attributes<'a> {
        Attributes { rest: self.0 }
    }

    pub(super) fn u8(self) -> Option<u8> {
        self.0.first().copied()
    }

    pub(super) fn flag(self) -> bool {
        self.u8().is_some_and(|value| value != 0)
    }

    pub(super) fn u16(self) -> Option<u16> {
        u16_at(self.0, 0)
    }

    pub(super) fn u16_big_endian(self) -> Option<u16> {
        self.0.first_chunk().copied().map(u16::from_be_bytes)
    }

    pub(super) fn u32(self) -> Option<u32> {
        u32_at(self.0, 0)
    }

    pub(super) fn u64(self) -> Option<u64> {
        self.0.first_chunk().copied().map(u64::from_ne_bytes)
    }

    /// Up to the NUL, if there is one.
    pub(super) fn text(self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        String::from_utf8_lossy(self.0.get(..end).unwrap_or_default()).into_owned()
    }

    pub(super) fn mac(self) -> Option<[u8; 6]> {
        self.0.try_into().ok()
    }

    pub(super) fn ip(self) -> Option<IpAddr> {
        if let Ok(octets) = <[u8; 4]>::try_from(self.0) {
            return Some(octets.into());
        }
        <[u8; 16]>::try_from(self.0).ok().map(IpAddr::from)
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

const HEADER: usize = 4;
/// Without the marks for nested and big endian.
const NLA_TYPE_MASK: u16 = 0x3fff;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unknown_attributes_are_passed_over() {
        let bytes = [5, 0, 0xff, 0x7f, 9, 0, 0, 0, 8, 0, 4, 0x80, 1, 2, 3, 4];
        let attributes = Attributes::after(&bytes, 0);
        assert_eq!(attributes.count(), 2);
        assert_eq!(attributes.find(4), Some(Value(&[1, 2, 3, 4])));
        assert_eq!(attributes.find(5), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200), header in 0_usize..40) {
            for (_, value) in Attributes::after(&bytes, header) {
                let _ = (value.u8(), value.u16(), value.u32(), value.u64(), value.mac(), value.ip(), value.text());
                prop_assert!(value.nested().count() <= bytes.len());
            }
        }
    }
}
