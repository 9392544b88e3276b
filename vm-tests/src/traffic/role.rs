//! What a port of `traffic serve` does, and which port that is.

/// A service. Some share a port number between TCP and UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// TCP: reads to the end, answers with the number of bytes (u64, little endian).
    Sink,
    /// TCP: writes until the client goes away.
    Source,
    /// TCP: writes back what it reads.
    Echo,
    /// TCP: reads a byte, writes a byte, closes.
    OneShot,
    /// TCP: reads the pattern to the end, answers with the number of bytes and the position of the first wrong one
    /// (`u64::MAX` if there is none).
    VerifySink,
    /// TCP: reads a number of bytes (u64, little endian), writes so much of the pattern, closes at once.
    VerifySource,
    /// TCP: reads the id of a datagram stream, answers with datagrams, bytes, and microseconds from first to last.
    UdpCounters,
    /// UDP: counts datagrams, per stream.
    UdpSink,
    /// UDP: sends back what it receives.
    UdpEcho,
}

impl Role {
    pub const TCP: [Self; 7] = [
        Self::Sink,
        Self::Source,
        Self::Echo,
        Self::OneShot,
        Self::VerifySink,
        Self::VerifySource,
        Self::UdpCounters,
    ];
    pub const UDP: [Self; 2] = [Self::UdpSink, Self::UdpEcho];

    pub const fn port(self) -> u16 {
        match self {
            Self::Sink | Self::UdpSink => 5001,
            Self::Source => 5002,
            Self::Echo | Self::UdpEcho => 5003,
            Self::OneShot => 5004,
            Self::VerifySink => 5005,
            Self::VerifySource => 5006,
            Self::UdpCounters => 5007,
        }
    }
}
