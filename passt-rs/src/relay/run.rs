//! Datagrams of one peer that came together and may leave for the guest as one frame, cut by its device.
//!
//! A stream of equal datagrams is received a batch at a time; one frame for many of them costs the guest's
//! end of the cable one system call and one pass through its stack.

use std::io::IoSlice;

use crate::guest::SLICES_MAX;
use crate::host::batch::Received;
use crate::wire::udp;

/// Datagrams of one frame: what fits the iovecs of a frame beside its headers.
const RUN_MAX: usize = SLICES_MAX - 3;
/// Payload of one frame; an IP packet holds headers too.
const BYTES_MAX: usize = 65_000;

/// One or more datagrams with the same marking, equal in length but for the last, which may be shorter.
#[derive(Debug)]
pub(super) struct Run<'a> {
    first: Received<'a>,
    slices: [IoSlice<'a>; RUN_MAX],
    count: usize,
    bytes: usize,
    /// Nothing may follow.
    closed: bool,
}

impl<'a> Run<'a> {
    /// A run that begins with `first`, for a guest that takes super-datagrams or not (`uso`), and whose packets have
    /// room for `fits` bytes of payload.
    pub(super) fn new(first: Received<'a>, uso: bool, fits: usize) -> Self {
        let mut slices = [IoSlice::new(&[]); RUN_MAX];
        slices[0] = IoSlice::new(first.payload);
        let len = first.payload.len();
        let joinable = uso && first.segment.is_none() && len > 0 && len <= fits;
        Self { first, slices, count: 1, bytes: len, closed: !joinable }
    }

    /// Adds `next` if one frame can hold it too.
    pub(super) fn push(&mut self, next: &Received<'a>) -> bool {
        let (size, len) = (self.first.payload.len(), next.payload.len());
        let same = next.segment.is_none()
            && next.hop_limit == self.first.hop_limit
            && next.traffic_class == self.first.traffic_class;
        if self.closed || !same || len == 0 || len > size || self.bytes + len > BYTES_MAX - udp::HEADER_LEN {
            return false;
        }
        let Some(place) = self.slices.get_mut(self.count) else { return false };
        *place = IoSlice::new(next.payload);
        self.count += 1;
        self.bytes += len;
        self.closed = len < size;
        true
    }

    pub(super) fn first(&self) -> &Received<'a> {
        &self.first
    }

    pub(super) fn slices(&self) -> &[IoSlice<'a>] {
        self.slices.get(..self.count).unwrap_or_default()
    }

    /// Payload bytes of all datagrams.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(payload: &[u8]) -> Received<'_> {
        Received { payload, hop_limit: Some(64), ..Received::default() }
    }

    #[test]
    fn equal_datagrams_join_and_a_shorter_one_is_the_last() {
        let bytes = [0; 1000];
        let mut run = Run::new(datagram(&bytes), true, 1472);
        assert!(run.push(&datagram(&bytes)) && run.push(&datagram(&bytes[..10])));
        assert!(!run.push(&datagram(&bytes[..10])));
        assert_eq!((run.slices().len(), run.bytes()), (3, 2010));
    }

    #[test]
    fn what_differs_or_does_not_fit_starts_another_run() {
        let bytes = [0; 1473];
        let other_hops = Received { hop_limit: Some(1), ..datagram(&bytes[..1000]) };
        let joined = Received { segment: Some(10), ..datagram(&bytes[..1000]) };
        let mut run = Run::new(datagram(&bytes[..1000]), true, 1472);
        for next in [other_hops, joined, datagram(&bytes[..1001]), datagram(&[])] {
            assert!(!run.push(&next), "{next:?}");
        }
        assert!(!Run::new(datagram(&bytes), true, 1472).push(&datagram(&bytes)), "to be fragmented");
        assert!(!Run::new(datagram(&bytes[..9]), false, 1472).push(&datagram(&bytes[..9])));
    }
}
