//! A guest's network device without the guest: the front end of vhost-user, and the driver's half of its rings.
//!
//! [`FrontEnd::connect`] does QEMU's handshake over guest memory of its own, as [`Options`] say, and leaves
//! [`FrontEnd::pairs_mut`]: each [`Pair`] has a [`TxQueue`] (`send` one frame; or `queue` many, then `flush`; or
//! `read_from` a tap) and an [`RxQueue`] (`receive`, then `copy_frame` or `write_to` a tap, then `refill`).
//! Nothing runs by itself: whoever wants to sleep calls `arm`, looks once more when that returns true, and waits for
//! `call()` to become readable. `stop`/`resume`, `reset`, `reboot` (other options, say fewer features), and `reconnect`
//! are what guests, QEMU and back ends do to each other; `start_log`/`take_dirty_pages` what a migration does.
//! A [`Violation`] is something no correct back end does.
//!
//! No allocation per frame; one copy per frame between the caller and guest memory, none with a tap.
//! It must never be kinder to a back end than QEMU and Linux are.

pub mod feature;
mod memory;
mod header;
mod ring;
mod layout;
mod tx;
mod rx;
mod options;
mod pair;
mod message;
mod front_end;
pub mod cable;
#[cfg(test)]
mod tests;

pub use front_end::FrontEnd;
pub use header::{
    DATA_VALID, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, HEADER_LEN, Header,
    LEGACY_HEADER_LEN, NEEDS_CSUM,
};
pub use layout::Layout;
pub use memory::{Memory, PAGE, Region, Window};
pub use message::{Closed, Connection, Refused, Request};
pub use options::{Enable, FRAME_AND_HEADER_MAX, Options};
pub use pair::Pair;
pub use ring::{Counters, Violation};
pub use rx::{Frame, Refill, RxQueue};
pub use tx::{Taken, TxQueue};
