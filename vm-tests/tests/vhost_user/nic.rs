//! smoltcp's device over the front end. It uses every offload that was negotiated, and checks every frame it is given.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::wire::{EthernetFrame, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber as SeqNumber, UdpPacket};
use vm_tests::vhost::feature::virtio;
use vm_tests::vhost::{FrontEnd, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Header, NEEDS_CSUM, PAGE, TxQueue};

use crate::frames::{self, Parts};
use crate::pod::LIMIT;

/// A NIC of the guest.
pub(crate) struct Nic {
    pub(crate) front_end: FrontEnd,
    mtu: usize,
    frame: Vec<u8>,
    /// The pair to look at next.
    turn: usize,
    /// Received datagrams that came in one frame.
    waiting: VecDeque<Vec<u8>>,
    /// What is to go as one frame.
    joined: Option<Joined>,
    /// Guest pages the device has written, once somebody wants to know.
    pub(crate) written_pages: Option<Vec<u64>>,
    /// Frames that were several segments, by family: IPv4, IPv6.
    pub(crate) sent_large: [u64; 2],
    pub(crate) received_large: [u64; 2],
}

impl Nic {
    pub(crate) fn new(front_end: FrontEnd, mtu: u32) -> Self {
        let mtu = usize::try_from(mtu).unwrap();
        Self {
            front_end,
            mtu,
            frame: Vec::new(),
            turn: 0,
            waiting: VecDeque::new(),
            joined: None,
            written_pages: None,
            sent_large: [0; 2],
            received_large: [0; 2],
        }
    }

    fn has(&self, feature: u64) -> bool {
        self.front_end.features() & feature != 0
    }

    /// Gives back the receive buffers that were used.
    pub(crate) fn refill(&mut self) {
        for pair in self.front_end.pairs_mut() {
            pair.rx.release();
            pair.rx.refill();
        }
    }

    pub(crate) fn set_rx_limit(&mut self, limit: u16) {
        for pair in self.front_end.pairs_mut() {
            pair.rx.set_limit(limit);
        }
    }

    /// Sleeps until the device has something for us, or `limit` passed.
    pub(crate) fn wait(&mut self, limit: Duration) {
        if self.front_end.pairs_mut().iter_mut().any(|pair| pair.rx.arm()) {
            return;
        }
        let calls: Vec<BorrowedFd<'_>> = self.front_end.pairs().iter().map(|pair| pair.rx.call()).collect();
        wait_for_any(&calls, limit);
        for pair in self.front_end.pairs_mut() {
            pair.rx.drain_calls();
            pair.rx.disarm();
        }
    }

    /// Sends what waits for more to go with it.
    pub(crate) fn flush(&mut self) {
        if let Some(Joined { frame, segment_len, .. }) = self.joined.take() {
            self.send_now(frame, segment_len);
        }
    }

    fn send(&mut self, frame: Vec<u8>, segment_len: u16) {
        if self.joined.as_mut().is_some_and(|joined| joined.append(&frame)) {
            return;
        }
        self.flush();
        match Joined::start(frame, self.front_end.features()) {
            Ok(joined) => self.joined = Some(joined),
            Err(frame) => self.send_now(frame, segment_len),
        }
    }

    fn send_now(&mut self, mut frame: Vec<u8>, segment_len: u16) {
        let mut header = Header::default();
        if let (Some(parts), true) = (Parts::find(&frame), self.has(virtio::CSUM)) {
            let at = parts.transport + parts.checksum_offset();
            let sum = parts.pseudo_header(frame.len());
            frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            header.flags = NEEDS_CSUM;
            header.checksum_start = u16::try_from(parts.transport).unwrap();
            header.checksum_offset = u16::try_from(parts.checksum_offset()).unwrap();
            if segment_len > 0 {
                header.kind = match (parts.is_tcp(), parts.is_v4()) {
                    (true, true) => GSO_TCPV4,
                    (true, false) => GSO_TCPV6,
                    (false, _) => GSO_UDP_L4,
                };
                self.sent_large[usize::from(!parts.is_v4())] += 1;
                header.headers_len = u16::try_from(parts.transport + parts.transport_header).unwrap();
                header.segment_len = segment_len;
            }
        }
        let pairs = self.front_end.pairs_mut();
        let at = flow(&frame) % pairs.len();
        send(&mut pairs[at].tx, header, &frame);
    }

