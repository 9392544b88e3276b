//! Cutting a packet for a link that is too small for it (RFC 791 3.2, RFC 8200 4.5).
//!
//! Plans only: which bytes of the payload each fragment carries. Fragments towards the guest are rare: a
//! datagram larger than its MTU that came whole from the host's own stack.

use std::net::IpAddr;

use crate::wire::{Fragment, fragment};

/// A fragment's place in the original payload is a multiple of this (RFC 791 3.1).
const UNIT: usize = 8;

/// One fragment to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub fragment: Fragment,
    /// Bytes of the original payload, from `fragment.offset`.
    pub len: usize,
}

/// The fragments of `payload_len` bytes behind the IP header, for packets of at most `mtu` bytes between
/// addresses of `address`'s family. Empty when the MTU has no room for a unit or the payload is larger than
/// offsets can say.
pub fn plan(ident: u32, address: IpAddr, payload_len: usize, mtu: usize) -> impl Iterator<Item = Piece> {
    let room = mtu.saturating_sub(fragment::header_len(address)) / UNIT * UNIT;
    let possible = room > 0 && payload_len <= usize::from(u16::MAX);
    let end = if possible { payload_len } else { 0 };
    (0..end).step_by(room.max(UNIT)).map(move |start| {
        let len = room.min(payload_len - start);
        let offset = u16::try_from(start).unwrap_or(u16::MAX);
        Piece { fragment: Fragment { ident, offset, more: start + len < payload_len }, len }
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn offsets(address: IpAddr, payload_len: usize, mtu: usize) -> Vec<(u16, usize, bool)> {
        plan(7, address, payload_len, mtu)
            .map(|piece| (piece.fragment.offset, piece.len, piece.fragment.more))
            .collect()
    }

    #[test]
    fn a_ping_of_3000_bytes_is_cut_as_linux_cuts_it() {
        let v4 = offsets(Ipv4Addr::LOCALHOST.into(), 3008, 1500);
        assert_eq!(v4, [(0, 1480, true), (1480, 1480, true), (2960, 48, false)]);
        let v6 = offsets(Ipv6Addr::LOCALHOST.into(), 3008, 1500);
        assert_eq!(v6, [(0, 1448, true), (1448, 1448, true), (2896, 112, false)]);
    }

    #[test]
    fn an_mtu_without_room_for_a_unit_gives_no_fragments() {
        assert_eq!(offsets(Ipv4Addr::LOCALHOST.into(), 100, 27), []);
        assert_eq!(offsets(Ipv6Addr::LOCALHOST.into(), 70_000, 1500), []);
    }

    proptest! {
        #[test]
        fn fragments_cover_the_payload_once_and_fit_the_mtu(
            len in 1usize..65_536, mtu in 68usize..9000, v6 in any::<bool>(),
        ) {
            let address = if v6 { Ipv6Addr::LOCALHOST.into() } else { IpAddr::from(Ipv4Addr::LOCALHOST) };
            let mut next = 0;
            let mut more = true;
            for piece in plan(1, address, len, mtu) {
                prop_assert!(more);
                prop_assert_eq!(usize::from(piece.fragment.offset), next);
                prop_assert!(fragment::header_len(address) + piece.len <= mtu);
                next += piece.len;
                more = piece.fragment.more;
                prop_assert!(!more || piece.len % UNIT == 0);
            }
            prop_assert_eq!((next, more), (len, false));
        }
    }
}
