//! What no transport of the labs can be made to do: a guest that follows a script.

use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use super::{Limits, Link, Opened, Protocols, Relay, Settings, Turn};
use crate::answer::dhcpv4::Extras;
use crate::answer::{Network, Services};
use crate::drop_reason::DropReason;
use crate::flow::nat::Nat;
use crate::guest::{Full, Guest, Offloads, Place, Received, Room, SLICES_MAX};
use crate::host::outbound::Outbound;
use crate::iovec::Piece;
use crate::wire::{Mac, Offload};

/// A guest whose frames are empty, and whose cable does what `links` says.
#[derive(Debug, Default)]
struct Scripted {
    frames: VecDeque<Result<Offload, DropReason>>,
    links: VecDeque<Link>,
}

impl Guest for Scripted {
    fn attach(&mut self, _epoll: BorrowedFd<'_>, _token: u64) -> io::Result<()> {
        Ok(())
    }

    fn on_event(&mut self) -> bool {
        true
    }

    fn take_link(&mut self) -> Link {
        self.links.pop_front().unwrap_or(Link::Unchanged)
    }

    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn receive(&mut self) -> Option<Received> {
        let offload = self.frames.pop_front()?;
        Some(Received { place: Place::default(), offload, queue: 0 })
    }

    fn head(&self, _place: Place) -> &[u8] {
        &[]
    }

    fn whole(&mut self, _place: Place) -> &[u8] {
        &[]
    }

    fn gather<'a>(
        &'a self,
        _place: Place,
        _range: Range<usize>,
        _pieces: &mut [Piece<'a>; SLICES_MAX],
    ) -> usize {
        0
    }

    fn hold(&mut self, _place: Place) -> bool {
        true
    }

    fn release(&mut self) {}

    fn reserve(&mut self, _headers: usize, _payload: usize) -> Option<Room<'_>> {
        None
    }

    fn room(&mut self) -> Room<'_> {
        Room::default()
    }

    fn frames_that_fit(&mut self, _len: usize, _most: usize) -> usize {
        0
    }

    fn publish(&mut self, _offload: Offload, _headers: usize, _payload: usize) -> Result<(), Full> {
        Err(Full)
    }

    fn send(&mut self, _offload: Offload, _headers: &[u8], _payload: &[IoSlice<'_>]) -> Result<(), Full> {
        Ok(())
    }

    fn flush(&mut self) {}
}

fn relay(guest: Scripted, one_off: bool) -> Relay<Scripted> {
    let services = Services {
        dhcp: false,
        dhcpv6: false,
        ndp: false,
        ra: false,
        announce_dns: false,
        announce_search: false,
    };
    let settings = Settings {
        network: Network {
            our_mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: None,
            v4: None,
            v6: None,
            dns: Vec::new(),
            search: Vec::new(),
            hostname: None,
            fqdn: None,
            extras: Extras::default(),
            services,
        },
        nat: Nat::default(),
        mtu: 1500,
        protocols: Protocols { tcp: true, udp: true, icmp: true },
        outbound: Outbound::default(),
        limits: Limits::default(),
        guest_mac: None,
        one_off,
        secret: [0; 16],
    };
    Relay::new(guest, settings, Opened::default()).unwrap()
}

#[test]
fn a_frame_with_a_segmentation_nobody_negotiated_is_dropped_and_counted() {
    let frames = [Err(DropReason::Offload), Ok(Offload::default()), Err(DropReason::Offload)].into();
    let mut relay = relay(Scripted { frames, ..Scripted::default() }, false);
    relay.frames_from_guest();
    let counts = |reason| relay.core.drops.of(reason);
    assert_eq!(counts(DropReason::Offload), 2);
    assert_eq!(counts(DropReason::Malformed), 1, "the frame between them, which is empty");
    assert_eq!(relay.core.cable.counters.from_guest_frames, 3);
}

#[test]
fn the_relay_ends_with_a_cable_that_is_gone_and_one_off_with_one_that_was_down() {
    for (one_off, last) in
        [(false, Link::Gone), (true, Link::Gone), (true, Link::Down), (true, Link::Replaced)]
    {
        let mut relay = relay(Scripted { links: [Link::Up, last].into(), ..Scripted::default() }, one_off);
        relay.more_from_guest = true; // A turn without waiting.
        relay.run().unwrap();
        assert!(relay.core.cable.guest.links.is_empty(), "{last:?}");
    }
}

#[test]
fn a_guest_in_the_place_of_another_is_announced_to() {
    let mut relay = relay(Scripted { links: [Link::Replaced].into(), ..Scripted::default() }, false);
    relay.on_link();
    assert_eq!(relay.core.cable.counters.link_ups, 1);
}

#[test]
fn a_guest_found_gone_while_it_is_announced_to_is_gone_without_another_event() {
    let links = || [Link::Up, Link::Down].into();
    let mut one_off = relay(Scripted { links: links(), ..Scripted::default() }, true);
    assert_eq!(one_off.on_link(), Turn::Stop);
    let mut staying = relay(Scripted { links: links(), ..Scripted::default() }, false);
    assert_eq!(staying.on_link(), Turn::Go);
    assert!(staying.core.cable.guest.links.is_empty());
}
