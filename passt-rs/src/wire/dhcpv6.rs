//! DHCPv6 messages (RFC 8415): views of requests and the writer of replies.
//!
//! Relay messages have another layout (9) and are not read: nothing stands between the guest and us.

use std::net::Ipv6Addr;

/// Bytes before an option's data: code and length (RFC 8415 21.1).
const OPTION_HEADER_LEN: usize = 4;

/// Message types (RFC 8415 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    Solicit,
    Advertise,
    Request,
    Confirm,
    Renew,
    Rebind,
    Reply,
    Release,
    Decline,
    InformationRequest,
    Other(u8),
}

/// Option codes (RFC 8415 21 unless said otherwise).
pub mod option {
    pub const CLIENT_ID: u16 = 1;
    pub const SERVER_ID: u16 = 2;
    pub const IA_NA: u16 = 3;
    pub const IA_TA: u16 = 4;
    pub const IA_ADDRESS: u16 = 5;
    pub const OPTION_REQUEST: u16 = 6;
    pub const PREFERENCE: u16 = 7;
    pub const STATUS_CODE: u16 = 13;
    pub const RAPID_COMMIT: u16 = 14;
    /// RFC 3646.
    pub const DNS_SERVERS: u16 = 23;
    /// RFC 3646.
    pub const DOMAIN_LIST: u16 = 24;
    pub const IA_PD: u16 = 25;
    /// RFC 4704.
    pub const CLIENT_FQDN: u16 = 39;
}

/// Status codes (RFC 8415 21.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Success,
    NoAddrsAvail,
    NoBinding,
    NotOnLink,
    UseMulticast,
    NoPrefixAvail,
}

/// A client's or server's message (RFC 8415 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub kind: MessageType,
    pub transaction: [u8; 3],
    pub options: Options<'a>,
}

/// A chain of options that was checked to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options<'a>(&'a [u8]);

/// What an identity association holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IaKind {
    /// Addresses that stay (IA_NA).
    NonTemporary,
    /// Addresses of the moment (IA_TA).
    Temporary,
    /// Delegated prefixes (IA_PD).
    Prefix,
}

/// An identity association (RFC 8415 21.4, 21.5, 21.21). T1 and T2 are the server's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ia<'a> {
    pub kind: IaKind,
    pub id: u32,
    options: Options<'a>,
}

impl<'a> Message<'a> {
    /// `None` for bytes that end inside a header, an option or an option's options.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let ([kind, transaction @ ..], rest) = bytes.split_first_chunk::<4>()?;
        let options = Options::new_checked(rest)?;
        let message = Self { kind: (*kind).into(), transaction: *transaction, options };
        for (code, data) in options.iter() {
            if IaKind::of(code).is_some() {
                Ia::parse(code, data)?;
            }
        }
        Some(message)
    }

    pub fn ias(&self) -> impl Iterator<Item = Ia<'a>> + use<'a> {
        self.options.iter().filter_map(|(code, data)| Ia::parse(code, data))
    }
}

impl<'a> Options<'a> {
    pub fn new_checked(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, _, rest) = split_option(rest)?;
        }
        Some(Self(bytes))
    }

    /// Codes and data, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (code, data, tail) = split_option(rest)?;
            rest = tail;
            Some((code, data))
        })
    }

    /// The data of the first option of this code.
    pub fn find(&self, code: u16) -> Option<&'a [u8]> {
        self.iter().find_map(|(at, data)| (at == code).then_some(data))
    }
}

fn split_option(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let ([c0, c1, l0, l1], rest) = bytes.split_first_chunk::<4>()?;
    let (data, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*l0, *l1])))?;
    Some((u16::from_be_bytes([*c0, *c1]), data, rest))
}

impl IaKind {
    fn of(code: u16) -> Option<Self> {
        match code {
            option::IA_NA => Some(Self::NonTemporary),
            option::IA_TA => Some(Self::Temporary),
            option::IA_PD => Some(Self::Prefix),
            _ => None,
        }
    }

    pub fn code(self) -> u16 {
        match self {
            Self::NonTemporary => option::IA_NA,
            Self::Temporary => option::IA_TA,
            Self::Prefix => option::IA_PD,
        }
    }

