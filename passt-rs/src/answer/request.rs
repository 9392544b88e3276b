//! A guest's IP packet as the answers read it: whole, unfragmented, places checked.

use std::net::IpAddr;

use crate::drop_reason::DropReason;
use crate::wire::udp::{self, Datagram};
use crate::wire::{Headers, Mac, Malformed};

/// Who asks whom, and what stands behind the IP headers.
pub(super) struct Request<'a> {
    pub(super) src_mac: Mac,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) hop_limit: u8,
    /// The transport's header and data, without Ethernet padding.
    pub(super) message: &'a [u8],
}

impl<'a> Request<'a> {
    pub(super) fn parse(frame: &'a [u8], protocol: u8) -> Result<Self, DropReason> {
        let headers = Headers::parse(frame, frame.len()).map_err(|malformed| match malformed {
            Malformed::Checksum => DropReason::Checksum,
            Malformed::Truncated
            | Malformed::Version
            | Malformed::HeaderLength
            | Malformed::Length
            | Malformed::Extensions => DropReason::Malformed,
        })?;
        let ip = headers.ip.ok_or(DropReason::NotForUs)?;
        if ip.fragment.is_some() {
            return Err(DropReason::Fragment);
        }
        if ip.protocol != protocol {
            return Err(DropReason::NotForUs);
        }
        if headers.src.is_multicast() || ip.src.is_multicast() {
            return Err(DropReason::Source);
        }
        let message = frame.get(ip.payload()).ok_or(DropReason::Malformed)?;
        Ok(Self { src_mac: headers.src, src: ip.src, dst: ip.dst, hop_limit: ip.hop_limit, message })
    }

    /// The payload of a datagram to `port`.
    pub(super) fn datagram_to(&self, port: u16) -> Result<&'a [u8], DropReason> {
        let datagram = Datagram::parse(self.message, self.message.len()).ok_or(DropReason::Malformed)?;
        if datagram.dst_port != port {
            return Err(DropReason::NotForUs);
        }
        let payload = udp::HEADER_LEN..udp::HEADER_LEN + datagram.payload_len;
        self.message.get(payload).ok_or(DropReason::Malformed)
    }
}
