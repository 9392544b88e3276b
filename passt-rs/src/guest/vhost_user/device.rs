//! The device as the front end sets it up: features, memory, queues.
//!
//! The message layer calls [`Device`] once per message. What is refused here is answered with an error where the front
//! end asked for an answer; the device stays as it was.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Backend, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use super::features::{self, PAIRS_MAX};
use super::inflight::{self, Inflight};
use super::memory::{Mapping, Memory, REGIONS_MAX, Region};
use super::ring::{Addresses, Broken, Ring};
use super::supply::Supply;

/// Rings that messages can name.
const RINGS_MAX: usize = 2 * PAIRS_MAX;

/// An eventfd of the front end's, watched for as long as it is ours.
#[derive(Debug)]
struct Kick {
    fd: OwnedFd,
    epoll: Arc<OwnedFd>,
    token: u64,
}

/// Edge triggered: the counter is never read, each kick is an edge.
const KICK_FLAGS: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ET);

impl Kick {
    fn watch(fd: OwnedFd, epoll: &Arc<OwnedFd>, token: u64) -> io::Result<Self> {
        epoll::add(epoll, &fd, epoll::EventData::new_u64(token), KICK_FLAGS)?;
        Ok(Self { fd, epoll: Arc::clone(epoll), token })
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        // Closing is not enough: the front end has the same eventfd open.
        let _ = epoll::delete(&self.epoll, &self.fd);
    }
}

/// One ring and what belongs to it. Even ones lead to the guest, odd ones from it.
#[derive(Debug, Default)]
pub(super) struct Queue {
    number: u16,
    pub(super) ring: Ring,
    addresses: Option<Addresses>,
    kick: Option<Kick>,
    /// Begun since it has a kick: where the used ring stands is known.
    running: bool,
    call: Option<OwnedFd>,
    error: Option<OwnedFd>,
    pub(super) enabled: bool,
    broken: bool,
    /// Chains given back that are not published.
    given: u16,
    /// Chains taken that wait to be filled; of rings to the guest.
    pub(super) supply: Supply,
    /// The most chains that waited at a time; of rings to the guest.
    pub(super) most_chains: usize,
    /// In the list of those that may hold frames.
    pub(super) listed: bool,
    /// In the list of those with something to publish or to signal.
    pub(super) touched: bool,
}

impl Queue {
    /// Chains may be taken.
    pub(super) fn is_active(&self) -> bool {
        self.running && self.ring.is_placed() && !self.broken
    }

    /// Takes the next chain.
    pub(super) fn take(
        &mut self,
        inflight: &mut Option<Inflight>,
    ) -> std::result::Result<Option<u16>, Broken> {
        let taken = self.ring.take()?;
        if let (Some(head), Some(inflight)) = (taken, inflight) {
            inflight.taken(self.number, head);
        }
        Ok(taken)
    }

    /// Gives a chain back with `written` bytes in it.
    pub(super) fn give_back(
        &mut self,
        memory: &Memory,
        inflight: Option<&Inflight>,
        head: u16,
        written: u32,
    ) {
        self.ring.give_back(memory, head, written);
        self.given = self.given.saturating_add(1);
        if let Some(inflight) = inflight {
            inflight.given_back(self.number, head);
        }
    }

    /// Makes what was given back visible.
    pub(super) fn publish(&mut self, memory: &Memory, inflight: Option<&Inflight>) {
        self.ring.publish(memory);
        if let Some(inflight) = inflight.filter(|_| self.given > 0) {
            inflight.published(self.number, self.ring.published(), self.given);
        }
        self.given = 0;
    }

    /// Interrupts the driver if it wants to be.
    pub(super) fn interrupt(&mut self) {
        if self.ring.wants_interrupt()
            && let Some(call) = &self.call
        {
            signal(call.as_fd());
        }
    }

