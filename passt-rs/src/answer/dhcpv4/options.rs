//! Which options a DHCPv4 reply carries, the indispensable first: what has no room is left out.
//!
//! A client that lists parameters gets the optional ones it lists. Mask, router, routes and MTU it gets anyway:
//! without them the pod's network does not work, and clients ignore what they do not know.

use super::super::{Network, V4};
use super::{Query, Reply};
use crate::wire::dhcpv4::{Options, option};
use crate::wire::name;

/// Infinity (RFC 2131 3.3), of T1 and T2 likewise.
const LEASE_SECS: u32 = u32::MAX;
/// Smallest MTU that option 26 may name (RFC 2132 5.1).
const MTU_MIN: u16 = 68;

/// Flags of option 81 (RFC 4702 2.1): S server updates A records, O against the client's wish,
/// E name as labels, N server updates nothing.
const FQDN_S: u8 = 1;
const FQDN_O: u8 = 2;
const FQDN_E: u8 = 4;
const FQDN_N: u8 = 8;

pub(super) fn push(network: &Network, v4: V4, query: &Query<'_>, reply: Reply, options: &mut Options<'_>) {
    if let Some(kind) = reply.message_type() {
        options.push(option::MESSAGE_TYPE, &[kind.into()]);
        options.push(option::SERVER_ID, &v4.ours().octets());
        if let Some(id) = query.client_id {
            options.push(option::CLIENT_ID, id); // as it came, in every reply (RFC 6842 3)
        }
    }
    if reply == Reply::Nak {
        options.push(option::MESSAGE, b"the guest's address is another");
        return;
    }
    if reply.has_lease() {
        for code in [option::LEASE_TIME, option::RENEWAL_TIME, option::REBINDING_TIME] {
            options.push(code, &LEASE_SECS.to_be_bytes());
        }
    }
    if reply == Reply::RapidAck {
        options.push(option::RAPID_COMMIT, &[]); // RFC 4039 3.1
    }
    push_routes(v4, options);
    if let Some(mtu) = network.mtu.filter(|mtu| *mtu >= MTU_MIN) {
        options.push(option::INTERFACE_MTU, &mtu.to_be_bytes());
    }
    push_services(network, query, options);
}

fn push_routes(v4: V4, options: &mut Options<'_>) {
    options.push(option::SUBNET_MASK, &v4.mask().octets());
    if let Some(gateway) = v4.gateway_off_subnet() {
        // First the way to the gateway, directly on the link, then all else by it. A client that reads this
        // ignores the router option, so the default route is here as well (RFC 3442).
        let [a, b, c, d] = gateway.octets();
        options.push(option::CLASSLESS_ROUTES, &[32, a, b, c, d, 0, 0, 0, 0, 0, a, b, c, d]);
    }
    if let Some(gateway) = v4.gateway {
        options.push(option::ROUTER, &gateway.octets());
    }
}

fn push_services(network: &Network, query: &Query<'_>, options: &mut Options<'_>) {
    if query.wants(option::DNS_SERVERS) {
        options.push_addresses(option::DNS_SERVERS, network.resolvers_v4());
    }
    // After what the guest needs to work, and before names, of which it may have many.
    network.extras.push(query, options);
    let hostname = network.hostname.as_ref().filter(|name| matches!(name.len(), 1..=255));
    if let Some(hostname) = hostname.filter(|_| query.wants(option::HOST_NAME)) {
        options.push(option::HOST_NAME, hostname.as_bytes());
    }
    if let Some(domain) = domain(network).filter(|_| query.wants(option::DOMAIN_NAME)) {
        options.push(option::DOMAIN_NAME, domain.as_bytes());
    }
    let client_names_itself = query.fqdn_flags.is_some();
    if let Some(fqdn) =
        network.fqdn.as_ref().filter(|_| client_names_itself || query.wants(option::CLIENT_FQDN))
    {
        push_fqdn(fqdn, query.fqdn_flags, options);
    }
    if query.wants(option::DOMAIN_SEARCH) {
        options.push_with(option::DOMAIN_SEARCH, |data, room| {
            name::push_list_compressed(data, network.search_list(), room);
        });
    }
}

/// The domain the guest is in: where it looks first, or where its own name says.
fn domain(network: &Network) -> Option<&str> {
    let own = || network.fqdn.as_ref().and_then(|fqdn| fqdn.split_once('.')).map(|(_, domain)| domain);
    let domain = network.search_list().first().map(String::as_str).or_else(own)?;
    matches!(domain.len(), 1..=255).then_some(domain)
}

/// Appends the guest's full name, in the encoding the client used; we update no records (RFC 4702 4).
fn push_fqdn(fqdn: &str, client_flags: Option<u8>, options: &mut Options<'_>) {
    let client_flags = client_flags.unwrap_or(FQDN_E);
    let overridden = if client_flags & FQDN_S == 0 { 0 } else { FQDN_O };
    let flags = FQDN_N | overridden | client_flags & FQDN_E;
    options.push_with(option::CLIENT_FQDN, |data, room| {
        let start = data.len();
        data.extend([flags, 255, 255]); // both RCODEs are 255 (RFC 4702 2.2)
        let is_name = if flags & FQDN_E == 0 {
            data.extend(fqdn.as_bytes());
            true
        } else {
            name::push(data, fqdn)
        };
        if !is_name || data.len() - start > room.min(255) {
            data.truncate(start);
        }
    });
}
