//! What a DHCPv4 reply says beyond the network itself: what a guest boots from, its clocks, and options of the site.
//!
//! What the guest boots from and the site's options go to every client that is not refused: boot firmware takes them
//! from a server that offers them rather than list them. Servers for NTP go to who asks.

use std::net::Ipv4Addr;

use super::Query;
use crate::wire::dhcpv4::{FILE, Options, option};

/// What the command line adds to replies. The default adds nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// File to boot from, 1 to 255 bytes: option 67, and the `file` field if it fits there.
    pub boot_file: Option<String>,
    /// Server to get that file from, by name or address, 1 to 255 bytes: option 66, and where it is an IPv4 address
    /// also `siaddr` and option 150.
    pub tftp_server: Option<String>,
    /// Option 42, in order of preference.
    pub ntp_servers: Vec<Ipv4Addr>,
    /// Options of the site, in the order to send them: code, and data of 1 to 255 bytes.
    pub site: Vec<(u8, String)>,
}

impl Extras {
    /// The server to boot from, if it is given as an address.
    pub(super) fn boot_server(&self) -> Option<Ipv4Addr> {
        self.tftp_server.as_ref()?.parse().ok()
    }

    /// Writes the name of the boot file into the zeroed fixed part of a message. The field ends with a zero
    /// (RFC 2131 2), so a name of its whole length is in option 67 alone.
    pub(super) fn emit_boot_file(&self, fixed: &mut [u8]) {
        let Some(name) = self.boot_file.as_ref().filter(|name| name.len() < FILE.len()) else { return };
        if let Some(field) = fixed.get_mut(FILE).and_then(|field| field.get_mut(..name.len())) {
            field.copy_from_slice(name.as_bytes());
        }
    }

    pub(super) fn push(&self, query: &Query<'_>, options: &mut Options<'_>) {
        if let Some(name) = &self.boot_file {
            options.push(option::BOOT_FILE_NAME, name.as_bytes());
        }
        if let Some(server) = &self.tftp_server {
            options.push(option::TFTP_SERVER_NAME, server.as_bytes());
        }
        if let Some(address) = self.boot_server() {
            options.push(option::TFTP_SERVER_ADDRESS, &address.octets());
        }
        if query.wants(option::NTP_SERVERS) {
            options.push_addresses(option::NTP_SERVERS, self.ntp_servers.iter().copied());
        }
        for (code, data) in &self.site {
            options.push(*code, data.as_bytes());
        }
    }
}
