//! Request and answers over a blocking rtnetlink socket. It must never take an answer for another request's.

use std::cell::Cell;
use std::fmt;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::raw::{Attributes, u16_at, u32_at};
use super::{Netlink, NetlinkError};
use crate::namespace::Namespace;

/// What the kernel answered: a message's type and what follows its header.
#[derive(Debug)]
pub(super) struct Answer {
    /// `RTM_*`.
    pub(super) kind: u16,
    pub(super) payload: Vec<u8>,
}

/// How far the answers to a request have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    More,
    Done,
}

impl Netlink {
    /// A socket of the namespace the thread is in.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Io)?;
        socket.bind_auto().map_err(NetlinkError::Io)?;
        // Connected to the kernel, which then lets nobody else's messages in.
        socket.connect(&SocketAddr::new(0, 0)).map_err(NetlinkError::Io)?;
        socket.set_ext_ack(true).map_err(NetlinkError::Io)?;
        // An acknowledgment need not repeat the request.
        socket.set_cap_ack(true).map_err(NetlinkError::Io)?;
        Ok(Self { socket, sequence: Cell::new(0) })
    }

    /// A socket of `namespace`. It stays there, wherever the thread goes.
    pub fn within(namespace: &Namespace) -> Result<Self, NetlinkError> {
        namespace.run(Self::open).map_err(NetlinkError::Io)?
    }

    /// Makes a change.
    pub(super) fn change_with(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: fmt::Arguments<'_>,
    ) -> Result<(), NetlinkError> {
        self.ask(message, flags, what).map(drop)
    }

    /// Asks for one thing, or makes a change: all answers before the acknowledgment.
    pub(super) fn ask(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: fmt::Arguments<'_>,
    ) -> Result<Vec<Answer>, NetlinkError> {
        let (bytes, sequence) = self.encode(message, NLM_F_ACK | flags);
        self.exchange(&bytes, sequence, what)?
            .ok_or_else(|| NetlinkError::Unsteady { what: what.to_string() })
    }

    /// Lists a table, again if it changed meanwhile.
    pub(super) fn dump(
        &self,
        message: RouteNetlinkMessage,
        what: fmt::Arguments<'_>,
    ) -> Result<Vec<Answer>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let (bytes, sequence) = self.encode(message.clone(), NLM_F_DUMP);
            if let Some(answers) = self.exchange(&bytes, sequence, what)? {
                return Ok(answers);
            }
        }
        Err(NetlinkError::Unsteady { what: what.to_string() })
    }

    fn encode(&self, message: RouteNetlinkMessage, flags: u16) -> (Vec<u8>, u32) {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        (bytes, sequence)
    }

    /// Sends a request and reads up to the acknowledgment or the end of the list. None: it was interrupted.
    fn exchange(
        &self,
        request: &[u8],
        sequence: u32,
        what: fmt::Arguments<'_>,
    ) -> Result<Option<Vec<Answer>>, NetlinkError> {
        self.socket.send(request, 0).map_err(NetlinkError::Io)?;
        let mut answers = Answers { sequence, taken: Vec::new(), interrupted: false };
        let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
        loop {
            self.receive(&mut datagram)?;
            if answers.take(&datagram, what)? == Progress::Done {
                return Ok((!answers.interrupted).then_some(answers.taken));
            }
        }
    }

    /// The next datagram, whole: its size is asked for first.
    fn receive(&self, datagram: &mut Vec<u8>) -> Result<(), NetlinkError> {
        loop {
            datagram.clear();
            // Without MSG_PEEK, a datagram too long for the buffer would be lost.
            let length = match self.socket.recv(datagram, libc::MSG_PEEK | libc::MSG_TRUNC) {
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(NetlinkError::Io(error)),
            };
            datagram.clear();
            datagram.reserve(length);
            self.socket.recv(datagram, 0).map_err(NetlinkError::Io)?;
            return Ok(());
        }
    }
}

/// The answers to one request, as they come.
struct Answers {
    sequence: u32,
    taken: Vec<Answer>,
    /// The table changed while it was listed: what came is not to be used.
    interrupted: bool,
}

