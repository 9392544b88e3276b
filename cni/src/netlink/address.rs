//! IP addresses of links.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::raw::{Attributes, Value, u32_at};
use super::route::Scope;
use super::socket::Answer;
use super::{Netlink, NetlinkError};

/// One address of one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub index: u32,
    /// With the prefix of its network, or the peer's.
    pub network: IpNet,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
    pub scope: Scope,
    pub label: Option<String>,
    /// Duplicate address detection has not ended (RFC 4862 5.4).
    pub tentative: bool,
    /// It has ended, and somebody else has the address.
    pub duplicate: bool,
    /// Not to be used for new connections.
    pub deprecated: bool,
    /// Its lifetime does not end.
    pub permanent: bool,
}

/// How an address is to be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressOptions {
    /// IPv6: used at once, without asking whether somebody has it.
    pub no_dad: bool,
    /// No route to its network is made with it.
    pub no_prefix_route: bool,
    /// The other end of a point-to-point link; the prefix is then the peer's.
    pub peer: Option<IpAddr>,
    /// Universe where None.
    pub scope: Option<Scope>,
}

impl Netlink {
    /// Addresses of a link, or of all links.
    pub fn addresses(&self, index: Option<u32>) -> Result<Vec<Address>, NetlinkError> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.dump(message, format_args!("list addresses"))?;
        let all = answers.iter().filter_map(read);
        // The kernel would filter for us only under its strict checks, which refuse what older kernels do not know.
        Ok(all.filter(|address| index.is_none_or(|index| index == address.index)).collect())
    }

    /// Adds an address. The broadcast address of an IPv4 network is its last one, where it has more than two.
    ///
    /// # Errors
    ///
    /// `Exists` when the link has it.
    pub fn add_address(
        &self,
        index: u32,
        address: IpNet,
        options: AddressOptions,
    ) -> Result<(), NetlinkError> {
        let mut message = header(index, address);
        let attributes = &mut message.attributes;
        attributes.push(AddressAttribute::Local(address.addr()));
        attributes.push(AddressAttribute::Address(options.peer.unwrap_or_else(|| address.addr())));
        if let IpNet::V4(network) = address
            && options.peer.is_none()
            && network.prefix_len() < 31
        {
            attributes.push(AddressAttribute::Broadcast(network.broadcast()));
        }
        let mut flags = AddressFlags::empty();
        flags.set(AddressFlags::Nodad, options.no_dad);
        flags.set(AddressFlags::Noprefixroute, options.no_prefix_route);
        if !flags.is_empty() {
            attributes.push(AddressAttribute::Flags(flags));
        }
        if let Some(scope) = options.scope {
            message.header.scope = scope.number().into();
        }
        self.change_with(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
            format_args!("add address {address} to link {index}"),
        )
    }

    /// Removes an address. False: the link did not have it, or is gone itself.
    pub fn delete_address(&self, index: u32, address: IpNet) -> Result<bool, NetlinkError> {
        let mut message = header(index, address);
        message.attributes.push(AddressAttribute::Local(address.addr()));
        let what = format_args!("delete address {address} of link {index}");
        match self.change_with(RouteNetlinkMessage::DelAddress(message), 0, what) {
            Ok(()) => Ok(true),
            Err(NetlinkError::NotFound { .. } | NetlinkError::Refused { errno: libc::EADDRNOTAVAIL, .. }) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

fn header(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.header.family = match address {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message
}

/// None for what is not an address.
fn read(answer: &Answer) -> Option<Address> {
    if answer.kind != libc::RTM_NEWADDR {
        return None;
    }
    let payload = &answer.payload;
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let [_, prefix_len, few_flags, scope] = *payload.first_chunk()?;
    let attributes = Attributes::after(payload, IFADDRMSG);
    let address = attributes.find(libc::IFA_ADDRESS).and_then(Value::ip);
    // IPv6 has no IFA_LOCAL unless there is a peer.
    let ours = attributes.find(libc::IFA_LOCAL).and_then(Value::ip).or(address)?;
    // The header has room for eight flags only.
    let flags = attributes.find(libc::IFA_FLAGS).and_then(Value::u32).unwrap_or_else(|| few_flags.into());
    let flags = AddressFlags::from_bits_retain(flags);
    Some(Address {
        index: u32_at(payload, 4)?,
        network: IpNet::new(ours, prefix_len).ok()?,
        peer: address.filter(|address| *address != ours),
        scope: Scope::from_number(scope),
        label: attributes.find(libc::IFA_LABEL).map(Value::text),
        tentative: flags.contains(AddressFlags::Tentative),
        duplicate: flags.contains(AddressFlags::Dadfailed),
        deprecated: flags.contains(AddressFlags::Deprecated),
        permanent: flags.contains(AddressFlags::Permanent),
    })
}

/// Bytes of `struct ifaddrmsg`.
const IFADDRMSG: usize = 8;
