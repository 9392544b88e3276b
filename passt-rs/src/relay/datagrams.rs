//! Datagrams from the host's sockets as frames for the guest: whole, left to the device to cut, or in fragments.

use std::io::IoSlice;

use crate::flow::Key;
use crate::guest::{Full, Guest};
use crate::host::batch::Received;
use crate::transport::fragment;
use crate::wire::checksum::Sum;
use crate::wire::udp::Datagram;
use crate::wire::{
    Checksum, ETHERNET_HEADER_LEN, EtherType, IpRepr, Offload, Segmentation, emit_ethernet, emit_ip,
    fragment as wire_fragment, ip_header_len, protocol, udp,
};

use super::cable::Cable;
use super::run::Run;

/// Length of UDP's header, and of an echo message's.
const TRANSPORT_LEN: usize = udp::HEADER_LEN;
/// Ethernet, IPv6, fragment and transport headers.
const HEADERS_LEN: usize = ETHERNET_HEADER_LEN + 40 + 8 + TRANSPORT_LEN;
/// Offset of the checksum in a UDP header.
const UDP_CHECKSUM_OFFSET: u16 = 6;
/// Hop limit for a datagram whose own is not known.
const HOP_LIMIT: u8 = 64;

/// How many datagrams were sent, and how many of them in fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SentToGuest {
    pub(super) datagrams: u64,
    pub(super) fragmented: u64,
}

/// One message towards the guest: its IP header, 8 bytes of transport header, and its payload.
struct Message<'a> {
    ip: IpRepr,
    header: [u8; TRANSPORT_LEN],
    payload: &'a [IoSlice<'a>],
    payload_len: usize,
    offload: Offload,
}

impl<G: Guest> Cable<G> {
    /// Sends what a UDP socket received to the guest's end of `key`, in packets of at most `mtu` bytes.
    pub(super) fn send_udp(&mut self, key: &Key, run: &Run<'_>, mtu: u16) -> Result<SentToGuest, Full> {
        let received = run.first();
        let ip = header(key, protocol::UDP, received);
        let fits = udp_fits(key, mtu);
        let offloads = self.offloads();
        if let [_, _, ..] = run.slices() {
            let size = u16::try_from(received.payload.len()).ok();
            self.send_message(&udp_message(ip, key, run.slices(), run.bytes(), size))?;
            return Ok(SentToGuest { datagrams: run.slices().len() as u64, fragmented: 0 });
        }
        let payload = received.payload;
        let size = received.segment.map_or(0, usize::from);
        let mut sent = SentToGuest::default();
        if size == 0 || payload.len() <= size {
            self.send_datagram(ip, key, payload, (mtu, fits), &mut sent)?;
        } else if offloads.uso(ip.src) && size <= fits {
            let slices = [IoSlice::new(payload)];
            self.send_message(&udp_message(ip, key, &slices, payload.len(), received.segment))?;
            sent.datagrams += payload.len().div_ceil(size) as u64;
        } else {
            for part in payload.chunks(size) {
                self.send_datagram(ip, key, part, (mtu, fits), &mut sent)?;
            }
        }
        Ok(sent)
    }

    /// Sends one datagram, in fragments when its payload is more than what `fits`.
    fn send_datagram(
        &mut self,
        ip: IpRepr,
        key: &Key,
        payload: &[u8],
        (mtu, fits): (u16, usize),
        sent: &mut SentToGuest,
    ) -> Result<(), Full> {
        let slices = [IoSlice::new(payload)];
        let mut message = udp_message(ip, key, &slices, payload.len(), None);
        if payload.len() <= fits && self.offloads().checksum {
            self.send_message(&message)?;
        } else {
            complete_udp(&mut message, payload);
            sent.fragmented += u64::from(payload.len() > fits);
            self.send_complete(&message, payload, mtu)?;
        }
        sent.datagrams += 1;
        Ok(())
    }