impl Answers {
    /// Takes a datagram's messages, one after the other.
    fn take(&mut self, datagram: &[u8], what: fmt::Arguments<'_>) -> Result<Progress, NetlinkError> {
        let malformed = || NetlinkError::Malformed { what: what.to_string() };
        let mut rest = datagram;
        while !rest.is_empty() {
            // struct nlmsghdr: length, type, flags, sequence number, port.
            let length =
                u32_at(rest, 0).and_then(|length| usize::try_from(length).ok()).ok_or_else(malformed)?;
            let payload = rest.get(NLMSG_HEADER..length).ok_or_else(malformed)?;
            let (kind, flags) = u16_at(rest, 4).zip(u16_at(rest, 6)).ok_or_else(malformed)?;
            // Another number is of a request that was given up.
            if u32_at(rest, 8) == Some(self.sequence)
                && self.take_one(kind, flags, payload, what)? == Progress::Done
            {
                return Ok(Progress::Done);
            }
            // The kernel pads each message but the last to four bytes; the length counts no padding.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(Progress::More)
    }

    fn take_one(
        &mut self,
        kind: u16,
        flags: u16,
        payload: &[u8],
        what: fmt::Arguments<'_>,
    ) -> Result<Progress, NetlinkError> {
        self.interrupted |= flags & NLM_F_DUMP_INTR != 0;
        let code = u32_at(payload, 0).map(u32::cast_signed);
        match (kind, code) {
            (NLMSG_NOOP, _) => Ok(Progress::More),
            // A list may also end without a number.
            (NLMSG_ERROR | NLMSG_DONE, Some(0)) | (NLMSG_DONE, None) => Ok(Progress::Done),
            (NLMSG_ERROR | NLMSG_DONE, Some(code)) => {
                let errno = code.saturating_neg();
                Err(NetlinkError::of(what.to_string(), errno, extended_message(flags, kind, payload)))
            }
            (NLMSG_ERROR, None) => Err(NetlinkError::Malformed { what: what.to_string() }),
            _ => {
                self.taken.push(Answer { kind, payload: payload.to_vec() });
                Ok(Progress::More)
            }
        }
    }
}

/// The text of an extended acknowledgment (include/uapi/linux/netlink.h, `enum nlmsgerr_attrs`).
fn extended_message(flags: u16, kind: u16, payload: &[u8]) -> String {
    if flags & NLM_F_ACK_TLVS == 0 {
        return String::new();
    }
    let attributes_at = if kind == NLMSG_DONE {
        4
    } else if flags & NLM_F_CAPPED != 0 {
        4 + NLMSG_HEADER
    } else {
        // The request is repeated whole, its header first, whose first field is its length.
        let request =
            u32_at(payload, 4).and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
        request.saturating_add(4).checked_next_multiple_of(4).unwrap_or(usize::MAX)
    };
    Attributes::after(payload, attributes_at)
        .find(NLMSGERR_ATTR_MSG)
        .map(|text| text.text())
        .unwrap_or_default()
}

const NLMSG_HEADER: usize = 16;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// What the kernel packs into one datagram of a list at most, if the reader has the room (net/netlink/af_netlink.c,
/// `netlink_dump`).
const DATAGRAM_BYTES: usize = 32 * 1024;

/// A table that changes each time it is listed, this often, is not going to hold still.
const DUMP_ATTEMPTS: u32 = 50;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEQUENCE: u32 = 7;
    const RTM_NEWLINK: u16 = 16;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(NLMSG_HEADER + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn fresh() -> Answers {
        Answers { sequence: SEQUENCE, taken: Vec::new(), interrupted: false }
    }

    #[test]
    fn answers_to_another_request_are_passed_over() {
        let mut answers = fresh();
        let datagram = [
            message(RTM_NEWLINK, 2, SEQUENCE - 1, &[1; 5]),
            message(NLMSG_ERROR, 0, SEQUENCE - 1, &(-libc::EPERM).to_ne_bytes()),
            message(RTM_NEWLINK, 2, SEQUENCE, &[2; 5]),
        ];
        let what = format_args!("list links");
        assert_eq!(answers.take(&datagram.concat(), what).unwrap(), Progress::More);
        let end = message(NLMSG_DONE, 2, SEQUENCE, &[0; 4]);
        assert_eq!(answers.take(&end, what).unwrap(), Progress::Done);
        assert_eq!(answers.taken.len(), 1);
        assert_eq!(answers.taken[0].payload, [2; 5]);
        assert!(!answers.interrupted);
    }

    #[test]
    fn interruption_is_noticed_in_whichever_message_says_so() {
        for at in 0..3 {
            let flags = |this: u16| if this == at { 2 | NLM_F_DUMP_INTR } else { 2 };
            let datagram = [
                message(RTM_NEWLINK, flags(0), SEQUENCE, &[1; 4]),
                message(RTM_NEWLINK, flags(1), SEQUENCE, &[1; 4]),
                message(NLMSG_DONE, flags(2), SEQUENCE, &[]),
            ];
            let mut answers = fresh();
            assert_eq!(answers.take(&datagram.concat(), format_args!("")).unwrap(), Progress::Done);
            assert!(answers.interrupted, "message {at}");
        }
    }

    #[test]
    fn reason_is_read_after_whatever_the_kernel_repeats() {
        let text = [&[11, 0, 1, 0][..], b"because\0"].concat();
        let code = (-libc::EINVAL).to_ne_bytes();
        let repeated = message(RTM_NEWLINK, 0, SEQUENCE, &[9; 7]);
        let rows = [
            (NLMSG_DONE, NLM_F_ACK_TLVS, [&code[..], &text].concat(), "because"),
            (NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, [&code[..], &[0; 16], &text].concat(), "because"),
            (NLMSG_ERROR, NLM_F_ACK_TLVS, [&code[..], &repeated, &text].concat(), "because"),
            (NLMSG_ERROR, NLM_F_CAPPED, [&code[..], &[0; 16]].concat(), ""),
            (NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, code.to_vec(), ""),
        ];
        for (kind, flags, payload, wanted) in rows {
            let datagram = message(kind, flags, SEQUENCE, &payload);
            let error = fresh().take(&datagram, format_args!("create link x")).unwrap_err();
            let NetlinkError::Refused { what, errno, kernel_says } = error else { panic!("{error}") };
            assert_eq!((what.as_str(), errno, kernel_says.as_str()), ("create link x", libc::EINVAL, wanted));
        }
    }

    #[test]
    fn datagram_that_is_cut_off_is_malformed() {
        let whole = message(NLMSG_ERROR, 0, SEQUENCE, &[0; 20]);
        for length in 1..whole.len() {
            let error = fresh().take(&whole[..length], format_args!("x")).unwrap_err();
            assert!(matches!(error, NetlinkError::Malformed { .. }), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_datagram_is_read_to_an_end(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            kind in 0_u16..5,
            flags in any::<u16>(),
        ) {
            let _ = fresh().take(&bytes, format_args!("x"));
            let _ = fresh().take(&message(kind, flags, SEQUENCE, &bytes), format_args!("x"));
        }
    }
}
