//! The host's bytes on their way to the guest: from a socket's receive queue, which keeps them, into frames.

use rustix::io::Errno;

use crate::flow::{FlowId, Key};
use crate::guest::Guest;
use crate::host::tcp::{Peeked, SKIP_MAX};
use crate::transport::tcp::Plan;
use crate::wire::tcp::{Flags, HEADER_LEN};
use crate::wire::{ETHERNET_HEADER_LEN, ip_header_len};

use super::core::Core;
use super::tcp::{TcpFlow, clamp, from_peer};

/// Largest IP packet, headers included.
const FRAME_IP_MAX: usize = 65_535;

/// Frames sent to the guest for one flow before others get their turn.
const PUMP_FRAMES: usize = 16;

impl TcpFlow {
    /// Sends the guest what its window and the socket's queue allow.
    pub(super) fn pump<G: Guest>(&mut self, core: &mut Core<G>, id: FlowId, key: &Key) -> Result<(), Errno> {
        let headers = ETHERNET_HEADER_LEN + ip_header_len(key.peer.address) + HEADER_LEN;
        let mss = u32::from(self.connection.mss());
        let max = if core.cable.offloads().tso(key.peer.address) {
            clamp(FRAME_IP_MAX + ETHERNET_HEADER_LEN - headers)
        } else {
            mss
        };
        for _ in 0..PUMP_FRAMES {
            let skippable =
                core.has_peek_offset || self.connection.in_flight() as usize + max as usize <= SKIP_MAX;
            let more = self.readable && skippable && core.may_retain_more(self.retained);
            let Some(plan) = self.connection.plan(core.now, more, max) else {
                return Ok(());
            };
            let (seq, mut asked) = match plan {
                Plan::Data { seq, len, .. } => (seq, len as usize),
                Plan::Fin { seq } => (seq, 0),
            };
            let Some(room) = core.cable.guest.reserve(headers, asked) else {
                core.block(id);
                return Ok(());
            };
            let sent = match plan {
                Plan::Fin { .. } => 0,
                Plan::Data { .. } => {
                    let scratch = (!core.has_peek_offset).then_some(core.scratch.as_mut_slice());
                    asked = asked.min(room.payload_len());
                    match self.socket.peek(seq.since(self.head), room.payload.pieces(), scratch) {
                        Peeked::Bytes(bytes) => bytes,
                        Peeked::Empty => {
                            self.readable = false;
                            continue;
                        }
                        Peeked::End => {
                            self.readable = false;
                            self.connection.host_ended();
                            continue;
                        }
                        Peeked::Failed(error) => return Err(error),
                    }
                }
            };
            self.send_planned(core, key, &plan, headers, (asked, sent));
        }
        self.schedule(core, id);
        Ok(())
    }

    fn send_planned<G: Guest>(
        &mut self,
        core: &mut Core<G>,
        key: &Key,
        plan: &Plan,
        headers: usize,
        (asked, sent): (usize, usize),
    ) {
        let (seq, flags) = match plan {
            Plan::Fin { seq } => (*seq, Flags::FIN),
            Plan::Data { seq, again, .. } => {
                core.tcp.retransmits_total += u64::from(*again);
                if !again {
                    self.to_guest_bytes += sent as u64;
                    self.retained += clamp(sent);
                    core.retained_bytes += sent as u64;
                    // Less than asked for: the queue is read to its last byte, and a later one raises a new
                    // edge. An end that came with these bytes does not.
                    self.readable &= sent == asked || self.ended;
                }
                (*seq, if sent == asked { Flags::default() } else { Flags::PSH })
            }
        };
        let segment = from_peer(key, self.connection.data_header(seq, flags));
        core.cable.publish_tcp(key, &segment, headers, sent, self.connection.mss());
        self.connection.sent(core.now, plan, clamp(sent));
        self.active = core.now;
    }
}
