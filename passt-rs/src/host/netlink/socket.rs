//! Request and reply over a blocking rtnetlink socket.

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Why the kernel's configuration could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    #[error("cannot talk to the kernel over netlink")]
    Io(#[source] io::Error),
    #[error("the kernel's answer cannot be read")]
    Decode(#[source] DecodeError),
    #[error("the kernel refused to {request}")]
    Refused { request: Request, source: io::Error },
    #[error("there is no interface named {0}")]
    NoInterface(String),
}

/// What was asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    List,
    SetLink,
    AddAddress,
    AddRoute,
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::List => "list interfaces, addresses and routes",
            Self::SetLink => "set the interface up",
            Self::AddAddress => "add an address",
            Self::AddRoute => "add a route",
        })
    }
}

/// An open rtnetlink socket of the calling thread's network namespace.
pub(super) struct Netlink {
    socket: Socket,
}

impl Netlink {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        socket.bind_auto().map_err(NetlinkError::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(NetlinkError::Open)?;
        Ok(Self { socket })
    }

    /// Every object of the kind asked for.
    pub(super) fn dump(
        &self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.exchange(message, NLM_F_DUMP, Request::List)
    }

    /// A change that succeeds also when what it adds is there already.
    pub(super) fn change(&self, message: RouteNetlinkMessage, request: Request) -> Result<(), NetlinkError> {
        self.exchange(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, request).map(|_| ())
    }

    /// One request, and its answers up to the acknowledgement or the end of the dump.
    fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        request: Request,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(NetlinkError::Io)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(NetlinkError::Io)?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(NetlinkError::Decode)?;
                // The kernel pads each message but the last to four bytes; the length counts no padding.
                let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                if let NetlinkPayload::InnerMessage(inner) = answer.payload {
                    answers.push(inner);
                } else if let NetlinkPayload::Done(_) = answer.payload {
                    return Ok(answers);
                } else if let NetlinkPayload::Error(error) = answer.payload {
                    return match error.code {
                        None => Ok(answers),
                        Some(_) => Err(NetlinkError::Refused { request, source: error.to_io() }),
                    };
                }
            }
        }
    }
}