    fn receive_frame(&mut self) -> Option<Header> {
        let count = self.front_end.pairs().len();
        for _ in 0..count {
            let at = self.turn % count;
            let rx = &mut self.front_end.pair_mut(at).unwrap().rx;
            let received = rx.receive().unwrap_or_else(|violation| panic!("pair {at}: {violation}"));
            if let Some(frame) = received {
                rx.copy_frame(&mut self.frame);
                if let Some(pages) = &mut self.written_pages {
                    for (start, len) in rx.places() {
                        pages.extend(start / PAGE..=(start + u64::from(len) - 1) / PAGE);
                    }
                    pages.push(rx.used_ring().guest() / PAGE);
                }
                return Some(frame.header);
            }
            self.turn += 1;
        }
        None
    }
}

fn wait_for_any(descriptors: &[BorrowedFd<'_>], limit: Duration) {
    let mut waited: Vec<PollFd<'_>> =
        descriptors.iter().map(|descriptor| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN)).collect();
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap(),
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    let _ = poll(&mut waited, Some(&limit));
}

impl Device for Nic {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Received, Sending<'_>)> {
        if self.waiting.is_empty() {
            let header = self.receive_frame()?;
            let frame = std::mem::take(&mut self.frame);
            frames::check(header, &frame, self.mtu);
            match header.kind {
                GSO_TCPV4 => self.received_large[0] += 1,
                GSO_TCPV6 => self.received_large[1] += 1,
                _ => {}
            }
            self.waiting = cut(frame, header);
        }
        let frame = self.waiting.pop_front()?;
        Some((Received(frame), Sending::new(self)))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Sending<'_>> {
        Some(Sending::new(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        // What is received is checked here, where the header says what there is to check.
        let ours = if self.has(virtio::CSUM) { Checksum::None } else { Checksum::Tx };
        capabilities.checksum.tcp = ours;
        capabilities.checksum.udp = ours;
        // smoltcp 0.14 drops segments to be cut when they go over IPv6; those are put together here.
        capabilities.segmentation.tcpv4 =
            NonZeroUsize::new(JOINED_MAX).filter(|_| self.has(virtio::HOST_TSO4));
        capabilities
    }
}

/// A frame is no longer than an IP packet can say.
const JOINED_MAX: usize = 65_000;

/// UDP datagrams in one frame at most: Linux sends no more at once.
const DATAGRAMS_MAX: usize = 64;

/// Consecutive TCP segments over IPv6, or datagrams, as one frame that the device cuts again.
struct Joined {
    frame: Vec<u8>,
    /// Bytes in front of the first payload.
    headers: usize,
    /// Bytes of each payload, once there are two.
    segment_len: u16,
    first_len: usize,
    count: usize,
    /// What a TCP segment must have to be the next.
    next_sequence: Option<SeqNumber>,
    /// The last one was shorter.
    is_complete: bool,
}

impl Joined {
    /// Gives the frame back when it is not to be joined with others under these features.
    fn start(frame: Vec<u8>, features: u64) -> Result<Self, Vec<u8>> {
        let Some((parts, sequence)) = joinable(&frame) else { return Err(frame) };
        let needed = if parts.is_tcp() { virtio::HOST_TSO6 } else { virtio::HOST_USO };
        if features & needed == 0 {
            return Err(frame);
        }
        let headers = parts.transport + parts.transport_header;
        let first_len = frame.len() - headers;
        let next_sequence = sequence.map(|sequence| sequence + first_len);
        Ok(Self { frame, headers, segment_len: 0, first_len, count: 1, next_sequence, is_complete: false })
    }