    /// Stands still until it is set up again: what is in it cannot be trusted.
    pub(super) fn give_up(&mut self, reason: Broken) {
        tracing::warn!("ring {} stands still: {reason}", self.number);
        self.broken = true;
        self.untake();
        if let Some(error) = &self.error {
            signal(error.as_fd());
        }
    }

    /// Puts back what was taken and not filled.
    fn untake(&mut self) {
        self.ring.untake(self.supply.chains());
        self.supply.clear();
    }

    /// Begins, as soon as there is a kick and the ring is found: behind what the used ring says.
    fn begin(&mut self, memory: &Memory, inflight: &mut Option<Inflight>) {
        if self.running || self.kick.is_none() {
            return;
        }
        if let Some(addresses) = self.addresses.filter(|_| !self.ring.is_placed()) {
            self.ring.place(memory, &addresses);
        }
        if !self.ring.is_placed() {
            return;
        }
        (self.running, self.broken) = (true, false);
        self.ring.start();
        if let Some(inflight) = inflight
            && inflight.start(self.number, self.ring.size(), self.ring.published())
        {
            // Chains go back in order: all behind the used index is still to be done.
            self.ring.set_base(self.ring.published());
        }
        self.signal();
    }

    /// Interrupts the driver whether it wants to be or not: whoever served the ring before may have died between
    /// giving buffers back and saying so, and a driver that waits for that adds no others.
    fn signal(&self) {
        if let Some(call) = &self.call {
            signal(call.as_fd());
        }
    }

    /// Has the kick tell again of what it told before.
    pub(super) fn look_again(&self) {
        if let Some(Kick { fd, epoll, token }) = &self.kick {
            let _ = epoll::modify(epoll, fd, epoll::EventData::new_u64(*token), KICK_FLAGS);
        }
    }

    fn stop(&mut self) {
        self.untake();
        self.kick = None;
        self.running = false;
        self.broken = false;
        self.ring.stop();
    }
}

/// Adds 1 to an eventfd; a full one wakes its reader anyway.
fn signal(fd: BorrowedFd<'_>) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

/// Descriptors of the front end must not be able to stop us.
fn nonblocking(file: Option<File>) -> io::Result<Option<OwnedFd>> {
    let Some(file) = file else { return Ok(None) };
    let fd = OwnedFd::from(file);
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(Some(fd))
}

/// What one front end set up; nothing of it survives the connection.
#[derive(Debug, Default)]
pub(super) struct Device {
    /// Where kicks are watched.
    epoll: Option<Arc<OwnedFd>>,
    /// What the guest accepted of what we offer.
    pub(super) features: u64,
    pub(super) memory: Memory,
    pub(super) queues: Vec<Queue>,
    pub(super) inflight: Option<Inflight>,
    /// The front end wants answers where it asks for them (VHOST_USER_PROTOCOL_F_REPLY_ACK).
    pub(super) replies: bool,
    /// The channel for requests of ours; kept open, as nothing is to be asked.
    backend: Option<Channel>,
}

/// The channel of the message layer, which has no `Debug`.
struct Channel(#[expect(dead_code, reason = "held open until the front end goes")] Backend);

impl std::fmt::Debug for Channel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Channel")
    }
}

/// Tokens of rings begin here.
pub(super) const FIRST_KICK: u64 = 2;

impl Device {
    pub(super) fn new(epoll: Arc<OwnedFd>) -> Self {
        Self { epoll: Some(epoll), ..Self::default() }
    }

    /// The ring `index`, made if it is new.
    fn queue(&mut self, index: u32) -> Result<&mut Queue> {
        let at = index as usize;
        if at >= RINGS_MAX {
            return Err(refused(format_args!("there is no ring {index}: {RINGS_MAX} are the most")));
        }
        let (event_idx, indirect) = self.ring_features();
        while self.queues.len() <= at {
            let number = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
            let mut queue = Queue { number, ..Queue::default() };
            queue.ring.set_features(event_idx, indirect);
            self.queues.push(queue);
        }
        self.queues.get_mut(at).ok_or(Error::InvalidParam)
    }

