//! ARP: every IPv4 address but the guest's own is at our MAC (RFC 826).
//!
//! The guest asks in three ways, told apart by the sender's address (RFC 5227 2.1.1, 2.3):
//!
//! | sender              | meaning                    | answered for |
//! |---------------------|----------------------------|--------------|
//! | another than target | who has this address?      | all but the guest's assigned address |
//! | 0.0.0.0             | may I take this address?   | our own address only |
//! | the target          | I have this address        | our own address only |
//!
//! A probe or announcement of any address but ours gets no answer, not only that of the assigned one: a
//! guest may add addresses or configure itself (RFC 3927), its cable has no third end with which it could
//! conflict, and a wrong answer would deny it the address. Linux' proxy ARP decides alike.

use std::net::Ipv4Addr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::Network;
use crate::drop_reason::DropReason;
use crate::wire::{ETHERNET_HEADER_LEN, EtherType, Mac, emit_ethernet};

pub fn answer(network: &Network, frame: &[u8], out: &mut Vec<u8>) -> Result<(), DropReason> {
    out.clear();
    let v4 = network.v4.ok_or(DropReason::Disabled)?;
    let body = frame.get(ETHERNET_HEADER_LEN..).ok_or(DropReason::Malformed)?;
    let packet = ArpPacket::new_checked(body).map_err(|_| DropReason::Malformed)?;
    let Ok(ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: asker,
        source_protocol_addr: sender,
        target_protocol_addr: target,
        ..
    }) = ArpRepr::parse(&packet)
    else {
        return Err(DropReason::NotForUs);
    };
    if Mac(asker.0).is_multicast() {
        return Err(DropReason::Source);
    }
    match operation {
        ArpOperation::Request => {}
        // To what we ask when the link comes up; whoever took the frame has learned the guest's MAC from it.
        ArpOperation::Reply if target == v4.ours() => return Ok(()),
        ArpOperation::Reply | ArpOperation::Unknown(_) => return Err(DropReason::NotForUs),
    }
    let claims = sender.is_unspecified() || sender == target;
    let answered = if claims { target == v4.ours() } else { target != v4.guest && is_host(target) };
    if !answered {
        return Err(DropReason::NotForUs);
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(network.our_mac.0),
        source_protocol_addr: target,
        target_hardware_addr: asker,
        target_protocol_addr: sender,
    };
    emit(network.our_mac, Mac(asker.0), &reply, out);
    Ok(())
}

/// Writes a whole frame.
pub(super) fn emit(src: Mac, dst: Mac, repr: &ArpRepr, out: &mut Vec<u8>) {
    out.clear();
    out.resize(ETHERNET_HEADER_LEN + repr.buffer_len(), 0);
    emit_ethernet(out, src, dst, EtherType::Arp);
    if let Some(body) = out.get_mut(ETHERNET_HEADER_LEN..) {
        repr.emit(&mut ArpPacket::new_unchecked(body));
    }
}

/// Whether one host can have this address on a cable.
fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_broadcast() || address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::super::Question;
    use super::super::fixture::{GUEST_MAC, OUR_MAC, ask, host_route_network, network, survives, v6_only};
    use super::*;

    fn request(sender: &str, target: &str) -> Vec<u8> {
        let mut frame = [Mac::BROADCAST.0, GUEST_MAC.0].concat();
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(GUEST_MAC.0);
        frame.extend(sender.parse::<Ipv4Addr>().unwrap().octets());
        frame.extend([0; 6]);
        frame.extend(target.parse::<Ipv4Addr>().unwrap().octets());
        frame
    }

    #[test]
    fn the_link_local_gateway_of_a_host_route_is_at_our_mac() {
        let mut expected = [GUEST_MAC.0, OUR_MAC.0].concat();
        expected.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        expected.extend(OUR_MAC.0);
        expected.extend([169, 254, 1, 1]);
        expected.extend(GUEST_MAC.0);
        expected.extend([10, 244, 1, 7]);
        assert_eq!(ask(&host_route_network(), &request("10.244.1.7", "169.254.1.1")), Ok(expected));
    }

    #[test]
    fn requests_are_answered_for_all_but_the_guest() {
        const NONE: Result<(), DropReason> = Err(DropReason::NotForUs);
        for (case, sender, target, expected) in [
            ("gateway", "10.244.1.7", "10.244.1.1", Ok(())),
            ("neighbour", "10.244.1.7", "10.244.1.8", Ok(())),
            ("off the subnet", "10.244.1.7", "8.8.8.8", Ok(())),
            ("by an address of the guest's choice", "192.168.0.5", "10.244.1.1", Ok(())),
            ("the guest itself", "10.244.1.8", "10.244.1.7", NONE),
            ("probe of the assigned address", "0.0.0.0", "10.244.1.7", NONE),
            ("announcement of the assigned address", "10.244.1.7", "10.244.1.7", NONE),
            ("probe of an address of the guest's choice", "0.0.0.0", "169.254.7.7", NONE),
            ("announcement of an address of the guest's choice", "10.244.1.9", "10.244.1.9", NONE),
            ("probe of our address", "0.0.0.0", "10.244.1.1", Ok(())),
            ("announcement of our address", "10.244.1.1", "10.244.1.1", Ok(())),
            ("nobody", "10.244.1.7", "0.0.0.0", NONE),
            ("everybody", "10.244.1.7", "255.255.255.255", NONE),
            ("a group", "10.244.1.7", "224.0.0.1", NONE),
            ("loopback", "10.244.1.7", "127.0.0.1", NONE),
        ] {
            assert_eq!(ask(&network(), &request(sender, target)).map(|_| ()), expected, "{case}");
        }
    }

    #[test]
    fn a_guest_without_gateway_finds_our_link_local_address() {
        let mut network = network();
        network.v4.as_mut().unwrap().gateway = None;
        assert!(ask(&network, &request("0.0.0.0", "169.254.1.1")).is_ok());
    }

    #[test]
    fn what_is_no_request_between_ethernet_and_ipv4_is_not_answered() {
        for (at, value, reason) in [
            (15, 6, DropReason::NotForUs),    // hardware type
            (16, 9, DropReason::NotForUs),    // protocol type
            (18, 5, DropReason::NotForUs),    // hardware address length
            (18, 200, DropReason::Malformed), // the same, beyond the frame
            (19, 3, DropReason::NotForUs),    // protocol address length
            (21, 3, DropReason::NotForUs),    // reverse ARP
            (22, 0x53, DropReason::Source),   // a group as sender
        ] {
            let mut frame = request("10.244.1.7", "10.244.1.1");
            frame[at] = value;
            assert_eq!(ask(&network(), &frame), Err(reason), "byte {at}");
        }
    }

    #[test]
    fn a_reply_is_heard_if_it_is_to_us() {
        for (target, expected) in [("10.244.1.1", Ok(Vec::new())), ("10.244.1.9", Err(DropReason::NotForUs))]
        {
            let mut frame = request("10.244.1.7", target);
            frame[21] = 2;
            assert_eq!(ask(&network(), &frame), expected, "{target}");
        }
    }

    #[test]
    fn without_ipv4_there_is_no_arp() {
        assert_eq!(ask(&v6_only(), &request("10.0.0.1", "10.0.0.2")), Err(DropReason::Disabled));
    }

    #[test]
    fn hostile_requests_are_survived() {
        survives(Question::Arp, &request("10.244.1.7", "10.244.1.1"));
    }
}
