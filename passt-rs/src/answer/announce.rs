//! Where our addresses are, said unasked when the guest's link comes up.
//!
//! A guest that was connected to another translator, or saved and restored, forgets stale neighbours at once.

use smoltcp::wire::{ArpOperation, ArpRepr, EthernetAddress};

use super::{Network, arp, ndp};
use crate::drop_reason::DropReason;
use crate::wire::Mac;

/// A gratuitous ARP request for our IPv4 address (RFC 5227 3: the form that no stack overlooks).
pub fn arp(network: &Network, out: &mut Vec<u8>) -> Result<(), DropReason> {
    out.clear();
    let ours = network.v4.ok_or(DropReason::Disabled)?.ours();
    let announcement = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(network.our_mac.0),
        source_protocol_addr: ours,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: ours,
    };
    arp::emit(network.our_mac, Mac::BROADCAST, &announcement, out);
    Ok(())
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
    fn what_is_switched_off_is_not_announced() {
        let mut out = Vec::new();
        assert_eq!(arp(&v6_only(), &mut out), Err(DropReason::Disabled));
        assert_eq!(neighbor(&v4_only(), &mut out), Err(DropReason::Disabled));
        let mut network = network();
        network.services.ndp = false;
        assert_eq!(neighbor(&network, &mut out), Err(DropReason::Disabled));
    }
}
