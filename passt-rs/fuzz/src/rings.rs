//! Target: a guest that may put anything into its rings, and change it at any time, behind a front end that keeps to the
//! rules.
//!
//! The driver beside the transport knows which chains it made available and with which bytes. As long as it did nothing
//! but that, all of its memory must be as it expects; once it scribbled, less is promised.
//!
//! | promise | holds while the driver |
//! |---|---|
//! | every call returns, nothing panics | does anything |
//! | nothing outside the regions is written | does anything |
//! | chains come back once each, in order | changes buffers and descriptors that the device has |
//! | a ring stops at what was given back last | changes those |
//! | a frame has the bytes and the length of its chain, either way | keeps to the rules |
//! | nothing is written but used rings, and of writable buffers what is said to be | keeps to the rules |
//! | after a kick every frame is received | keeps to the rules |
#![expect(
    clippy::cast_possible_truncation,
    reason = "rings have narrow fields, and everything here is small"
)]

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};

use passt_rs::drop_reason::DropReason;
use passt_rs::guest::{FRAME_MAX, Guest, Link, SLICES_MAX};
use passt_rs::iovec::{self, Piece, PieceMut};
use passt_rs::wire::{Offload, VNET_HEADER_LEN};

use crate::front_end::{Cable, Shared, VERSION, event, longs, request, signal, words};
use crate::input::Input;

const STEPS_MAX: usize = 120;
const PAGE: usize = 0x1000;
/// The guest's two regions lie side by side, in one file with a page between them, one in front and one behind that are
/// none of its.
const REGION_LEN: usize = 8 * PAGE;
const REGIONS: [usize; 2] = [PAGE, 2 * PAGE + REGION_LEN];
const FILE_LEN: usize = 3 * PAGE + 2 * REGION_LEN;
const GUEST: u64 = 0x10_0000;
const USER: u64 = 0x7000_0000_0000;
/// What no driver writes.
const PATTERN: u8 = 0xa7;

/// A ring's page: descriptors, available ring, used ring; then its indirect tables.
const AVAILABLE: usize = 0x400;
const USED: usize = 0x600;
const TABLES: usize = 0x800;
/// Buffers begin behind the rings' pages.
const BUFFERS: usize = 2 * PAGE;

const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const DESC_F_INDIRECT: u16 = 4;

const F_MRG_RXBUF: u64 = 1 << 15;
const F_INDIRECT: u64 = 1 << 28;
const F_EVENT_IDX: u64 = 1 << 29;
const F_PROTOCOL: u64 = 1 << 30;
const F_VERSION_1: u64 = 1 << 32;

/// How far the driver left the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Conduct {
    Proper,
    /// Changed buffers and descriptors that the device has.
    Scribbles,
    /// Changed what tells chains from another, or led the device to where that is.
    Breaks,
}

/// A chain that the device has: its parts by offset in the guest's memory, and length.
#[derive(Debug)]
struct Chain {
    head: u16,
    parts: Vec<(usize, usize)>,
}

impl Chain {
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.1).sum()
    }
}

#[derive(Debug)]
struct Queue {
    /// Chains made available and not found in the used ring yet.
    out: VecDeque<Chain>,
    /// How many of those were received; of rings from the guest.
    received: usize,
    /// Free-running: what was made available, what was found in the used ring.
    available: u16,
    used: u16,
    /// The next descriptor, and the next place for an indirect table.
    next: u16,
    kick: OwnedFd,
    call: OwnedFd,
}

/// A frame as it is found in the chains that have it.
#[derive(Debug, Default)]
struct Filled {
    bytes: Vec<u8>,
    /// Bytes of it not found yet.
    left: usize,
    /// Where each byte is in the guest's memory.
    places: Vec<usize>,
    chains: u16,
}

struct Driver {
    cable: Cable,
    file: Shared,
    /// What the guest's memory should hold; without what lies between regions.
    memory: Vec<u8>,
    queues: [Queue; 2],
    size: u16,
    features: u64,
    conduct: Conduct,
    /// The next place for a buffer.
    next: usize,
    /// Frames published that were not found in the used ring yet.
    published: VecDeque<Vec<u8>>,
}