    /// Sends the echo reply `message`, received from the peer of `key`, under the guest's identifier.
    pub(super) fn send_echo(
        &mut self,
        key: &Key,
        received: &Received<'_>,
        mtu: u16,
    ) -> Result<SentToGuest, Full> {
        let number = if key.peer.address.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        let ip = header(key, number, received);
        let Some(([kind, code, _, _, _, _, seq_high, seq_low], payload)) =
            received.payload.split_first_chunk::<TRANSPORT_LEN>()
        else {
            return Ok(SentToGuest::default());
        };
        let [ident_high, ident_low] = key.guest.port.to_be_bytes();
        let mut header = [*kind, *code, 0, 0, ident_high, ident_low, *seq_high, *seq_low];
        let pseudo_header = match ip.protocol {
            protocol::ICMP => Sum::default(),
            _ => Sum::pseudo_header(ip.src, ip.dst, ip.protocol, received.payload.len()),
        };
        let [high, low] = pseudo_header.with(&header).with(payload).finish().to_be_bytes();
        (header[2], header[3]) = (high, low);
        let slices = [IoSlice::new(payload)];
        let offload = Offload::default();
        let message = Message { ip, header, payload: &slices, payload_len: payload.len(), offload };
        let fragmented = self.send_complete(&message, payload, mtu)?;
        Ok(SentToGuest { datagrams: 1, fragmented: u64::from(fragmented) })
    }

    /// Sends a message whose checksum is complete; `true`: in fragments.
    fn send_complete(&mut self, message: &Message<'_>, payload: &[u8], mtu: u16) -> Result<bool, Full> {
        let len = TRANSPORT_LEN + message.payload_len;
        if ip_header_len(message.ip.src) + len <= usize::from(mtu) {
            self.send_message(message)?;
            return Ok(false);
        }
        self.next_ident = self.next_ident.wrapping_add(1);
        for piece in fragment::plan(self.next_ident, message.ip.src, len, usize::from(mtu)) {
            let start = usize::from(piece.fragment.offset);
            let end = start + piece.len;
            let mut headers = [0; HEADERS_LEN];
            let mut used = self.emit_link(&mut headers, message.ip);
            if let Some(place) = headers.get_mut(used..) {
                wire_fragment::emit(place, &message.ip, piece.fragment, piece.len);
                used += wire_fragment::header_len(message.ip.src);
            }
            // The transport header travels in the first fragment, whose room is never less.
            if start == 0 {
                used = append(&mut headers, used, &message.header);
            }
            let range = start.saturating_sub(TRANSPORT_LEN)..end - TRANSPORT_LEN;
            let part = payload.get(range).unwrap_or_default();
            self.send(Offload::default(), headers.get(..used).unwrap_or_default(), &[IoSlice::new(part)])?;
        }
        Ok(true)
    }

    fn send_message(&mut self, message: &Message<'_>) -> Result<(), Full> {
        let mut headers = [0; HEADERS_LEN];
        let mut used = self.emit_link(&mut headers, message.ip);
        if let Some(place) = headers.get_mut(used..) {
            emit_ip(place, &message.ip, TRANSPORT_LEN + message.payload_len);
            used += ip_header_len(message.ip.src);
        }
        used = append(&mut headers, used, &message.header);
        let headers = headers.get(..used).unwrap_or_default();
        self.send(message.offload, headers, message.payload)
    }

    fn emit_link(&self, headers: &mut [u8], ip: IpRepr) -> usize {
        let ether_type = if ip.src.is_ipv4() { EtherType::Ipv4 } else { EtherType::Ipv6 };
        emit_ethernet(headers, self.our_mac, self.guest_mac, ether_type);
        ETHERNET_HEADER_LEN
    }
}

/// Payload of a datagram to the guest's end of `key` that needs no fragments.
pub(super) fn udp_fits(key: &Key, mtu: u16) -> usize {
    usize::from(mtu).saturating_sub(ip_header_len(key.peer.address) + TRANSPORT_LEN)
}

fn header(key: &Key, number: u8, received: &Received<'_>) -> IpRepr {
    IpRepr {
        src: key.peer.address,
        dst: key.guest.address,
        protocol: number,
        hop_limit: received.hop_limit.unwrap_or(HOP_LIMIT).max(1),
        traffic_class: received.traffic_class.unwrap_or(0),
    }
}

