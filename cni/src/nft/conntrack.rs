//! Flows that connection tracking remembers from before a mapping was there. It must never touch those of TCP or
//! SCTP, which begin with a packet of their own.
//!
//! Address translation is decided with a flow's first packet. To the kernel, a client that keeps sending UDP from one
//! port sends one flow, and after a VM has moved to another address it would send to the old one for as long as it
//! pauses for less than the flow's timeout (`net/netfilter/nf_conntrack_udp_timeout`, 30 s).

use netlink_packet_core::NLM_F_DUMP;
use rustix::io::Errno;

use super::abi::*;
use super::transport::Transport;
use super::wire::{Attributes, Message, Received, attributes};
use super::{Attempt, NftError};
use crate::protocol::Protocol;

/// Deletes flows of UDP of `family` that were sent to one of `ports`, wherever they go; says how many.
pub(super) fn forget_udp(transport: &mut Transport, family: u8, ports: &[u16]) -> Result<usize, Attempt> {
    let what = "the list of flows";
    let mut flows = Vec::new();
    let request = Message::new(IPCTNL_MSG_CT_GET, NLM_F_DUMP, family, Attributes::default());
    transport.ask(what, request, |answer| flows.extend(identity(answer, ports)))?;
    let mut forgotten = 0;
    for flow in flows {
        let request = Message::new(IPCTNL_MSG_CT_DELETE, 0, family, flow);
        match transport.ask("deletion of a flow", request, |_| {}) {
            // It ended by itself.
            Err(Attempt::Failed(NftError::Refused { source: Errno::NOENT, .. })) => {}
            other => other.map(|()| forgotten += 1)?,
        }
    }
    Ok(forgotten)
}

/// What a flow is deleted by, if it is of UDP and to one of `ports`.
fn identity(answer: &Received<'_>, ports: &[u16]) -> Option<Attributes> {
    if answer.kind != IPCTNL_MSG_CT_NEW {
        return None;
    }
    let find = |bytes, wanted| attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value));
    let original = answer.attributes().find_map(|(kind, value)| (kind == CTA_TUPLE_ORIG).then_some(value))?;
    let protocol = find(original, CTA_TUPLE_PROTO)?;
    let port = u16::from_be_bytes(*find(protocol, CTA_PROTO_DST_PORT)?.first_chunk()?);
    if find(protocol, CTA_PROTO_NUM)? != [Protocol::Udp.number()] || !ports.contains(&port) {
        return None;
    }
    Some(answer.attributes().fold(Attributes::default(), |identity, (kind, value)| match kind {
        CTA_TUPLE_ORIG => identity.nest_bytes(kind, value),
        CTA_ID | CTA_ZONE => identity.put(kind, value),
        _ => identity,
    }))
}
