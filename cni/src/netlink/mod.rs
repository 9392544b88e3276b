//! The kernel's links, addresses, routes, neighbours and traffic control, over rtnetlink (rtnetlink(7)). It must never
//! decide what to change: it does what it is told, in one message where the kernel allows, and reads back.
//!
//! Messages are written with the types of netlink-packet-route. They are read attribute by attribute instead: of the
//! crate's reading, one attribute that it does not expect would lose another program's whole link.

mod error;
mod raw;
mod socket;
mod link;
mod kind;
mod create;
mod change;
mod address;
mod route;
mod rule;
mod neighbour;
mod vlan;
mod traffic;
mod shaping;

use std::cell::Cell;

use netlink_sys::Socket;

pub use address::{Address, AddressOptions};
pub use change::{Change, PortChange};
pub use create::{NewLink, Peer};
pub use error::{NetlinkError, existing_ok, missing_ok};
pub use kind::{IpvlanMode, Kind, MacvlanMode, Vxlan};
pub use link::{Details, Link, Port, PortState, Tun};
pub use neighbour::{FdbEntry, Neighbour};
pub use route::{Family, NewRoute, Route, RouteFilter, RouteKind, Scope, TABLE_LOCAL, TABLE_MAIN};
pub use rule::Rule;
pub use shaping::{NewTbf, Tbf};
pub use vlan::{NewVlan, Vlan};

/// A socket of one network namespace, in which all its requests are served.
pub struct Netlink {
    socket: Socket,
    /// Of the last request.
    sequence: Cell<u32>,
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Netlink").finish_non_exhaustive()
    }
}
