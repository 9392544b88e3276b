//! The tap transport: a kernel network device with a virtio-net header on each frame.
//!
//! With TUNSETOFFLOAD the guest's kernel hands over segments of up to 64 KiB and leaves checksums to us; in
//! the other direction the device takes the same, whatever was set. The device is created in the guest's
//! namespace by whoever opens it; the descriptor works from any namespace.
#![expect(unsafe_code, reason = "TUNSETIFF and its kin have no safe wrapper; see each block")]

use std::fs::OpenOptions;
use std::io;
use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::event::epoll;

use super::{
    FRAME_MAX, Full, Guest, HEADERS_MAX, Link, Offloads, Payload, Place, Received, Room, SLICES_MAX,
};
use crate::drop_reason::DropReason;
use crate::iovec::{Piece, PieceMut};
use crate::wire::{Offload, VNET_HEADER_LEN};

/// Frames that can be held for a batch. Buffers are touched, and so cost memory, only as far as frames fill them.
const BUFFERS: usize = 64;
const BUFFER_LEN: usize = VNET_HEADER_LEN + FRAME_MAX;

/// Why a tap could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error("cannot open /dev/net/tun")]
    Device(#[source] io::Error),
    #[error("cannot create the tap {name:?}")]
    Create { name: String, source: io::Error },
    #[error("cannot set the virtio-net header of the tap {name:?}")]
    Header { name: String, source: io::Error },
    #[error("interface name {name:?} is longer than 15 bytes or empty")]
    Name { name: String },
}

/// An open tap device.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    /// [`BUFFERS`] frames of [`BUFFER_LEN`] each.
    incoming: Vec<u8>,
    /// Buffer that the next frame is read into; those before it are held.
    held: usize,
    /// One frame being built: virtio-net header, headers, payload.
    outgoing: Vec<u8>,
    /// Lengths of headers and payload reserved last.
    reserved: (usize, usize),
    offloads: Offloads,
    /// Where the device is watched, once attached.
    epoll: Option<OwnedFd>,
    /// Up once, at the start; gone once, when somebody deleted the device.
    link: Link,
}

impl Tap {
    /// Creates or attaches to the tap `name` in the calling thread's network namespace.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ {
            return Err(TapError::Name { name: name.into() });
        }
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(TapError::Device)?;
        let fd = OwnedFd::from(device);

        let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], flags: 0, pad: [0; 22] };
        for (to, from) in request.name.iter_mut().zip(bytes) {
            *to = *from;
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.flags = u16::try_from(flags).unwrap_or(0);
        // SAFETY: TUNSETIFF reads and writes a `struct ifreq`; `request` has its size and layout and
        // outlives the call.
        let created = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
        check(created).map_err(|source| TapError::Create { name: name.into(), source })?;
        let header_len = libc::c_int::try_from(VNET_HEADER_LEN).unwrap_or(0);
        // SAFETY: TUNSETVNETHDRSZ reads one int; `header_len` is one and outlives the call.
        let sized = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const header_len) };
        check(sized).map_err(|source| TapError::Header { name: name.into(), source })?;

        let offloads = negotiate(fd.as_fd());
        Ok(Self {
            fd,
            incoming: vec![0; BUFFERS * BUFFER_LEN],
            held: 0,
            outgoing: vec![0; VNET_HEADER_LEN + HEADERS_MAX + FRAME_MAX],
            reserved: (0, 0),
            offloads,
            epoll: None,
            link: Link::Up,
        })
    }

    /// The device was deleted: it would stay ready with an error.
    fn give_up(&mut self, error: rustix::io::Errno) {
        if let Some(epoll) = self.epoll.take() {
            let _ = epoll::delete(epoll, &self.fd);
            tracing::info!("the tap is gone: {error}");
            self.link = Link::Gone;
        }
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> Result<(), Full> {
        loop {
            match rustix::io::writev(&self.fd, slices) {
                Err(rustix::io::Errno::INTR) => {}
                // A device that is down (EIO) loses the frame as an unplugged cable would.
                Ok(_) | Err(rustix::io::Errno::IO) => return Ok(()),
                Err(_) => return Err(Full),
            }
        }
    }
}

