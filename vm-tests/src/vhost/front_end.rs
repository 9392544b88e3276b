//! The front end: tells a back end of memory and rings in the order QEMU does, and again when either restarts.
//! It must never touch a frame; that is the queues' work.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use super::feature::{protocol, virtio};
use super::memory::{Memory, PAGE, Region, Window, memory_file};
use super::message::{Body, Connection, Request};
use super::options::{Enable, Options};
use super::pair::Pair;
use super::ring::Ring;

/// In SET_VRING_ADDR: log writes to the used ring.
const VRING_LOG: u32 = 1;

/// Regions of a SET_MEM_TABLE message at most.
const TABLE_MAX: usize = 8;

/// A guest's network device without the guest: memory, queues, and a connection to the back end that serves them.
#[derive(Debug)]
pub struct FrontEnd {
    connection: Connection,
    options: Options,
    negotiated: Negotiated,
    memory: Memory,
    pairs: Vec<Pair>,
    log: Option<Log>,
    inflight: Option<Inflight>,
}

/// What both sides agreed on.
#[derive(Debug, Clone, Copy)]
struct Negotiated {
    offered: u64,
    protocol_offered: u64,
    protocol: u64,
    /// Pairs the back end can serve.
    pairs: u64,
    /// Regions it can map.
    slots: u64,
    /// It knows of the regions; QEMU does not tell of one twice.
    has_memory: bool,
}

#[derive(Debug)]
struct Log {
    file: Arc<OwnedFd>,
    window: Window,
}

#[derive(Debug)]
struct Inflight {
    file: OwnedFd,
    len: u64,
    offset: u64,
}

