//! Identity associations of a DHCPv6 reply: one gets the guest's address, the others a status.

use std::net::Ipv6Addr;

use super::V6;
use crate::wire::dhcpv6::{Ia, IaKind, Message, Status, Writer, push_address, push_status};

/// Associations and addresses of each that we look at; real clients have one of each.
const IAS_MAX: usize = 8;
const ADDRESSES_MAX: usize = 8;
/// Infinity (RFC 8415 7.7), for T1 and T2 as well: there is nothing to renew.
const INFINITE: u32 = u32::MAX;

/// What the associations are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    Solicit,
    Request,
    /// Renew and Rebind.
    Extend,
}

pub(super) fn push_all(v6: V6, message: &Message<'_>, exchange: Exchange, writer: &mut Writer<'_>) {
    let ias = || message.ias().take(IAS_MAX);
    // The association that already has the address keeps it; otherwise the first may have it.
    let with_times = |ia: &Ia<'_>| ia.kind == IaKind::NonTemporary;
    let holder = ias()
        .position(|ia| with_times(&ia) && ia.addresses().any(|address| address == v6.guest))
        .or_else(|| ias().position(|ia| with_times(&ia)));
    for (at, ia) in ias().enumerate() {
        let grant =
            if holder == Some(at) { grant(v6.guest, &ia, exchange) } else { Err(refusal(ia.kind, exchange)) };
        push(v6.guest, &ia, exchange, grant, writer);
    }
}

/// Whether the association that may have the address gets it.
fn grant(guest: Ipv6Addr, ia: &Ia<'_>, exchange: Exchange) -> Result<(), Status> {
    match exchange {
        // A Request repeats our Advertise; another address means it was meant for another link
        // (RFC 8415 18.3.2).
        Exchange::Request if ia.addresses().any(|address| address != guest) => Err(Status::NotOnLink),
        Exchange::Solicit | Exchange::Request | Exchange::Extend => Ok(()),
    }
}

fn refusal(kind: IaKind, exchange: Exchange) -> Status {
    match (exchange, kind) {
        (Exchange::Extend, _) => Status::NoBinding, // RFC 8415 18.3.4
        (Exchange::Solicit | Exchange::Request, IaKind::Prefix) => Status::NoPrefixAvail,
        (Exchange::Solicit | Exchange::Request, IaKind::NonTemporary | IaKind::Temporary) => {
            Status::NoAddrsAvail
        }
    }
}

fn push(
    guest: Ipv6Addr,
    ia: &Ia<'_>,
    exchange: Exchange,
    grant: Result<(), Status>,
    writer: &mut Writer<'_>,
) {
    writer.push_with(ia.kind.code(), |data, _| {
        data.extend(ia.id.to_be_bytes());
        if ia.kind.has_times() {
            let times = if grant.is_ok() { INFINITE } else { 0 };
            data.extend(times.to_be_bytes());
            data.extend(times.to_be_bytes());
        }
        match grant {
            Ok(()) => push_address(data, guest, INFINITE),
            Err(status) => push_status(data, status),
        }
        if exchange == Exchange::Extend && grant.is_ok() {
            // Not to be used any more (RFC 8415 18.3.4, 18.3.5).
            let others = ia.addresses().filter(|address| *address != guest).take(ADDRESSES_MAX);
            others.for_each(|address| push_address(data, address, 0));
        }
    });
}
