//! The native rig: a tap of a guest's namespace on one end, a vhost-user back end on the other, and so a guest whose
//! driver runs at native speed.
//!
//! Frames go by one read from the tap into a transmit buffer, and by one write from receive buffers to the tap; kicks
//! and calls are batched. One thread. It must never answer a frame, or change more of one than a header the tap
//! would misunderstand.

mod args;
mod signals;
pub(crate) mod tap;
mod checksum;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::Context as _;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::feature::virtio;
use super::header::{DATA_VALID, NEEDS_CSUM};
use super::{Closed, FrontEnd, Options, Pair, Taken};
use args::Args;
use tap::Tap;

/// Exit status when the back end went away and was not to be waited for.
const GONE: u8 = 2;

/// Frames moved one way before the other way has its turn.
const BATCH: usize = 64;

/// How long to wait until the socket is tried again. Short beside a back end's start.
const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// How a connection shows that the other end left it.
const HANGUP: EventFlags = EventFlags::HUP.union(EventFlags::RDHUP).union(EventFlags::ERR);

/// Runs a cable as the arguments say: see [`args::USAGE`].
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    match run(arguments) {
        Ok(End::Asked) => ExitCode::SUCCESS,
        Ok(End::BackEndGone) => {
            eprintln!("vhost-cable: the back end is gone");
            ExitCode::from(GONE)
        }
        Err(error) => {
            eprintln!("vhost-cable: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Why a cable ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By a signal.
    Asked,
    BackEndGone,
}

fn run(arguments: impl Iterator<Item = String>) -> anyhow::Result<End> {
    let args = Args::parse(arguments)?;
    let signals = signals::termination().context("watch signals")?;
    tap::enter(args.netns.as_deref())?;
    let taps: Vec<Tap> =
        (0..args.queues).map(|_| Tap::open(&args.tap, args.queues > 1)).collect::<anyhow::Result<_>>()?;
    // Segments the kernel cannot make of UDP it cannot take either.
    let knows_uso = taps.first().is_some_and(Tap::knows_uso);
    let without = if knows_uso { 0 } else { virtio::HOST_USO | virtio::GUEST_USO4 | virtio::GUEST_USO6 };
    let defaults = Options::default();
    let options = Options {
        features: defaults.features & args.features & !without,
        pairs: args.queues,
        ring_size: args.ring_size,
        rx_buffers: args.ring_size,
        tx_buffers: args.ring_size,
        rx_buffer_len: args.rx_buffer,
        any_header: true,
        ..defaults
    };
    let Some(stream) = first_connection(&args, signals.as_fd())? else { return Ok(End::Asked) };
    let front_end = FrontEnd::new(stream, options)?;
    for (tap, pair) in taps.iter().zip(front_end.pairs()) {
        tap.configure(pair.tx.header_len(), front_end.features())?;
    }
    if let Some(tap) = taps.first() {
        tap.bring_up(args.mtu)?;
    }
    let mut cable = Cable::new(front_end, taps, signals)?;
    eprintln!("vhost-cable: connected, virtio features {:#x}", cable.front_end.features());
    loop {
        let end = cable.run()?;
        if end == End::Asked || !args.reconnect {
            cable.report();
            return Ok(end);
        }
        eprintln!("vhost-cable: the back end is gone, waiting for another");
        if !cable.reconnect(&args)? {
            return Ok(End::Asked);
        }
        eprintln!("vhost-cable: connected again");
    }
}

/// Waits for a listener only where back ends are expected to come and go. None after a signal.
fn first_connection(args: &Args, signals: BorrowedFd<'_>) -> anyhow::Result<Option<UnixStream>> {
    loop {
        match UnixStream::connect(&args.socket) {
            Ok(stream) => return Ok(Some(stream)),
            Err(_) if args.reconnect => {
                if is_readable_within(signals, RETRY)? {
                    return Ok(None);
                }
            }
            Err(error) => {
                return Err(error).with_context(|| format!("connect to {}", args.socket.display()));
            }
        }
    }
}

fn is_readable_within(descriptor: BorrowedFd<'_>, limit: Timespec) -> anyhow::Result<bool> {
    let mut descriptors = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    match poll(&mut descriptors, Some(&limit)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error).context("wait"),
    }
}

/// What was moved, for whoever wonders why a measurement came out so.
#[derive(Debug, Default, Clone, Copy)]
struct Counters {
    frames_to_back_end: u64,
    frames_to_tap: u64,
    /// The kernel did not take them.
    frames_refused_by_tap: u64,
    /// Times no transmit buffer was free.
    full: u64,
}

/// One of the cable's pairs of a tap queue and a pair of rings.
#[derive(Debug)]
struct Lane {
    tap: Tap,
    /// The tap may have frames.
    tap_is_ready: bool,
    /// No transmit buffer is free; the back end will say when there is one.
    is_full: bool,
    /// The back end may have frames, or has them.
    back_end_is_ready: bool,
}

/// Both ends, connected.
struct Cable {
    front_end: FrontEnd,
    lanes: Vec<Lane>,
    signals: OwnedFd,
    epoll: OwnedFd,
    events: Vec<Event>,
    counters: Counters,
}

/// What became ready, as a token of epoll: a kind, and a lane's number above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    BackEnd,
    Tap(usize),
    RxCall(usize),
    TxCall(usize),
}

