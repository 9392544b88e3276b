//! How much kernel memory the sockets of a new flow may hold, so that all of them stay within a budget.
//!
//! The kernel charges what sockets queue to our container, and with nobody to read it a queue grows to megabytes. A
//! flow's share is fixed when it begins, as a queue cannot shrink without loss: the n-th flow alive gets an n-th of
//! what the first one gets. However flows come and go, the j-th oldest of those alive began beside at least j - 1
//! others. So all shares together are at most the first one times 1 + 1/2 + ... + 1/n, which is 12.4 for the most flows
//! there may be. Below the floor a share would carry nothing; from there on the sum grows by the floor for each flow.
//!
//! | of the budget | for |
//! |---|---|
//! | 1/32 each way, times 12.4 | TCP sockets |
//! | 1/128, times 11.7 | UDP and ping sockets |
//! | 1/128 | sockets of forwarded UDP ports |
//! | 1/8 | bytes from the guest that sockets do not take, memory of ours |
//!
//! Bytes in flight to the guest lie in the receive queues of TCP sockets, and are counted there.

use super::core::{Limits, SHORT_CAPACITY};

/// Kernel memory for the sockets of all flows, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    bytes: u64,
}

impl Budget {
    /// The least that is of use: the first connection gets 32 KiB each way.
    pub const MIN_BYTES: u64 = 1 << 20;
    /// Far beyond what changes anything.
    pub const MAX_BYTES: u64 = 1 << 40;

    /// Bytes that a new connection's socket may hold each way beside `others` connections. `None`: as many as the
    /// kernel lets it.
    pub(super) fn tcp(self, others: usize) -> Option<u32> {
        share(self.bytes / TCP_PARTS, others, TCP_CEILING)
    }

    /// Bytes that may wait in the socket of a new UDP or echo flow beside `others`. `None`: as many as ever.
    pub(super) fn datagrams(self, others: usize) -> Option<u32> {
        share(self.bytes / DATAGRAM_PARTS, others, DATAGRAM_CEILING)
    }
}

impl Limits {
    /// These limits, with what flows hold in sockets and for sockets within `bytes` of memory, and 32 KiB for each
    /// connection and 16 KiB for each other flow beyond.
    #[must_use]
    pub fn within(self, bytes: u64) -> Self {
        let spill = usize::try_from(bytes / SPILL_PARTS).unwrap_or(usize::MAX);
        let per_flow = u32::try_from(spill / SPILL_FLOWS).unwrap_or(u32::MAX).max(SHORT_CAPACITY);
        Self {
            sockets: Some(Budget { bytes }),
            spill_bytes: self.spill_bytes.min(spill),
            spill_per_flow_bytes: self.spill_per_flow_bytes.min(per_flow),
            retained_bytes: self.retained_bytes.min(bytes / RETAINED_PARTS),
            ..self
        }
    }
}

fn share(first: u64, others: usize, ceiling: u64) -> Option<u32> {
    let number = u64::try_from(others).unwrap_or(u64::MAX).saturating_add(1);
    let share = (first / number).max(FLOOR);
    if share < ceiling { u32::try_from(share).ok() } else { None }
}

/// Each way: a window of 8 KiB, half of it, is 40 MB/s at a round trip of 0.2 ms, as within a cluster.
const FLOOR: u64 = 16 << 10;
/// What `tcp_rmem` lets a queue grow to by default (tcp(7)): a share of that size needs no limit.
const TCP_CEILING: u64 = 6 << 20;
/// What UDP sockets are given without a budget, as the kernel counts it.
const DATAGRAM_CEILING: u64 = 2 << 20;

