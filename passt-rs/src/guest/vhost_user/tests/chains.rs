//! Chains as we follow them and as virtio-queue does: the same where a driver keeps to the specification, and where
//! it does not, we refuse.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::guest_memory::FileOffset;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use super::super::chain::{BadChain, Direction};
use super::super::memory::{Memory, Part};
use super::super::ring::Broken;
use super::{Entry, GUEST, INDIRECT, Layout, NEXT, Ram, Region, WRITE, memory, region};

const SIZE: u16 = 16;
const LEN: u64 = 0x1_0000;
/// The second region follows the first for the guest, not in the file.
const BORDER: u64 = GUEST + LEN;
const FAR: u64 = GUEST + 4 * LEN;

fn regions() -> [Region; 3] {
    [region(GUEST, 2 * LEN, LEN), region(BORDER, 0, LEN), region(FAR, 4 * LEN, LEN)]
}

/// Guest address of a place in the file.
fn guest(offset: u64) -> u64 {
    let region = regions().into_iter().find(|region| (region.offset..region.offset + LEN).contains(&offset));
    region.unwrap().guest + offset % LEN
}

/// The place in the file of a guest address.
fn offset(guest: u64) -> u64 {
    let region = regions().into_iter().find(|region| (region.guest..region.guest + LEN).contains(&guest));
    region.unwrap().offset + guest % LEN
}

/// Writes what of `bytes` lies in memory.
fn write(ram: &Ram, at: u64, bytes: &[u8]) {
    for (at, word) in (at..).step_by(4).zip(bytes.chunks(4)) {
        if at < FAR + LEN - 3 {
            ram.write(offset(at), word);
        }
    }
}

/// The same memory seen twice, and one ring in it.
struct Both {
    ram: Ram,
    layout: Layout,
    ours: Memory,
    theirs: GuestMemoryMmap,
}

impl Both {
    fn new() -> Self {
        let ram = Ram::new(5 * LEN);
        let noise: Vec<u8> = (0..5 * LEN).map(|at| (at ^ at >> 7 ^ at >> 13).to_le_bytes()[0]).collect();
        ram.write(0, &noise);
        let ours = memory(&ram, &regions());
        let file = |offset| Some(FileOffset::new(ram.0.try_clone().unwrap(), offset));
        let ranges = regions().map(|region| (GuestAddress(region.guest), 0x1_0000, file(region.offset)));
        let theirs = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
        let layout = Layout::at(2 * LEN, SIZE);
        Self { ram, layout, ours, theirs }
    }

