//! A node of a cluster as a CNI plugin meets it: network namespaces that stand for the machine and its pods, the programs
//! that call a plugin, and a picture of all the kernel then holds. It must never touch the machine's own network, nor know
//! how a plugin works inside.

mod node;
mod place;
mod call;
mod outcome;
mod network;
mod runtime;
mod multus;
mod snapshot;
mod containerd;

pub use call::{Call, Plugin};
pub use containerd::{Container, Containerd, Cri, HostPort, Sandbox};
pub use multus::{Multus, Pod, Selection};
pub use network::{Attachment, Network};
pub use node::{Node, REFERENCE};
pub use outcome::{Failure, Outcome};
pub use place::Place;
pub use runtime::Runtime;
pub use snapshot::{Allowed, Snapshot, differences, lines};