const TCP_PARTS: u64 = 32;
const DATAGRAM_PARTS: u64 = 128;
const SPILL_PARTS: u64 = 8;
/// Stalled flows whose whole window fits the spill.
const SPILL_FLOWS: usize = 8;
const RETAINED_PARTS: u64 = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn budget(bytes: u64) -> Budget {
        Budget { bytes }
    }

    #[test]
    fn the_first_flow_gets_most_and_the_nth_an_nth_down_to_the_floor() {
        for (mib, others, tcp, datagrams) in [
            (1, 0, Some(32 << 10), Some(16 << 10)),
            (1, 1, Some(16 << 10), Some(16 << 10)),
            (1, 2, Some(16 << 10), Some(16 << 10)),
            (32, 0, Some(1 << 20), Some(256 << 10)),
            (32, 3, Some(256 << 10), Some(64 << 10)),
            (32, 1000, Some(16 << 10), Some(16 << 10)),
            (32, usize::MAX, Some(16 << 10), Some(16 << 10)),
            (191, 0, Some(6_258_688), Some(1_564_672)),
            (192, 0, None, Some(1_572_864)),
            (192, 1, Some(3 << 20), Some(786_432)),
            (256, 0, None, None),
            (1 << 20, 1, None, None),
        ] {
            let budget = budget(mib * MIB);
            assert_eq!((budget.tcp(others), budget.datagrams(others)), (tcp, datagrams), "{mib} {others}");
        }
    }

    #[test]
    fn pools_are_parts_of_the_budget_and_never_larger_than_without_one() {
        let plain = Limits::default();
        assert_eq!(plain.sockets, None);
        for (mib, spill, per_flow, retained) in [
            (1, 128 << 10, 64 << 10, MIB / 4),
            (16, 2 << 20, 256 << 10, 4 * MIB),
            (32, 4 << 20, 512 << 10, 8 * MIB),
            (1 << 20, plain.spill_bytes, plain.spill_per_flow_bytes, plain.retained_bytes),
        ] {
            let expected = Limits {
                sockets: Some(budget(mib * MIB)),
                spill_bytes: spill,
                spill_per_flow_bytes: per_flow,
                retained_bytes: retained,
                ..plain
            };
            assert_eq!(plain.within(mib * MIB), expected);
        }
    }

    /// Both ways of `connections` that came one after the other, a flow's floor left out.
    fn beyond_floor(budget: Budget, connections: usize, datagrams: usize) -> u64 {
        let tcp = (0..connections).filter_map(|others| budget.tcp(others)).map(|share| 2 * u64::from(share));
        let other = (0..datagrams).filter_map(|others| budget.datagrams(others)).map(u64::from);
        let floors = FLOOR * (2 * connections + datagrams) as u64;
        (tcp.sum::<u64>() + other.sum::<u64>()).saturating_sub(floors)
    }

    #[test]
    fn all_flows_there_may_be_and_the_spill_stay_within_the_budget() {
        let Limits { flows, datagram_flows, .. } = Limits::default();
        for mib in [1, 8, 32, 64, 128, 191] {
            let (bytes, budget) = (mib * MIB, budget(mib * MIB));
            let listeners = u64::from(budget.datagrams(0).unwrap());
            let pool = Limits::default().within(bytes).spill_bytes as u64 + listeners;
            for (connections, datagrams) in [(flows, 0), (flows - datagram_flows, datagram_flows)] {
                assert!(beyond_floor(budget, connections, datagrams) + pool <= bytes, "{mib}");
            }
        }
    }

    proptest! {
        /// Coming and going leaves no more to those alive than if they had come one after the other.
        #[test]
        fn flows_that_come_and_go_hold_no_more(
            bytes in Budget::MIN_BYTES..150 * MIB, steps in proptest::collection::vec((0u8..3, any::<usize>()), 1..400),
        ) {
            let budget = budget(bytes);
            let mut alive = Vec::new();
            for (step, which) in steps {
                if step > 0 || alive.is_empty() {
                    alive.push(budget.tcp(alive.len()).unwrap());
                } else {
                    alive.remove(which % alive.len());
                }
                let held: u64 = alive.iter().map(|share| 2 * u64::from(*share)).sum();
                let in_order: u64 = (0..alive.len()).map(|others| 2 * u64::from(budget.tcp(others).unwrap())).sum();
                prop_assert!(held <= in_order, "{held} of {in_order}");
                prop_assert!(held <= bytes + 2 * FLOOR * alive.len() as u64);
            }
        }
    }
}
