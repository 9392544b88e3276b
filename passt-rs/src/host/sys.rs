//! The few system calls that rustix lacks.
#![expect(
    unsafe_code,
    reason = "setsockopt with options rustix does not name, receives into no buffer, and memory shared with a guest"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::iovec::{Piece, PieceMut};

/// Pieces that one [`peek`] fills at most, beside what it skips.
pub(super) const PEEK_MAX: usize = 128;

/// Sets an `int` option.
pub(super) fn set_int(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: setsockopt reads `len` bytes at the pointer; `value` is an int of that size and outlives the call.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Drops up to `len` bytes from the head of a TCP socket's receive queue without copying them (tcp(7), MSG_TRUNC).
pub(super) fn discard(fd: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    // SAFETY: with MSG_TRUNC on a TCP socket the kernel writes nothing, so a null buffer is never accessed.
    let result = unsafe { libc::recv(fd.as_raw_fd(), std::ptr::null_mut(), len, flags) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Sends `pieces` on a connected stream, as many bytes as it takes now. `alone`: the kernel joins no later ones to them.
pub(super) fn send(fd: BorrowedFd<'_>, pieces: &[Piece<'_>], alone: bool) -> Result<usize, Errno> {
    let mut header = empty_header();
    // `Piece` has the layout of an iovec.
    header.msg_iov = pieces.as_ptr().cast_mut().cast();
    header.msg_iovlen = pieces.len() as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if alone { libc::MSG_EOR } else { 0 };
    // SAFETY: sendmsg reads the iovecs, which outlive the call, and the memory they borrow; nothing is written.
    let result = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) };
    usize::try_from(result).map_err(|_| last_error())
}

/// Copies the head of a stream's receive queue to `before`, and what follows to `pieces` (at most [`PEEK_MAX`]);
/// gives how many bytes both got. They stay in the queue.
pub(super) fn peek(
    fd: BorrowedFd<'_>,
    before: Option<&mut [u8]>,
    pieces: &[PieceMut<'_>],
) -> Result<usize, Errno> {
    let mut header = empty_header();
    let Some(before) = before else {
        // `PieceMut` has the layout of an iovec, and the kernel does not write those.
        (header.msg_iov, header.msg_iovlen) = (pieces.as_ptr().cast_mut().cast(), pieces.len() as _);
        return receive(fd, &mut header);
    };
    let mut all = [const { PieceMut::EMPTY.as_iovec() }; PEEK_MAX + 1];
    let before = PieceMut::new(before);
    for (place, source) in all.iter_mut().zip(std::iter::once(&before).chain(pieces)) {
        *place = source.as_iovec();
    }
    header.msg_iov = all.as_mut_ptr();
    header.msg_iovlen = (pieces.len() + 1).min(all.len()) as _;
    receive(fd, &mut header)
}

/// Peeks into the pieces of `header`, which the caller borrows for as long.
fn receive(fd: BorrowedFd<'_>, header: &mut libc::msghdr) -> Result<usize, Errno> {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: recvmsg reads the iovecs and writes the memory they name, which both outlive the call: what lies before is
    // borrowed mutably, and a `PieceMut` is writable for as long as it lives.
    let result = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut *header, flags) };
    usize::try_from(result).map_err(|_| last_error())
}

fn empty_header() -> libc::msghdr {
    // SAFETY: a `struct msghdr` is integers and pointers, for which all zero bits are valid; some C libraries give it
    // private padding, so that it cannot be written as an expression.
    unsafe { std::mem::zeroed() }
}

pub(super) fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// Restricts a socket to an interface.
pub(super) fn bind_to_device(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let len = libc::socklen_t::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: setsockopt reads `len` bytes at the pointer, which is the length of `name`.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_ptr().cast(), len)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
