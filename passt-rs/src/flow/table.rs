//! Flows by key and by id, everything O(1).
//!
//! Slots are numbered; a number is used again after its flow ended, so an id carries the slot's generation
//! and an event that arrives late finds nothing instead of a stranger. The hash is keyed: peers and guests
//! choose the tuples.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use super::Key;

/// Names one flow for as long as it lives; never reused for another one while events may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId {
    index: u32,
    /// 24 bits, so that an id fits an epoll token beside a tag.
    generation: u32,
}

const GENERATION_MASK: u32 = 0x00ff_ffff;

impl FlowId {
    /// The slot's number: dense, for arrays beside the table such as timers.
    pub fn index(self) -> u32 {
        self.index
    }

    /// The id as 56 bits.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub fn from_bits(bits: u64) -> Self {
        let [a, b, c, d, e, f, g, _] = bits.to_le_bytes();
        Self { index: u32::from_le_bytes([a, b, c, d]), generation: u32::from_le_bytes([e, f, g, 0]) }
    }
}

/// The table is at its limit; nothing was inserted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the flow table is full")]
pub struct TableFull;

/// Flows with state `F`.
#[derive(Debug)]
pub struct Table<F> {
    slots: Vec<Slot<F>>,
    /// Slots to use again, most recently freed last.
    free: Vec<u32>,
    by_key: HashTable<u32>,
    hasher: KeyHasher,
    limit: usize,
}

#[derive(Debug)]
struct Slot<F> {
    generation: u32,
    flow: Option<(Key, F)>,
}

#[derive(Clone, Debug)]
struct KeyHasher([u8; 16]);

impl BuildHasher for KeyHasher {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }
}

impl<F> Table<F> {
    /// A table of at most `limit` flows whose hash is keyed with `secret`.
    pub fn new(limit: usize, secret: [u8; 16]) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashTable::new(),
            hasher: KeyHasher(secret),
            limit: limit.min(u32::MAX as usize - 1),
        }
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// No other flow can be inserted.
    pub fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    pub fn find(&self, key: &Key) -> Option<FlowId> {
        let index = *self.by_key.find(self.hasher.hash_one(key), |index| self.key_at(*index) == Some(key))?;
        let slot = self.slots.get(index as usize)?;
        Some(FlowId { index, generation: slot.generation })
    }

    /// Inserts a flow whose key is not in the table.
    pub fn insert(&mut self, key: Key, flow: F) -> Result<FlowId, TableFull> {
        debug_assert!(self.find(&key).is_none(), "{key:?} is in the table");
        if self.is_full() {
            return Err(TableFull);
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot { generation: 0, flow: None });
                u32::try_from(self.slots.len() - 1).map_err(|_| TableFull)?
            }
        };
        let slot = self.slots.get_mut(index as usize).ok_or(TableFull)?;
        slot.flow = Some((key, flow));
        let generation = slot.generation;
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.by_key.insert_unique(hasher.hash_one(key), index, |index| rehash(slots, hasher, *index));
        Ok(FlowId { index, generation })
    }

    pub fn remove(&mut self, id: FlowId) -> Option<(Key, F)> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        let (key, flow) = slot.flow.take()?;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        if let Ok(entry) = self.by_key.find_entry(self.hasher.hash_one(key), |index| *index == id.index) {
            entry.remove();
        }
        self.free.push(id.index);
        Some((key, flow))
    }

    pub fn get(&self, id: FlowId) -> Option<(&Key, &F)> {
        let slot = self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        slot.flow.as_ref().map(|(key, flow)| (key, flow))
    }

    pub fn get_mut(&mut self, id: FlowId) -> Option<(&Key, &mut F)> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        slot.flow.as_mut().map(|(key, flow)| (&*key, flow))
    }

    /// The live flow in slot `index`, for what is kept per slot beside the table.
    pub fn at_index(&self, index: u32) -> Option<FlowId> {
        let slot = self.slots.get(index as usize)?;
        slot.flow.as_ref().map(|_| FlowId { index, generation: slot.generation })
    }

    /// Every flow, for listings; never called per packet.
    pub fn iter(&self) -> impl Iterator<Item = (FlowId, &Key, &F)> {
        self.slots.iter().zip(0..).filter_map(|(slot, index)| {
            let (key, flow) = slot.flow.as_ref()?;
            Some((FlowId { index, generation: slot.generation }, key, flow))
        })
    }

    /// A keyed hash of `key` for other uses, such as initial sequence numbers (RFC 6528).
    pub fn hash_of(&self, key: &Key) -> u64 {
        self.hasher.hash_one(key)
    }

    fn key_at(&self, index: u32) -> Option<&Key> {
        self.slots.get(index as usize)?.flow.as_ref().map(|(key, _)| key)
    }
}

fn rehash<F>(slots: &[Slot<F>], hasher: &KeyHasher, index: u32) -> u64 {
    let key = slots.get(index as usize).and_then(|slot| slot.flow.as_ref()).map(|(key, _)| key);
    key.map_or(0, |key| hasher.hash_one(key))
}

#[cfg(test)]
mod tests {
    use super::super::{Endpoint, Protocol};
    use super::*;

    fn key(port: u16) -> Key {
        let end = |port| Endpoint::new([10, 0, 0, 1].into(), port);
        Key { protocol: Protocol::Tcp, guest: end(port), peer: end(80) }
    }

    #[test]
    fn a_late_id_finds_nothing_after_its_slot_is_used_again() {
        let mut table = Table::new(10, [7; 16]);
        let old = table.insert(key(1), "old").unwrap();
        table.remove(old).unwrap();
        let new = table.insert(key(2), "new").unwrap();
        assert_eq!(old.index(), new.index());
        assert!(table.get(old).is_none() && table.remove(old).is_none());
        assert_eq!(table.find(&key(2)), Some(new));
        assert_eq!(table.find(&key(1)), None);
    }

    #[test]
    fn the_limit_refuses_new_flows_and_keeps_old_ones() {
        let mut table = Table::new(2, [7; 16]);
        table.insert(key(1), ()).unwrap();
        table.insert(key(2), ()).unwrap();
        assert_eq!(table.insert(key(3), ()), Err(TableFull));
        assert!(table.find(&key(1)).is_some() && table.find(&key(2)).is_some());
    }

    #[test]
    fn thousands_of_flows_are_found_after_growth() {
        let mut table = Table::new(100_000, [9; 16]);
        let ids: Vec<_> = (0..20_000).map(|port| table.insert(key(port), port).unwrap()).collect();
        for (port, id) in (0..20_000).zip(&ids) {
            assert_eq!(table.find(&key(port)), Some(*id));
            assert_eq!(FlowId::from_bits(id.to_bits()), *id);
        }
        assert_eq!(table.iter().count(), 20_000);
    }
}