impl Driver {
    fn new(input: &mut Input<'_>) -> Self {
        let choice = input.byte();
        let chosen = [F_MRG_RXBUF, F_INDIRECT, F_EVENT_IDX, F_VERSION_1];
        let features =
            (0..).zip(chosen).filter(|(bit, _)| choice >> bit & 1 != 0).map(|(_, feature)| feature);
        // Offloads that the guest leaves to us: CSUM, HOST_TSO4, HOST_TSO6.
        let features = features.sum::<u64>() | F_PROTOCOL | 1 | 1 << 11 | 1 << 12;
        let file = Shared::new(FILE_LEN);
        file.write(0, &[PATTERN; FILE_LEN]);
        let queue = || Queue {
            out: VecDeque::new(),
            received: 0,
            available: 0,
            used: 0,
            next: 0,
            kick: event(),
            call: event(),
        };
        let mut driver = Self {
            cable: Cable::new(),
            file,
            memory: vec![PATTERN; 2 * REGION_LEN],
            queues: [queue(), queue()],
            size: 2 << (choice >> 4 & 3),
            features,
            conduct: Conduct::Proper,
            next: 0,
            published: VecDeque::new(),
        };
        let cable = &driver.cable;
        // CONFIGURE_MEM_SLOTS.
        cable.say(request::SET_PROTOCOL_FEATURES, VERSION, &longs(&[1 << 15]), &[]);
        cable.say(request::GET_FEATURES, VERSION, &[], &[]);
        cable.say(request::SET_FEATURES, VERSION, &longs(&[features]), &[]);
        let regions = [driver.region(0), driver.region(1)].concat();
        let table = [words(&[2, 0]), regions].concat();
        cable.say(request::SET_MEM_TABLE, VERSION, &table, &[driver.file.as_fd(), driver.file.as_fd()]);
        for index in 0..2 {
            driver.put(index * PAGE, &[0; PAGE]);
            driver.start(index);
        }
        driver.cable.turn();
        driver.cable.hear();
        assert_eq!(driver.cable.guest.take_link(), Link::Up);
        driver
    }

    fn region(&self, number: usize) -> Vec<u8> {
        let at = (number * REGION_LEN) as u64;
        // What the front end calls the regions does not follow from what the guest calls them.
        longs(&[GUEST + at, REGION_LEN as u64, USER + 3 * at, REGIONS[number] as u64])
    }

    /// Sets the ring going, from what was used of it on.
    fn start(&mut self, index: usize) {
        let queue = &self.queues[index];
        let number = index as u32;
        let cable = &self.cable;
        let place = USER + (index * PAGE) as u64;
        let places = longs(&[place, place + USED as u64, place + AVAILABLE as u64, 0]);
        cable.say(request::SET_VRING_NUM, VERSION, &words(&[number, u32::from(self.size)]), &[]);
        cable.say(request::SET_VRING_BASE, VERSION, &words(&[number, u32::from(queue.used)]), &[]);
        cable.say(request::SET_VRING_ADDR, VERSION, &[words(&[number, 0]), places].concat(), &[]);
        cable.say(request::SET_VRING_CALL, VERSION, &longs(&[index as u64]), &[queue.call.as_fd()]);
        cable.say(request::SET_VRING_KICK, VERSION, &longs(&[index as u64]), &[queue.kick.as_fd()]);
        cable.say(request::SET_VRING_ENABLE, VERSION, &words(&[number, 1]), &[]);
    }

    /// Writes to the guest's memory.
    fn put(&mut self, at: usize, bytes: &[u8]) {
        let Some(place) = self.memory.get_mut(at..at + bytes.len()) else { return };
        place.copy_from_slice(bytes);
        for (number, first) in REGIONS.into_iter().enumerate() {
            let (from, to) = (at.max(number * REGION_LEN), (at + bytes.len()).min((number + 1) * REGION_LEN));
            if from < to {
                self.file.write(first + from - number * REGION_LEN, &bytes[from - at..to - at]);
            }
        }
    }

    /// Writes what the device may have in its hands.
    fn scribble(&mut self, at: usize, bytes: &[u8]) {
        self.put(at, bytes);
        if self.conduct < Conduct::Breaks {
            self.conduct = if self.leads_to_rings() { Conduct::Breaks } else { Conduct::Scribbles };
        }
    }

