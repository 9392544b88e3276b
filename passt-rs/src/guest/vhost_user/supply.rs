//! Buffers that the guest gave us to fill: chains taken from a ring, in the order they are to be used.

use std::collections::VecDeque;

use super::memory::Part;

/// One chain: its first descriptor, and how much of [`Supply::parts`] is its.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    pub(super) head: u16,
    pub(super) parts: usize,
    pub(super) len: usize,
}

/// Chains taken and not filled yet.
#[derive(Debug, Default)]
pub(super) struct Supply {
    chains: VecDeque<Chain>,
    parts: VecDeque<Part>,
    bytes: usize,
}

impl Supply {
    pub(super) fn push(&mut self, head: u16, parts: &[Part], len: usize) {
        self.chains.push_back(Chain { head, parts: parts.len(), len });
        self.parts.extend(parts);
        self.bytes += len;
    }

    /// Takes out the first chain and forgets its parts.
    pub(super) fn pop(&mut self) -> Option<Chain> {
        let chain = self.chains.pop_front()?;
        self.parts.drain(..chain.parts.min(self.parts.len()));
        self.bytes -= chain.len;
        Some(chain)
    }

    pub(super) fn first(&self) -> Option<Chain> {
        self.chains.front().copied()
    }

    /// Number of chains.
    pub(super) fn chains(&self) -> u16 {
        u16::try_from(self.chains.len()).unwrap_or(u16::MAX)
    }

    /// Number of parts of all chains.
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Bytes of all chains.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lengths of all chains.
    pub(super) fn lens(&self) -> impl Iterator<Item = usize> + '_ {
        self.chains.iter().map(|chain| chain.len)
    }

    /// The first `len` bytes behind the first `skip` bytes, part by part.
    pub(super) fn range(&self, skip: usize, len: usize) -> impl Iterator<Item = Part> + '_ {
        let (mut skip, mut left) = (skip, len);
        let parts = self.parts.iter().map_while(move |part| {
            let skipped = skip.min(part.len as usize);
            skip -= skipped;
            let part = part.skip(u32::try_from(skipped).unwrap_or(u32::MAX));
            let part = part.first(u32::try_from(left).unwrap_or(u32::MAX));
            let over = left == 0;
            left -= part.len as usize;
            (!over).then_some(part)
        });
        parts.filter(|part| part.len > 0)
    }

    pub(super) fn clear(&mut self) {
        self.chains.clear();
        self.parts.clear();
        self.bytes = 0;
    }
}
