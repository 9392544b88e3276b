//! Who talks to whom: keys, the flow table, address mapping and port-forward rules.
//!
//! Knows nothing of sockets or virtqueues. A flow's ends are named as the guest sees them: `guest` is the
//! guest's own end, `peer` the other. What the host side connects to may differ; see [`nat`].

mod key;
mod table;
pub mod nat;
pub mod forward;

pub use key::{Endpoint, Key, Protocol};
pub use table::{FlowId, Table, TableFull};
