//! Request and answers over a blocking rtnetlink socket. It must never take an answer for another request's.

use std::cell::Cell;
use std::fmt;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::raw::{Attributes, u32_at};
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
enum Progress {
    More,
    Done,
    /// The table changed while it was listed: what came is not to be used.
    Interrupted,
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
        let mut answers = Vec::new();
        let mut interrupted = false;
        let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
        loop {
            self.receive(&mut datagram)?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let malformed = || NetlinkError::Malformed { what: what.to_string() };
                let message = NetlinkBuffer::new_checked(&rest).map_err(|_| malformed())?;
                let length = usize::try_from(message.length()).map_err(|_| malformed())?;
                // Left from a request that was given up.
                if message.sequence_number() == sequence {
                    interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                    match take(&message, &mut answers, what)? {
                        Progress::More => {}
                        Progress::Done if interrupted => return Ok(None),
                        Progress::Done => return Ok(Some(answers)),
                        Progress::Interrupted => return Ok(None),
                    }
                }
                // The kernel pads each message but the last to four bytes; the length counts no padding.
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
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

/// Takes one message of the kernel.
fn take(
    message: &NetlinkBuffer<&&[u8]>,
    answers: &mut Vec<Answer>,
    what: fmt::Arguments<'_>,
) -> Result<Progress, NetlinkError> {
    let payload = message.payload();
    match message.message_type() {
        NLMSG_NOOP => Ok(Progress::More),
        kind @ (NLMSG_ERROR | NLMSG_DONE) => {
            // A list may end with an error; one that ends without a number ends well.
            let code = u32_at(payload, 0).unwrap_or(0).cast_signed();
            match code.checked_neg() {
                Some(0) => Ok(Progress::Done),
                // What a list says when it was interrupted for good.
                Some(libc::EINTR) if kind == NLMSG_DONE => Ok(Progress::Interrupted),
                errno => {
                    let says = extended_message(message.flags(), kind, payload);
                    Err(NetlinkError::of(what.to_string(), errno.unwrap_or(libc::EIO), says))
                }
            }
        }
        kind => {
            answers.push(Answer { kind, payload: payload.to_vec() });
            Ok(Progress::More)
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
