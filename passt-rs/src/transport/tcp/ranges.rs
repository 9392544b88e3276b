//! A small sorted set of sequence ranges: what arrived out of order, or what the guest reported by SACK.

use crate::wire::tcp::Seq;

/// At most `N` disjoint ranges `left..right`, in order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranges<const N: usize> {
    ranges: [(Seq, Seq); N],
    count: usize,
}

impl<const N: usize> Default for Ranges<N> {
    fn default() -> Self {
        Self { ranges: [(Seq(0), Seq(0)); N], count: 0 }
    }
}

impl<const N: usize> Ranges<N> {
    pub(super) fn as_slice(&self) -> &[(Seq, Seq)] {
        self.ranges.get(..self.count).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
    }

    /// Bytes in all ranges.
    pub(super) fn bytes(&self) -> u32 {
        self.as_slice().iter().map(|(left, right)| right.since(*left)).fold(0, u32::wrapping_add)
    }

    /// The end of the last range.
    pub(super) fn highest(&self) -> Option<Seq> {
        self.as_slice().last().map(|(_, right)| *right)
    }

    /// Adds `left..right`, merging what touches it. `false`: no room for another range, nothing changed.
    pub(super) fn insert(&mut self, left: Seq, right: Seq) -> bool {
        if !right.is_after(left) {
            return true;
        }
        let mut merged = (left, right);
        let mut kept = Self::default();
        let mut placed = false;
        for &(l, r) in self.as_slice() {
            if merged.0.is_at_or_after(l) && r.is_at_or_after(merged.0)
                || l.is_at_or_after(merged.0) && merged.1.is_at_or_after(l)
            {
                merged = (merged.0.min(l), merged.1.max(r));
                continue;
            }
            if l.is_after(merged.1) && !placed {
                placed = true;
                if !kept.push(merged) {
                    return false;
                }
            }
            if !kept.push((l, r)) {
                return false;
            }
        }
        if !placed && !kept.push(merged) {
            return false;
        }
        *self = kept;
        true
    }

    /// Forgets everything before `seq`.
    pub(super) fn remove_below(&mut self, seq: Seq) {
        let mut kept = Self::default();
        for &(left, right) in self.as_slice() {
            if right.is_after(seq) {
                kept.push((left.max(seq), right));
            }
        }
        *self = kept;
    }

    /// The first gap at or after `from`: its start, and its end if a range follows.
    pub(super) fn gap_from(&self, from: Seq) -> (Seq, Option<Seq>) {
        let mut start = from;
        for &(left, right) in self.as_slice() {
            if left.is_after(start) {
                return (start, Some(left));
            }
            start = start.max(right);
        }
        (start, None)
    }

    fn push(&mut self, range: (Seq, Seq)) -> bool {
        let Some(place) = self.ranges.get_mut(self.count) else { return false };
        *place = range;
        self.count += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a set of bytes, anywhere on the circle.
        #[test]
        fn agrees_with_a_set_of_bytes(
            base in any::<u32>(), steps in proptest::collection::vec((0u32..60, 1u32..12), 1..40), cut in 0u32..60,
        ) {
            let mut ranges = Ranges::<16>::default();
            let mut model = std::collections::BTreeSet::new();
            for (at, len) in steps {
                if ranges.insert(Seq(base) + at, Seq(base) + (at + len)) {
                    model.extend(at..at + len);
                }
            }
            ranges.remove_below(Seq(base) + cut);
            model.retain(|byte| *byte >= cut);
            let bytes: Vec<u32> = ranges
                .as_slice()
                .iter()
                .flat_map(|(left, right)| left.since(Seq(base))..right.since(Seq(base)))
                .collect();
            prop_assert_eq!(bytes, model.iter().copied().collect::<Vec<_>>());
            let (gap, end) = ranges.gap_from(Seq(base) + cut);
            let gap = gap.since(Seq(base));
            prop_assert!(!model.contains(&gap));
            if let Some(end) = end {
                prop_assert!(model.contains(&end.since(Seq(base))));
            }
        }
    }

    #[test]
    fn a_range_too_many_is_refused_and_changes_nothing() {
        let mut ranges = Ranges::<2>::default();
        assert!(ranges.insert(Seq(10), Seq(20)) && ranges.insert(Seq(30), Seq(40)));
        assert!(!ranges.insert(Seq(50), Seq(60)));
        assert_eq!(ranges.as_slice(), [(Seq(10), Seq(20)), (Seq(30), Seq(40))]);
        assert!(ranges.insert(Seq(20), Seq(30)));
        assert_eq!(ranges.as_slice(), [(Seq(10), Seq(40))]);
    }
}