    /// T1 and T2 stand behind the identifier, except in IA_TA (RFC 8415 21.5).
    pub fn has_times(self) -> bool {
        self != Self::Temporary
    }
}

impl<'a> Ia<'a> {
    /// `None` for another option and for one cut short.
    fn parse(code: u16, data: &'a [u8]) -> Option<Self> {
        let kind = IaKind::of(code)?;
        let (id, mut rest) = data.split_first_chunk::<4>()?;
        if kind.has_times() {
            (_, rest) = rest.split_first_chunk::<8>()?;
        }
        let options = Options::new_checked(rest)?;
        let whole = |(code, data): (u16, &[u8])| code != option::IA_ADDRESS || data.len() >= 24;
        options.iter().all(whole).then_some(Self { kind, id: u32::from_be_bytes(*id), options })
    }

    pub fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> + use<'a> {
        let addresses = self.options.iter().filter(|(code, _)| *code == option::IA_ADDRESS);
        addresses.filter_map(|(_, data)| data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets)))
    }
}

impl From<u8> for MessageType {
    fn from(value: u8) -> Self {
        match value {
            1 => Self::Solicit,
            2 => Self::Advertise,
            3 => Self::Request,
            4 => Self::Confirm,
            5 => Self::Renew,
            6 => Self::Rebind,
            7 => Self::Reply,
            8 => Self::Release,
            9 => Self::Decline,
            11 => Self::InformationRequest,
            other => Self::Other(other),
        }
    }
}

impl MessageType {
    pub fn value(self) -> u8 {
        match self {
            Self::Solicit => 1,
            Self::Advertise => 2,
            Self::Request => 3,
            Self::Confirm => 4,
            Self::Renew => 5,
            Self::Rebind => 6,
            Self::Reply => 7,
            Self::Release => 8,
            Self::Decline => 9,
            Self::InformationRequest => 11,
            Self::Other(value) => value,
        }
    }
}

impl Status {
    pub fn value(self) -> u16 {
        match self {
            Self::Success => 0,
            Self::NoAddrsAvail => 2,
            Self::NoBinding => 3,
            Self::NotOnLink => 4,
            Self::UseMulticast => 5,
            Self::NoPrefixAvail => 6,
        }
    }
}

/// Appends a message to a buffer until a bound. An option that does not fit is left out whole.
#[derive(Debug)]
pub struct Writer<'a> {
    message: &'a mut Vec<u8>,
    /// Length of `message` not to exceed.
    limit: usize,
}

impl<'a> Writer<'a> {
    pub fn new(message: &'a mut Vec<u8>, limit: usize, kind: MessageType, transaction: [u8; 3]) -> Self {
        message.push(kind.value());
        message.extend(transaction);
        Self { message, limit }
    }

    /// Appends an option, which may be empty.
    pub fn push(&mut self, code: u16, data: &[u8]) {
        let start = self.message.len();
        push_option(self.message, code, |message| message.extend(data));
        self.retract_beyond_limit(start);
    }

    /// Appends an option whose data `fill` appends, to at most the bytes it is told. Without data there
    /// is no option.
    pub fn push_with(&mut self, code: u16, fill: impl FnOnce(&mut Vec<u8>, usize)) {
        let start = self.message.len();
        let room = self.limit.saturating_sub(start + OPTION_HEADER_LEN);
        push_option(self.message, code, |message| fill(message, room));
        if self.message.len() == start + OPTION_HEADER_LEN {
            self.message.truncate(start);
        }
        self.retract_beyond_limit(start);
    }

    fn retract_beyond_limit(&mut self, option_start: usize) {
        if self.message.len() > self.limit {
            self.message.truncate(option_start);
        }
    }
}

/// Appends an option to `out`, which may itself be the data of one.
pub fn push_option(out: &mut Vec<u8>, code: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    out.extend(code.to_be_bytes());
    let start = out.len();
    out.extend([0, 0]);
    fill(out);
    let len = u16::try_from(out.len() - start - 2).unwrap_or(u16::MAX);
    out[start..start + 2].copy_from_slice(&len.to_be_bytes());
}

/// Appends a status without text (RFC 8415 21.13).
pub fn push_status(out: &mut Vec<u8>, status: Status) {
    push_option(out, option::STATUS_CODE, |data| data.extend(status.value().to_be_bytes()));
}

