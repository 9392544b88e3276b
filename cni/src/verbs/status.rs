//! STATUS: whether an ADD would succeed on this node, by its parts: state folder, kernel, links, IPAM.

use std::fs::File;

use crate::ipam;
use crate::journal::Store;
use crate::netlink::Netlink;
use crate::protocol::{CniError, Code};
use crate::wiring::{self, Call};

pub(super) fn run(call: &Call) -> Result<(), CniError> {
    let unavailable = |error: CniError| error.with_code(Code::NotAvailable);
    let wiring = wiring::of(call)?;
    let store = Store::new(&call.settings.state_directory);
    store.prepare().and_then(|()| writable(&store)).map_err(unavailable)?;
    let host = Netlink::open()?;
    wiring.ready(call, &host)?;
    ipam::status(&call.config, &call.environment)
}

fn writable(store: &Store) -> Result<(), CniError> {
    let probe = store.directory().join(".status");
    let made = File::create(&probe).and_then(|_| std::fs::remove_file(&probe));
    made.map_err(|error| {
        CniError::io(format!("stateDir {} cannot be written", store.directory().display()), error)
    })
}
