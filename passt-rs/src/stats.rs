//! What the translator counts, and the shapes in which it tells.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::drop_reason::{DropReason, Drops};

/// Frames and bytes of the cable, Ethernet headers included.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CableCounters {
    pub from_guest_frames: u64,
    pub from_guest_bytes: u64,
    pub to_guest_frames: u64,
    pub to_guest_bytes: u64,
    /// TCP segments towards the guest that its end of the cable refused; they are sent again.
    pub lost_frames: u64,
    /// Times a guest was attached.
    pub link_ups: u64,
}

/// TCP since start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TcpCounters {
    /// Connections the guest asked for.
    pub from_guest_total: u64,
    /// Connections accepted on forwarded ports.
    pub from_host_total: u64,
    /// Host connects that failed: refused, unreachable, timed out.
    pub connect_failures_total: u64,
    pub resets_from_guest_total: u64,
    pub resets_to_guest_total: u64,
    /// Connections of a process before this one that the guest was asked about, so that it finds them gone.
    pub lost_told_total: u64,
    /// Segments sent to the guest again.
    pub retransmits_total: u64,
    /// Bytes that waited in the spill for the host's socket.
    pub spilled_bytes_total: u64,
    /// Connections refused because descriptors or flows were exhausted.
    pub refused_at_limit_total: u64,
    /// Half-open connections reset because a newer one took their place.
    pub half_open_evicted_total: u64,
}

/// UDP since start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct UdpCounters {
    /// Flows the guest began.
    pub from_guest_total: u64,
    /// Flows that began on forwarded ports.
    pub from_host_total: u64,
    /// Flows whose source port on the host side is not the guest's.
    pub port_replaced_total: u64,
}

/// Echo since start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct EchoCounters {
    /// Identifiers and destinations the guest pinged.
    pub from_guest_total: u64,
}

/// What concerns UDP and echo alike, since start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct DatagramCounters {
    /// Errors that the guest was told of by ICMP.
    pub errors_to_guest_total: u64,
    /// Datagrams of the guest that came in fragments and are whole.
    pub reassembled_total: u64,
    /// Datagrams to the guest that were cut to its MTU.
    pub fragmented_total: u64,
}

/// Everything `{"get":"stats"}` tells.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    pub cable: CableCounters,
    pub tcp: TcpCounters,
    pub udp: UdpCounters,
    pub echo: EchoCounters,
    pub datagram: DatagramCounters,
    /// Flows alive now.
    pub flows: usize,
    pub flows_limit: usize,
    /// UDP and echo among them.
    pub datagram_flows: usize,
    pub datagram_flows_limit: usize,
    /// Connections accepted from the host whose guest did not answer yet.
    pub half_open: usize,
    pub half_open_limit: usize,
    /// Memory for fragments of datagrams that are not complete yet.
    pub reassembly_bytes: usize,
    pub reassembly_limit_bytes: usize,
    /// Flows that wait for room at the guest's end.
    pub waiting_for_guest: usize,
    /// Memory for bytes that host sockets did not take yet.
    pub spill_bytes: usize,
    pub spill_limit_bytes: usize,
    /// Bytes sent to the guest that it did not acknowledge; they lie in the kernel's queues.
    pub retained_bytes: u64,
    pub retained_limit_bytes: u64,
    pub drops: Map<String, Value>,
}

/// Drops by name.
pub fn drops_by_name(drops: &Drops) -> Map<String, Value> {
    DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), drops.of(*reason).into())).collect()
}

/// One flow of `{"get":"flows"}`.
#[derive(Clone, Debug, Serialize)]
pub struct FlowReport {
    pub protocol: &'static str,
    pub guest: String,
    pub peer: String,
    /// Who began.
    pub initiator: &'static str,
    pub state: String,
    pub to_guest_bytes: u64,
    pub from_guest_bytes: u64,
    pub age_ms: u64,
    pub idle_ms: u64,
    /// The guest's receive window in bytes (TCP).
    pub window: Option<u32>,
    /// Bytes waiting for the host's socket, and bytes the guest did not acknowledge (TCP).
    pub queued_to_host_bytes: Option<u32>,
    pub in_flight_to_guest_bytes: Option<u32>,
}
