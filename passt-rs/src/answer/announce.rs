//! What is said unasked when the guest's link comes up: where our addresses are, and where is the guest's?
//!
//! A guest that was connected to another translator, or saved and restored, forgets stale neighbours at once. One
//! that has nothing to say would stay unknown to us: until it has sent a frame we can only send to the broadcast
//! address, and kernels drop TCP that came so (RFC 1122 4.2.3.10). So it is asked, and its answer tells its MAC.

use std::net::Ipv4Addr;

use smoltcp::wire::{ArpOperation, ArpRepr, EthernetAddress};

use super::{Network, arp, ndp};
use crate::drop_reason::DropReason;
use crate::wire::Mac;

/// A gratuitous ARP request for our IPv4 address (RFC 5227 3: the form that no stack overlooks).
pub fn arp(network: &Network, out: &mut Vec<u8>) -> Result<(), DropReason> {
    out.clear();
    let v4 = network.v4.ok_or(DropReason::Disabled)?;
    request(network, v4.ours(), v4.ours(), out);
    Ok(())
}

/// An ARP request for the guest's IPv4 address.
pub fn ask_arp(network: &Network, out: &mut Vec<u8>) -> Result<(), DropReason> {
    out.clear();
    let v4 = network.v4.ok_or(DropReason::Disabled)?;
    request(network, v4.ours(), v4.guest, out);
    Ok(())
}

fn request(network: &Network, sender: Ipv4Addr, target: Ipv4Addr, out: &mut Vec<u8>) {
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(network.our_mac.0),
        source_protocol_addr: sender,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    arp::emit(network.our_mac, Mac::BROADCAST, &request, out);
}

/// An unsolicited neighbor advertisement for our link-local address (RFC 4861 7.2.6).
pub fn neighbor(network: &Network, out: &mut Vec<u8>) -> Result<(), DropReason> {
    out.clear();
    if !network.services.ndp {
        return Err(DropReason::Disabled);
    }
    let ours = network.v6.ok_or(DropReason::Disabled)?.our_link_local;
    ndp::advertise_neighbor(network, ours, None, out);
    Ok(())
}

/// A neighbor solicitation for the guest's IPv6 address (RFC 4861 7.2.2).
pub fn ask_neighbor(network: &Network, out: &mut Vec<u8>) -> Result<(), DropReason> {
    out.clear();
    let v6 = network.v6.filter(|_| network.services.ndp).ok_or(DropReason::Disabled)?;
    ndp::solicit_neighbor(network, v6, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Answer, OUR_MAC, network, v4_only, v6_only};
    use super::*;

    #[test]
    fn our_ipv4_address_is_announced_by_a_request_for_itself() {
        let mut out = vec![0xa5; 9];
        assert_eq!(arp(&network(), &mut out), Ok(()));
        let mut expected = [Mac::BROADCAST.0, OUR_MAC.0].concat();
        expected.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        expected.extend(OUR_MAC.0);
        expected.extend([10, 244, 1, 1, 0, 0, 0, 0, 0, 0, 10, 244, 1, 1]);
        assert_eq!(out, expected);
    }

    #[test]
    fn our_link_local_address_is_announced_to_all_nodes() {
        let mut out = Vec::new();
        assert_eq!(neighbor(&network(), &mut out), Ok(()));
        let advertisement = Answer::parse(&out);
        assert_eq!(advertisement.route(), ("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap()));
        assert_eq!((advertisement.dst_mac, advertisement.ip.hop_limit), (Mac([0x33, 0x33, 0, 0, 0, 1]), 255));
        // Router and override, not solicited.
        assert_eq!((advertisement.message[0], advertisement.message[4]), (136, 0xa0));
    }

    #[test]
    fn the_guest_is_asked_for_its_ipv4_address() {
        let mut out = vec![0xa5; 9];
        assert_eq!(ask_arp(&network(), &mut out), Ok(()));
        let mut expected = [Mac::BROADCAST.0, OUR_MAC.0].concat();
        expected.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        expected.extend(OUR_MAC.0);
        expected.extend([10, 244, 1, 1, 0, 0, 0, 0, 0, 0, 10, 244, 1, 7]);
        assert_eq!(out, expected);
    }

    #[test]
    fn the_guest_is_asked_for_its_ipv6_address_at_its_solicited_node_group() {
        let network = network();
        let guest = network.v6.unwrap().guest;
        let [.., high, low, last] = guest.octets();
        let mut out = vec![0xa5; 9];
        assert_eq!(ask_neighbor(&network, &mut out), Ok(()));
        let asked = Answer::parse(&out);
        let group = std::net::Ipv6Addr::from_bits(
            0xff02_0000_0000_0000_0000_0001_ff00_0000 | guest.to_bits() & 0xff_ffff,
        );
        assert_eq!(asked.route(), ("fe80::1".parse().unwrap(), group.into()));
        assert_eq!((asked.dst_mac, asked.ip.hop_limit), (Mac([0x33, 0x33, 0xff, high, low, last]), 255));
        // Type, code, checksum; reserved; target; our link-layer address.
        assert_eq!(asked.message[..2], [135, 0]);
        assert_eq!(asked.message[4..8], [0; 4]);
        assert_eq!(asked.message[8..24], guest.octets());
        assert_eq!(asked.message[24..], [[1, 1].as_slice(), &OUR_MAC.0].concat());
    }

    #[test]
    fn what_is_switched_off_is_not_announced() {
        let mut out = Vec::new();
        assert_eq!(arp(&v6_only(), &mut out), Err(DropReason::Disabled));
        assert_eq!(ask_arp(&v6_only(), &mut out), Err(DropReason::Disabled));
        assert_eq!(neighbor(&v4_only(), &mut out), Err(DropReason::Disabled));
        assert_eq!(ask_neighbor(&v4_only(), &mut out), Err(DropReason::Disabled));
        let mut network = network();
        network.services.ndp = false;
        assert_eq!(neighbor(&network, &mut out), Err(DropReason::Disabled));
        assert_eq!(ask_neighbor(&network, &mut out), Err(DropReason::Disabled));
    }
}
