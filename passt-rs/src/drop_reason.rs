//! Every reason to refuse a frame: one variant, one counter, one test that moves it.

/// Why a frame or a datagram went no further. Names appear in `{"get":"stats"}` as snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// Headers that are cut short or contradict themselves.
    Malformed,
    /// A checksum that does not match.
    Checksum,
    /// Neither IPv4, IPv6 nor ARP.
    EtherType,
    /// A transport protocol we do not translate.
    Protocol,
    /// A source the guest does not own: loopback, multicast, unspecified outside DHCP and DAD.
    Source,
    /// A destination that no socket of ours is to reach: loopback, multicast groups, broadcast, the guest itself.
    Destination,
    /// An address family or service switched off on the command line.
    Disabled,
    /// A fragment that overlaps another, exceeds bounds or found no room.
    Fragment,
    /// A segment of no connection that does not open one; answered with a RST unless it is one.
    NoFlow,
    /// No room for another flow or descriptor; connections from outside refused at a limit are
    /// `tcp.refused_at_limit_total`.
    FlowLimit,
    /// A TCP segment outside the window, or with an acknowledgment of what was never sent.
    Window,
    /// No memory left for bytes the host side did not take yet; the guest retransmits.
    SpillLimit,
    /// The host's socket refused a datagram.
    HostSend,
    /// The guest's end of the cable had no room.
    GuestFull,
    /// An ARP, NDP, DHCP or echo message that is not for us to answer.
    NotForUs,
    /// A segmentation or checksum offload that was never negotiated.
    Offload,
    /// A chain of descriptors that loops, leaves the guest's memory, or holds less or more than a frame; on vhost-user,
    /// in either direction.
    Descriptors,
    /// A frame in a queue that is not enabled; on vhost-user.
    QueueDisabled,
}

impl DropReason {
    pub const COUNT: usize = Self::ALL.len();

    pub const ALL: [Self; 18] = [
        Self::Malformed,
        Self::Checksum,
        Self::EtherType,
        Self::Protocol,
        Self::Source,
        Self::Destination,
        Self::Disabled,
        Self::Fragment,
        Self::NoFlow,
        Self::FlowLimit,
        Self::Window,
        Self::SpillLimit,
        Self::HostSend,
        Self::GuestFull,
        Self::NotForUs,
        Self::Offload,
        Self::Descriptors,
        Self::QueueDisabled,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Checksum => "checksum",
            Self::EtherType => "ether_type",
            Self::Protocol => "protocol",
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Disabled => "disabled",
            Self::Fragment => "fragment",
            Self::NoFlow => "no_flow",
            Self::FlowLimit => "flow_limit",
            Self::Window => "window",
            Self::SpillLimit => "spill_limit",
            Self::HostSend => "host_send",
            Self::GuestFull => "guest_full",
            Self::NotForUs => "not_for_us",
            Self::Offload => "offload",
            Self::Descriptors => "descriptors",
            Self::QueueDisabled => "queue_disabled",
        }
    }
}

/// How often each reason occurred.
#[derive(Clone, Debug)]
pub struct Drops([u64; DropReason::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::COUNT])
    }
}

impl Drops {
    pub fn count(&mut self, reason: DropReason) {
        if let Some(counter) = self.0.get_mut(reason as usize) {
            *counter += 1;
        }
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, others: &Self) {
        for (counter, other) in self.0.iter_mut().zip(&others.0) {
            *counter += other;
        }
    }

    pub fn of(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const _: () = {
    let mut at = 0;
    while at < DropReason::COUNT {
        assert!(DropReason::ALL[at] as usize == at, "ALL is in the order of declaration and complete");
        at += 1;
    }
};