    fn queue(&self, base: u16) -> Queue {
        let mut queue = Queue::new(SIZE).unwrap();
        queue.try_set_desc_table_address(GuestAddress(guest(self.layout.descriptors))).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(guest(self.layout.available))).unwrap();
        queue.try_set_used_ring_address(GuestAddress(guest(self.layout.used))).unwrap();
        queue.set_next_avail(base);
        queue.set_ready(true);
        assert!(queue.is_valid(&self.theirs));
        queue
    }

    /// What the chain at `head` has that virtio-queue lets pass and we do not.
    fn breach(&self, head: u16, indirect: bool) -> Option<&'static str> {
        let table = guest(self.layout.descriptors);
        let mut number = head;
        for _ in 0..SIZE {
            let entry = self.entry(table, number)?;
            if entry.flags() & INDIRECT != 0 {
                if !indirect {
                    // It is not told what was negotiated.
                    return Some("INDIRECT was not negotiated");
                }
                if entry.has_next() {
                    // Virtio 1.2 section 2.7.5.3.1 forbids it; virtio-queue ignores NEXT.
                    return Some("NEXT beside INDIRECT");
                }
                return self.torn(&entry);
            }
            number = entry.next();
            if !entry.has_next() || number >= SIZE {
                return None;
            }
        }
        None
    }

    fn entry(&self, table: u64, number: u16) -> Option<Descriptor> {
        self.theirs.read_obj(GuestAddress(table + 16 * u64::from(number))).ok()
    }

    /// An entry of the table lies in two regions. No driver aligns a table so badly; virtio-queue reads it in halves.
    fn torn(&self, table: &Descriptor) -> Option<&'static str> {
        let mut number = 0;
        for _ in 0..table.len() / 16 {
            let at = table.addr().0.checked_add(16 * u64::from(number))?;
            if (BORDER - 15..BORDER).contains(&at) {
                return Some("an entry in two regions");
            }
            let entry = self.entry(table.addr().0, number)?;
            number = entry.next();
            if !entry.has_next() || u32::from(number) >= table.len() / 16 {
                return None;
            }
        }
        None
    }

    /// What of the entries that virtio-queue gives makes them no chain for us.
    fn fault(&self, entries: &[Descriptor], direction: Direction) -> Option<&'static str> {
        let writable = direction == Direction::ToDriver;
        if entries.last().is_none_or(Descriptor::has_next) {
            // It ends where it cannot go on, as if that were the chain's end.
            return Some("the chain has no end");
        }
        if entries.iter().any(|entry| entry.is_write_only() != writable) {
            // It gives both kinds; devices that have chains of both sort them out.
            return Some("the wrong direction");
        }
        let there = |entry: &Descriptor| {
            entry.len() == 0
                || self.theirs.check_range(entry.addr(), entry.len() as usize, Permissions::ReadWrite)
        };
        // Whoever touches the bytes finds out.
        (!entries.iter().all(there)).then_some("outside memory")
    }

    /// The parts that a chain of `entries` has: a buffer in two regions is two parts, an empty one none.
    fn parts(entries: &[Descriptor]) -> Vec<(u64, u32)> {
        let mut parts = Vec::new();
        for entry in entries {
            let (start, end) = (entry.addr().0, entry.addr().0 + u64::from(entry.len()));
            let cut = BORDER.clamp(start, end);
            let cuts =
                [(start, cut), (cut, end)].map(|(start, end)| (start, u32::try_from(end - start).unwrap()));
            parts.extend(cuts.into_iter().filter(|(_, len)| *len > 0));
        }
        parts
    }

    /// Compares one chain. Gives why it was refused, or what was seen in it.
    fn compare(
        &self,
        entries: &[Descriptor],
        head: u16,
        (direction, indirect): (Direction, bool),
        followed: Result<usize, BadChain>,
        parts: &[Part],
    ) -> &'static str {
        let fault = self.fault(entries, direction).or_else(|| self.breach(head, indirect));
        if let Some(fault) = fault {
            assert_eq!(followed, Err(BadChain), "{fault}: {entries:?}");
            assert!(parts.is_empty(), "parts of a chain that was refused");
            return fault;
        }
        let expected = Self::parts(entries);
        let seen: Vec<_> = parts.iter().map(|part| (part.guest, part.len)).collect();
        assert_eq!(seen, expected, "{entries:?}");
        assert_eq!(followed, Ok(entries.iter().map(|entry| entry.len() as usize).sum()));
        for part in parts {
            let mut theirs = vec![0; part.len as usize];
            self.theirs.read_slice(&mut theirs, GuestAddress(part.guest)).unwrap();
            let mut ours = vec![0; part.len as usize];
            assert_eq!(part.as_piece().copy_to(&mut ours), ours.len());
            assert!(ours == theirs, "other bytes at {:#x}", part.guest);
        }
        let buffers = entries.iter().filter(|entry| entry.len() > 0).count();
        if parts.len() > buffers { "a buffer in two regions" } else { "a chain" }
    }

    /// Takes everything from the ring both ways.
    fn drain(&self, base: u16, direction: Direction, indirect: bool, mut saw: impl FnMut(&'static str)) {
        let mut ring = self.layout.ring(&self.ours, base, false, indirect);
        let mut queue = self.queue(base);
        loop {
            let waiting = ring.waiting_now();
            if queue.iter(&self.theirs).is_err() {
                assert!(matches!(waiting, Err(Broken::Index(_))), "{waiting:?}");
                assert_eq!(ring.take(), Err(waiting.unwrap_err()));
                return saw("the index jumped");
            }
            let Some(chain) = queue.pop_descriptor_chain(&self.theirs) else {
                assert_eq!(ring.take(), Ok(None));
                return;
            };
            let head = chain.head_index();
            if head >= SIZE {
                // virtio-queue gives a chain of nothing and goes on; such a driver has lost its mind.
                assert_eq!(chain.count(), 0);
                assert_eq!(ring.take(), Err(Broken::Head(head)));
                return saw("no such head");
            }
            assert_eq!(ring.take(), Ok(Some(head)));
            assert_eq!(ring.base(), queue.next_avail());
            let mut parts = Vec::new();
            let followed = ring.follow(&self.ours, head, direction, &mut parts);
            let entries: Vec<_> = chain.collect();
            saw(self.compare(&entries, head, (direction, indirect), followed, &parts));
        }
    }
}

/// What a driver wrote.
#[derive(Clone, Debug)]
struct Case {
    direction: Direction,
    indirect: bool,
    base: u16,
    chains: u16,
    heads: Vec<u16>,
    entries: Vec<Entry>,
    /// Indirect tables, and where they are.
    tables: Vec<(u64, Vec<Entry>)>,
}

/// Where an indirect table may be: anywhere, across a border, or across the end of memory.
fn table() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => (0u64..8).prop_map(|at| FAR + 0x101 * at),
        1 => Just(BORDER - 32),
        1 => Just(BORDER - 24),
        1 => Just(FAR + LEN - 32),
    ]
}

