//! What we offer, by the names of the specifications: virtio 1.2 sections 5.1.3 and 6, and vhost-user's own bits.

use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;

use crate::guest::Offloads;

pub(super) const NET_F_CSUM: u64 = 1 << 0;
pub(super) const NET_F_GUEST_CSUM: u64 = 1 << 1;
pub(super) const NET_F_GUEST_TSO4: u64 = 1 << 7;
pub(super) const NET_F_GUEST_TSO6: u64 = 1 << 8;
pub(super) const NET_F_GUEST_ECN: u64 = 1 << 9;
pub(super) const NET_F_HOST_TSO4: u64 = 1 << 11;
pub(super) const NET_F_HOST_TSO6: u64 = 1 << 12;
pub(super) const NET_F_HOST_ECN: u64 = 1 << 13;
pub(super) const NET_F_MRG_RXBUF: u64 = 1 << 15;
/// Front ends offer it to the guest together with the queue that controls it, which they serve themselves.
pub(super) const NET_F_MQ: u64 = 1 << 22;
pub(super) const NET_F_GUEST_USO4: u64 = 1 << 54;
pub(super) const NET_F_GUEST_USO6: u64 = 1 << 55;
pub(super) const NET_F_HOST_USO: u64 = 1 << 56;
/// Descriptors of a frame may be cut anywhere; every device of version 1 has it.
pub(super) const F_ANY_LAYOUT: u64 = 1 << 27;
pub(super) const RING_F_INDIRECT_DESC: u64 = 1 << 28;
pub(super) const RING_F_EVENT_IDX: u64 = 1 << 29;
pub(super) const F_VERSION_1: u64 = 1 << 32;
/// Write a log of what changes in the guest's memory.
pub(super) const VHOST_F_LOG_ALL: u64 = 1 << 26;
pub(super) const VHOST_USER_F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// Every feature we serve.
pub(super) const OFFERED: u64 = NET_F_CSUM
    | NET_F_GUEST_CSUM
    | NET_F_GUEST_TSO4
    | NET_F_GUEST_TSO6
    | NET_F_GUEST_ECN
    | NET_F_HOST_TSO4
    | NET_F_HOST_TSO6
    | NET_F_HOST_ECN
    | NET_F_MRG_RXBUF
    | NET_F_MQ
    | NET_F_GUEST_USO4
    | NET_F_GUEST_USO6
    | NET_F_HOST_USO
    | F_ANY_LAYOUT
    | RING_F_INDIRECT_DESC
    | RING_F_EVENT_IDX
    | F_VERSION_1
    | VHOST_F_LOG_ALL
    | VHOST_USER_F_PROTOCOL_FEATURES;

/// Every protocol feature we serve; REPLY_ACK is the message layer's.
pub(super) const PROTOCOL: Protocol = Protocol::MQ
    .union(Protocol::LOG_SHMFD)
    .union(Protocol::REPLY_ACK)
    .union(Protocol::BACKEND_REQ)
    .union(Protocol::INFLIGHT_SHMFD)
    .union(Protocol::RESET_DEVICE)
    .union(Protocol::CONFIGURE_MEM_SLOTS);

/// Pairs of queues. A message that gives a ring its descriptors names it by 8 bits (vhost-user,
/// VHOST_USER_SET_VRING_KICK), so there are no more than 256 rings.
pub(super) const PAIRS_MAX: usize = 128;

/// What the guest can be handed, of the features it accepted.
pub(super) fn offloads(accepted: u64) -> Offloads {
    let has = |feature| accepted & feature == feature;
    Offloads {
        checksum: has(NET_F_GUEST_CSUM),
        tso4: has(NET_F_GUEST_CSUM | NET_F_GUEST_TSO4),
        tso6: has(NET_F_GUEST_CSUM | NET_F_GUEST_TSO6),
        uso4: has(NET_F_GUEST_CSUM | NET_F_GUEST_USO4),
        uso6: has(NET_F_GUEST_CSUM | NET_F_GUEST_USO6),
    }
}

/// Length of the header in front of each frame (virtio 1.2 section 5.1.6.1).
pub(super) fn header_len(accepted: u64) -> usize {
    if accepted & (F_VERSION_1 | NET_F_MRG_RXBUF) == 0 { 10 } else { 12 }
}