    /// Whether a descriptor that frames are written by leads to the rings' pages, so that a frame may go over a ring.
    fn leads_to_rings(&self) -> bool {
        let (pages, page) = (GUEST..GUEST + 2 * PAGE as u64, PAGE as u64);
        let leads = |place: usize, may_have_table: bool| {
            let long = |at: usize| u64::from_le_bytes(self.memory[at..at + 8].try_into().expect("8 bytes"));
            let (address, rest) = (long(place), long(place + 8));
            let (len, flags) = (rest & u64::from(u32::MAX), (rest >> 32) as u16);
            let inside = address % page;
            let is_table = may_have_table
                && flags & DESC_F_INDIRECT != 0
                && inside >= TABLES as u64
                && inside + len <= page
                && inside.is_multiple_of(16);
            !is_table && address < pages.end && address.saturating_add(len) > pages.start
        };
        let mut direct = (0..usize::from(self.size)).map(|number| 16 * number);
        let mut tables = [0, PAGE].into_iter().flat_map(|page| (page + TABLES..page + PAGE).step_by(16));
        let has_tables = self.features & F_INDIRECT != 0;
        direct.any(|place| leads(place, has_tables)) || tables.any(|place| leads(place, false))
    }

    /// The guest's memory as it is.
    fn look(&self) -> Vec<u8> {
        let mut all = vec![0; FILE_LEN];
        self.file.read(0, &mut all);
        let gaps = [0, REGIONS[1] - PAGE, FILE_LEN - PAGE];
        for gap in gaps {
            assert!(all[gap..gap + PAGE] == [PATTERN; PAGE], "what is none of the guest's was written");
        }
        REGIONS.map(|first| &all[first..first + REGION_LEN]).concat()
    }

    fn header_len(&self) -> usize {
        if self.features & (F_VERSION_1 | F_MRG_RXBUF) == 0 { 10 } else { 12 }
    }

    /// Makes a chain available: `lens` of its buffers, filled with `bytes` from the front.
    fn offer(&mut self, index: usize, lens: &[usize], bytes: &[u8], indirect: bool) {
        let indirect = indirect && self.features & F_INDIRECT != 0;
        let direct = if indirect { 1 } else { lens.len() };
        let queue = &self.queues[index];
        let free = usize::from(self.size) - queue.out.len();
        // Descriptors go round as chains do, and each direct chain takes as many as the ring has room for.
        let taken: usize =
            queue.out.iter().map(|chain| if chain.parts.len() > 8 { 1 } else { chain.parts.len() }).sum();
        if free == 0
            || lens.is_empty()
            || direct + taken > usize::from(self.size)
            || (indirect != (lens.len() > 8))
        {
            return;
        }
        let mut parts = Vec::new();
        for len in lens {
            let space = 2 * REGION_LEN - BUFFERS;
            if self.next + len > space {
                self.next = 0;
            }
            parts.push((BUFFERS + self.next, *len));
            self.next += len;
        }
        // Buffers must not be handed out twice: give up rather than overlap.
        let overlaps = |(at, len): (usize, usize)| {
            let all = self.queues.iter().flat_map(|queue| &queue.out).flat_map(|chain| &chain.parts);
            all.clone().any(|(other, other_len)| at < other + other_len && *other < at + len)
        };
        if parts.iter().any(|part| part.1 > 0 && overlaps(*part)) {
            return;
        }
        let mut rest = bytes;
        for (at, len) in &parts {
            let (now, later) = rest.split_at(rest.len().min(*len));
            self.put(*at, now);
            rest = later;
        }
        let write = if index == 0 { DESC_F_WRITE } else { 0 };
        let head = self.queues[index].next % self.size;
        let table = index * PAGE + TABLES + usize::from(head) * 0x80;
        let wrap = if indirect { u16::MAX } else { self.size };
        for (number, (at, len)) in (0u16..).zip(&parts) {
            let last = usize::from(number) + 1 == parts.len();
            let this = if indirect { number } else { (head + number) % wrap };
            let next = if indirect { number + 1 } else { (this + 1) % wrap };
            let flags = write | if last { 0 } else { DESC_F_NEXT };
            let place = if indirect { table } else { index * PAGE } + 16 * usize::from(this);
            self.put(place, &descriptor(*at, *len, flags, next));
        }
        if indirect {
            let place = index * PAGE + 16 * usize::from(head);
            self.put(place, &descriptor(table, 16 * parts.len(), DESC_F_INDIRECT, 0));
        }
        let queue = &mut self.queues[index];
        queue.next = (head + direct as u16) % self.size;
        let slot = usize::from(queue.available % self.size);
        queue.available = queue.available.wrapping_add(1);
        let available = queue.available;
        queue.out.push_back(Chain { head, parts });
        self.put(index * PAGE + AVAILABLE + 4 + 2 * slot, &head.to_le_bytes());
        self.put(index * PAGE + AVAILABLE + 2, &available.to_le_bytes());
    }

