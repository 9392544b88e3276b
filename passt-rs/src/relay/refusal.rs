//! What the guest hears when a connection it asked for cannot be had: what the network would have told a
//! kernel that stood in the pod's place.

use std::net::IpAddr;

use rustix::io::Errno;

use crate::drop_reason::DropReason;
use crate::flow::Key;
use crate::guest::Guest;
use crate::transport::tcp::refuse;
use crate::wire::icmp_error::IcmpError;
use crate::wire::protocol;
use crate::wire::tcp::{Flags, HEADER_LEN, Segment, Seq};

use super::core::Core;
use super::icmp::{self, Quote};

/// Why a SYN was not followed.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Nothing is said.
    Silent(DropReason),
    /// Descriptors, memory or flows are exhausted.
    Limit,
    /// The host's connect failed.
    Connect(Errno),
}

impl Refusal {
    /// A socket could not be had.
    pub(super) fn of_socket(error: Errno) -> Self {
        match error {
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => Self::Limit,
            _ => Self::Connect(error),
        }
    }

    /// Tells the guest, whose SYN had the sequence number `seq`.
    pub(super) fn tell<G: Guest>(&self, core: &mut Core<G>, key: &Key, seq: Seq) {
        match self {
            Self::Silent(reason) => core.drops.count(*reason),
            Self::Limit => {
                core.drops.count(DropReason::FlowLimit);
                core.tcp.refused_at_limit_total += 1;
                reset_syn(core, key, seq);
            }
            Self::Connect(error) => {
                tracing::debug!("tcp {} -> {}: {error}", key.guest, key.peer);
                core.tcp.connect_failures_total += 1;
                match icmp_of(*error) {
                    Some(icmp) => send_icmp(core, key, seq, icmp),
                    None => reset_syn(core, key, seq),
                }
            }
        }
    }
}

/// Answers a segment of no connection with a reset.
pub(super) fn reset_stray<G: Guest>(core: &mut Core<G>, key: &Key, segment: &Segment, payload: usize) {
    let Some(reset) = refuse(segment, u32::try_from(payload).unwrap_or(0)) else { return };
    core.tcp.resets_to_guest_total += 1;
    if core.cable.send_tcp(key, &reset).is_err() {
        core.drops.count(DropReason::GuestFull);
    }
}

fn reset_syn<G: Guest>(core: &mut Core<G>, key: &Key, seq: Seq) {
    reset_stray(core, key, &quoted_syn(key, seq), 0);
}

/// The ICMP error behind a connect's failure. `None`: the peer itself refused, or the fault is ours.
fn icmp_of(error: Errno) -> Option<IcmpError> {
    match error {
        Errno::NETUNREACH => Some(IcmpError::NetUnreachable),
        // A connect that timed out has an explanation only routers give.
        Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::TIMEDOUT => Some(IcmpError::HostUnreachable),
        Errno::ACCESS | Errno::PERM => Some(IcmpError::AdminProhibited),
        _ => None,
    }
}

fn send_icmp<G: Guest>(core: &mut Core<G>, key: &Key, seq: Seq, error: IcmpError) {
    let network = &core.settings.network;
    let from = match key.peer.address {
        IpAddr::V4(_) => network.v4.map(|v4| v4.ours().into()),
        IpAddr::V6(_) => network.v6.map(|v6| v6.our_link_local.into()),
    };
    let Some(from) = from else { return };
    let mut header = [0; HEADER_LEN];
    quoted_syn(key, seq).emit(&mut header, 0);
    icmp::send(core, key, from, error, &Quote::rebuilt(key, protocol::TCP, &header, &[]));
}

/// The guest's SYN as far as an error or a reset refers to it.
fn quoted_syn(key: &Key, seq: Seq) -> Segment {
    Segment {
        src_port: key.guest.port,
        dst_port: key.peer.port,
        seq,
        flags: Flags::SYN,
        ..Segment::default()
    }
}
