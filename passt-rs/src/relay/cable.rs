//! The guest's end of the cable with everything that accompanies each frame: capture, byte counters, and
//! Ethernet and IP headers.

use std::io::IoSlice;
use std::net::IpAddr;

use crate::capture::Capture;
use crate::flow::Key;
use crate::guest::{Full, Guest, Offloads, Received, Room};
use crate::iovec::{self, PieceMut};
use crate::stats::CableCounters;
use crate::wire::checksum::Sum;
use crate::wire::tcp::Segment;
use crate::wire::{
    Checksum, ETHERNET_HEADER_LEN, EtherType, IpRepr, Mac, Offload, Segmentation, emit_ethernet, emit_ip,
    ip_header_len, protocol,
};

/// TTL and hop limit of what we send the guest on behalf of the peer's TCP (RFC 1700's successor: 64).
const HOP_LIMIT: u8 = 64;
/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM_OFFSET: u16 = 16;

/// A transport, its capture and its counters.
#[derive(Debug)]
pub(super) struct Cable<G> {
    pub(super) guest: G,
    pub(super) capture: Option<Capture>,
    pub(super) counters: CableCounters,
    pub(super) our_mac: Mac,
    /// Identification of the packet that was cut last.
    pub(super) next_ident: u32,
    /// A copy of payload that has to be looked at: for a checksum that no device completes, and for the capture.
    pub(super) scratch: Vec<u8>,
    /// The guest's address, learned from its frames; broadcast until then.
    pub(super) guest_mac: Mac,
}

impl<G: Guest> Cable<G> {
    pub(super) fn offloads(&self) -> Offloads {
        self.guest.offloads()
    }

    /// The next frame from the guest.
    pub(super) fn receive(&mut self) -> Option<Received> {
        let received = self.guest.receive()?;
        self.counters.from_guest_frames += 1;
        self.counters.from_guest_bytes += received.place.len() as u64;
        if let Some(capture) = &mut self.capture
            && !received.place.is_empty()
        {
            capture.write(&[IoSlice::new(self.guest.whole(received.place))]);
        }
        Some(received)
    }

    /// Sends a frame that is complete, or whose checksum or cutting `offload` leaves to the device.
    pub(super) fn send(
        &mut self,
        offload: Offload,
        headers: &[u8],
        payload: &[IoSlice<'_>],
    ) -> Result<(), Full> {
        let len = headers.len() + payload.iter().map(|slice| slice.len()).sum::<usize>();
        self.guest.send(offload, headers, payload)?;
        self.count_to_guest(len);
        if let Some(capture) = &mut self.capture {
            let mut slices = vec![IoSlice::new(headers)];
            slices.extend_from_slice(payload);
            capture.write(&slices);
        }
        Ok(())
    }

    /// Length of all headers of a TCP segment between the ends of `key`.
    pub(super) fn tcp_headers_len(key: &Key, segment: &Segment) -> usize {
        ETHERNET_HEADER_LEN + ip_header_len(key.peer.address) + segment.header_len()
    }

    /// Room for `headers` plus `payload` bytes.
    pub(super) fn reserve(&mut self, headers: usize, payload: usize) -> Option<Room<'_>> {
        self.guest.reserve(headers, payload)
    }

    /// Sends a TCP segment without payload.
    pub(super) fn send_tcp(&mut self, key: &Key, segment: &Segment) -> Result<(), Full> {
        let headers = Self::tcp_headers_len(key, segment);
        self.reserve(headers, 0).ok_or(Full)?;
        self.publish_tcp(key, segment, headers, 0, 0);
        Ok(())
    }

    /// Writes the headers of `segment` in front of the `payload` bytes in the room of `room` bytes reserved
    /// last, and hands the frame over; one larger than `mss` is cut by the device.
    pub(super) fn publish_tcp(
        &mut self,
        key: &Key,
        segment: &Segment,
        headers: usize,
        payload: usize,
        mss: u16,
    ) {
        let partial = self.offloads().checksum;
        let (our_mac, guest_mac) = (self.our_mac, self.guest_mac);
        let room = self.guest.room();
        let ip_len = ip_header_len(key.peer.address);
        let transport = ETHERNET_HEADER_LEN + ip_len;
        let tcp_len = headers - transport + payload;
        let ip = IpRepr {
            src: key.peer.address,
            dst: key.guest.address,
            protocol: protocol::TCP,
            hop_limit: HOP_LIMIT,
            traffic_class: 0,
        };
        let ether_type = if ip.src.is_ipv4() { EtherType::Ipv4 } else { EtherType::Ipv6 };
        emit_ethernet(room.headers, our_mac, guest_mac, ether_type);
        if let Some(place) = room.headers.get_mut(ETHERNET_HEADER_LEN..transport) {
            emit_ip(place, &ip, tcp_len);
        }
        let looked_at = !partial || self.capture.is_some();
        let copy = if looked_at { copy_payload(&room, payload, &mut self.scratch) } else { &[] };
        let sum = Sum::pseudo_header(ip.src, ip.dst, ip.protocol, tcp_len);
        if let Some(place) = room.headers.get_mut(transport..) {
            if partial {
                segment.emit(place, sum.partial());
            } else {
                segment.emit(place, 0);
                let sum = sum.with(place).with(copy).finish();
                segment.emit(place, sum);
            }
        }
        let offload = tcp_offload(ip.src, headers, transport, payload, mss, partial);
        if let Some(capture) = &mut self.capture {
            capture.write(&[IoSlice::new(room.headers), IoSlice::new(copy)]);
        }
        match self.guest.publish(offload, headers, payload) {
            Ok(()) => self.count_to_guest(headers + payload),
            Err(Full) => self.counters.lost_frames += 1, // TCP sends it again.
        }
    }

    /// Called when there is nothing else to do.
    pub(super) fn idle(&mut self) {
        if let Some(capture) = &mut self.capture {
            capture.flush();
        }
    }

    fn count_to_guest(&mut self, len: usize) {
        self.counters.to_guest_frames += 1;
        self.counters.to_guest_bytes += len as u64;
    }
}

/// The first `len` bytes of the payload in `room`, in memory nobody else writes.
fn copy_payload<'a>(room: &Room<'_>, len: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    scratch.resize(scratch.len().max(len), 0);
    let scratch = scratch.get_mut(..len).unwrap_or_default();
    iovec::copy_all(room.payload.pieces().iter().map(PieceMut::as_piece), scratch);
    scratch
}

fn tcp_offload(
    family: IpAddr,
    headers: usize,
    transport: usize,
    payload: usize,
    mss: u16,
    partial: bool,
) -> Offload {
    if !partial {
        return Offload::default();
    }
    let start = u16::try_from(transport).unwrap_or(0);
    let segmentation = match family {
        _ if payload <= usize::from(mss) => Segmentation::None,
        IpAddr::V4(_) => Segmentation::Tcp4 { size: mss },
        IpAddr::V6(_) => Segmentation::Tcp6 { size: mss },
    };
    Offload {
        checksum: Checksum::Partial { start, offset: TCP_CHECKSUM_OFFSET },
        segmentation,
        header_len: u16::try_from(headers).unwrap_or(0),
    }
}