    /// Takes one frame, if there is any, and holds it against its chain.
    fn receive(&mut self, keep: bool, whole: bool) -> bool {
        let header_len = self.header_len();
        let Some(received) = self.cable.guest.receive() else { return false };
        assert_eq!(received.queue, 0);
        let queue = &mut self.queues[1];
        if self.conduct < Conduct::Breaks {
            assert!(queue.received < queue.out.len(), "a frame without a chain");
        }
        queue.received += 1;
        let guest = &mut self.cable.guest;
        let place = received.place;
        if self.conduct == Conduct::Proper {
            let chain = &queue.out[queue.received - 1];
            let bytes: Vec<u8> =
                chain.parts.iter().flat_map(|(at, len)| &self.memory[*at..at + len]).copied().collect();
            match bytes.split_at_checked(header_len).filter(|(_, frame)| frame.len() <= FRAME_MAX) {
                None => assert_eq!(received.offload, Err(DropReason::Descriptors)),
                Some((header, frame)) if received.offload.is_ok() => {
                    let mut vnet = [0; VNET_HEADER_LEN];
                    vnet[..header_len].copy_from_slice(header);
                    assert_eq!(received.offload.ok(), Offload::parse(&vnet));
                    assert_eq!(place.len(), frame.len());
                    let head = guest.head(place);
                    assert!(head.len() >= frame.len().min(256) && frame.starts_with(head));
                    let mut pieces = [Piece::EMPTY; SLICES_MAX];
                    let from = frame.len() / 3;
                    let used = guest.gather(place, from..frame.len(), &mut pieces);
                    let mut gathered = vec![0; frame.len() - from];
                    let len = iovec::copy_all(pieces[..used].iter().copied(), &mut gathered);
                    assert!(len == gathered.len() && gathered == frame[from..], "gathered bytes differ");
                    if whole {
                        assert!(guest.whole(place) == frame, "the whole of a frame differs");
                    }
                }
                Some(_) => assert_ne!(received.offload, Err(DropReason::Descriptors)),
            }
        } else if received.offload.is_ok() {
            let mut pieces = [Piece::EMPTY; SLICES_MAX];
            let used = guest.gather(place, 0..place.len(), &mut pieces);
            let mut gathered = vec![0; place.len()];
            iovec::copy_all(pieces[..used].iter().copied(), &mut gathered);
            assert_eq!(guest.whole(place).len(), place.len());
        }
        if keep && received.offload.is_ok() && !guest.hold(place) {
            guest.release();
        }
        true
    }

    /// Sends a frame the way data goes: room first.
    fn fill(&mut self, headers: usize, payload: usize, short: usize) {
        let header_len = self.header_len();
        let guest = &mut self.cable.guest;
        let Some(room) = guest.reserve(headers, payload) else { return };
        let there = room.payload_len();
        assert!(room.headers.len() == headers && there <= payload && (there > 0) == (payload > 0));
        let filled = there - short.min(there);
        let bytes: Vec<u8> = (0..=250).cycle().take(headers + filled).collect();
        room.headers.copy_from_slice(&bytes[..headers]);
        let mut rest = &bytes[headers..];
        for piece in room.payload.pieces() {
            let now = rest.len().min(piece.len());
            copy(piece, &rest[..now]);
            rest = &rest[now..];
        }
        assert_eq!(guest.publish(Offload::default(), headers, filled), Ok(()));
        let vnet = Offload::default().emit();
        self.published.push_back([&vnet[..header_len], &bytes].concat());
    }

    fn send(&mut self, len: usize) {
        let bytes: Vec<u8> = (0..=250).rev().cycle().take(54 + len).collect();
        let payload: Vec<_> = bytes[54..].chunks(100).map(IoSlice::new).collect();
        if self.cable.guest.send(Offload::default(), &bytes[..54], &payload).is_ok() {
            let vnet = Offload::default().emit();
            self.published.push_back([&vnet[..self.header_len()], &bytes].concat());
        }
    }