impl Source {
    fn token(self) -> u64 {
        let (kind, lane) = match self {
            Self::Signals => (0, 0),
            Self::BackEnd => (1, 0),
            Self::Tap(lane) => (2, lane),
            Self::RxCall(lane) => (3, lane),
            Self::TxCall(lane) => (4, lane),
        };
        kind | (lane as u64) << 8
    }

    fn from_token(token: u64) -> Self {
        let lane = usize::try_from(token >> 8).unwrap_or(usize::MAX);
        match token & 0xff {
            0 => Self::Signals,
            1 => Self::BackEnd,
            2 => Self::Tap(lane),
            3 => Self::RxCall(lane),
            _ => Self::TxCall(lane),
        }
    }
}

impl Cable {
    fn new(front_end: FrontEnd, taps: Vec<Tap>, signals: OwnedFd) -> anyhow::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("create an epoll descriptor")?;
        let add = |descriptor: BorrowedFd<'_>, source: Source, flags: EventFlags| {
            epoll::add(&epoll, descriptor, EventData::new_u64(source.token()), flags).context("watch")
        };
        add(signals.as_fd(), Source::Signals, EventFlags::IN)?;
        add(front_end.stream(), Source::BackEnd, EventFlags::RDHUP)?;
        let mut lanes = Vec::new();
        for (at, (tap, pair)) in taps.into_iter().zip(front_end.pairs()).enumerate() {
            // Edges only: taps are read until they are empty, and calls need no emptying.
            add(tap.as_fd(), Source::Tap(at), EventFlags::IN | EventFlags::ET)?;
            add(pair.rx.call(), Source::RxCall(at), EventFlags::IN | EventFlags::ET)?;
            add(pair.tx.call(), Source::TxCall(at), EventFlags::IN | EventFlags::ET)?;
            lanes.push(Lane { tap, tap_is_ready: true, is_full: false, back_end_is_ready: true });
        }
        let events = Vec::with_capacity(64);
        Ok(Self { front_end, lanes, signals, epoll, events, counters: Counters::default() })
    }

    /// Says what was moved, and how often the two sides told each other.
    fn report(&self) {
        eprintln!("vhost-cable: {:?}", self.counters);
        for (at, pair) in self.front_end.pairs().iter().enumerate() {
            eprintln!("vhost-cable: pair {at}: tx {:?}, rx {:?}", pair.tx.counters(), pair.rx.counters());
        }
    }

    fn run(&mut self) -> anyhow::Result<End> {
        loop {
            let mut is_idle = true;
            for (lane, pair) in self.lanes.iter_mut().zip(self.front_end.pairs_mut()) {
                lane.move_to_back_end(pair, &mut self.counters)?;
                lane.move_from_back_end(pair, &mut self.counters)?;
                is_idle &= !lane.back_end_is_ready && (!lane.tap_is_ready || lane.is_full);
            }
            if let Some(end) = self.wait(is_idle)? {
                return Ok(end);
            }
        }
    }

    /// Notes what is ready; sleeps until something is when the cable `is_idle`.
    fn wait(&mut self, is_idle: bool) -> anyhow::Result<Option<End>> {
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.events.clear();
        let limit = if is_idle { None } else { Some(&none) };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), limit) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for events"),
        }
        let mut end = None;
        for event in &self.events {
            let (data, flags) = (event.data, event.flags);
            match Source::from_token(data.u64()) {
                Source::Signals => return Ok(Some(End::Asked)),
                Source::BackEnd if flags.intersects(HANGUP) => end = Some(End::BackEndGone),
                Source::BackEnd => {}
                Source::Tap(at) => {
                    if let Some(lane) = self.lanes.get_mut(at) {
                        lane.tap_is_ready = true;
                    }
                }
                Source::RxCall(at) => {
                    if let Some(lane) = self.lanes.get_mut(at) {
                        lane.back_end_is_ready = true;
                    }
                }
                Source::TxCall(at) => {
                    if let Some(lane) = self.lanes.get_mut(at) {
                        lane.is_full = false;
                    }
                }
            }
        }
        Ok(end)
    }

    /// Waits for a back end that completes the handshake. False after a signal.
    fn reconnect(&mut self, args: &Args) -> anyhow::Result<bool> {
        loop {
            let connected = UnixStream::connect(&args.socket).ok();
            match connected.map(|stream| self.front_end.reconnect(stream)) {
                Some(Ok(())) => break,
                // It was just leaving.
                Some(Err(error)) if error.is::<Closed>() => {}
                Some(Err(error)) => return Err(error),
                None => {}
            }
            if is_readable_within(self.signals.as_fd(), RETRY)? {
                return Ok(false);
            }
        }
        // The old connection's descriptor left epoll when it was closed.
        let token = EventData::new_u64(Source::BackEnd.token());
        epoll::add(&self.epoll, self.front_end.stream(), token, EventFlags::RDHUP).context("watch")?;
        for lane in &mut self.lanes {
            (lane.tap_is_ready, lane.back_end_is_ready, lane.is_full) = (true, true, false);
        }
        Ok(true)
    }
}

