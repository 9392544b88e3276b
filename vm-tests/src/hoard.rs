//! What makes a guest hold on to what it receives: connections that nobody in it reads, so that what arrives stays in the
//! buffers it arrived in. It must never leave as much in the pod's sockets, which are charged otherwise.

use crate::lab::SERVER_V4;

/// For the guest's kernel: it is not to clear buffers before they are filled, as Debian's does, which is to touch them;
/// other systems do not.
pub const KERNEL_ARGUMENTS: &str = "init_on_alloc=0";

/// Enough for what follows, with the least the lab's guest boots in.
pub const MEMORY_MIB: u32 = 256;

/// Rounds after which more has arrived than the guest has memory.
pub const ROUNDS: u32 = 3;

/// In each round: streams, and the bytes of one.
const STREAMS: u32 = 16;
const STREAM: u32 = 6_000_000;

const _: () = assert!(STREAMS as u64 * STREAM as u64 * ROUNDS as u64 > (MEMORY_MIB as u64) << 20);

/// A shell command for a guest that has a lease: one round, with an HTTP server of the world's at `port`. It succeeds once
/// all has arrived, and lets go of it then.
pub fn round(port: u16) -> String {
    // Pages of 4 KiB that the kernel has in queues.
    let full = STREAMS * STREAM / 4096;
    format!(
        "cd /proc/sys/net/ipv4 && echo 4096 33554432 33554432 >tcp_rmem && echo 50000 60000 60000 >tcp_mem
         for stream in $(seq {STREAMS}); do
             printf 'GET /stream/{STREAM} HTTP/1.0\\r\\n\\r\\n' | nc {SERVER_V4} {port} | sleep 1000 &
         done
         for try in $(seq 400); do
             [ $(sed -n 's/^TCP:.* mem //p' /proc/net/sockstat) -ge {full} ] && break
             [ $try -lt 400 ] || exit 1
             usleep 50000
         done
         killall nc sleep"
    )
}
