//! What a rule says, as the kernel's expressions. It must never hold one that no builder of `rule` uses.
//!
//! Each condition loads something into register 1 and compares it; a packet for which one is not met has done with the
//! rule. Only expressions that distributions' kernels have since 5.2 are used (RHEL 9, Debian 12): `meta`, `payload`,
//! `cmp`, `bitwise`, `ct`, `fib`, `immediate`, `counter`, `nat`, `masq`. Notably `meta` keys of a bridge
//! (`nft_meta_bridge`) are not among them: a port's name is `meta iifname` in the bridge family too.

use std::net::IpAddr;

use ipnet::IpNet;

use super::abi::*;
use super::wire::Attributes;
use crate::protocol::MacAddress;

/// The value of `NFTA_RULE_EXPRESSIONS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Expressions(Attributes);

impl Expressions {
    pub(super) fn attributes(&self) -> &Attributes {
        &self.0
    }

    /// In the family inet, addresses mean nothing before this is known.
    pub(super) fn family_is(self, like: IpAddr) -> Self {
        self.meta(NFT_META_NFPROTO).compare(NFT_CMP_EQ, &[family(like)])
    }

    pub(super) fn source_in(self, prefix: IpNet) -> Self {
        self.address(prefix, address_places(prefix.addr()).0, NFT_CMP_EQ)
    }

    pub(super) fn destination_in(self, prefix: IpNet) -> Self {
        self.address(prefix, address_places(prefix.addr()).1, NFT_CMP_EQ)
    }

    pub(super) fn destination_not_in(self, prefix: IpNet) -> Self {
        self.address(prefix, address_places(prefix.addr()).1, NFT_CMP_NEQ)
    }

    /// One of this host's own addresses, `fib daddr type local`.
    pub(super) fn destination_is_local(self) -> Self {
        let attributes = Attributes::default()
            .number(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR)
            .number(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE)
            .number(NFTA_FIB_DREG, NFT_REG_1);
        self.add("fib", &attributes).compare(NFT_CMP_EQ, &RTN_LOCAL.to_ne_bytes())
    }

    /// Of a packet of the transport protocol numbered `protocol`.
    pub(super) fn destination_port(self, protocol: u8, port: u16) -> Self {
        self.meta(NFT_META_L4PROTO)
            .compare(NFT_CMP_EQ, &[protocol])
            .payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)
            .compare(NFT_CMP_EQ, &port.to_be_bytes())
    }

    /// `ct status dnat`.
    pub(super) fn destination_was_changed(self) -> Self {
        let attributes =
            Attributes::default().number(NFTA_CT_DREG, NFT_REG_1).number(NFTA_CT_KEY, NFT_CT_STATUS);
        self.add("ct", &attributes).mask(&IPS_DST_NAT.to_ne_bytes()).compare(NFT_CMP_NEQ, &[0; 4])
    }

    /// Of a frame in the bridge family: the bridge's port by which it comes.
    pub(super) fn enters_by(self, link: &str) -> Self {
        let mut name = link.as_bytes().to_vec();
        name.resize(name.len().max(libc::IFNAMSIZ), 0);
        self.meta(NFT_META_IIFNAME).compare(NFT_CMP_EQ, &name)
    }

    pub(super) fn source_mac_is_not(self, mac: MacAddress) -> Self {
        self.payload(NFT_PAYLOAD_LL_HEADER, 6, 6).compare(NFT_CMP_NEQ, &mac.octets())
    }

    pub(super) fn counter(self) -> Self {
        self.add("counter", &Attributes::default())
    }

    pub(super) fn drop(self) -> Self {
        let verdict = Attributes::default().number(NFTA_VERDICT_CODE, NF_DROP);
        let data = Attributes::default().nest(NFTA_DATA_VERDICT, &verdict);
        let attributes = Attributes::default()
            .number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)
            .nest(NFTA_IMMEDIATE_DATA, &data);
        self.add("immediate", &attributes)
    }

    pub(super) fn masquerade(self) -> Self {
        self.add("masq", &Attributes::default())
    }

    /// `dnat to address:port`.
    pub(super) fn destination_becomes(self, address: IpAddr, port: u16) -> Self {
        let attributes = Attributes::default()
            .number(NFTA_NAT_TYPE, NFT_NAT_DNAT)
            .number(NFTA_NAT_FAMILY, family(address).into())
            .number(NFTA_NAT_REG_ADDR_MIN, NFT_REG_1)
            .number(NFTA_NAT_REG_PROTO_MIN, NFT_REG_2);
        self.value(NFT_REG_1, &octets(address)).value(NFT_REG_2, &port.to_be_bytes()).add("nat", &attributes)
    }

    fn address(self, prefix: IpNet, offset: u32, operation: u32) -> Self {
        let address = octets(prefix.network());
        let loaded = match prefix.addr() {
            IpAddr::V4(_) => self.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, 4),
            IpAddr::V6(_) => self.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, 16),
        };
        if prefix.prefix_len() == prefix.max_prefix_len() {
            loaded.compare(operation, &address)
        } else {
            loaded.mask(&octets(prefix.netmask())).compare(operation, &address)
        }
    }

    fn meta(self, key: u32) -> Self {
        let attributes = Attributes::default().number(NFTA_META_KEY, key).number(NFTA_META_DREG, NFT_REG_1);
        self.add("meta", &attributes)
    }

    fn payload(self, base: u32, offset: u32, bytes: u32) -> Self {
        let attributes = Attributes::default()
            .number(NFTA_PAYLOAD_DREG, NFT_REG_1)
            .number(NFTA_PAYLOAD_BASE, base)
            .number(NFTA_PAYLOAD_OFFSET, offset)
            .number(NFTA_PAYLOAD_LEN, bytes);
        self.add("payload", &attributes)
    }

    fn compare(self, operation: u32, with: &[u8]) -> Self {
        let attributes = Attributes::default()
            .number(NFTA_CMP_SREG, NFT_REG_1)
            .number(NFTA_CMP_OP, operation)
            .nest(NFTA_CMP_DATA, &data(with));
        self.add("cmp", &attributes)
    }

    fn mask(self, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(0); // at most 16
        let attributes = Attributes::default()
            .number(NFTA_BITWISE_SREG, NFT_REG_1)
            .number(NFTA_BITWISE_DREG, NFT_REG_1)
            .number(NFTA_BITWISE_LEN, length)
            .nest(NFTA_BITWISE_MASK, &data(mask))
            .nest(NFTA_BITWISE_XOR, &data(&vec![0; mask.len()]));
        self.add("bitwise", &attributes)
    }

    fn value(self, register: u32, value: &[u8]) -> Self {
        let attributes = Attributes::default()
            .number(NFTA_IMMEDIATE_DREG, register)
            .nest(NFTA_IMMEDIATE_DATA, &data(value));
        self.add("immediate", &attributes)
    }

    fn add(self, name: &str, attributes: &Attributes) -> Self {
        let element = Attributes::default().text(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, attributes);
        Self(self.0.nest(NFTA_LIST_ELEM, &element))
    }
}

fn data(value: &[u8]) -> Attributes {
    Attributes::default().put(NFTA_DATA_VALUE, value)
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { NFPROTO_IPV4 } else { NFPROTO_IPV6 }
}

/// Where in the network header source and destination are (RFC 791 section 3.1, RFC 8200 section 3), in bytes.
fn address_places(like: IpAddr) -> (u32, u32) {
    if like.is_ipv4() { (12, 16) } else { (8, 24) }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
