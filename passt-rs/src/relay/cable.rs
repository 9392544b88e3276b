//! The guest's end of the cable with everything that accompanies each frame: capture, byte counters, and
//! Ethernet and IP headers.

use std::io::IoSlice;
use std::net::IpAddr;

use crate::capture::Capture;
use crate::flow::Key;
use crate::guest::{Full, Guest, Offloads, Received, Room};
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
        if let Some(capture) = &mut self.capture {
            capture.write(&[IoSlice::new(self.guest.head(received.place))]);
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
        // The same room again: transports keep it until it is published.
        let Some(room) = self.guest.reserve(headers, payload) else { return };
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
        let sum = Sum::pseudo_header(ip.src, ip.dst, ip.protocol, tcp_len);
        if let Some(place) = room.headers.get_mut(transport..) {
            if partial {
                segment.emit(place, sum.partial());
            } else {
                segment.emit(place, 0);
                let sum = sum.with(place).with(room.payload).finish();
                segment.emit(place, sum);
            }
        }
        let offload = tcp_offload(ip.src, headers, transport, payload, mss, partial);
        if let Some(capture) = &mut self.capture {
            capture.write(&[IoSlice::new(room.headers), IoSlice::new(room.payload)]);
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