fn entry(write: bool, size: u16, indirect: u32) -> impl Strategy<Value = Entry> {
    let buffer = prop_oneof![
        12 => GUEST + 0x4000..BORDER + 0xe000,
        2 => BORDER - 600..BORDER + 10,
        1 => FAR + 0x2000..FAR + LEN,
        1 => BORDER + LEN - 600..FAR,
        1 => any::<u64>(),
    ];
    let len = prop_oneof![2 => Just(0u32), 40 => 1u32..2000, 1 => any::<u32>()];
    let next = prop_oneof![40 => 0..size, 1 => any::<u16>()];
    let table_len = prop_oneof![12 => (1u32..9).prop_map(|count| 16 * count), 1 => 0u32..200];
    let more = prop_oneof![3 => Just(0), 2 => Just(NEXT)];
    let direction = prop_oneof![40 => Just(write), 1 => Just(!write)];
    let direct = (buffer, len, more, direction, next.clone()).prop_map(|(guest, len, more, write, next)| {
        Entry { guest, len, flags: more | if write { WRITE } else { 0 }, next }
    });
    let both = prop_oneof![9 => Just(INDIRECT), 1 => Just(INDIRECT | NEXT)];
    let other = (table(), table_len, both, next).prop_map(|(guest, len, flags, next)| Entry {
        guest,
        len,
        flags,
        next,
    });
    prop_oneof![100 - indirect => direct, indirect => other]
}

fn case() -> impl Strategy<Value = Case> {
    any::<bool>().prop_flat_map(|write| {
        let chains = prop_oneof![30 => 1..=SIZE, 1 => SIZE + 1..SIZE + 5, 1 => any::<u16>()];
        let head = prop_oneof![200 => 0..SIZE, 1 => any::<u16>()];
        let base = prop_oneof![any::<u16>(), u16::MAX - SIZE..=u16::MAX];
        (
            prop_oneof![8 => Just(true), 1 => Just(false)],
            base,
            chains,
            vec(head, usize::from(SIZE)),
            vec(entry(write, SIZE, 20), usize::from(SIZE)),
            vec((table(), vec(entry(write, 8, 2), 8)), 12),
        )
            .prop_map(move |(indirect, base, chains, heads, entries, tables)| Case {
                direction: if write { Direction::ToDriver } else { Direction::FromDriver },
                indirect,
                base,
                chains,
                heads,
                entries,
                tables,
            })
    })
}

#[test]
fn chains_are_followed_as_virtio_queue_does_and_others_are_refused() {
    let both = Both::new();
    let seen = std::cell::RefCell::new(BTreeMap::new());
    let run = |case: Case| {
        for (at, entries) in &case.tables {
            let bytes: Vec<u8> = entries.iter().flat_map(Entry::bytes).collect();
            write(&both.ram, *at, &bytes);
        }
        for (number, entry) in (0..).zip(&case.entries) {
            both.layout.describe(&both.ram, number, *entry);
        }
        for (index, head) in (0..).zip(&case.heads) {
            both.layout.offer(&both.ram, case.base.wrapping_add(index), *head);
        }
        both.layout.set_available(&both.ram, case.base.wrapping_add(case.chains));
        both.drain(case.base, case.direction, case.indirect, |what| {
            *seen.borrow_mut().entry(what).or_insert(0) += 1;
        });
        Ok(())
    };
    let config = Config { cases: 600, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&case(), run).unwrap();
    let seen = seen.into_inner();
    for what in [
        "a chain",
        "a buffer in two regions",
        "the chain has no end",
        "the wrong direction",
        "outside memory",
        "INDIRECT was not negotiated",
        "NEXT beside INDIRECT",
        "the index jumped",
        "no such head",
    ] {
        assert!(seen.get(what).is_some_and(|times| *times > 4), "{what} was hardly seen: {seen:?}");
    }
}

/// A buffer of ours.
const BUFFER: Entry = Entry { guest: GUEST + 0x8000, len: 100, flags: 0, next: 0 };
const TABLE: u64 = FAR + 0x100;

/// Whether we follow the chain that begins at descriptor 0 of `entries`, with an indirect table.
fn follows(entries: &[Entry], table: &[Entry]) -> bool {
    let both = Both::new();
    let bytes: Vec<u8> = table.iter().flat_map(Entry::bytes).collect();
    write(&both.ram, TABLE, &bytes);
    for (number, entry) in (0..).zip(entries) {
        both.layout.describe(&both.ram, number, *entry);
    }
    both.layout.offer(&both.ram, 0, 0);
    both.layout.set_available(&both.ram, 1);
    let mut outcome = None;
    both.drain(0, Direction::FromDriver, true, |what| outcome = Some(what == "a chain"));
    outcome.unwrap()
}