    /// Part of what the front end shares with us was taken away under us.
    pub(super) fn has_vanished(&self) -> bool {
        self.memory.has_vanished() || self.inflight.as_ref().is_some_and(Inflight::has_vanished)
    }

    fn ring_features(&self) -> (bool, bool) {
        let has = |feature| self.features & feature != 0;
        (has(features::RING_F_EVENT_IDX), has(features::RING_F_INDIRECT_DESC))
    }

    /// Finds all rings again.
    fn memory_changed(&mut self) {
        for queue in &mut self.queues {
            queue.untake();
            queue.ring.stop();
            if let Some(addresses) = queue.addresses
                && !queue.ring.place(&self.memory, &addresses)
                && queue.running
            {
                tracing::warn!("ring {} is outside the guest's memory now", queue.number);
            }
            queue.begin(&self.memory, &mut self.inflight);
        }
    }

    fn stop_all(&mut self) {
        for queue in &mut self.queues {
            queue.stop();
            queue.enabled = false;
        }
    }
}

/// An answer that says no. The connection stays.
fn refused(reason: std::fmt::Arguments<'_>) -> Error {
    Error::ReqHandlerError(io::Error::other(reason.to_string()))
}

fn refuse(reason: impl std::fmt::Display) -> Error {
    refused(format_args!("{reason}"))
}

