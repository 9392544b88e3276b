//! Routes and resolvers as an `ipam` section has them, for results. It must never judge whether they make sense.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::range::optional;
use crate::protocol::{Dns, Route};

/// An entry of `ipam.routes`. Numbers of 0 count as absent except where 0 says something, as Go's types have it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RouteConfig {
    dst: IpNet,
    #[serde(default, deserialize_with = "optional")]
    gw: Option<IpAddr>,
    #[serde(default)]
    mtu: u32,
    #[serde(default)]
    advmss: u32,
    #[serde(default)]
    priority: u32,
    table: Option<u32>,
    scope: Option<u8>,
}

impl From<RouteConfig> for Route {
    fn from(config: RouteConfig) -> Self {
        let number = |value: u32| (value != 0).then_some(value);
        Self {
            dst: config.dst,
            gw: config.gw,
            mtu: number(config.mtu),
            advmss: number(config.advmss),
            priority: number(config.priority),
            table: config.table,
            scope: config.scope,
        }
    }
}

/// `ipam.dns` of the plugin `static`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    nameservers: Vec<String>,
    domain: String,
    search: Vec<String>,
    options: Vec<String>,
}

impl From<DnsConfig> for Dns {
    fn from(config: DnsConfig) -> Self {
        Self {
            nameservers: config.nameservers,
            domain: Some(config.domain).filter(|domain| !domain.is_empty()),
            search: config.search,
            options: config.options,
        }
    }
}