#[test]
fn malformed_chains_are_refused_one_by_one() {
    let more = |next| Entry { flags: NEXT, next, ..BUFFER };
    let table = |len, flags| Entry { guest: TABLE, len, flags, next: 1 };
    let one = [BUFFER];
    for (name, entries, inside, good) in [
        ("one buffer", vec![BUFFER], vec![], true),
        ("two buffers", vec![more(1), BUFFER], vec![], true),
        ("a table", vec![table(16, INDIRECT)], one.to_vec(), true),
        ("a buffer, then a table", vec![more(1), table(16, INDIRECT)], one.to_vec(), true),
        // Section 2.7.5.3.2: the device ignores WRITE of the descriptor that refers to a table.
        ("a table said to be writable", vec![table(16, INDIRECT | WRITE)], one.to_vec(), true),
        ("a loop of one", vec![more(0)], vec![], false),
        ("a loop of two", vec![more(1), more(0)], vec![], false),
        ("a loop in a table", vec![table(32, INDIRECT)], vec![more(1), more(0)], false),
        ("beyond the table", vec![more(SIZE)], vec![], false),
        ("beyond an indirect table", vec![table(16, INDIRECT)], vec![more(1), BUFFER], false),
        ("outside memory", vec![Entry { guest: GUEST - 1, ..BUFFER }], vec![], false),
        ("out of memory", vec![Entry { guest: FAR + LEN - 99, ..BUFFER }], vec![], false),
        ("around the address space", vec![Entry { guest: u64::MAX - 9, ..BUFFER }], vec![], false),
        ("the wrong direction", vec![Entry { flags: WRITE, ..BUFFER }], vec![], false),
        ("both directions", vec![more(1), Entry { flags: WRITE, ..BUFFER }], vec![], false),
        ("a table in a table", vec![table(16, INDIRECT)], vec![table(16, INDIRECT)], false),
        ("NEXT beside INDIRECT", vec![table(16, INDIRECT | NEXT), BUFFER], one.to_vec(), false),
        ("a table of no length", vec![table(0, INDIRECT)], one.to_vec(), false),
        ("a table of a half entry more", vec![table(24, INDIRECT)], one.to_vec(), false),
        (
            "a table outside memory",
            vec![Entry { guest: GUEST - 16, len: 16, flags: INDIRECT, next: 0 }],
            vec![],
            false,
        ),
    ] {
        assert_eq!(follows(&entries, &inside), good, "{name}");
    }
}

/// Regions that lie side by side are one for a table, but not for one entry of it.
#[test]
fn a_table_may_be_in_two_regions_and_an_entry_may_not() {
    let both = Both::new();
    let table = |guest, flags| Entry { guest, len: 48, flags, next: 0 };
    for (before, outcome) in [(32, "a chain"), (24, "an entry in two regions")] {
        let more = |next| Entry { flags: NEXT, next, ..BUFFER };
        let bytes: Vec<u8> = [more(1), more(2), BUFFER].iter().flat_map(Entry::bytes).collect();
        write(&both.ram, BORDER - before, &bytes);
        both.layout.describe(&both.ram, 0, table(BORDER - before, INDIRECT));
        both.layout.offer(&both.ram, 0, 0);
        both.layout.set_available(&both.ram, 1);
        both.drain(0, Direction::FromDriver, true, |what| assert_eq!(what, outcome));
    }
}

/// virtio-queue follows as many descriptors as the ring has; we, as many as one system call takes.
#[test]
fn a_chain_has_at_most_1024_descriptors() {
    for (count, good) in [(1024, true), (1025, false)] {
        let ram = Ram::new(16 * LEN);
        let memory = memory(&ram, &[region(GUEST, 0, 16 * LEN)]);
        let layout = Layout::at(0, 2048);
        for number in 0..count {
            let flags = if number + 1 < count { NEXT } else { 0 };
            layout.describe(&ram, number, Entry { guest: GUEST, len: 1, flags, next: number + 1 });
        }
        let ring = layout.ring(&memory, 0, false, true);
        let mut parts = Vec::new();
        let followed = ring.follow(&memory, 0, Direction::FromDriver, &mut parts);
        assert_eq!(followed.is_ok(), good, "{count} descriptors");
        let table: Vec<u8> = ram.read(0, 16 * usize::from(count));
        ram.write(8 * LEN, &table);
        let indirect = Entry { guest: GUEST + 8 * LEN, len: 16 * u32::from(count), flags: INDIRECT, next: 0 };
        layout.describe(&ram, 0, indirect);
        parts.clear();
        let followed = ring.follow(&memory, 0, Direction::FromDriver, &mut parts);
        assert_eq!(followed.is_ok(), good, "{count} descriptors in a table");
    }
}