/// A datagram whose checksum, and cutting if there is a `segment` size, is left to the device.
fn udp_message<'a>(
    ip: IpRepr,
    key: &Key,
    payload: &'a [IoSlice<'a>],
    payload_len: usize,
    segment: Option<u16>,
) -> Message<'a> {
    let len = TRANSPORT_LEN + payload_len;
    let transport = ETHERNET_HEADER_LEN + ip_header_len(ip.src);
    let mut header = [0; TRANSPORT_LEN];
    let sum = Sum::pseudo_header(ip.src, ip.dst, ip.protocol, len).partial();
    udp_header(key, payload_len).emit(&mut header, sum);
    let offload = Offload {
        checksum: Checksum::Partial {
            start: u16::try_from(transport).unwrap_or(0),
            offset: UDP_CHECKSUM_OFFSET,
        },
        segmentation: segment.map_or(Segmentation::None, |size| Segmentation::Udp { size }),
        header_len: u16::try_from(transport + TRANSPORT_LEN).unwrap_or(0),
    };
    Message { ip, header, payload, payload_len, offload }
}

/// Completes the checksum of a datagram, for a guest or a fragment that must not leave it open.
fn complete_udp(message: &mut Message<'_>, payload: &[u8]) {
    let ip = message.ip;
    let len = TRANSPORT_LEN + payload.len();
    let [ports @ .., _, _] = message.header;
    let sum = Sum::pseudo_header(ip.src, ip.dst, ip.protocol, len).with(&ports).with(payload);
    // A computed zero is sent as all ones, zero meaning "none" (RFC 768).
    let sum = if sum.finish() == 0 { 0xffff } else { sum.finish() };
    let [high, low] = sum.to_be_bytes();
    (message.header[6], message.header[7]) = (high, low);
    message.offload = Offload::default();
}

pub(super) fn udp_header(key: &Key, payload_len: usize) -> Datagram {
    Datagram { src_port: key.peer.port, dst_port: key.guest.port, payload_len, without_checksum: false }
}

