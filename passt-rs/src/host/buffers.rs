//! How much memory a socket may hold in the kernel.
//!
//! Sizes here are bytes of memory as the kernel counts them, headers and unused parts of buffers included; it takes
//! half of that as an option and doubles it (socket(7), SO_RCVBUF). The window that a peer is offered is about half of
//! it too. A size that was set is no longer tuned. The kernel refuses none: beyond `net.core.rmem_max` and `wmem_max`
//! it takes those, and has a least size of its own.

use std::os::fd::BorrowedFd;

use rustix::net::sockopt;

/// Limits what waits in a socket to be received.
pub fn limit_receive(socket: BorrowedFd<'_>, bytes: u32) {
    // Fails for what is no socket only.
    let _ = sockopt::set_socket_recv_buffer_size(socket, bytes as usize / 2);
}

/// The same for each way. A connection's limits are to be set before it is connected, or on the socket that listens:
/// window scaling is agreed on by what the socket may hold then. Later they can be lowered.
pub fn limit_both(socket: BorrowedFd<'_>, bytes: u32) {
    limit_receive(socket, bytes);
    let _ = sockopt::set_socket_send_buffer_size(socket, bytes as usize / 2);
}
