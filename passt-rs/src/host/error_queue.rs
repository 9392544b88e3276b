//! Errors that came back for what a socket sent (ip(7) and ipv6(7), IP_RECVERR).
//!
//! Says what the kernel queued, in numbers of ICMP and errno; what the guest is told is the relay's matter.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::batch::{Batch, Received, socket_address};
use super::control::Messages;

/// Where an error comes from (linux/errqueue.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Our own kernel, without a packet from outside.
    Local,
    /// An ICMP message.
    Icmp,
    /// An ICMPv6 message.
    Icmp6,
}

/// One entry of an error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub errno: Errno,
    pub origin: Origin,
    /// ICMP type; 0 when local.
    pub kind: u8,
    /// ICMP code; 0 when local.
    pub code: u8,
    /// The MTU of the next link in bytes, where the error is about that.
    pub info: u32,
    /// Who found the fault, when it was not our own kernel.
    pub offender: Option<IpAddr>,
    /// What was sent, as far as the error quotes it: payload of UDP, the whole ICMP message of a ping socket.
    pub payload: &'a [u8],
}

/// Takes one entry off the error queue of `fd`, into `batch`. `None` when it is empty; entries of origins that we
/// do not know, such as time stamps nobody asked for, are skipped.
pub fn take<'a>(fd: BorrowedFd<'_>, batch: &'a mut Batch) -> Option<Entry<'a>> {
    // The kernel bounds a queue by the socket's receive buffer, so this ends.
    loop {
        if batch.receive_error(fd).ok()? == 0 {
            return None;
        }
        // Looked at twice: the borrow of a first look would outlive the loop.
        if batch.datagram(0).as_ref().and_then(entry).is_some() {
            break;
        }
    }
    entry(&batch.datagram(0)?)
}

fn entry<'a>(received: &Received<'a>) -> Option<Entry<'a>> {
    let message = Messages(received.control).find(|message| {
        message.is(libc::SOL_IP, libc::IP_RECVERR) || message.is(libc::SOL_IPV6, libc::IPV6_RECVERR)
    })?;
    // struct sock_extended_err, then the offender's address.
    let (errno, rest) = message.data.split_first_chunk()?;
    let ([origin, kind, code, _pad], rest) = rest.split_first_chunk()?;
    let (info, rest) = rest.split_first_chunk()?;
    let (_data, rest) = rest.split_first_chunk::<4>()?;
    let origin = match *origin {
        libc::SO_EE_ORIGIN_LOCAL => Origin::Local,
        libc::SO_EE_ORIGIN_ICMP => Origin::Icmp,
        libc::SO_EE_ORIGIN_ICMP6 => Origin::Icmp6,
        _ => return None,
    };
    Some(Entry {
        errno: Errno::from_raw_os_error(i32::from_ne_bytes(*errno)),
        origin,
        kind: *kind,
        code: *code,
        info: u32::from_ne_bytes(*info),
        offender: socket_address(rest).map(|address| address.ip().to_canonical()),
        payload: received.payload,
    })
}
