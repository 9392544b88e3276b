//! Target: a vhost-user front end that may say anything, with any descriptors, in any pieces, and take its memory away.
//!
//! | promise |
//! |---|
//! | every call returns, whatever the front end does or does not read |
//! | nothing panics, nothing is fatal, memory that vanishes included |
//! | a front end that left is noticed, and nothing it gave us is kept: no mapping, no descriptor |
//!
//! That calls return is libFuzzer's to watch, which ends inputs that take too long.
#![expect(clippy::cast_possible_truncation, reason = "what a front end says is cut to its field")]

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use passt_rs::guest::{Guest, Link, SLICES_MAX};
use passt_rs::iovec::Piece;
use passt_rs::wire::Offload;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::front_end::{
    Cable, DESCRIPTORS_MAX, NEED_REPLY, Shared, VERSION, event, longs, request, signal, words,
};
use crate::input::Input;

/// A longer conversation only repeats itself.
const STEPS_MAX: usize = 100;
/// The front end's files.
const FILES: usize = 3;
const FILE_LEN: usize = 0x1_0000;
/// Where the guest has the first one; the others follow.
const GUEST: u64 = 0x10_0000;
/// What the front end calls the same.
const USER: u64 = 0x7000_0000_0000;

/// Everything that is offered: of the device, and of the protocol.
const FEATURES: u64 = 0x1_7c40_bb83 | 7 << 54;
const PROTOCOL: u64 = 0xb02b;

/// Everything that a front end has at hand.
struct FrontEnd {
    cable: Cable,
    files: Vec<Shared>,
    event: OwnedFd,
    /// One end of what is passed where an eventfd would be; the other end tells whether it was let go.
    socket: (UnixStream, Option<UnixStream>),
    other: Vec<OwnedFd>,
}

impl FrontEnd {
    fn new() -> Self {
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let (_, broken) = rustix::pipe::pipe().expect("a pipe");
        let mut other = vec![reader, writer, broken];
        for name in ["/dev/null", "/dev/zero", "/proc/self/exe"] {
            let writable = File::options().read(true).write(true).open(name);
            other.push(writable.or_else(|_| File::open(name)).expect("a file that every machine has").into());
        }
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        Self {
            cable: Cable::new(),
            files: std::iter::repeat_with(|| Shared::new(FILE_LEN)).take(FILES).collect(),
            event: event(),
            socket: (ours, Some(theirs)),
            other,
        }
    }

