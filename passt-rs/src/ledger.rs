//! Which TCP connections the guest has with us, in a file that outlives us.
//!
//! A process that is killed takes its connections along. The peers hear of it, as the kernel resets what we leave open;
//! a guest that only receives would wait for ever. Whoever is started next at the same place finds the connections
//! here, and has the guest find out that they are gone.
//!
//! The file is a header and one slot for each place of the flow table; it is written by plain writes, one for each
//! connection that begins and one when it ends, and holds nothing that anybody has to trust: a wrong entry is one
//! superfluous segment to the guest.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::flow::{Endpoint, Key, Protocol};

/// What the file begins with; the digit is the version.
const MAGIC: [u8; HEADER_LEN] = *b"sluice tcp flows 1\n\0\0\0\0\0";
const HEADER_LEN: usize = 24;
/// In use, two ports, two addresses; IPv4 as mapped.
const SLOT_LEN: usize = 40;
const IN_USE: u8 = 1;

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    /// Gone after a write that failed.
    file: Option<File>,
}

impl Ledger {
    /// Opens the ledger at `path`, made if there is none, for a table of `slots`; gives what is in it, and empties it.
    pub fn open(path: &Path, slots: usize) -> io::Result<(Self, Vec<Key>)> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .mode(0o600)
            // Others may write in the folder: no link is followed, and no FIFO waited for.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = Vec::new();
        let most = HEADER_LEN + slots * SLOT_LEN;
        Read::by_ref(&mut file).take(most as u64).read_to_end(&mut bytes)?;
        let kept = match bytes.split_first_chunk::<HEADER_LEN>() {
            Some((header, slots)) if *header == MAGIC => {
                slots.as_chunks::<SLOT_LEN>().0.iter().filter_map(parse).collect()
            }
            Some(_) | None => Vec::new(),
        };
        file.set_len(0)?;
        file.write_all_at(&MAGIC, 0)?;
        Ok((Self { file: Some(file) }, kept))
    }

    /// The connection of `key` has the place `slot` of the flow table.
    pub fn note(&mut self, slot: u32, key: &Key) {
        self.write(slot, &emit(key));
    }

    /// There is no connection at `slot` any more.
    pub fn forget(&mut self, slot: u32) {
        self.write(slot, &[0]);
    }

    fn write(&mut self, slot: u32, bytes: &[u8]) {
        let at = HEADER_LEN as u64 + u64::from(slot) * SLOT_LEN as u64;
        if let Some(file) = &self.file
            && let Err(error) = file.write_all_at(bytes, at)
        {
            tracing::warn!("connections are not written down any more: {error}");
            self.file = None;
        }
    }
}

fn emit(key: &Key) -> [u8; SLOT_LEN] {
    let mut bytes = [0; SLOT_LEN];
    let [in_use, _, ports @ .., _, _] = &mut bytes;
    *in_use = IN_USE;
    let mut fields = Vec::with_capacity(SLOT_LEN);
    for end in [&key.guest, &key.peer] {
        fields.extend(end.port.to_be_bytes());
        fields.extend(match end.address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        });
    }
    for (place, byte) in ports.iter_mut().zip(fields) {
        *place = byte;
    }
    bytes
}

fn parse(slot: &[u8; SLOT_LEN]) -> Option<Key> {
    let (in_use, rest) = slot.split_first()?;
    let end = |at: usize| {
        let (port, rest) = rest.get(at..)?.split_first_chunk::<2>()?;
        let address = Ipv6Addr::from(*rest.first_chunk::<16>()?);
        Some(Endpoint::new(IpAddr::V6(address).to_canonical(), u16::from_be_bytes(*port)))
    };
    let key = Key { protocol: Protocol::Tcp, guest: end(1)?, peer: end(19)? };
    let usable = *in_use == IN_USE && key.guest.address.is_ipv4() == key.peer.address.is_ipv4();
    usable.then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(guest: &str, peer: &str) -> Key {
        let end = |text: &str| Endpoint::from(text.parse::<std::net::SocketAddr>().unwrap());
        Key { protocol: Protocol::Tcp, guest: end(guest), peer: end(peer) }
    }

    #[test]
    fn what_was_noted_and_not_forgotten_is_found_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows");
        let keys = [
            key("10.0.0.2:1", "192.0.2.1:80"),
            key("[fd00::2]:65535", "[2001:db8::1]:443"),
            key("10.0.0.2:3", "192.0.2.1:80"),
        ];
        let (mut ledger, kept) = Ledger::open(&path, 100).unwrap();
        assert_eq!(kept, []);
        for (slot, key) in (7..).zip(&keys) {
            ledger.note(slot, key);
        }
        ledger.forget(9);
        drop(ledger);
        assert_eq!(Ledger::open(&path, 100).unwrap().1, keys[..2]);
        assert_eq!(Ledger::open(&path, 100).unwrap().1, [], "told once");
    }

    #[test]
    fn what_is_no_ledger_is_replaced_and_what_is_no_file_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows");
        std::fs::write(&path, [1; 1000]).unwrap();
        assert_eq!(Ledger::open(&path, 100).unwrap().1, []);
        let mut bytes = MAGIC.to_vec();
        bytes.extend([IN_USE; 3 * SLOT_LEN + 5]);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Ledger::open(&path, 2).unwrap().1.len(), 2, "no more than there are places");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Ledger::open(&link, 100).is_err());
        assert!(Ledger::open(folder.path(), 100).is_err());
    }
}
