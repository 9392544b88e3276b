//! Requests to the kernel's nf_tables and its answers. It must never wait for an answer: the kernel has given it,
//! whole, before a request's `send` returns, or gives the rest as it is read.

use std::io;
use std::os::fd::AsFd;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::abi::*;
use super::wire::{Attributes, Message, Received, messages};
use super::{Attempt, NftError};

/// A socket, and the number of the next request.
#[derive(Debug)]
pub(super) struct Transport {
    socket: Socket,
    sequence: u32,
}

/// A rule with a comment, as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) family: u8,
    pub(super) chain: String,
    pub(super) handle: u64,
    pub(super) comment: String,
    /// The network's id; none where an older version made the rule.
    pub(super) network: Option<String>,
    /// The value of `NFTA_RULE_EXPRESSIONS`.
    pub(super) expressions: Vec<u8>,
}

/// Why a batch was not taken.
#[derive(Debug)]
pub(super) enum Failure {
    /// Which message of it the kernel disliked first.
    Message {
        what: String,
        kind: u16,
        errno: Errno,
    },
    Other(NftError),
}

impl Failure {
    /// Whatever a rule needs is made before it in the same batch; what is not found is then a part of the kernel.
    pub(super) fn of_addition(self) -> Attempt {
        match self {
            Self::Message { errno, .. } if is_passing(errno) => Attempt::Again,
            // Or a chain of that name is of another type, as somebody else made it.
            Self::Message { what, kind: NFT_MSG_NEWCHAIN, errno: errno @ Errno::OPNOTSUPP } => {
                NftError::Refused { what, source: errno }.into()
            }
            Self::Message { what, errno: errno @ (Errno::NOENT | Errno::OPNOTSUPP), .. } => {
                NftError::Unavailable { what, source: errno }.into()
            }
            Self::Message { what, errno, .. } => NftError::Refused { what, source: errno }.into(),
            Self::Other(error) => error.into(),
        }
    }

    /// What is not found has been deleted by somebody else meanwhile.
    pub(super) fn of_deletion(self) -> Attempt {
        match self {
            Self::Message { errno: Errno::NOENT, .. } => Attempt::Again,
            Self::Message { errno, .. } if is_passing(errno) => Attempt::Again,
            Self::Message { what, errno, .. } => NftError::Refused { what, source: errno }.into(),
            Self::Other(error) => error.into(),
        }
    }
}