impl FrontEnd {
    /// Connects to the back end that listens at `path`, and starts all rings. Receive buffers are available at return.
    pub fn connect(path: &Path, options: Options) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("connect to {}", path.display()))?;
        Self::new(stream, options)
    }

    /// As [`FrontEnd::connect`], on a connection that is there.
    pub fn new(stream: UnixStream, options: Options) -> anyhow::Result<Self> {
        let mut connection = Connection::new(stream)?;
        let negotiated = Negotiated::ask(&mut connection, &options)?;
        let memory = new_memory(&options)?;
        let mut front_end =
            Self { connection, options, negotiated, memory, pairs: Vec::new(), log: None, inflight: None };
        front_end.build_pairs()?;
        front_end.start(&[])?;
        Ok(front_end)
    }

    /// Virtio features the back end offers.
    pub fn offered(&self) -> u64 {
        self.negotiated.offered
    }

    /// Virtio features in use.
    pub fn features(&self) -> u64 {
        self.negotiated.offered & self.options.features
    }

    /// Protocol features the back end offers.
    pub fn protocol_offered(&self) -> u64 {
        self.negotiated.protocol_offered
    }

    /// Pairs of rings the back end can serve.
    pub fn pairs_offered(&self) -> u64 {
        self.negotiated.pairs
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    pub fn pairs_mut(&mut self) -> &mut [Pair] {
        &mut self.pairs
    }

    /// The pair `index`, counted from 0.
    pub fn pair_mut(&mut self, index: usize) -> anyhow::Result<&mut Pair> {
        self.pairs.get_mut(index).with_context(|| format!("there is no pair {index}"))
    }

    /// For watching when the back end goes away, and for being wrong on purpose.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The connection's descriptor: readable, or hung up, when the back end is gone.
    pub fn stream(&self) -> BorrowedFd<'_> {
        self.connection.stream()
    }

    /// Stops all rings, as when a VM is paused or its driver leaves, and returns where each would go on: receive and
    /// transmit ring of the first pair, then of the next.
    pub fn stop(&mut self) -> anyhow::Result<Vec<u16>> {
        let mut bases = Vec::with_capacity(self.pairs.len() * 2);
        for number in self.ring_numbers() {
            let body = Body::default().u32(number).u32(0);
            let (answer, _) = self.connection.ask(Request::GetVringBase, body.bytes(), &[])?;
            bases.push(u16::try_from(answer.u32(4)?).context("a ring's base past 65535")?);
        }
        Ok(bases)
    }

    /// Starts all rings where [`FrontEnd::stop`] said they would go on.
    pub fn resume(&mut self, bases: &[u16]) -> anyhow::Result<()> {
        self.start(bases)
    }

    /// The guest reboots: rings stop, and a driver with other options, say fewer features, starts anew in the same
    /// memory. Regions cannot change.
    pub fn reboot(&mut self, options: Options) -> anyhow::Result<()> {
        self.stop()?;
        if self.negotiated.protocol & protocol::RESET_DEVICE != 0 {
            self.connection.tell(Request::ResetDevice, &[], &[])?;
        }
        let protocol_feature = self.features() & virtio::PROTOCOL_FEATURES;
        let regions = std::mem::take(&mut self.options.regions);
        self.options = Options { regions, ..options };
        // Agreed upon once for the connection.
        self.options.features &= !virtio::PROTOCOL_FEATURES;
        self.options.features |= protocol_feature;
        self.memory.rewind();
        self.build_pairs()?;
        self.inflight = None;
        self.start(&[])
    }

    /// The guest's driver starts anew, with the same options.
    pub fn reset(&mut self) -> anyhow::Result<()> {
        self.stop()?;
        for pair in &mut self.pairs {
            pair.reset();
        }
        self.start(&[])
    }

    /// Leaves without a word, as a VM that is killed does. Only [`FrontEnd::reconnect`] makes sense afterwards.
    pub fn disconnect(&mut self) -> anyhow::Result<()> {
        self.connection.close()
    }

    /// Goes on with another back end after this one went away without a word: what it had not finished is done again.
    /// Fails when it lacks features that the guest is using, as QEMU does.
    pub fn reconnect(&mut self, stream: UnixStream) -> anyhow::Result<()> {
        let mut connection = Connection::new(stream)?;
        let negotiated = Negotiated::ask(&mut connection, &self.options)?;
        let lost = self.features() & !negotiated.offered;
        anyhow::ensure!(lost == 0, "the new back end lacks features {lost:#x}");
        self.options.features = self.features();
        (self.connection, self.negotiated) = (connection, negotiated);
        let bases: Vec<u16> = self.pairs.iter().flat_map(Pair::rings).map(Ring::resume_at).collect();
        self.start(&bases)
    }

    /// Lets the back end use the pair `index`, or keeps it from doing so.
    pub fn enable(&mut self, index: u32, enabled: bool) -> anyhow::Result<()> {
        for number in [index * 2, index * 2 + 1] {
            self.enable_ring(number, enabled)?;
        }
        Ok(())
    }

    /// Gives the guest `len` more bytes of memory at `guest`, as when a memory module is plugged.
    pub fn add_region(&mut self, guest: u64, len: u64) -> anyhow::Result<()> {
        let region = self.memory.add(guest, len)?;
        if self.negotiated.protocol & protocol::CONFIGURE_MEM_SLOTS != 0 {
            add_slot(&self.connection, region)
        } else {
            self.send_memory_table()
        }
    }

    /// Takes the region at `guest` away, whatever lies in it.
    pub fn remove_region(&mut self, guest: u64) -> anyhow::Result<()> {
        let region = self.memory.remove(guest).context("no region starts there")?;
        if self.negotiated.protocol & protocol::CONFIGURE_MEM_SLOTS != 0 {
            let body = slot_body(&region);
            self.connection.tell(Request::RemMemReg, body.bytes(), &[])
        } else {
            self.send_memory_table()
        }
    }

    /// Starts logging, as when a migration starts.
    pub fn start_log(&mut self) -> anyhow::Result<()> {
        self.send_log()?;
        self.send_features(true)?;
        self.send_addresses(true)
    }

    /// Stops logging, as when a migration failed.
    pub fn stop_log(&mut self) -> anyhow::Result<()> {
        self.send_addresses(false)?;
        self.send_features(false)
    }

    /// Guest pages (addresses divided by 4096) that were written since last asked, in order.
    pub fn take_dirty_pages(&self) -> Vec<u64> {
        let Some(log) = &self.log else { return Vec::new() };
        let mut pages = Vec::new();
        for word in 0..log.window.len() / 8 {
            let bits = log.window.take_u64(word * 8);
            pages.extend((0..64).filter(|bit| bits >> bit & 1 != 0).map(|bit| word as u64 * 64 + bit));
        }
        pages
    }

    /// The region for what is in flight, if the back end gave one.
    pub fn inflight(&self) -> Option<BorrowedFd<'_>> {
        self.inflight.as_ref().map(|inflight| inflight.file.as_fd())
    }

    fn build_pairs(&mut self) -> anyhow::Result<()> {
        self.pairs.clear();
        let features = self.features();
        for _ in 0..self.options.pairs {
            self.pairs.push(Pair::new(&mut self.memory, &self.options, features)?);
        }
        Ok(())
    }

    /// Tells of features, memory and rings, and starts the rings at `bases`, or at 0.
    fn start(&mut self, bases: &[u16]) -> anyhow::Result<()> {
        if self.options.enable == Enable::First {
            self.enable_all()?;
        }
        self.send_features(self.options.log)?;
        self.send_memory()?;
        self.send_inflight()?;
        for (at, number) in self.ring_numbers().enumerate() {
            self.send_ring(number, bases.get(at).copied().unwrap_or(0))?;
        }
        if self.options.log {
            self.send_log()?;
        }
        if self.options.enable == Enable::Last {
            self.enable_all()?;
        }
        for pair in &mut self.pairs {
            pair.rx.refill();
            // A ring starts with its first kick.
            pair.rx.kick();
            pair.tx.kick();
        }
        self.synchronise()
    }

    /// Returns once the back end has done all that it was told.
    fn synchronise(&self) -> anyhow::Result<()> {
        self.connection.ask(Request::GetFeatures, &[], &[]).map(|_| ())
    }

    fn ring_numbers(&self) -> std::ops::Range<u32> {
        0..u32::from(self.options.pairs) * 2
    }

    fn ring(&self, number: u32) -> anyhow::Result<&Ring> {
        let [rx, tx] =
            self.pairs.get(number as usize / 2).map(Pair::rings).context("no ring of that number")?;
        Ok(if number.is_multiple_of(2) { rx } else { tx })
    }

    fn send_features(&self, log: bool) -> anyhow::Result<()> {
        let log = if log { self.negotiated.offered & virtio::LOG_ALL } else { 0 };
        let features = (self.features() & !virtio::LOG_ALL) | log;
        self.connection.tell(Request::SetFeatures, Body::default().u64(features).bytes(), &[])
    }

    fn send_memory(&mut self) -> anyhow::Result<()> {
        if self.negotiated.protocol & protocol::CONFIGURE_MEM_SLOTS == 0 {
            return self.send_memory_table();
        }
        if std::mem::replace(&mut self.negotiated.has_memory, true) {
            return Ok(());
        }
        let count = self.memory.regions().len();
        let slots = self.negotiated.slots;
        anyhow::ensure!(count as u64 <= slots, "{count} regions for a back end that takes {slots}");
        self.memory.regions().iter().try_for_each(|region| add_slot(&self.connection, region))
    }

    fn send_memory_table(&self) -> anyhow::Result<()> {
        let regions = self.memory.regions();
        anyhow::ensure!(regions.len() <= TABLE_MAX, "more than {TABLE_MAX} regions in a table");
        let mut body = Body::default().u32(u32::try_from(regions.len())?).u32(0);
        for region in regions {
            body = region_body(body, region);
        }
        let files: Vec<BorrowedFd<'_>> = regions.iter().map(Region::file).collect();
        self.connection.tell(Request::SetMemTable, body.bytes(), &files)
    }

    fn send_ring(&self, number: u32, base: u16) -> anyhow::Result<()> {
        let size = self.ring(number)?.size();
        let state = |value: u32| Body::default().u32(number).u32(value);
        self.connection.tell(Request::SetVringNum, state(size.into()).bytes(), &[])?;
        self.connection.tell(Request::SetVringBase, state(base.into()).bytes(), &[])?;
        self.send_address(number, self.options.log)?;
        let ring = self.ring(number)?;
        let body = Body::default().u64(number.into());
        self.connection.tell(Request::SetVringKick, body.bytes(), &[ring.kick_fd()])?;
        self.connection.tell(Request::SetVringCall, body.bytes(), &[ring.call()])
    }

    fn send_addresses(&self, log: bool) -> anyhow::Result<()> {
        self.ring_numbers().try_for_each(|number| self.send_address(number, log))
    }

    fn send_address(&self, number: u32, log: bool) -> anyhow::Result<()> {
        let ring = self.ring(number)?;
        let body = Body::default()
            .u32(number)
            .u32(if log { VRING_LOG } else { 0 })
            .u64(ring.table().user())
            .u64(ring.used().user())
            .u64(ring.avail().user())
            .u64(if log { ring.used().guest() } else { 0 });
        self.connection.tell(Request::SetVringAddr, body.bytes(), &[])
    }

    /// Without protocol features rings are enabled from the start.
    fn enable_all(&self) -> anyhow::Result<()> {
        if self.features() & virtio::PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        self.ring_numbers().try_for_each(|number| self.enable_ring(number, true))
    }

    fn enable_ring(&self, number: u32, enabled: bool) -> anyhow::Result<()> {
        let body = Body::default().u32(number).u32(enabled.into());
        self.connection.tell(Request::SetVringEnable, body.bytes(), &[])
    }

    /// One bit for each page up to the last region's end.
    fn send_log(&mut self) -> anyhow::Result<()> {
        let wanted = protocol::LOG_SHMFD;
        anyhow::ensure!(self.negotiated.protocol & wanted != 0, "the back end cannot log");
        let len = self.memory.end().div_ceil(PAGE * 8).next_multiple_of(PAGE);
        if self.log.as_ref().is_none_or(|log| (log.window.len() as u64) < len) {
            let file = memory_file(len)?;
            let window = Window::of_file(file.as_fd(), 0, len)?;
            self.log = Some(Log { file, window });
        }
        let log = self.log.as_ref().context("a log was just made")?;
        let body = Body::default().u64(log.window.len() as u64).u64(0);
        self.connection.ask(Request::SetLogBase, body.bytes(), &[log.file.as_fd()]).map(|_| ())
    }

    fn send_inflight(&mut self) -> anyhow::Result<()> {
        if !self.options.inflight || self.negotiated.protocol & protocol::INFLIGHT_SHMFD == 0 {
            return Ok(());
        }
        let rings = u32::from(self.options.pairs) * 2;
        let shape = rings | u32::from(self.options.ring_size) << 16;
        // The structure ends in four bytes of padding.
        let body = |len, offset| Body::default().u64(len).u64(offset).u32(shape).u32(0);
        if self.inflight.is_none() {
            let (answer, file) = self.connection.ask(Request::GetInflightFd, body(0, 0).bytes(), &[])?;
            let file = file.context("GetInflightFd was answered without a descriptor")?;
            self.inflight = Some(Inflight { file, len: answer.u64(0)?, offset: answer.u64(8)? });
        }
        let inflight = self.inflight.as_ref().context("a region was just given")?;
        let body = body(inflight.len, inflight.offset);
        self.connection.tell(Request::SetInflightFd, body.bytes(), &[inflight.file.as_fd()])
    }
}