fn region(region: &VhostUserMemoryRegion) -> Region {
    Region {
        guest: region.guest_phys_addr,
        user: region.user_addr,
        len: region.memory_size,
        offset: region.mmap_offset,
    }
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.stop_all();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.stop_all();
        self.queues.clear();
        self.features = 0;
        self.inflight = None;
        self.memory.set_logging(false);
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(features::OFFERED)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !features::OFFERED != 0 {
            return Err(refused(format_args!(
                "features {:#x} were accepted that nobody offered",
                features & !features::OFFERED
            )));
        }
        self.features = features;
        self.memory.set_logging(features & features::VHOST_F_LOG_ALL != 0);
        let (event_idx, indirect) = self.ring_features();
        for queue in &mut self.queues {
            queue.ring.set_features(event_idx, indirect);
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let mut all = Vec::with_capacity(regions.len());
        for (given, file) in regions.iter().zip(&files) {
            all.push((region(given), file.as_fd()));
        }
        self.memory.replace(&all).map_err(refuse)?;
        self.memory_changed();
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let queue = self.queue(index)?;
        if queue.kick.is_some() {
            return Err(refused(format_args!("ring {index} runs")));
        }
        if !queue.ring.set_size(num) {
            return Err(refused(format_args!("a ring cannot have {num} descriptors")));
        }
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        self.queue(index)?;
        let log = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG).then_some(log);
        let addresses = Addresses { descriptors, available, used, log };
        let Some(queue) = self.queues.get_mut(index as usize) else { return Err(Error::InvalidParam) };
        if queue.addresses.replace(addresses) != Some(addresses) {
            queue.untake();
        }
        if !queue.ring.place(&self.memory, &addresses) {
            return Err(refused(format_args!(
                "ring {index} is outside the guest's memory, or has no length yet"
            )));
        }
        queue.begin(&self.memory, &mut self.inflight);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let queue = self.queue(index)?;
        if queue.kick.is_some() {
            return Err(refused(format_args!("ring {index} runs")));
        }
        queue.ring.set_base(u16::try_from(base).map_err(refuse)?);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        if index as usize >= RINGS_MAX {
            // Asked for a value that there is not; the connection cannot go on.
            return Err(Error::InvalidParam);
        }
        let queue = self.queue(index)?;
        queue.stop();
        Ok(VhostUserVringState::new(index, u32::from(queue.ring.base())))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let has_protocol = self.features & features::VHOST_USER_F_PROTOCOL_FEATURES != 0;
        let Some(epoll) = self.epoll.clone() else { return Err(Error::InvalidParam) };
        let fd = nonblocking(fd).map_err(refuse)?;
        self.queue(u32::from(index))?;
        let Some(queue) = self.queues.get_mut(usize::from(index)) else { return Err(Error::InvalidParam) };
        queue.kick = None;
        let Some(fd) = fd else {
            queue.stop();
            return Err(refused(format_args!("ring {index} has no kick; rings are not polled")));
        };
        match Kick::watch(fd, &epoll, FIRST_KICK + u64::from(index)) {
            Ok(kick) => queue.kick = Some(kick),
            Err(error) => {
                queue.stop();
                return Err(refuse(error));
            }
        }
        queue.enabled |= !has_protocol;
        queue.begin(&self.memory, &mut self.inflight);
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let fd = nonblocking(fd).map_err(refuse)?;
        let queue = self.queue(u32::from(index))?;
        queue.call = fd;
        queue.signal();
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let fd = nonblocking(fd).map_err(refuse)?;
        self.queue(u32::from(index))?.error = fd;
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(features::PROTOCOL)
    }

    fn set_protocol_features(&mut self, accepted: u64) -> Result<()> {
        let unknown = accepted & !features::PROTOCOL.bits();
        self.replies = accepted & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0;
        if unknown != 0 {
            return Err(refused(format_args!(
                "protocol features {unknown:#x} were accepted that nobody offered"
            )));
        }
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(PAIRS_MAX as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.queue(index)?.enabled = enable;
        Ok(())
    }

    fn get_config(&mut self, _offset: u32, _size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Err(refuse("the front end keeps the configuration space"))
    }

    fn set_config(&mut self, _offset: u32, _bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Err(refuse("the front end keeps the configuration space"))
    }

    fn set_backend_req_fd(&mut self, backend: Backend) {
        self.backend = Some(Channel(backend));
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        Err(refuse("this is a network device"))
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(refuse("there are no shared objects"))
    }

    fn get_inflight_fd(&mut self, asked: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let (queues, size) = (asked.num_queues, asked.queue_size);
        if usize::from(queues) > RINGS_MAX || size > super::ring::SIZE_MAX {
            return Err(Error::InvalidParam);
        }
        let (fd, len) = inflight::create(queues, size).map_err(|_| Error::BackendInternalError)?;
        let mapping = Mapping::new(fd.as_fd(), 0, len).map_err(|_| Error::BackendInternalError)?;
        self.inflight = Inflight::new(mapping, len, queues, size).ok();
        Ok((
            VhostUserInflight { mmap_size: len, mmap_offset: 0, num_queues: queues, queue_size: size },
            File::from(fd),
        ))
    }

    fn set_inflight_fd(&mut self, given: &VhostUserInflight, file: File) -> Result<()> {
        let mapping = Mapping::new(file.as_fd(), given.mmap_offset, given.mmap_size).map_err(refuse)?;
        let made = Inflight::new(mapping, given.mmap_size, given.num_queues, given.queue_size);
        self.inflight = Some(made.map_err(refuse)?);
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(REGIONS_MAX as u64)
    }

    fn add_mem_region(
        &mut self,
        given: &VhostUserSingleMemoryRegion,
        fd: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        self.memory.add(region(given), fd.as_fd()).map_err(refuse)?;
        self.memory_changed();
        Ok(None)
    }

    fn remove_mem_region(&mut self, given: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.memory.remove(region(given)).map_err(refuse)?;
        self.memory_changed();
        Ok(())
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        Err(refuse("connections do not move with the guest"))
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(refuse("connections do not move with the guest"))
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(refuse("there is no shared memory of ours"))
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        // Without a log the front end would take memory for clean that is not; the connection cannot go on.
        self.memory.set_log(file.as_fd(), log.mmap_offset, log.mmap_size).map_err(|error| {
            tracing::warn!("the log of changed memory: {error}");
            Error::BackendInternalError
        })
    }
}