    fn descriptor(&self, kind: u8) -> BorrowedFd<'_> {
        let kind = usize::from(kind % 16);
        match kind {
            0..=5 => self.files[kind % FILES].as_fd(),
            6..=8 => self.event.as_fd(),
            9 => self.socket.1.as_ref().expect("still open").as_fd(),
            _ => self.other[kind - 10].as_fd(),
        }
    }

    /// One message with what the specification has for it, unless the input says otherwise.
    fn message(&mut self, input: &mut Input<'_>) {
        // A quarter of all numbers is of no request.
        let request = u32::from(input.byte() % 56);
        let style = input.byte();
        let index = if style & 1 == 0 { u32::from(input.byte() % 4) } else { input.word() };
        let value = u64::from(input.half());
        let file = usize::from(input.byte()) % FILES;
        let at = (file * FILE_LEN) as u64;
        let region = |file: usize| {
            let at = (file * FILE_LEN) as u64;
            longs(&[GUEST + at, FILE_LEN as u64, USER + at, 0])
        };
        let mut descriptors = vec![file as u8];
        let mut payload = match request {
            request::SET_FEATURES | request::SET_PROTOCOL_FEATURES => {
                descriptors.clear();
                let offered = if request == request::SET_FEATURES { FEATURES } else { PROTOCOL };
                longs(&[if style & 2 == 0 { offered } else { u64::from_le_bytes(input.array()) }])
            }
            request::SET_MEM_TABLE => {
                let count = 1 + usize::from(input.byte()) % FILES;
                descriptors = (0..count).map(|file| file as u8).collect();
                let regions = (0..count).flat_map(region);
                words(&[count as u32, 0]).into_iter().chain(regions).collect()
            }
            request::SET_LOG_BASE => longs(&[value.max(1), 0]),
            request::SET_VRING_ADDR => {
                descriptors.clear();
                let ring = USER + at + u64::from(index) * 0x1000;
                let place = [ring, ring + 0x800, ring + 0x400, GUEST + at];
                words(&[index, u32::from(style >> 1 & 1)]).into_iter().chain(longs(&place)).collect()
            }
            request::SET_VRING_NUM
            | request::SET_VRING_BASE
            | request::GET_VRING_BASE
            | request::SET_VRING_ENABLE => {
                descriptors.clear();
                let value = if request == request::SET_VRING_ENABLE { value % 2 } else { value };
                words(&[index, value as u32])
            }
            request::SET_VRING_KICK | request::SET_VRING_CALL | request::SET_VRING_ERR => {
                descriptors = if style & 2 == 0 { vec![6] } else { vec![input.byte()] };
                longs(&[u64::from(index)])
            }
            request::GET_INFLIGHT_FD | request::SET_INFLIGHT_FD => {
                if request == request::GET_INFLIGHT_FD {
                    descriptors.clear();
                }
                let sizes = [4, input.half()].into_iter().flat_map(u16::to_ne_bytes);
                longs(&[value, u64::from(input.half())]).into_iter().chain(sizes).chain([0; 4]).collect()
            }
            request::ADD_MEM_REG | request::REM_MEM_REG => {
                if request == request::REM_MEM_REG {
                    descriptors.clear();
                }
                longs(&[0]).into_iter().chain(region(file)).collect()
            }
            _ => {
                descriptors.clear();
                if style & 2 == 0 { Vec::new() } else { longs(&[value]) }
            }
        };
        if style & 4 != 0 {
            // Something in it is not as it should be.
            let place = usize::from(input.byte()) % payload.len().max(1);
            let bytes: [u8; 8] = input.array();
            for (byte, wrong) in payload.iter_mut().skip(place).zip(bytes) {
                *byte = wrong;
            }
        }
        if style & 8 != 0 {
            let count = usize::from(input.byte()) % (DESCRIPTORS_MAX + 1);
            let kind = input.byte();
            descriptors = (0..count).map(|_| kind).collect();
        }
        let flags = if style & 16 == 0 { NEED_REPLY } else { VERSION };
        let fds: Vec<BorrowedFd<'_>> = descriptors.iter().map(|kind| self.descriptor(*kind)).collect();
        match style >> 5 {
            // Of another size than it says.
            7 => {
                let mut message = words(&[request, flags, input.word() % 0x2000]);
                message.extend(payload);
                self.cable.raw(&message, &fds);
            }
            // In two pieces, the descriptors with the first.
            6 => {
                let mut message = words(&[request, flags, payload.len() as u32]);
                message.extend(payload);
                let (first, second) = message.split_at(usize::from(input.byte()) % message.len());
                self.cable.raw(first, &fds);
                self.cable.guest.on_event();
                self.cable.raw(second, &[]);
            }
            // With flags that say something else.
            5 => self.cable.say(request, input.word(), &payload, &fds),
            _ => self.cable.say(request, flags, &payload, &fds),
        }
    }

    /// What a relay does, in any order that its trait allows.
    fn call(&mut self, input: &mut Input<'_>) {
        let guest = &mut self.cable.guest;
        match input.byte() % 8 {
            0 => {
                let Some(received) = guest.receive() else { return };
                if received.offload.is_ok() {
                    let mut pieces = [Piece::EMPTY; SLICES_MAX];
                    let used = guest.gather(received.place, 0..received.place.len(), &mut pieces);
                    assert!(used <= SLICES_MAX);
                    assert!(guest.head(received.place).len() <= received.place.len());
                    assert_eq!(guest.whole(received.place).len(), received.place.len());
                    if !guest.hold(received.place) {
                        guest.release();
                    }
                }
            }
            1 => guest.release(),
            2 => {
                let (headers, payload) = (usize::from(input.byte()), usize::from(input.half()));
                let Some(room) = guest.reserve(headers, payload) else { return };
                let there = room.payload_len();
                assert!(room.headers.len() == headers && there <= payload && (there > 0) == (payload > 0));
                assert_eq!(guest.publish(Offload::default(), headers, there), Ok(()));
            }
            3 => {
                let bytes = [0x5a; 300];
                let len = usize::from(input.half()) % 2000;
                let payload: Vec<_> = bytes.chunks(100).cycle().take(len / 100).map(IoSlice::new).collect();
                let _ = guest.send(Offload::default(), &bytes[..54], &payload);
            }
            4 => guest.steer(input.half()),
            5 => {
                let most = 1 + usize::from(input.byte());
                assert!(guest.frames_that_fit(usize::from(input.half()), most) <= most);
            }
            6 => guest.flush(),
            _ => {
                guest.flush();
                guest.take_link();
                guest.report(&mut Default::default());
            }
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..=5 => self.message(input),
            6..=7 => {
                self.message(input);
                self.cable.turn();
            }
            8 => {
                let file = usize::from(input.byte()) % FILES;
                self.files[file].cut(usize::from(input.half()));
            }
            9 => {
                let file = usize::from(input.byte()) % FILES;
                let at = usize::from(input.half());
                self.files[file].cut(FILE_LEN);
                self.files[file].write(at, &input.array::<8>());
            }
            10 => signal(&self.event),
            11 => drop(self.cable.hear()),
            12 if input.byte() == 0 => self.cable.say_no_more(),
            13 => self.cable.turn(),
            _ => self.call(input),
        }
    }

    /// A guest that is set up as QEMU does it.
    fn set_up(&mut self) {
        let cable = &self.cable;
        cable.say(request::SET_PROTOCOL_FEATURES, VERSION, &longs(&[PROTOCOL]), &[]);
        cable.say(request::GET_FEATURES, VERSION, &[], &[]);
        cable.say(request::SET_FEATURES, VERSION, &longs(&[FEATURES & !(1 << 26)]), &[]);
        let region = longs(&[GUEST, FILE_LEN as u64, USER, 0]);
        let table = [words(&[1, 0]), region].concat();
        cable.say(request::SET_MEM_TABLE, VERSION, &table, &[self.files[0].as_fd()]);
        for index in 0..2u32 {
            cable.say(request::SET_VRING_NUM, VERSION, &words(&[index, 16]), &[]);
            let ring = USER + u64::from(index) * 0x1000;
            let address = [words(&[index, 0]), longs(&[ring, ring + 0x800, ring + 0x400, 0])].concat();
            cable.say(request::SET_VRING_ADDR, VERSION, &address, &[]);
            for request in [request::SET_VRING_CALL, request::SET_VRING_KICK] {
                cable.say(request, VERSION, &longs(&[u64::from(index)]), &[self.event.as_fd()]);
            }
            cable.say(request::SET_VRING_ENABLE, VERSION, &words(&[index, 1]), &[]);
        }
        self.cable.turn();
    }
}

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut front_end = FrontEnd::new();
    if input.byte() & 1 == 0 {
        front_end.set_up();
        assert_eq!(front_end.cable.guest.take_link(), Link::Up);
    }
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        front_end.step(&mut input);
    }
    front_end.cable.close();
    front_end.cable.turn();
    front_end.cable.guest.flush();
    front_end.cable.guest.take_link();
    for file in &front_end.files {
        assert!(!file.is_mapped(), "memory of a front end that left is still mapped");
    }
    front_end.socket.1 = None;
    let mut polled = [PollFd::new(&front_end.socket.0, PollFlags::empty())];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let _ = poll(&mut polled, Some(&none));
    assert!(
        polled[0].revents().contains(PollFlags::HUP),
        "a descriptor of a front end that left is still open"
    );
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![1]];
    // Each request, set up before and not.
    for set_up in [0, 1] {
        seeds.extend((0..48).map(|number| vec![set_up, 6, number, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0]));
    }
    // More descriptors than a message may have.
    seeds.push(vec![1, 6, 3, 8 | 2, 0, 0, 0, 0, 40, 7]);
    // Half a message, and no more.
    seeds.push(vec![0, 6, 3, 7 << 5, 0, 0, 0, 0, 40, 0, 0, 0]);
    // A device without an end as memory, up to the last address.
    seeds.push([&[0, 6, 37, 12, 0, 0, 0, 0, 16][..], &[0xff; 8], &[1, 14]].concat());
    // The memory goes, and the rings are used.
    seeds.push(vec![0, 8, 0, 0, 0, 10, 13, 15, 0, 15, 2, 20, 100, 0, 15, 7]);
    seeds
}