impl Guest for Tap {
    fn attach(&mut self, epoll: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        epoll::add(epoll, &self.fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        self.epoll = Some(epoll.try_clone_to_owned()?);
        Ok(())
    }

    fn on_event(&mut self) -> bool {
        true
    }

    fn take_link(&mut self) -> Link {
        std::mem::replace(&mut self.link, Link::Unchanged)
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn receive(&mut self) -> Option<Received> {
        let start = self.held * BUFFER_LEN;
        let buffer = self.incoming.get_mut(start..start + BUFFER_LEN)?;
        let len = loop {
            match rustix::io::read(&self.fd, &mut *buffer) {
                Ok(len) => break len,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::IO) => return None,
                Err(error) => {
                    self.give_up(error);
                    return None;
                }
            }
        };
        let (header, _) = buffer.split_first_chunk::<VNET_HEADER_LEN>()?;
        let place = Place {
            buffer: u32::try_from(self.held).ok()?,
            offset: u32::try_from(VNET_HEADER_LEN).ok()?,
            len: u32::try_from(len.checked_sub(VNET_HEADER_LEN)?).ok()?,
        };
        Some(Received { place, offload: Offload::parse(header).ok_or(DropReason::Offload), queue: 0 })
    }

    fn head(&self, place: Place) -> &[u8] {
        let start = place.buffer as usize * BUFFER_LEN + place.offset as usize;
        self.incoming.get(start..start + place.len()).unwrap_or_default()
    }

    fn whole(&mut self, place: Place) -> &[u8] {
        self.head(place)
    }

    fn gather<'a>(
        &'a self,
        place: Place,
        range: Range<usize>,
        pieces: &mut [Piece<'a>; SLICES_MAX],
    ) -> usize {
        pieces[0] = Piece::new(self.head(place).get(range).unwrap_or_default());
        1
    }

    fn hold(&mut self, _place: Place) -> bool {
        self.held += 1;
        self.held < BUFFERS
    }

    fn release(&mut self) {
        self.held = 0;
    }

    fn reserve(&mut self, headers: usize, payload: usize) -> Option<Room<'_>> {
        self.reserved = (headers, payload);
        Some(self.room())
    }

    fn room(&mut self) -> Room<'_> {
        let (headers, payload) = self.reserved;
        let room = self.outgoing.get_mut(VNET_HEADER_LEN..VNET_HEADER_LEN + headers + payload);
        let parts = room.and_then(|room| room.split_at_mut_checked(headers));
        let Some((headers, payload)) = parts else { return Room::default() };
        Room { headers, payload: Payload::One(PieceMut::new(payload)) }
    }

    fn frames_that_fit(&mut self, _len: usize, most: usize) -> usize {
        most
    }

    fn publish(&mut self, offload: Offload, headers: usize, payload: usize) -> Result<(), Full> {
        if let Some(place) = self.outgoing.first_chunk_mut::<VNET_HEADER_LEN>() {
            *place = offload.emit();
        }
        let frame = self.outgoing.get(..VNET_HEADER_LEN + headers + payload).unwrap_or_default();
        self.write(&[IoSlice::new(frame)])
    }

    fn send(&mut self, offload: Offload, headers: &[u8], payload: &[IoSlice<'_>]) -> Result<(), Full> {
        let header = offload.emit();
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let parts = [IoSlice::new(&header), IoSlice::new(headers)];
        let mut used = 0;
        for (place, part) in slices.iter_mut().zip(parts.iter().chain(payload)) {
            *place = *part;
            used += 1;
        }
        self.write(slices.get(..used).unwrap_or_default())
    }

    fn flush(&mut self) {}
}

/// Asks for every offload we understand; a kernel before 6.2 has no USO, and then refuses all at once.
fn negotiate(fd: BorrowedFd<'_>) -> Offloads {
    const TUN_F_CSUM: libc::c_ulong = 0x01;
    const TUN_F_TSO4: libc::c_ulong = 0x02;
    const TUN_F_TSO6: libc::c_ulong = 0x04;
    const TUN_F_USO4: libc::c_ulong = 0x20;
    const TUN_F_USO6: libc::c_ulong = 0x40;

    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    let uso = tcp | TUN_F_USO4 | TUN_F_USO6;
    let mut accepted = 0;
    for features in [uso, tcp, TUN_F_CSUM] {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let set = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as _, features) };
        if set == 0 {
            accepted = features;
            break;
        }
    }
    // What we may write does not depend on what was set: the device cuts and sums for receivers that need it, as
    // every kernel can for TCP. One that does not know USO refuses frames with it.
    Offloads { uso4: accepted == uso, uso6: accepted == uso, ..Offloads::ALL }
}

/// `struct ifreq` as TUNSETIFF uses it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    pad: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40, "struct ifreq");

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