/// Writes `bytes` at `at`; gives the place behind them.
fn append(headers: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    let end = at + bytes.len();
    if let Some(place) = headers.get_mut(at..end) {
        place.copy_from_slice(bytes);
    }
    end
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::ops::Range;
    use std::os::fd::BorrowedFd;

    use super::*;
    use crate::flow::{Endpoint, Protocol};
    use crate::guest::{Link, Offloads, Place, Received as FromGuest, Room, SLICES_MAX};
    use crate::iovec::Piece;
    use crate::stats::CableCounters;
    use crate::wire::{Headers, Mac};

    /// A guest that remembers what it was sent.
    #[derive(Default)]
    struct Recorder {
        offloads: Offloads,
        frames: Vec<(Offload, Vec<u8>)>,
    }

    impl Guest for Recorder {
        fn attach(&mut self, _: BorrowedFd<'_>, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn on_event(&mut self) -> bool {
            true
        }
        fn take_link(&mut self) -> Link {
            Link::Unchanged
        }
        fn offloads(&self) -> Offloads {
            self.offloads
        }
        fn receive(&mut self) -> Option<FromGuest> {
            None
        }
        fn head(&self, _: Place) -> &[u8] {
            &[]
        }
        fn whole(&mut self, _: Place) -> &[u8] {
            &[]
        }
        fn gather<'a>(&'a self, _: Place, _: Range<usize>, _: &mut [Piece<'a>; SLICES_MAX]) -> usize {
            0
        }
        fn hold(&mut self, _: Place) -> bool {
            true
        }
        fn release(&mut self) {}
        fn reserve(&mut self, _: usize, _: usize) -> Option<Room<'_>> {
            None
        }
        fn room(&mut self) -> Room<'_> {
            Room::default()
        }
        fn frames_that_fit(&mut self, _: usize, most: usize) -> usize {
            most
        }
        fn publish(&mut self, _: Offload, _: usize, _: usize) -> Result<(), Full> {
            Ok(())
        }
        fn send(&mut self, offload: Offload, headers: &[u8], payload: &[IoSlice<'_>]) -> Result<(), Full> {
            let mut frame = headers.to_vec();
            payload.iter().for_each(|slice| frame.extend_from_slice(slice));
            self.frames.push((offload, frame));
            Ok(())
        }
        fn flush(&mut self) {}
    }

    fn cable(offloads: Offloads) -> Cable<Recorder> {
        Cable {
            guest: Recorder { offloads, ..Recorder::default() },
            capture: None,
            counters: CableCounters::default(),
            our_mac: Mac([2; 6]),
            next_ident: 0,
            scratch: Vec::new(),
            guest_mac: Mac([4; 6]),
        }
    }

    fn key(guest: &str, peer: &str) -> Key {
        let [guest, peer] = [guest, peer].map(|end| Endpoint::new(end.parse().unwrap(), 53));
        Key { protocol: Protocol::Udp, guest, peer }
    }

    fn send(
        offloads: Offloads,
        key: &Key,
        len: usize,
        segment: Option<u16>,
    ) -> (Cable<Recorder>, SentToGuest) {
        let payload = vec![7; len];
        let received = Received { payload: &payload, hop_limit: Some(9), segment, ..Received::default() };
        let mut cable = cable(offloads);
        let run = Run::new(received, offloads.uso(key.peer.address), udp_fits(key, 1500));
        let sent = cable.send_udp(key, &run, 1500).unwrap();
        (cable, sent)
    }

    const ALL: Offloads = Offloads::ALL;

    #[test]
    fn a_joined_burst_is_one_frame_for_a_device_that_cuts() {
        for (key, transport) in [(key("10.0.0.5", "10.0.0.9"), 34), (key("fd00::5", "fd00::9"), 54)] {
            let (cable, sent) = send(ALL, &key, 10_100, Some(1200));
            assert_eq!(sent, SentToGuest { datagrams: 9, fragmented: 0 });
            let [(offload, frame)] = &cable.guest.frames[..] else { panic!("{}", cable.guest.frames.len()) };
            assert_eq!(offload.segmentation, Segmentation::Udp { size: 1200 });
            assert_eq!(offload.checksum, Checksum::Partial { start: transport, offset: 6 });
            assert_eq!(offload.header_len, transport + 8);
            let ip = Headers::parse(frame, frame.len()).unwrap().ip.unwrap();
            assert_eq!((ip.payload().len(), ip.hop_limit), (10_108, 9));
            // The field holds the pseudo-header's sum, as the device wants it.
            let field = u16::from_be_bytes([frame[ip.transport + 6], frame[ip.transport + 7]]);
            assert_eq!(field, Sum::pseudo_header(ip.src, ip.dst, 17, 10_108).partial());
        }
    }

    #[test]
    fn a_joined_burst_is_cut_here_for_other_devices_and_for_segments_beyond_the_mtu() {
        let key = key("10.0.0.5", "10.0.0.9");
        let (cable, sent) = send(Offloads { uso4: false, ..ALL }, &key, 2500, Some(1200));
        assert_eq!((cable.guest.frames.len(), sent), (3, SentToGuest { datagrams: 3, fragmented: 0 }));
        assert!(cable.guest.frames.iter().all(|(offload, _)| offload.segmentation == Segmentation::None));
        let (cable, sent) = send(ALL, &key, 4000, Some(2000));
        assert_eq!((cable.guest.frames.len(), sent), (4, SentToGuest { datagrams: 2, fragmented: 2 }));
    }

    #[test]
    fn what_just_fits_the_mtu_is_whole_and_one_byte_more_is_not() {
        for (guest, peer, fits) in [("10.0.0.5", "10.0.0.9", 1472), ("fd00::5", "fd00::9", 1452)] {
            let key = key(guest, peer);
            assert_eq!(send(ALL, &key, fits, None).0.guest.frames.len(), 1);
            let (cable, sent) = send(ALL, &key, fits + 1, None);
            assert_eq!((cable.guest.frames.len(), sent), (2, SentToGuest { datagrams: 1, fragmented: 1 }));
            // Fragments leave no checksum to the device.
            assert!(cable.guest.frames.iter().all(|(offload, _)| *offload == Offload::default()));
        }
    }

    #[test]
    fn a_checksum_that_computes_to_zero_is_sent_as_ones() {
        let key = key("10.0.0.5", "10.0.0.9");
        // Chosen so that everything sums up to 0xffff.
        let sum = Sum::pseudo_header(key.peer.address, key.guest.address, 17, 10);
        let rest = sum.with_word(53).with_word(53).with_word(10).finish();
        let payload = rest.to_be_bytes();
        let mut cable = cable(Offloads::default());
        let received = Received { payload: &payload, ..Received::default() };
        cable.send_udp(&key, &Run::new(received, false, 0), 1500).unwrap();
        assert_eq!(cable.guest.frames[0].1[40..42], [0xff, 0xff]);
    }
}
