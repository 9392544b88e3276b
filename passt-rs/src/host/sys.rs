//! The few system calls that rustix lacks.
#![expect(unsafe_code, reason = "setsockopt with options rustix does not name, and recvmsg into no buffer")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

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

/// Restricts a socket to an interface.
pub(super) fn bind_to_device(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let len = libc::socklen_t::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: setsockopt reads `len` bytes at the pointer, which is the length of `name`.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_ptr().cast(), len)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
