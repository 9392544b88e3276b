//! Every system call on the pod's side: sockets, readiness, the clock.
//!
//! Knows nothing of frames, flows or the guest. A result says what the kernel did, in words the relay acts on.

pub mod clock;
pub mod epoll;
pub mod tcp;
pub mod netlink;
mod sys;