    /// Everything is given back; holds the used rings and all memory against what is expected.
    fn reap(&mut self) {
        self.cable.guest.release();
        self.cable.guest.flush();
        self.cable.guest.take_link();
        let memory = self.look();
        if self.conduct == Conduct::Breaks {
            return;
        }
        let half = |at: usize| u16::from_le_bytes([memory[at], memory[at + 1]]);
        for index in 0..2 {
            let used = half(index * PAGE + USED + 2);
            let new = used.wrapping_sub(self.queues[index].used);
            assert!(usize::from(new) <= self.queues[index].out.len(), "more came back than was given");
            let mut frame = Filled::default();
            for number in 0..new {
                let slot = usize::from(self.queues[index].used.wrapping_add(number) % self.size);
                let at = index * PAGE + USED + 4 + 8 * slot;
                let chain = self.queues[index].out.pop_front().expect("counted above");
                assert_eq!((half(at), half(at + 2)), (chain.head, 0), "another chain came back");
                let len = usize::from(half(at + 4)) | usize::from(half(at + 6)) << 16;
                if index == 1 {
                    assert_eq!(len, 0);
                } else if self.conduct == Conduct::Proper && len > 0 {
                    self.expect_filled(&chain, len, &memory, &mut frame);
                }
            }
            assert_eq!(frame.left, 0, "a frame without its end");
            let queue = &mut self.queues[index];
            queue.used = used;
            if index == 1 {
                assert_eq!(usize::from(new), queue.received, "not all that was received came back");
                queue.received = 0;
            }
            if self.conduct == Conduct::Proper {
                // The used ring is the device's.
                let used_ring = index * PAGE + USED..index * PAGE + TABLES;
                self.memory[used_ring.clone()].copy_from_slice(&memory[used_ring]);
            }
        }
        if self.conduct == Conduct::Proper {
            assert!(self.published.is_empty(), "a frame was published and did not come");
            assert!(self.memory == memory, "what is none of the device's was written");
        }
    }

