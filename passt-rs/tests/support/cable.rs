//! QEMU's end of the stream transport as a smoltcp device, with faults both ways.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};

use super::random::Random;

const ETHERNET: usize = 14;
/// Bytes towards the relay that may wait before smoltcp is told to. More than the windows of a test's flows together:
/// smoltcp forgets a fast retransmission for which its device has no room.
const BACKLOG_MAX: usize = 4 << 20;
/// Frames that were delayed arrive this much later, at most.
const DELAY_MAX_MICROS: u64 = 4000;

/// What happens to frames, per mille, each way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub lost: u16,
    pub duplicated: u16,
    /// Late, so that others overtake.
    pub delayed: u16,
}

#[derive(Debug)]
pub struct Cable {
    stream: Option<UnixStream>,
    mtu: usize,
    pub faults: Faults,
    random: Random,
    input: Vec<u8>,
    parsed: usize,
    output: Vec<u8>,
    written: usize,
    /// Frames on the way, by arrival; the number keeps those of one instant apart.
    late_in: BTreeMap<(Instant, u64), Vec<u8>>,
    late_out: BTreeMap<(Instant, u64), Vec<u8>>,
    again: Option<Vec<u8>>,
    number: u64,
    /// The guest neither reads nor sends.
    pub frozen: bool,
    /// The relay may leave.
    pub may_end: bool,
}

impl Cable {
    pub fn connect(path: &Path, mtu: u16, faults: Faults, seed: u64) -> Self {
        let mut cable = Self {
            stream: None,
            mtu: usize::from(mtu),
            faults,
            random: Random::new(seed),
            input: Vec::new(),
            parsed: 0,
            output: Vec::new(),
            written: 0,
            late_in: BTreeMap::new(),
            late_out: BTreeMap::new(),
            again: None,
            number: 0,
            frozen: false,
            may_end: false,
        };
        cable.reconnect(path);
        cable
    }

    /// As a QEMU that was started again: nothing in flight survives.
    pub fn reconnect(&mut self, path: &Path) {
        self.stream = None;
        self.input.clear();
        self.output.clear();
        (self.parsed, self.written) = (0, 0);
        let stream = UnixStream::connect(path).unwrap();
        stream.set_nonblocking(true).unwrap();
        self.stream = Some(stream);
    }

    pub fn stream(&self) -> &UnixStream {
        self.stream.as_ref().unwrap()
    }

    /// Sends a frame as it is, past smoltcp and faults.
    pub fn inject(&mut self, frame: &[u8]) {
        self.queue(frame);
        self.flush();
    }

    /// Waits until the relay has taken what was sent.
    pub fn drain_output(&mut self) {
        while self.wants_to_write() {
            let mut fds = [PollFd::new(self.stream(), PollFlags::OUT)];
            rustix::event::poll(&mut fds, None).unwrap();
            self.flush();
        }
    }

    fn queue(&mut self, frame: &[u8]) {
        self.output.extend_from_slice(&u32::try_from(frame.len()).unwrap().to_be_bytes());
        self.output.extend_from_slice(frame);
    }

    /// Reads and writes what the socket allows, and lets late frames go. `false`: nothing moved.
    pub fn flush(&mut self) -> bool {
        let now = Instant::now();
        while let Some(entry) = self.late_out.first_entry().filter(|entry| entry.key().0 <= now) {
            let frame = entry.remove();
            self.queue(&frame);
        }
        let mut moved = false;
        let Some(mut stream) = self.stream.as_ref() else { return false };
        while self.written < self.output.len() {
            match stream.write(&self.output[self.written..]) {
                Ok(written) => (self.written, moved) = (self.written + written, true),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) if self.may_end => break,
                Err(error) => panic!("the relay left: {error}"),
            }
        }
        // Under load this end is never done writing; what is written must not count as waiting.
        if self.written > self.waiting() {
            self.output.drain(..self.written);
            self.written = 0;
        }
        moved
    }

    fn fill(&mut self) {
        self.input.drain(..self.parsed);
        self.parsed = 0;
        let start = self.input.len();
        self.input.resize(start + (1 << 18), 0);
        let Some(mut stream) = self.stream.as_ref() else { return };
        let read = match stream.read(&mut self.input[start..]) {
            Ok(0) if self.may_end => 0,
            Ok(0) => panic!("the relay hung up"),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) if self.may_end => 0,
            Err(error) => panic!("the relay left: {error}"),
        };
        self.input.truncate(start + read);
    }

    fn parse(&mut self) -> Option<Vec<u8>> {
        let bytes = &self.input[self.parsed..];
        let (prefix, rest) = bytes.split_first_chunk::<4>()?;
        let len = u32::from_be_bytes(*prefix) as usize;
        let frame = rest.get(..len)?.to_vec();
        self.parsed += 4 + len;
        assert!(len <= self.mtu + ETHERNET, "a frame of {len} bytes at an MTU of {}", self.mtu);
        Some(frame)
    }

    fn arrival(&mut self) -> (Instant, u64) {
        self.number += 1;
        (Instant::now() + Duration::from_micros(self.random.below(DELAY_MAX_MICROS)), self.number)
    }

    fn next_frame(&mut self) -> Option<Vec<u8>> {
        if self.frozen {
            return None;
        }
        if let Some(frame) = self.again.take() {
            return Some(frame);
        }
        if let Some(entry) = self.late_in.first_entry().filter(|entry| entry.key().0 <= Instant::now()) {
            return Some(entry.remove());
        }
        loop {
            let frame = match self.parse() {
                Some(frame) => frame,
                None => {
                    self.fill();
                    self.parse()?
                }
            };
            if self.random.happens(self.faults.lost) {
                continue;
            }
            if self.random.happens(self.faults.delayed) {
                let at = self.arrival();
                self.late_in.insert(at, frame);
                continue;
            }
            if self.random.happens(self.faults.duplicated) {
                self.again = Some(frame.clone());
            }
            return Some(frame);
        }
    }

    /// When a late frame is due.
    pub fn due(&self) -> Option<Instant> {
        let first = |late: &BTreeMap<(Instant, u64), Vec<u8>>| late.keys().next().map(|(at, _)| *at);
        first(&self.late_in).into_iter().chain(first(&self.late_out)).min()
    }

    pub fn wants_to_write(&self) -> bool {
        self.waiting() > 0
    }

    /// Bytes that the relay did not take yet.
    fn waiting(&self) -> usize {
        self.output.len() - self.written
    }
}

pub struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub struct Room<'a>(&'a mut Cable);

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let cable = self.0;
        if cable.random.happens(cable.faults.lost) {
            return f(&mut vec![0; len]);
        }
        if cable.random.happens(cable.faults.delayed) {
            let mut frame = vec![0; len];
            let result = f(&mut frame);
            let at = cable.arrival();
            cable.late_out.insert(at, frame);
            return result;
        }
        let start = cable.output.len();
        cable.output.extend_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        cable.output.resize(start + 4 + len, 0);
        let result = f(&mut cable.output[start + 4..]);
        if cable.random.happens(cable.faults.duplicated) {
            cable.output.extend_from_within(start..);
        }
        result
    }
}

impl Device for Cable {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Room<'_>)> {
        let frame = self.next_frame()?;
        Some((Received(frame), Room(self)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Room<'_>> {
        (!self.frozen && self.waiting() < BACKLOG_MAX).then_some(Room(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + ETHERNET;
        capabilities
    }
}