/// Appends an address of an identity association; one lifetime in seconds serves as both (RFC 8415 21.6).
pub fn push_address(out: &mut Vec<u8>, address: Ipv6Addr, lifetime_secs: u32) {
    push_option(out, option::IA_ADDRESS, |data| {
        data.extend(address.octets());
        data.extend(lifetime_secs.to_be_bytes());
        data.extend(lifetime_secs.to_be_bytes());
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Renew of IAID 7 with fd00::2, and an IA_PD without prefixes.
    const RENEW: [u8; 70] = [
        5, 0xaa, 0xbb, 0xcc, //
        0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 1, //
        0, 3, 0, 40, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2, //
        0, 5, 0, 24, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 9, //
        0, 14, 0, 0, 0, 6, 0, 0,
    ];

    #[test]
    fn a_message_deconstructs() {
        let message = Message::parse(&RENEW).unwrap();
        assert_eq!((message.kind, message.transaction), (MessageType::Renew, [0xaa, 0xbb, 0xcc]));
        assert_eq!(message.options.find(option::CLIENT_ID).unwrap().len(), 10);
        assert_eq!(message.options.find(option::RAPID_COMMIT), Some(&[][..]));
        assert_eq!(message.options.find(option::SERVER_ID), None);
        let ias: Vec<_> = message.ias().collect();
        assert_eq!((ias.len(), ias[0].kind, ias[0].id), (1, IaKind::NonTemporary, 7));
        assert_eq!(ias[0].addresses().collect::<Vec<_>>(), ["fd00::2".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn a_message_constructs() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, 100, MessageType::Renew, [0xaa, 0xbb, 0xcc]);
        writer.push(option::CLIENT_ID, &RENEW[8..18]);
        writer.push_with(option::IA_NA, |data, _| {
            data.extend([0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2]);
            push_address(data, "fd00::2".parse().unwrap(), 9);
        });
        writer.push(option::RAPID_COMMIT, &[]);
        writer.push(option::OPTION_REQUEST, &[]);
        assert_eq!(out, RENEW);
    }

    #[test]
    fn an_option_beyond_the_limit_is_left_out_whole() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, 13, MessageType::Reply, [0; 3]);
        writer.push(option::DNS_SERVERS, &[0; 6]);
        writer.push_with(option::DOMAIN_LIST, |_, _| {});
        writer.push_with(option::DOMAIN_LIST, |data, room| data.resize(data.len() + room, 7));
        writer.push_with(option::DOMAIN_LIST, |data, _| data.push(7));
        assert_eq!(out, [7, 0, 0, 0, 0, 24, 0, 5, 7, 7, 7, 7, 7]);
    }

    #[test]
    fn truncations_inside_an_option_are_refused() {
        let boundaries = [4, 18, 62, 66, 70];
        for len in 0..RENEW.len() {
            assert_eq!(Message::parse(&RENEW[..len]).is_some(), boundaries.contains(&len), "{len}");
        }
    }

    #[test]
    fn options_inside_an_identity_association_are_checked() {
        for (at, value) in [(21, 11), (21, 41), (37, 25), (37, 23)] {
            let mut bytes = RENEW;
            bytes[at] = value;
            assert_eq!(Message::parse(&bytes), None, "{at} = {value}");
        }
    }

    #[test]
    fn message_types_round_trip() {
        for value in 0..=255 {
            assert_eq!(MessageType::from(value).value(), value);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(message) = Message::parse(&bytes) {
                prop_assert!(message.ias().flat_map(|ia| ia.addresses()).count() < bytes.len());
            }
        }

        #[test]
        fn arbitrary_options_never_panic(
            options in proptest::collection::vec((0u16..30, proptest::collection::vec(any::<u8>(), 0..50)), 0..8),
        ) {
            let mut bytes = vec![1, 0, 0, 0];
            for (code, data) in &options {
                push_option(&mut bytes, *code, |out| out.extend(data));
            }
            if let Some(message) = Message::parse(&bytes) {
                prop_assert_eq!(message.options.iter().count(), options.len());
                message.ias().for_each(|ia| { ia.addresses().count(); });
            }
        }
    }
}