impl Lane {
    fn move_to_back_end(&mut self, pair: &mut Pair, counters: &mut Counters) -> anyhow::Result<()> {
        if !self.tap_is_ready || self.is_full {
            return Ok(());
        }
        for _ in 0..BATCH {
            match pair.tx.read_from(self.tap.as_fd()).context("read the tap")? {
                Taken::Frame(_) => counters.frames_to_back_end += 1,
                Taken::Nothing => {
                    self.tap_is_ready = false;
                    break;
                }
                Taken::Full => {
                    counters.full += 1;
                    self.is_full = true;
                    break;
                }
            }
        }
        pair.tx.flush();
        if self.is_full {
            self.is_full = !pair.tx.arm(false);
        } else {
            pair.tx.disarm();
        }
        Ok(())
    }

    fn move_from_back_end(&mut self, pair: &mut Pair, counters: &mut Counters) -> anyhow::Result<()> {
        if !self.back_end_is_ready {
            return Ok(());
        }
        pair.rx.disarm();
        let low = usize::from(pair.rx.outstanding()).midpoint(pair.rx.stock());
        let mut is_empty = false;
        for _ in 0..BATCH {
            let Some(frame) = pair.rx.receive()? else {
                is_empty = true;
                break;
            };
            // A device may leave out a checksum that it vouches for; the tap's kernel would look for it.
            if frame.header.flags & (NEEDS_CSUM | DATA_VALID) == DATA_VALID {
                let mut head = [0; checksum::HEAD];
                let len = pair.rx.head(&mut head);
                if let Some(header) = checksum::partial(frame.header, head.get(..len).unwrap_or_default()) {
                    pair.rx.replace_header(header);
                }
            }
            match pair.rx.write_to(self.tap.as_fd()) {
                Ok(_) => counters.frames_to_tap += 1,
                Err(_) => counters.frames_refused_by_tap += 1,
            }
            // Before the device runs out, and not for every frame.
            if pair.rx.stock() >= low.max(1) {
                pair.rx.refill();
            }
        }
        pair.rx.release();
        pair.rx.refill();
        if is_empty {
            self.back_end_is_ready = pair.rx.arm();
        }
        Ok(())
    }
}
