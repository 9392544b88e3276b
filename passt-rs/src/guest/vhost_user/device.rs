//! The device as the front end sets it up: features, memory, queues.
//!
//! The message layer calls [`Device`] once per message. What is refused here is answered with an error where the front
//! end asked for an answer; the device stays as it was.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

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
use super::queue::Queue;
use super::ring::Addresses;

/// Rings that messages can name.
const RINGS_MAX: usize = 2 * PAIRS_MAX;

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

impl Device {
    pub(super) fn new(epoll: Arc<OwnedFd>) -> Self {
        Self { epoll: Some(epoll), ..Self::default() }
    }

    /// The ring `index`, made if it is new.
    fn queue(&mut self, index: u32) -> Result<&mut Queue> {
        self.queue_and_memory(index).map(|(queue, ..)| queue)
    }

    /// The same, and what it begins with.
    fn queue_and_memory(&mut self, index: u32) -> Result<(&mut Queue, &Memory, &mut Option<Inflight>)> {
        let at = index as usize;
        if at >= RINGS_MAX {
            return Err(refused(format_args!("there is no ring {index}: {RINGS_MAX} are the most")));
        }
        let ring_features = self.ring_features();
        while self.queues.len() <= at {
            let number = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
            self.queues.push(Queue::new(number, ring_features));
        }
        let queue = self.queues.get_mut(at).ok_or(Error::InvalidParam)?;
        Ok((queue, &self.memory, &mut self.inflight))
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
            queue.find_again(&self.memory, &mut self.inflight);
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
        if queue.has_kick() {
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
        let (queue, memory, inflight) = self.queue_and_memory(index)?;
        let log = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG).then_some(log);
        let addresses = Addresses { descriptors, available, used, log };
        if !queue.set_addresses(addresses, memory) {
            return Err(refused(format_args!(
                "ring {index} is outside the guest's memory, or has no length yet"
            )));
        }
        queue.begin(memory, inflight);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let queue = self.queue(index)?;
        if queue.has_kick() {
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
        let (queue, memory, inflight) = self.queue_and_memory(u32::from(index))?;
        let Some(fd) = fd else {
            queue.stop();
            return Err(refused(format_args!("ring {index} has no kick; rings are not polled")));
        };
        queue.set_kick(fd, &epoll).map_err(refuse)?;
        queue.enabled |= !has_protocol;
        queue.begin(memory, inflight);
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let fd = nonblocking(fd).map_err(refuse)?;
        self.queue(u32::from(index))?.set_call(fd);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let fd = nonblocking(fd).map_err(refuse)?;
        self.queue(u32::from(index))?.set_error(fd);
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
