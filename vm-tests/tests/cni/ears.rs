//! A packet socket that hears all of a namespace (packet(7)). It must never send.

use std::mem::size_of;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, bail};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
use vm_tests::lab::Namespace;

/// Listens from when it is made.
#[derive(Debug)]
pub(crate) struct Ears {
    socket: OwnedFd,
    heard: Vec<Heard>,
}

/// A frame at one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The link's index in the namespace.
    pub(crate) link: u32,
    /// It left by the link; else it came in.
    pub(crate) left: bool,
    pub(crate) frame: Vec<u8>,
}

impl Heard {
    pub(crate) fn source(&self) -> String {
        let octets: Vec<String> =
            self.frame.iter().skip(6).take(6).map(|octet| format!("{octet:02x}")).collect();
        octets.join(":")
    }

    /// Whether it is a router solicitation (RFC 4861 4.1), which has no extension headers.
    pub(crate) fn asks_for_routers(&self) -> bool {
        let at = |place: usize| self.frame.get(place).copied();
        (at(12), at(13), at(20), at(54)) == (Some(0x86), Some(0xdd), Some(58), Some(133))
    }
}

impl Ears {
    pub(crate) fn of(namespace: &Namespace) -> anyhow::Result<Self> {
        let every = Protocol::from_raw(u32::from(ETH_P_ALL.to_be()).try_into().context("a protocol")?);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let open = || socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(every));
        let socket = namespace.run(open)?.context("open a packet socket")?;
        Ok(Self { socket, heard: Vec::new() })
    }

    /// All so far.
    pub(crate) fn heard(&mut self) -> anyhow::Result<&[Heard]> {
        while let Some(frame) = self.next()? {
            self.heard.push(frame);
        }
        Ok(&self.heard)
    }

    fn next(&self) -> anyhow::Result<Option<Heard>> {
        let mut frame = vec![0_u8; LONGEST];
        let mut from = libc::sockaddr_ll {
            sll_family: 0,
            sll_protocol: 0,
            sll_ifindex: 0,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let mut length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())?;
        #[expect(unsafe_code, reason = "rustix has no addresses of packet sockets")]
        // SAFETY: `frame` has LONGEST bytes, `from` is a sockaddr_ll and `length` its size; the kernel writes no more.
        let read = unsafe {
            libc::recvfrom(
                self.socket.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                LONGEST,
                0,
                (&raw mut from).cast(),
                &raw mut length,
            )
        };
        let Ok(read) = usize::try_from(read) else {
            let error = std::io::Error::last_os_error();
            if error.kind() == std::io::ErrorKind::WouldBlock {
                return Ok(None);
            }
            bail!("read a frame: {error}");
        };
        frame.truncate(read);
        let left = from.sll_pkttype == libc::PACKET_OUTGOING;
        Ok(Some(Heard { link: u32::try_from(from.sll_ifindex)?, left, frame }))
    }
}

/// include/uapi/linux/if_ether.h.
const ETH_P_ALL: u16 = 3;

/// What is behind is cut off, as nobody looks at it.
const LONGEST: usize = 2048;