    /// Whether `segment` followed and is now part of the frame.
    fn append(&mut self, segment: &[u8]) -> bool {
        let Some((parts, sequence)) = joinable(segment) else { return false };
        let headers = parts.transport + parts.transport_header;
        let addresses = if parts.is_v4() { 14 + 12..14 + 20 } else { 14 + 8..14 + 40 };
        let ports = parts.transport..parts.transport + 4;
        let len = segment.len() - headers;
        let is_next = !self.is_complete
            && headers == self.headers
            && segment[12..14] == self.frame[12..14]
            && segment[addresses.clone()] == self.frame[addresses]
            && segment[ports.clone()] == self.frame[ports]
            && sequence == self.next_sequence
            && len <= self.first_len
            && self.count < DATAGRAMS_MAX
            && self.frame.len() + len <= JOINED_MAX;
        if is_next {
            self.frame.extend_from_slice(&segment[headers..]);
            self.count += 1;
            self.segment_len = u16::try_from(self.first_len).unwrap();
            self.next_sequence = sequence.map(|sequence| sequence + len);
            self.is_complete = len < self.first_len;
            set_lengths(&mut self.frame, &parts);
        }
        is_next
    }
}

/// Makes the headers say how long the frame is.
fn set_lengths(frame: &mut [u8], parts: &Parts) {
    let transport_len = u16::try_from(frame.len() - parts.transport).unwrap();
    let len = u16::try_from(frame.len() - 14).unwrap();
    if parts.is_v4() {
        let mut ip = Ipv4Packet::new_unchecked(&mut frame[14..]);
        ip.set_total_len(len);
        ip.fill_checksum();
    } else {
        Ipv6Packet::new_unchecked(&mut frame[14..]).set_payload_len(len - 40);
    }
    if !parts.is_tcp() {
        UdpPacket::new_unchecked(&mut frame[parts.transport..]).set_len(transport_len);
    }
}

/// The parts of a datagram, or of a TCP segment over IPv6 with payload and nothing to say but that (smoltcp joins those
/// over IPv4); and the segment's sequence number.
fn joinable(frame: &[u8]) -> Option<(Parts, Option<SeqNumber>)> {
    let parts = Parts::find(frame)?;
    if frame.len() == parts.transport + parts.transport_header {
        return None;
    }
    if !parts.is_tcp() {
        return Some((parts, None));
    }
    let tcp = TcpPacket::new_unchecked(&frame[parts.transport..]);
    let is_plain = !tcp.syn() && !tcp.fin() && !tcp.rst() && !tcp.urg();
    let sequence = tcp.seq_number();
    (is_plain && !parts.is_v4()).then_some((parts, Some(sequence)))
}

/// The datagrams of a frame that is several, each in a frame of its own.
fn cut(frame: Vec<u8>, header: Header) -> VecDeque<Vec<u8>> {
    if header.kind != GSO_UDP_L4 {
        return VecDeque::from([frame]);
    }
    let parts = Parts::find(&frame).expect("a datagram");
    let (headers, payload) = frame.split_at(parts.transport + parts.transport_header);
    let one = |payload: &[u8]| {
        let mut frame = [headers, payload].concat();
        set_lengths(&mut frame, &parts);
        frame
    };
    payload.chunks(header.segment_len.into()).map(one).collect()
}

/// A frame that was received.
pub(crate) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F>(self, work: F) -> R
    where
        F: FnOnce(&[u8]) -> R,
    {
        work(&self.0)
    }
}

/// The right to send a frame.
pub(crate) struct Sending<'a> {
    nic: &'a mut Nic,
    segment_len: u16,
}

impl<'a> Sending<'a> {
    fn new(nic: &'a mut Nic) -> Self {
        Self { nic, segment_len: 0 }
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F>(self, len: usize, work: F) -> R
    where
        F: FnOnce(&mut [u8]) -> R,
    {
        let mut frame = vec![0; len];
        let result = work(&mut frame);
        self.nic.send(frame, self.segment_len);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment_len = meta.segmentation_offload_size.map_or(0, std::num::NonZero::get);
    }
}

/// Sends, waiting for a place if need be.
pub(crate) fn send(tx: &mut TxQueue, header: Header, frame: &[u8]) {
    let deadline = Instant::now() + LIMIT;
    while !tx.send(header, &[frame]).unwrap() {
        assert!(Instant::now() < deadline, "no transmit buffer came back");
        if !tx.arm(false) {
            wait_for_any(&[tx.call()], LIMIT);
        }
        tx.drain_calls();
        tx.disarm();
    }
}

/// A number that frames of one flow share: they must stay in order.
fn flow(frame: &[u8]) -> usize {
    let Some(parts) = Parts::find(frame) else {
        return usize::from(EthernetFrame::new_unchecked(frame).dst_addr().0[5]);
    };
    let [a, b, c, d] = frame[parts.transport..].first_chunk().unwrap();
    usize::from(a ^ c) * 256 + usize::from(b ^ d)
}