impl Transport {
    pub(super) fn open() -> Result<Self, NftError> {
        let socket =
            Socket::new(netlink_sys::protocols::NETLINK_NETFILTER).map_err(
                |error| match Errno::from_io_error(&error) {
                    Some(errno @ Errno::PROTONOSUPPORT) => {
                        NftError::Unavailable { what: "netfilter's netlink".to_owned(), source: errno }
                    }
                    _ => NftError::Io(error),
                },
            )?;
        // An error need not bring our message back.
        socket.set_cap_ack(true).map_err(NftError::Io)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(NftError::Io)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a batch: valid for `generation` only, if one is given; kept by the kernel if its end is in `messages`.
    pub(super) fn change(
        &mut self,
        generation: Option<u32>,
        messages: Vec<(String, Message)>,
    ) -> Result<(), Failure> {
        let first = self.sequence.wrapping_add(1);
        let mut names = vec![("batch".to_owned(), NFNL_MSG_BATCH_BEGIN)];
        let mut bytes = Vec::new();
        Message::batch_begin(generation).append_to(&mut bytes, first);
        let mut sequence = first;
        // All errors are told; success once, for the last message that is not the batch's end.
        let last = messages.iter().rposition(|(_, message)| message.kind != NFNL_MSG_BATCH_END);
        let Some(last) = last else { return Ok(()) };
        for (index, (name, mut message)) in messages.into_iter().enumerate() {
            if index == last {
                message.flags |= NLM_F_ACK;
            }
            sequence = sequence.wrapping_add(1);
            message.append_to(&mut bytes, sequence);
            names.push((name, message.kind));
        }
        self.sequence = sequence;
        self.send(&bytes).map_err(Failure::Other)?;
        self.outcome(first, names)
    }

    /// Reads answers to a batch whose first message is numbered `first`.
    fn outcome(&mut self, first: u32, mut names: Vec<(String, u16)>) -> Result<(), Failure> {
        let mut errors: Vec<(usize, Errno)> = Vec::new();
        let mut taken = false;
        while let Some(datagram) = self.receive().map_err(Failure::Other)? {
            for answer in messages(&datagram).filter(|answer| answer.kind == NLMSG_ERROR) {
                let index = usize::try_from(answer.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                match answer.error() {
                    _ if index >= names.len() => {} // to what somebody asked before
                    Some(0) => taken = true,
                    Some(code) => errors.push((index, errno(code))),
                    None => return Err(Failure::Other(NftError::Malformed)),
                }
            }
        }
        match errors.into_iter().min_by_key(|(index, _)| *index) {
            Some((index, errno)) => {
                let (what, kind) = names.swap_remove(index);
                Err(Failure::Message { what, kind, errno })
            }
            None if taken => Ok(()),
            None => Err(Failure::Other(NftError::Malformed)),
        }
    }

    /// The number of the rules' current generation.
    pub(super) fn generation(&mut self) -> Result<u32, Attempt> {
        let mut generation = None;
        self.ask(
            "the rules' generation",
            Message::new(NFT_MSG_GETGEN, 0, 0, Attributes::default()),
            |answer| {
                let mut attributes = answer.attributes().filter(|_| answer.kind == NFT_MSG_NEWGEN);
                let value = attributes.find(|(kind, _)| *kind == NFTA_GEN_ID);
                if let Some(bytes) = value.and_then(|(_, value)| value.first_chunk().copied()) {
                    generation = Some(u32::from_be_bytes(bytes));
                }
            },
        )?;
        generation.ok_or(Attempt::Failed(NftError::Malformed))
    }

    /// Returns when a change that was under way is done, if the rules' generation is still `generation`.
    pub(super) fn wait_for_changes(&mut self, generation: u32) -> Result<(), Attempt> {
        // For a batch, even of nothing, the kernel first waits until the one before has been dealt with.
        let mut bytes = Vec::new();
        for message in [Message::batch_begin(Some(generation)), Message::batch_end()] {
            self.sequence = self.sequence.wrapping_add(1);
            message.append_to(&mut bytes, self.sequence);
        }
        self.send(&bytes)?;
        let mut result = Ok(());
        while let Some(datagram) = self.receive()? {
            for answer in messages(&datagram).filter(|answer| answer.kind == NLMSG_ERROR) {
                if let Some(code) = answer.error().filter(|code| *code != 0) {
                    result = Err(no_answer("the rules' generation", errno(code)));
                }
            }
        }
        result
    }

    /// The rules with comments in a table; none if there is no such table.
    pub(super) fn rules(&mut self, family: u8, table: &str) -> Result<Vec<Found>, Attempt> {
        let mut rules = Vec::new();
        let request = Attributes::default().text(NFTA_RULE_TABLE, table);
        self.ask(
            "the list of rules",
            Message::new(NFT_MSG_GETRULE, NLM_F_DUMP, family, request),
            |answer| {
                if answer.kind == NFT_MSG_NEWRULE {
                    rules.extend(found(answer, table));
                }
            },
        )?;
        Ok(rules)
    }

    /// Sends one request and hands each answer to `each`, up to the end of a list or the acknowledgment.
    pub(super) fn ask(
        &mut self,
        what: &str,
        request: Message,
        mut each: impl FnMut(&Received<'_>),
    ) -> Result<(), Attempt> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        // A list ends with NLMSG_DONE instead of an acknowledgment.
        let request = Message {
            flags: if request.flags & NLM_F_DUMP == 0 { request.flags | NLM_F_ACK } else { request.flags },
            ..request
        };
        request.append_to(&mut bytes, self.sequence);
        self.send(&bytes)?;
        let mut changed_meanwhile = false;
        let mut code = None;
        while let Some(datagram) = self.receive()? {
            for answer in messages(&datagram).filter(|answer| answer.sequence == self.sequence) {
                changed_meanwhile |= answer.flags & NLM_F_DUMP_INTR != 0;
                match answer.kind {
                    NLMSG_ERROR | NLMSG_DONE => code = Some(answer.error().unwrap_or(0)),
                    _ => each(&answer),
                }
            }
        }
        match code.ok_or(NftError::Malformed)? {
            0 if changed_meanwhile => Err(Attempt::Again),
            0 => Ok(()),
            code => Err(no_answer(what, errno(code))),
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NftError> {
        // The kernel wants a batch in one datagram. What it keeps account of is somewhat more than our bytes.
        let needed = 2 * bytes.len();
        if sockopt::socket_send_buffer_size(self.socket.as_fd()).is_ok_and(|size| size < needed) {
            // Without the right to, an ordinary size may still be enough, or `send` says that it is not.
            let _ = sockopt::set_socket_send_buffer_size_force(self.socket.as_fd(), needed)
                .or_else(|_| sockopt::set_socket_send_buffer_size(self.socket.as_fd(), needed));
        }
        loop {
            match self.socket.send(bytes, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NftError::Io(error)),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// A datagram; `None` when the kernel has said all.
    fn receive(&self) -> Result<Option<Vec<u8>>, NftError> {
        loop {
            let mut datagram = Vec::with_capacity(DATAGRAM);
            match self.socket.recv(&mut datagram, libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(NftError::Io(error)),
                Ok(_) => return Ok(Some(datagram)),
            }
        }
    }
}

/// A rule of `table` that has a comment.
fn found(answer: &Received<'_>, table: &str) -> Option<Found> {
    let family = *answer.payload.first()?;
    let mut found = Found { family, ..Found::default() };
    let mut whose = String::new();
    for (kind, value) in answer.attributes() {
        match kind {
            NFTA_RULE_TABLE => whose = text(value),
            NFTA_RULE_CHAIN => found.chain = text(value),
            NFTA_RULE_HANDLE => found.handle = u64::from_be_bytes(*value.first_chunk()?),
            NFTA_RULE_EXPRESSIONS => found.expressions = value.to_vec(),
            NFTA_RULE_USERDATA => {
                found.comment = user_datum(value, NFTNL_UDATA_RULE_COMMENT)?;
                found.network = user_datum(value, UDATA_RULE_NETWORK);
            }
            _ => {}
        }
    }
    (whose == table && !found.comment.is_empty()).then_some(found)
}

/// The text of this type in a rule's user data.
fn user_datum(mut user_data: &[u8], wanted: u8) -> Option<String> {
    while let [kind, length, rest @ ..] = user_data {
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *kind == wanted {
            return Some(text(value));
        }
        user_data = rest;
    }
    None
}

/// Without the zero byte at its end. A text that is not UTF-8 is none of ours, and stays none.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// What `nlmsgerr` holds is negative.
fn errno(code: i32) -> Errno {
    Errno::from_raw_os_error(code.wrapping_neg())
}

/// Why the kernel does not say something.
fn no_answer(what: &str, errno: Errno) -> Attempt {
    match errno {
        errno if is_passing(errno) => Attempt::Again,
        // What nfnetlink answers when there is no such subsystem behind it.
        errno @ (Errno::INVAL | Errno::OPNOTSUPP) => {
            NftError::Unavailable { what: what.to_owned(), source: errno }.into()
        }
        errno => NftError::Refused { what: what.to_owned(), source: errno }.into(),
    }
}

/// What may be different next time: ERESTART is another generation than the batch was for.
fn is_passing(errno: Errno) -> bool {
    matches!(errno, Errno::AGAIN | Errno::BUSY | Errno::INTR) || errno.raw_os_error() == libc::ERESTART
}

/// The kernel fills up to 32 KiB at a time (net/netlink/af_netlink.c).
const DATAGRAM: usize = 32 * 1024;
