//! Every system call on the pod's side: sockets, readiness, the clock.
//!
//! Knows nothing of frames, flows or the guest. A result says what the kernel did, in words the relay acts on.

pub mod clock;
pub mod epoll;
pub mod outbound;
pub mod tcp;
pub mod udp;
pub mod echo;
pub mod batch;
pub mod buffers;
pub mod error_queue;
pub mod netlink;
pub mod signals;
pub mod unix;
mod control;
mod sys;