    /// `chain` has the next `len` bytes of a frame.
    fn expect_filled(&mut self, chain: &Chain, len: usize, memory: &[u8], frame: &mut Filled) {
        if frame.left == 0 {
            let bytes = self.published.pop_front().expect("a frame that was published");
            *frame = Filled { left: bytes.len(), bytes, ..Filled::default() };
        }
        assert_eq!(len, frame.left.min(chain.len()), "a chain of a frame that is not full");
        frame.places.extend(chain.parts.iter().flat_map(|(at, len)| *at..at + len).take(len));
        frame.chains += 1;
        frame.left -= len;
        if frame.left == 0 {
            if self.header_len() == VNET_HEADER_LEN {
                frame.bytes[10..12].copy_from_slice(&frame.chains.to_le_bytes());
            }
            for (place, byte) in frame.places.iter().zip(&frame.bytes) {
                assert_eq!(memory[*place], *byte, "a frame came with another byte");
                self.memory[*place] = *byte;
            }
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 20 {
            kind @ 0..=5 => {
                let index = usize::from(kind % 2);
                let count = 1 + usize::from(input.byte()) % 24;
                let shape = input.byte();
                let unit =
                    [usize::from(input.byte()), usize::from(input.half() % 2100)][usize::from(shape & 1)];
                let lens: Vec<usize> = (0..count)
                    .map(|number| if shape >> (1 + number % 4) & 1 == 0 { unit } else { 12 })
                    .collect();
                let bytes: Vec<u8> = match index {
                    0 => Vec::new(),
                    _ => input.array::<20>().into_iter().chain((0..=255).cycle().take(1500)).collect(),
                };
                // Tables have room for 8.
                let lens = &lens[..count.min(if count > 8 { 8 } else { count })];
                self.offer(index, lens, &bytes, count > 8);
            }
            6 | 7 => {
                let choice = input.byte();
                self.receive(choice & 1 != 0, choice & 2 != 0);
            }
            8 => self.receive_all(),
            9 | 10 => {
                let (headers, payload) = (usize::from(input.byte()), usize::from(input.half()));
                self.fill(headers, payload, usize::from(input.byte()));
            }
            11 => self.send(usize::from(input.half()) % 4000),
            12 => {
                let most = 1 + usize::from(input.byte());
                let fit = self.cable.guest.frames_that_fit(usize::from(input.half()), most);
                assert!(fit <= most);
            }
            13 => {
                signal(&self.queues[usize::from(input.byte() % 2)].kick);
                self.cable.turn();
            }
            14 => self.reap(),
            15 => self.restart(usize::from(input.byte() % 2)),
            16 => {
                let at = usize::from(input.half()) % (2 * REGION_LEN);
                // Not the rings themselves, and not tables that were not made yet.
                let (ring, inside) = (at / PAGE < 2, at % PAGE);
                if !ring || !(AVAILABLE..TABLES).contains(&inside) {
                    self.scribble(at, &input.array::<1>());
                }
            }
            17 => {
                let (index, number) = (usize::from(input.byte() % 2), usize::from(input.half() % self.size));
                let (at, len) = (usize::from(input.half()), usize::from(input.half()));
                let bits = descriptor(at, len << (input.byte() % 16), input.half() % 8, input.half() % 20);
                self.scribble(index * PAGE + 16 * number, &bits);
            }
            18 if input.byte().is_multiple_of(4) => {
                self.conduct = Conduct::Breaks;
                let at = usize::from(input.half()) % (2 * PAGE);
                self.put(at, &input.array::<2>());
            }
            _ => self.take_region_away(input.byte().is_multiple_of(4)),
        }
    }

    /// After a kick nothing may be left.
    fn receive_all(&mut self) {
        signal(&self.queues[1].kick);
        self.cable.turn();
        let most = 4 * usize::from(u16::MAX);
        let mut count = 0;
        while self.receive(false, false) {
            count += 1;
            assert!(count < most, "frames without end");
        }
        if self.conduct == Conduct::Proper {
            let queue = &self.queues[1];
            assert_eq!(queue.received, queue.out.len(), "a frame was left in a ring that was kicked");
        }
    }

    /// The front end stops a ring, and starts it where it was told.
    fn restart(&mut self, index: usize) {
        self.reap();
        self.cable.hear();
        self.cable.say(request::GET_VRING_BASE, VERSION, &words(&[index as u32, 0]), &[]);
        self.cable.turn();
        let answer = self.cable.hear();
        assert_eq!(answer.len(), 20, "an answer with a base");
        if self.conduct < Conduct::Breaks {
            let base = u16::from_ne_bytes([answer[16], answer[17]]);
            // What was taken and not given back is to be taken again.
            assert_eq!(base, self.queues[index].used, "chains were lost");
        }
        self.start(index);
        self.cable.turn();
    }

    /// The region with most buffers goes, and comes back.
    fn take_region_away(&mut self, use_rings: bool) {
        self.reap();
        let region = [longs(&[0]), self.region(1)].concat();
        self.cable.say(request::REM_MEM_REG, VERSION, &region, &[self.file.as_fd()]);
        self.cable.turn();
        if use_rings {
            self.conduct = Conduct::Breaks;
            self.receive_all();
            self.fill(54, 1000, 0);
        }
        self.cable.say(request::ADD_MEM_REG, VERSION, &region, &[self.file.as_fd()]);
        self.cable.turn();
    }
}

/// A descriptor of `len` bytes at `at` in the guest's memory.
fn descriptor(at: usize, len: usize, flags: u16, next: u16) -> Vec<u8> {
    let address = (GUEST + at as u64).to_le_bytes();
    let len = (len as u32).to_le_bytes();
    [&address[..], &len, &flags.to_le_bytes(), &next.to_le_bytes()].concat()
}

/// Copies as the kernel would, which is given the same places.
fn copy(piece: &PieceMut<'_>, bytes: &[u8]) {
    let place = piece.as_iovec();
    // SAFETY: the place is good for as long as `piece`, which is borrowed, and nobody makes references to it.
    #[expect(unsafe_code, reason = "pieces are for system calls, which cannot be made here")]
    let mut place = unsafe { PieceMut::shared(place.iov_base.cast(), place.iov_len) };
    place.copy_from(bytes);
}

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut driver = Driver::new(&mut input);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        driver.step(&mut input);
    }
    driver.reap();
    driver.cable.close();
    driver.cable.turn();
    driver.cable.guest.take_link();
    driver.look();
    assert!(!driver.file.is_mapped(), "memory of a front end that left is still mapped");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let frame = |count: u8| [&[1, count, 0, 100][..], &[0; 20], &[13, 1, 6, 3, 14]].concat();
    let room = |count: u8| vec![0, count, 1, 0, 4, 9, 54, 100, 0, 0, 12, 5, 0, 2, 14];
    let mut seeds = Vec::new();
    for features in [0, 1, 8, 9, 0xf, 0x3f, 0x28] {
        seeds.push([vec![features], frame(0), frame(2), frame(12), vec![15, 1], frame(0)].concat());
        seeds.push([vec![features], room(0), room(3), room(12), vec![15, 0], room(1), vec![19, 1]].concat());
        seeds.push([vec![features], frame(3), room(2), vec![17, 1, 0, 0, 9, 1, 0, 3, 7, 8, 8]].concat());
        seeds.push([vec![features], frame(3), vec![18, 0, 2, 4, 9, 9, 8, 14]].concat());
    }
    seeds
}