impl Negotiated {
    /// All that QEMU asks before a guest runs.
    fn ask(connection: &mut Connection, options: &Options) -> anyhow::Result<Self> {
        let (answer, _) = connection.ask(Request::GetFeatures, &[], &[])?;
        let offered = answer.u64(0)?;
        // Without a way to ask, a back end has one pair and maps the regions of a table.
        let mut negotiated = Self {
            offered,
            protocol_offered: 0,
            protocol: 0,
            pairs: 1,
            slots: TABLE_MAX as u64,
            has_memory: false,
        };
        if offered & options.features & virtio::PROTOCOL_FEATURES != 0 {
            negotiated.ask_protocol(connection, options)?;
        }
        let (wanted, limit) = (u64::from(options.pairs), negotiated.pairs);
        anyhow::ensure!(wanted <= limit, "{wanted} pairs of rings for a back end that serves {limit}");
        connection.tell(Request::SetOwner, &[], &[])?;
        Ok(negotiated)
    }

    fn ask_protocol(&mut self, connection: &mut Connection, options: &Options) -> anyhow::Result<()> {
        let (answer, _) = connection.ask(Request::GetProtocolFeatures, &[], &[])?;
        self.protocol_offered = answer.u64(0)?;
        self.protocol = self.protocol_offered & options.protocol_features;
        let body = Body::default().u64(self.protocol);
        connection.tell(Request::SetProtocolFeatures, body.bytes(), &[])?;
        connection.acknowledged = self.protocol & protocol::REPLY_ACK != 0;
        if self.protocol & protocol::MQ != 0 {
            self.pairs = connection.ask(Request::GetQueueNum, &[], &[])?.0.u64(0)?;
        }
        if self.protocol & protocol::CONFIGURE_MEM_SLOTS != 0 {
            self.slots = connection.ask(Request::GetMaxMemSlots, &[], &[])?.0.u64(0)?;
        }
        Ok(())
    }
}

fn new_memory(options: &Options) -> anyhow::Result<Memory> {
    if options.region_len > 0 {
        return Memory::new(&options.regions, options.region_len);
    }
    let regions = u64::try_from(options.regions.len())?.max(1);
    let needed = Pair::footprint(options) * u64::from(options.pairs) / regions;
    // Turns do not always come out even: room for a few of the largest pieces.
    let slack = 8 * u64::from(options.tx_buffer_len.max(options.rx_buffer_len)).max(1 << 20);
    Memory::new(&options.regions, needed + needed / 4 + slack)
}

fn add_slot(connection: &Connection, region: &Region) -> anyhow::Result<()> {
    connection.tell(Request::AddMemReg, slot_body(region).bytes(), &[region.file()])
}

fn slot_body(region: &Region) -> Body {
    region_body(Body::default().u64(0), region)
}

fn region_body(body: Body, region: &Region) -> Body {
    body.u64(region.guest()).u64(region.len()).u64(region.user()).u64(region.file_offset())
}
