//! What a translator may use in a container with little memory. The kernel charges sockets and what waits in them to the
//! container too (cgroup v2), and kills whoever is beyond its limit. It must never keep a translator from starting.

/// Of one translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Most descriptors.
    pub descriptors: u64,
    /// For all that waits in its sockets (`--socket-memory`), bytes.
    pub socket_bytes: u64,
}

impl Allowance {
    /// Of a translator whose share of the container's limit is `bytes`.
    pub fn of(bytes: u64) -> Self {
        Self {
            descriptors: (bytes / DESCRIPTOR_BYTES).max(DESCRIPTORS_MIN),
            socket_bytes: (bytes / 4).max(SOCKET_BYTES_MIN),
        }
    }
}

/// What a listening socket costs in the kernel (4.3 KB for TCP, 3.0 KB for UDP; Linux 6.18), and room for open connections.
/// A translator that forwards all ports would open 75 000 of them (270 MB), and be killed in a container of 64 MB.
const DESCRIPTOR_BYTES: u64 = 6400;
/// For a guest to be reachable at all.
const DESCRIPTORS_MIN: u64 = 256;
/// The least that passt-rs takes.
const SOCKET_BYTES_MIN: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guaranteed_vms_container_has_ten_thousand_descriptors_and_16_mb_for_sockets() {
        assert_eq!(Allowance::of(64_000_000), Allowance { descriptors: 10_000, socket_bytes: 16_000_000 });
        assert_eq!(Allowance::of(0), Allowance { descriptors: 256, socket_bytes: 1 << 20 });
    }
}
