//! What ADD answers: interfaces, addresses, routes, DNS; of every version of the specification.

use std::net::IpAddr;

use ipnet::IpNet;

/// The newest version's result; older ones are written from it and read into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniResult {
    pub interfaces: Vec<Interface>,
    pub ips: Vec<Ip>,
    pub routes: Vec<Route>,
    pub dns: Dns,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    /// As given: other plugins also write what is no MAC address.
    pub mac: Option<String>,
    /// Bytes. Since 1.1.0.
    pub mtu: Option<u32>,
    /// The namespace's path as `CNI_NETNS` has it; `None` on the host's side.
    pub sandbox: Option<String>,
    /// Since 1.1.0.
    pub socket_path: Option<String>,
    /// Since 1.1.0.
    pub pci_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    pub address: IpNet,
    pub gateway: Option<IpAddr>,
    /// Index into the result's interfaces.
    pub interface: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub dst: IpNet,
    pub gw: Option<IpAddr>,
    /// These five since 1.1.0.
    pub mtu: Option<u32>,
    pub advmss: Option<u32>,
    pub priority: Option<u32>,
    pub table: Option<u32>,
    pub scope: Option<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    pub nameservers: Vec<String>,
    pub domain: Option<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}
