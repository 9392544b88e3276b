//! A hashed timer wheel: one deadline per flow slot, O(1) to set, move and cancel.
//!
//! Slots are named by index, as in the flow table; links lie in arrays beside them, so the wheel is plain
//! data. A deadline beyond the wheel's horizon is parked in the last bucket before it and looked at again
//! once per turn, which for thousands of idle flows is a few looks per millisecond.

use std::time::Duration;

use super::Instant;

/// Width of a bucket: deadlines fire at most this much late.
const TICK: Duration = Duration::from_millis(8);
const TICK_MICROS: u64 = 8_000;
/// Buckets of the wheel; the horizon is this many ticks, 32 s.
const BUCKETS: usize = 4096;
const NONE: u32 = u32::MAX;

/// Deadlines of numbered slots.
#[derive(Debug)]
pub struct Wheel {
    /// First slot of each bucket's list.
    heads: Vec<u32>,
    /// One bit per bucket that is not empty.
    occupied: Vec<u64>,
    nodes: Vec<Node>,
    /// Ticks before this one have been served.
    tick: u64,
    armed: usize,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    deadline: Instant,
    previous: u32,
    next: u32,
    /// `NONE` while not armed.
    bucket: u32,
}

impl Node {
    const IDLE: Self = Self { deadline: Instant::from_micros(0), previous: NONE, next: NONE, bucket: NONE };
}

impl Wheel {
    pub fn new(now: Instant) -> Self {
        Self {
            heads: vec![NONE; BUCKETS],
            occupied: vec![0; BUCKETS / 64],
            nodes: Vec::new(),
            tick: now.as_micros() / TICK_MICROS,
            armed: 0,
        }
    }

    /// Arms `slot` for `deadline`, replacing what was armed.
    pub fn set(&mut self, slot: u32, deadline: Instant) {
        let at = slot as usize;
        if at >= self.nodes.len() {
            self.nodes.resize(at + 1, Node::IDLE);
        }
        self.cancel(slot);
        let bucket = bucket_of(self.place(deadline));
        let head = self.heads.get(bucket).copied().unwrap_or(NONE);
        if let Some(node) = self.nodes.get_mut(at) {
            *node = Node { deadline, previous: NONE, next: head, bucket: bucket_id(bucket) };
        }
        if let Some(first) = self.nodes.get_mut(head as usize) {
            first.previous = slot;
        }
        self.set_head(bucket, slot);
        self.armed += 1;
    }

    /// Disarms `slot`; harmless when it is not armed.
    pub fn cancel(&mut self, slot: u32) {
        let Some(node) = self.nodes.get_mut(slot as usize) else { return };
        if node.bucket == NONE {
            return;
        }
        let Node { previous, next, bucket, .. } = *node;
        *node = Node::IDLE;
        self.armed -= 1;
        if let Some(after) = self.nodes.get_mut(next as usize) {
            after.previous = previous;
        }
        match self.nodes.get_mut(previous as usize) {
            Some(before) => before.next = next,
            None => self.set_head(bucket as usize, next),
        }
    }

    /// The armed deadline of `slot`.
    pub fn deadline(&self, slot: u32) -> Option<Instant> {
        self.nodes.get(slot as usize).filter(|node| node.bucket != NONE).map(|node| node.deadline)
    }

    /// Takes one slot whose deadline has passed; call until `None`.
    pub fn pop(&mut self, now: Instant) -> Option<u32> {
        let target = now.as_micros() / TICK_MICROS;
        while self.tick <= target {
            if self.armed == 0 {
                self.tick = target + 1;
                return None;
            }
            let bucket = bucket_of(self.tick);
            let mut slot = self.heads.get(bucket).copied().unwrap_or(NONE);
            while let Some(node) = self.nodes.get(slot as usize).copied() {
                if node.deadline <= now {
                    self.cancel(slot);
                    return Some(slot);
                }
                // Parked here because it lay beyond the horizon: park it again, further on.
                if bucket_of(self.place(node.deadline)) != bucket {
                    self.set(slot, node.deadline);
                }
                slot = node.next;
            }
            self.tick += 1;
        }
        None
    }

    /// How long until the next bucket with something in it is due; `None` when nothing is armed.
    pub fn next(&self, now: Instant) -> Option<Duration> {
        if self.armed == 0 {
            return None;
        }
        let ahead = self.ticks_to_occupied();
        let due = Instant::from_micros((self.tick + ahead) * TICK_MICROS);
        Some(due.since(now).min(TICK * u32::try_from(BUCKETS).unwrap_or(u32::MAX)))
    }

    /// The tick in whose bucket a deadline lies.
    fn place(&self, deadline: Instant) -> u64 {
        (deadline.as_micros() / TICK_MICROS + 1).clamp(self.tick, self.tick + BUCKETS as u64 - 1)
    }

    /// Ticks from the current one to the first whose bucket is occupied.
    fn ticks_to_occupied(&self) -> u64 {
        let start = bucket_of(self.tick);
        let words = self.occupied.len();
        for step in 0..=words {
            let index = (start / 64 + step) % words;
            let mut word = self.occupied.get(index).copied().unwrap_or(0);
            if step == 0 {
                word &= u64::MAX << (start % 64);
            }
            if word != 0 {
                let bucket = index * 64 + word.trailing_zeros() as usize;
                return ((bucket + BUCKETS - start) % BUCKETS) as u64;
            }
        }
        BUCKETS as u64 - 1
    }

    fn set_head(&mut self, bucket: usize, slot: u32) {
        if let Some(head) = self.heads.get_mut(bucket) {
            *head = slot;
        }
        if let Some(word) = self.occupied.get_mut(bucket / 64) {
            let bit = 1 << (bucket % 64);
            *word = if slot == NONE { *word & !bit } else { *word | bit };
        }
    }
}

fn bucket_of(tick: u64) -> usize {
    usize::try_from(tick % BUCKETS as u64).unwrap_or(0)
}

fn bucket_id(bucket: usize) -> u32 {
    u32::try_from(bucket).unwrap_or(NONE)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at_ms(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn drain(wheel: &mut Wheel, now: Instant) -> Vec<u32> {
        let mut due: Vec<u32> = std::iter::from_fn(|| wheel.pop(now)).collect();
        due.sort_unstable();
        due
    }

    #[test]
    fn fires_after_the_deadline_and_within_a_tick() {
        let mut wheel = Wheel::new(at_ms(0));
        wheel.set(3, at_ms(100));
        assert!(drain(&mut wheel, at_ms(99)).is_empty());
        assert!(wheel.next(at_ms(99)).unwrap() <= TICK * 2);
        assert_eq!(drain(&mut wheel, at_ms(100 + 8)), [3]);
        assert_eq!(wheel.next(at_ms(200)), None);
    }

    #[test]
    fn a_deadline_beyond_the_horizon_waits_for_its_time() {
        let mut wheel = Wheel::new(at_ms(0));
        wheel.set(0, at_ms(7_200_000));
        for ms in (0..7_200_000).step_by(10_000) {
            assert!(drain(&mut wheel, at_ms(ms)).is_empty(), "{ms}");
        }
        assert_eq!(drain(&mut wheel, at_ms(7_200_008)), [0]);
    }

    #[test]
    fn cancelled_slots_stay_silent() {
        let mut wheel = Wheel::new(at_ms(0));
        for slot in 0..3 {
            wheel.set(slot, at_ms(50));
        }
        wheel.cancel(1);
        wheel.cancel(1);
        assert_eq!(drain(&mut wheel, at_ms(60)), [0, 2]);
    }

    proptest! {
        /// Against a sorted map: nothing fires early, nothing later than one tick, whatever the order.
        #[test]
        fn agrees_with_a_sorted_map(steps in proptest::collection::vec((0u32..20, 0u64..100_000, 0u64..3_000), 1..200)) {
            let mut wheel = Wheel::new(at_ms(5));
            let mut model = BTreeMap::new();
            let mut now = 5;
            for (slot, after, advance) in steps {
                if after % 7 == 0 {
                    wheel.cancel(slot);
                    model.remove(&slot);
                } else {
                    wheel.set(slot, at_ms(now + after));
                    model.insert(slot, now + after);
                }
                let soonest = model.values().min().copied();
                if let (Some(soonest), Some(wait)) = (soonest, wheel.next(at_ms(now))) {
                    prop_assert!(wait.as_millis() <= u128::from(soonest.saturating_sub(now)) + 16, "sleeps past a deadline");
                }
                now += advance;
                for slot in drain(&mut wheel, at_ms(now)) {
                    let deadline = model.remove(&slot);
                    prop_assert!(deadline.is_some_and(|deadline| deadline <= now), "{slot} fired early");
                }
                prop_assert!(model.values().all(|deadline| deadline + 16 > now), "a deadline was missed");
            }
        }
    }
}
